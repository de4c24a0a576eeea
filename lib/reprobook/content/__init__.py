"""What a number hangs on: the content key, the code that it follows, and changes shown to move nothing."""

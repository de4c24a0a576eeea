"""One run of a chapter: what identifies it, how it is executed, when it counts as complete."""

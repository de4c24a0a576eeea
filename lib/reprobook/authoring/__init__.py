"""What writes and keeps chapters: checks, refresh, scaffold, publishing, the pages of the book."""

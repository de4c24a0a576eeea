"""What writes and keeps chapters: checks, refresh, scaffold, publishing, the pages of the book."""

import sys

# As for runs (reprobook.runs.execute): without jsonschema's parser of foreign addresses nbformat loads 2 s sooner.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

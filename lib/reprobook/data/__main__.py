"""``python -m reprobook.data > data_manifests/schema.json`` renews the stored JSON schema of the manifests."""

from __future__ import annotations

from reprobook.data.manifest import schema

print(schema(), end="")

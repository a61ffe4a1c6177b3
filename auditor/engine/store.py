"""What a run records: events in order, evidence by content. In memory here, on disk in :mod:`rundir`."""

from __future__ import annotations

import hashlib
from typing import Protocol

from auditor.contracts import JsonValue

__all__ = ["Event", "MemoryStore", "Store"]

Event = dict[str, JsonValue]
"""A JSON object with at least ``type``."""


class Store(Protocol):
    """Where a run keeps what must survive it."""

    @property
    def events(self) -> list[Event]:
        """All events so far, oldest first."""
        ...

    def append(self, event: Event) -> None:
        """Records an event durably: when this returns, a kill does not lose it."""
        ...

    def put_blob(self, data: bytes) -> str:
        """Keeps bytes that are too large for an event; returns their SHA-256."""
        ...

    def get_blob(self, sha256: str) -> bytes:
        """Bytes kept by :meth:`put_blob`, verified."""
        ...

    def put_evidence(self, data: bytes, media_type: str) -> str:
        """Keeps a file of evidence; returns its SHA-256."""
        ...


class MemoryStore:
    """For audits without a run directory; nothing survives, nothing is resumed."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._blobs: dict[str, bytes] = {}

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        return self._events

    def append(self, event: Event) -> None:
        """Keeps the event."""
        self._events.append(event)

    def put_blob(self, data: bytes) -> str:
        """Keeps the bytes."""
        name = hashlib.sha256(data).hexdigest()
        self._blobs[name] = data
        return name

    def get_blob(self, sha256: str) -> bytes:
        """Bytes kept before."""
        return self._blobs[sha256]

    def put_evidence(self, data: bytes, media_type: str) -> str:
        """Hashes the bytes; an audit without a directory shows no evidence."""
        return hashlib.sha256(data).hexdigest()

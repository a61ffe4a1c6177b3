import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Power loss cannot be tested here; kills can, and they do not need the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)

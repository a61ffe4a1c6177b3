"""What holds for every test: no network, own folders for state and cache, fixed seeds, few threads."""

import os
import random
import socket
import sys

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MPLBACKEND"] = "Agg"

_LOCAL = {"127.0.0.1", "::1", "localhost"}


class NetworkBlocked(RuntimeError):
    """A test reached for the network."""


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory):
    """State and cache of the tool go to a folder of this session, in subprocesses too."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        patch.delenv("AUDITOR_CACHE", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_network():
    """Sockets may be made, but only local ones may connect."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family != getattr(socket, "AF_UNIX", None) and address[0] not in _LOCAL:
            raise NetworkBlocked(f"a test tried to reach {address[0]}")
        return connect(self, address)

    def unresolved(host, *args, **kwargs):
        if host in _LOCAL or host is None:
            return getaddrinfo(host, *args, **kwargs)
        raise NetworkBlocked(f"a test tried to look up {host}")

    getaddrinfo = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        patch.setattr(socket, "getaddrinfo", unresolved)
        yield


@pytest.fixture(autouse=True)
def _seeded():
    """Global generators start the same in every test, whatever ran before."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)

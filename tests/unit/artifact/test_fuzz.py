"""Ten thousand mutated files: no crash, no hang, and nothing passes that the references refuse.

The safetensors reader is held against the library itself. The pickle walker is held against Python's own
machine, in which every reference resolves to an inert recorder: whatever that machine asks for, the walker
must have named.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import re
import struct
import time
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors

from auditor.artifact.byte_source import ByteSource
from auditor.artifact.limits import Limits
from auditor.artifact.pickle_guard.allowlist import is_allowed
from auditor.artifact.pickle_guard.examine import examine
from auditor.artifact.safetensors_header import DTYPE_BITS, read_header
from auditor.errors import AuditorError, MalformedArtifact, UnsupportedArtifact
from auditor.proving.scan import craft

SAFETENSORS_FILES = 6000
PICKLE_FILES = 2800
ARCHIVE_FILES = 1200
SHARDS = 4
SLOWEST_SECONDS = 3.0

# The module's documentation says where it is stricter than the library.
STRICTER = re.compile(
    r"does not start with|appears twice|not exactly dtype|'__metadata__' is not an object|below 2\*\*40|"
    r"the cap is|longer than|nested deeper|than any model needs|is not a size"
)


def _mutate(rng: random.Random, data: bytes) -> bytes:
    """Applies one to four random edits."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not out:
            break
        at = rng.randrange(len(out))
        size = rng.randint(1, 12)
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice(b'\x00\x01\x7f\x80\xff{}[]",:0189-eE.\\')
        elif kind == 2:
            del out[at : at + size]
        elif kind == 3:
            out[at:at] = out[at : at + size]
        elif kind == 4:
            other = rng.randrange(len(out))
            out[at : at + size] = out[other : other + size]
        elif kind == 5:
            out[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 4)))
        else:
            del out[at:]
    return bytes(out)


def _random_header(rng: random.Random) -> dict[str, Any]:
    header: dict[str, Any] = {"__metadata__": {"a": "b\u00e9", "format": "pt"}} if rng.random() < 0.5 else {}
    position = 0
    for index in range(rng.randint(0, 4)):
        dtype = rng.choice(sorted(DTYPE_BITS))
        shape = [rng.randint(0, 4) for _ in range(rng.randint(0, 3))]
        nbytes = int(np.prod(shape, dtype=np.int64)) * DTYPE_BITS[dtype] // 8
        name = rng.choice(["a", "lora.weight", "\u0436", "x" * 20]) + str(index)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + nbytes]}
        position += nbytes
    return header


def _tweak_tree(rng: random.Random, header: dict[str, Any]) -> None:
    """Replaces, removes or adds a random part of the JSON tree."""
    odd = [0, -1, 1, 2**31, 2**63, 2**64 - 1, 2**64, 1.0, None, True, "", "F32", [], {}, [0, 4], {"a": "b"}]
    spots: list[tuple[Any, Any]] = []
    pending: list[Any] = [header]
    while pending:
        node = pending.pop()
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            spots.append((node, key))
            if isinstance(node[key], dict | list):
                pending.append(node[key])
    if not spots:
        header["a"] = rng.choice(odd)
        return
    node, key = rng.choice(spots)
    action = rng.randrange(3)
    if action == 0:
        node[key] = rng.choice(odd)
    elif action == 1:
        del node[key]
    elif isinstance(node[key], int):
        node[key] += rng.choice([-4, -1, 1, 4, 8])


def _mutated_safetensors(rng: random.Random) -> bytes:
    header = _random_header(rng)
    end = max(
        (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0
    )
    data = rng.randbytes(max(0, end + rng.choice([0] * 8 + [-1, 1])))
    how = rng.random()
    if how < 0.35:
        _tweak_tree(rng, header)
    text = json.dumps(header, ensure_ascii=rng.random() < 0.5).encode()
    if 0.35 <= how < 0.75:
        text = _mutate(rng, text)
    if rng.random() < 0.15:
        text += b" " * rng.randint(1, 9)
    if rng.random() < 0.02:
        text = b" " + text
    if rng.random() < 0.02:
        text = text.replace(b"{", b'{"a0":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},', 1)
    file = craft.safetensors(text, data)
    return _mutate(rng, file) if how >= 0.75 else file


def _their_view(file: bytes) -> dict[str, tuple[str, list[int], bytes]] | None:
    try:
        found = safetensors.deserialize(file)
    except safetensors.SafetensorError:
        return None
    return {name: (entry["dtype"], list(entry["shape"]), bytes(entry["data"])) for name, entry in found}


@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_mutated_safetensors_file_passes_that_the_library_refuses(shard: int) -> None:
    rng = random.Random(1000 + shard)
    both = stricter = 0
    for _ in range(SAFETENSORS_FILES // SHARDS):
        file = _mutated_safetensors(rng)
        theirs = _their_view(file)
        begun = time.process_time()
        try:
            header = read_header(file)
        except MalformedArtifact as error:
            assert theirs is None or STRICTER.search(str(error)), (str(error), file)
            stricter += theirs is not None
        else:
            data = file[8 + header.header_bytes :]
            ours = {n: (s.dtype, list(s.shape), data[s.start : s.end]) for n, s in header.tensors.items()}
            assert ours == theirs, file
            both += 1
        assert time.process_time() - begun < SLOWEST_SECONDS
    # The fuzzer must reach both sides, or it tests nothing.
    assert both > 100
    assert stricter > 0


class _Recorder:
    """Stands for everything that a pickle refers to: accepts anything, does nothing but count calls."""

    calls = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _Recorder.calls += 1

    def __call__(self, *args: Any, **kwargs: Any) -> _Recorder:
        _Recorder.calls += 1
        return self

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def append(self, value: Any) -> None: ...

    def extend(self, values: Any) -> None: ...

    def add(self, value: Any) -> None: ...


class _Inert(pickle._Unpickler):  # type: ignore[misc, name-defined]  # the pure Python machine is private
    """Python's own machine, with nothing to import."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.asked: list[tuple[str, str]] = []

    def _load_bytearray(self) -> None:
        # The original allocates whatever the length says, before it reads.
        (size,) = struct.unpack("<Q", self.read(8))
        if size > 1 << 16:
            raise pickle.UnpicklingError("too long")
        self.append(bytearray(self.read(size)))

    dispatch = pickle._Unpickler.dispatch | {pickle.BYTEARRAY8[0]: _load_bytearray}  # type: ignore[attr-defined]

    def find_class(self, module: str, name: str) -> type[_Recorder]:
        self.asked.append((module, name))
        return _Recorder

    def persistent_load(self, pid: Any) -> object:
        return object()


def _asked(data: bytes) -> set[tuple[str, str]]:
    """What the machine asks for, of all that is not on the allow-list; and counts the calls it makes."""
    _Recorder.calls = 0
    machine = _Inert(data)
    with contextlib.suppress(Exception):
        machine.load()
    # At the end of the data this machine asks for an empty name, which nothing can be.
    return {pair for pair in machine.asked if any(pair) and not is_allowed(*pair)}


def _base_pickles() -> list[bytes]:
    values = {
        "w": np.arange(4, dtype=np.float32),
        "n": [1, 2.5, "x", None, True, b"y", {3}, (4,)],
        "s": np.float64(2),
    }
    plain = [pickle.dumps(values, protocol=protocol) for protocol in range(6)]
    hostile = [
        craft.pickled(b"(", craft.text("a"), craft.PAYLOAD, b"t"),
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x9400h\x00h\x01\x93(\x8c\x04truetR.",
        b"(S'true'\nios\nsystem\n.",
        craft.pickled(b"(", craft.global_("os", "system"), craft.text("true"), b"o"),
        pickle.dumps(craft.pickled(craft.PAYLOAD), protocol=4),
    ]
    return [*plain, *hostile, craft.embedding_pickle(), craft.legacy_file()]


_LIMITS = Limits(pickle_opcodes=200_000, unpacked_bytes=1 << 24, pickle_bytes=1 << 22)


def _judge(file: bytes) -> tuple[str, set[tuple[str, str]]]:
    begun = time.process_time()
    try:
        report = examine(ByteSource(file), _LIMITS)[1]
    except UnsupportedArtifact:
        return "unsupported", set()
    finally:
        assert time.process_time() - begun < SLOWEST_SECONDS
    return report.verdict, {(ref.module, ref.name) for ref in report.globals}


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_reference_of_a_mutated_pickle_is_named(shard: int) -> None:
    rng = random.Random(2000 + shard)
    bases = _base_pickles()
    verdicts: dict[str, int] = {}
    for _ in range(PICKLE_FILES // SHARDS):
        file = _mutate(rng, rng.choice(bases))
        verdict, named = _judge(file)
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
        asked = _asked(file)
        if asked and (_Recorder.calls or verdict != "unsupported"):
            assert verdict == "disallowed", (file, asked)
            assert asked <= {(module[:500], name[:500]) for module, name in named}, file
    assert verdicts.keys() >= {"allowed", "disallowed", "broken"}


def _fix_checksums(file: bytes) -> bytes:
    """Packs a mutated archive anew, so that mutations of the content get past the checksum."""
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive, zipfile.ZipFile(out, "w") as fixed:
            for info in archive.infolist()[:8]:
                info.CRC = 0
                archive.NameToInfo[info.filename] = info
                with archive.open(info) as member:
                    member._expected_crc = None  # type: ignore[attr-defined]  # the only way to read on
                    fixed.writestr(info.filename, member.read(1 << 16))
    except Exception:
        return file
    return out.getvalue()


def _main_members(file: bytes) -> list[bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            return [archive.read(name)[: 1 << 20] for name in archive.namelist() if name.endswith("data.pkl")]
    except Exception:
        return []


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_reference_of_a_mutated_torch_file_is_named(shard: int) -> None:
    rng = random.Random(3000 + shard)
    evil = craft.torch_zip(craft.pickled(craft.PAYLOAD), {"0": struct.pack("<4f", 0, 1, 2, 3)})
    bases: list[Callable[[], bytes]] = [
        craft.embedding_file,
        lambda: craft.embedding_file(zipfile.ZIP_DEFLATED),
        lambda: evil,
        lambda: craft.zipped({"a.zip": evil}),
    ]
    reached = 0
    for _ in range(ARCHIVE_FILES // SHARDS):
        file = _mutate(rng, rng.choice(bases)())
        if rng.random() < 0.5:
            file = _fix_checksums(file)
        verdict, _ = _judge(file)
        for main in _main_members(file):
            asked = _asked(main)
            reached += bool(asked)
            assert not (asked and _Recorder.calls) or verdict == "disallowed", (file, asked)
            assert not asked or verdict != "allowed", (file, asked)
    assert reached >= 5


def test_the_fuzzers_are_seeded_and_count_ten_thousand() -> None:
    assert _mutate(random.Random(5), b"abcdef" * 9) == _mutate(random.Random(5), b"abcdef" * 9)
    assert SAFETENSORS_FILES + PICKLE_FILES + ARCHIVE_FILES == 10_000
    assert issubclass(MalformedArtifact, AuditorError)

"""Every known way around a pickle scanner is seen, ordinary files pass, and nothing is ever executed."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import artifact_crafting as craft
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.artifact.byte_source import ByteSource
from auditor.artifact.limits import Limits
from auditor.artifact.pickle_guard import PickleReport, convert_allowed, inspect_pickle
from auditor.artifact.pickle_guard.examine import examine
from auditor.artifact.pickle_guard.values import Call, Dict
from auditor.artifact.pickle_guard.walker import walk
from auditor.artifact.safetensors_file import SafetensorsFile
from auditor.errors import MalformedArtifact, RefusedArtifact, UnsupportedArtifact, UsageError


def report_of(data: bytes, limits: Limits | None = None) -> PickleReport:
    return examine(ByteSource(data), limits or Limits())[1]


def disallowed(data: bytes) -> set[str]:
    return {f"{ref.module}.{ref.name}" for ref in report_of(data).globals if not ref.allowed}


def codes(data: bytes) -> set[str]:
    return {problem.code for problem in report_of(data).problems}


# name -> (file, a disallowed reference that must be named)
SYSTEM = "os.system"
_stack_global = b"\x8c\x02os\x94\x8c\x06system\x94"
BYPASSES: dict[str, tuple[bytes, str]] = {
    "plain": (craft.pickled(craft.PAYLOAD), SYSTEM),
    "never called": (craft.pickled(craft.global_("os", "system")), SYSTEM),
    "INST": (b"(S'true'\nios\nsystem\n.", SYSTEM),
    "INST cut off at its last letter": (b"(S'true'\nios\nsystemX", SYSTEM),
    "OBJ": (craft.pickled(b"(", craft.global_("os", "system"), craft.text("true"), b"o"), SYSTEM),
    "NEWOBJ": (
        craft.pickled(craft.global_("subprocess", "Popen"), b"(", craft.text("true"), b"t\x81"),
        "subprocess.Popen",
    ),
    "NEWOBJ_EX": (b"\x80\x04" + craft.global_("subprocess", "Popen") + b")}\x92.", "subprocess.Popen"),
    "STACK_GLOBAL": (b"\x80\x04" + _stack_global + b"\x93(\x8c\x04truetR.", SYSTEM),
    "STACK_GLOBAL from the memo": (b"\x80\x04" + _stack_global + b"00h\x00h\x01\x93(\x8c\x04truetR.", SYSTEM),
    "memo entry overwritten": (
        b"\x80\x04\x8c\x0bcollectionsq\x000\x8c\x02osq\x000\x8c\x06systemq\x010h\x00h\x01\x93(\x8c\x04truetR.",
        SYSTEM,
    ),
    "memo alias of the function": (
        craft.pickled(craft.global_("os", "system"), b"q\x050", b"N0h\x05(", craft.text("true"), b"tR"),
        SYSTEM,
    ),
    "name as a byte string": (b"\x80\x04U\x02osU\x06system\x93(U\x04truetR.", SYSTEM),
    "name escaped": (b"\x80\x04V\\u006fs\nVsyste\\u006d\n\x93(U\x04truetR.", SYSTEM),
    "name escaped in quotes": (b"\x80\x04S'\\x6fs'\nS'system'\n\x93(U\x04truetR.", SYSTEM),
    "name computed": (
        b"\x80\x04"
        + craft.call("_codecs", "encode", craft.text("os"), craft.text("latin1"))
        + b"\x8c\x06system\x93.",
        "<unresolved>.a reference whose name is computed",
    ),
    "submodule": (
        craft.pickled(craft.call("torch.utils.collect_env", "run", craft.text("true"))),
        "torch.utils.collect_env.run",
    ),
    "submodule of an allowed module": (
        craft.pickled(craft.call("collections.abc", "OrderedDict")),
        "collections.abc.OrderedDict",
    ),
    "dotted name": (
        craft.pickled(craft.call("torch", "_utils._rebuild_tensor_v2.__globals__")),
        "torch._utils._rebuild_tensor_v2.__globals__",
    ),
    "getattr chain": (
        craft.pickled(
            craft.call(
                "builtins",
                "getattr",
                craft.call("importlib", "import_module", craft.text("os")),
                craft.text("system"),
            ),
            b"(",
            craft.text("true"),
            b"tR",
        ),
        "builtins.getattr",
    ),
    "result of an allowed call is called": (
        craft.pickled(craft.call("collections", "OrderedDict"), b"(", craft.text("x"), b"tR"),
        "<unresolved>.a call of something computed",
    ),
    "pip": (craft.pickled(craft.call("pip", "main", b"]")), "pip.main"),
    "the guard itself": (
        craft.pickled(craft.call("auditor.artifact.pickle_guard", "allowlist")),
        "auditor.artifact.pickle_guard.allowlist",
    ),
    "extension code": (craft.pickled(b"\x82\x01"), "<unresolved>.extension code 1"),
    "textual persistent id": (b"P0\n.", "<unresolved>.a textual persistent id"),
    "odd persistent id": (
        craft.pickled(b"N", b"Q"),
        "<unresolved>.a persistent id that is not a torch storage",
    ),
    "out-of-band buffer": (b"\x80\x05\x97.", "<unresolved>.an out-of-band buffer"),
    "attributes of a class": (
        craft.pickled(craft.global_("collections", "OrderedDict"), b"}", craft.text("get"), b"Nsb"),
        "<unresolved>.state set on something that takes none",
    ),
    "method shadowed by state": (
        craft.pickled(craft.call("collections", "OrderedDict"), b"}", craft.text("items"), b"Nsb"),
        "<unresolved>.state set on something that takes none",
    ),
    "items set on a class": (
        craft.pickled(craft.global_("torch", "FloatStorage"), craft.text("a"), b"Ns"),
        "<unresolved>.items set on something that is no dictionary",
    ),
    "items appended to an object": (
        craft.pickled(craft.call("collections", "OrderedDict"), b"Na"),
        "<unresolved>.items appended to something that is no list",
    ),
    "allocation by a storage": (
        craft.pickled(craft.call("torch", "FloatStorage", b"J\xff\xff\xff\x7f")),
        "torch.FloatStorage",
    ),
    "another codec": (
        craft.pickled(craft.call("_codecs", "encode", craft.text("x"), craft.text("rot13"))),
        "_codecs.encode",
    ),
    "hooks on a tensor": (
        craft.pickled(
            craft.call(
                "torch._utils",
                "_rebuild_tensor_v2",
                craft.storage_id("0", 1),
                b"K\x00",
                b"(K\x01t",
                b"(K\x01t",
                b"\x89",
                craft.call("collections", "OrderedDict", b"](K\x00K\x00ta"),
            )
        ),
        "torch._utils._rebuild_tensor_v2",
    ),
    "array of objects as a scalar": (
        craft.pickled(
            craft.call(
                "numpy.core.multiarray",
                "scalar",
                craft.call("numpy", "dtype", craft.text("O8"), b"K\x00", b"K\x01"),
                b"N",
            )
        ),
        "numpy.core.multiarray.scalar",
    ),
    "payload before a broken stream": (craft.PROTO + craft.PAYLOAD + b"\xff\xff", SYSTEM),
    "payload before the end": (craft.PROTO + craft.PAYLOAD, SYSTEM),
    "payload in a second pickle": (craft.pickled(b"N") + craft.pickled(craft.PAYLOAD), SYSTEM),
    "payload between frames": (b"\x80\x04\x95" + struct.pack("<Q", 10**6) + craft.PAYLOAD + b".", SYSTEM),
    "nested in bytes": (
        craft.pickled(b"U" + bytes([len(craft.pickled(craft.PAYLOAD))]) + craft.pickled(craft.PAYLOAD)),
        SYSTEM,
    ),
    "nested twice": (
        pickle.dumps(pickle.dumps(craft.pickled(craft.PAYLOAD), protocol=4), protocol=4),
        SYSTEM,
    ),
    "protocol 0 nested in text": (pickle.dumps("cos\nsystem\n(S'true'\ntR.", protocol=2), SYSTEM),
    "torch zip": (craft.torch_zip(craft.pickled(craft.PAYLOAD), {}), SYSTEM),
    "torch zip, compressed": (
        craft.torch_zip(craft.pickled(craft.PAYLOAD), {}, zipfile.ZIP_DEFLATED),
        SYSTEM,
    ),
    "another member": (
        craft.zipped(
            {"archive/data.pkl": craft.embedding_pickle(), "readme.txt": craft.pickled(craft.PAYLOAD)}
        ),
        SYSTEM,
    ),
    "member that poses as a storage": (
        craft.torch_zip(craft.embedding_pickle(), {"0": bytes(16), "1": craft.pickled(craft.PAYLOAD)}),
        SYSTEM,
    ),
    "protocol 0 member without a name for it": (
        craft.zipped({"notes.md": b"cos\nsystem\n(S'true'\ntR."}),
        SYSTEM,
    ),
    "main pickle that begins with a long line": (
        craft.torch_zip(b"S'" + b"A" * 100_000 + b"'\n0" + craft.PAYLOAD + b".", {}),
        SYSTEM,
    ),
    "the same under another name": (
        craft.zipped({"notes.txt": b"V" + b"A" * 100_000 + b"\n0" + craft.PAYLOAD + b"."}),
        SYSTEM,
    ),
    "behind tiny pickles": (craft.zipped({"notes.txt": b"N." * 40 + craft.PAYLOAD + b"."}), SYSTEM),
    "harmless pickle with a damaged archive behind it": (
        craft.pickled(b"N")
        + craft.zipped({"a.pkl": craft.pickled(craft.PAYLOAD)}).replace(b"PK\x01\x02", b"PK\x01\x03"),
        SYSTEM,
    ),
    "object array by an escape": (
        b"\x93NUMPY\x01\x00\x13\x00{'descr': '|\\x4f'} " + craft.pickled(craft.PAYLOAD),
        SYSTEM,
    ),
    "object array by its full name": (
        b"\x93NUMPY\x01\x00\x14\x00{'descr': 'object'} \n" + craft.pickled(craft.PAYLOAD),
        SYSTEM,
    ),
    "zip in a zip": (craft.zipped({"a.bin": craft.zipped({"b.bin": craft.pickled(craft.PAYLOAD)})}), SYSTEM),
    "pickle with a zip behind it": (craft.pickled(craft.PAYLOAD) + craft.zipped({"a.txt": b"x"}), SYSTEM),
    "zip behind a harmless pickle": (
        craft.pickled(b"N") + craft.zipped({"a": craft.pickled(craft.PAYLOAD)}),
        SYSTEM,
    ),
    "object array": (b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'} " + craft.pickled(craft.PAYLOAD), SYSTEM),
    "legacy torch file": (craft.legacy_file().replace(b"X\x03\0\0\0cat", craft.PAYLOAD), SYSTEM),
}


@pytest.mark.parametrize("name", BYPASSES)
def test_no_bypass_gets_through(name: str) -> None:
    data, expected = BYPASSES[name]
    assert report_of(data).verdict == "disallowed"
    assert expected in disallowed(data)


def _member_tricks() -> dict[str, tuple[bytes, str]]:
    evil = craft.torch_zip(craft.pickled(craft.PAYLOAD), {})
    main = "archive/data.pkl"
    return {
        "checksum": (
            craft.patch_central(craft.patch_local(evil, main, 14, b"\0\0\0\0"), main, 16, b"\0\0\0\0"),
            "zip.checksum",
        ),
        "encryption flag, central": (craft.patch_central(evil, main, 8, b"\x01\0"), "zip.encrypted"),
        "encryption flag, local": (craft.patch_local(evil, main, 6, b"\x01\0"), "zip.encrypted"),
        "file name": (craft.patch_local(evil, main, 30, b"archive/data.txt"), "zip.mismatch"),
        "method": (craft.patch_local(evil, main, 8, b"\x08\0"), "zip.mismatch"),
        "sizes": (craft.patch_local(evil, main, 18, b"\x01\0\0\0\x01\0\0\0"), "zip.mismatch"),
        "path traversal": (
            craft.zipped({"../../evil.pkl": craft.pickled(craft.PAYLOAD)}),
            "zip.path_traversal",
        ),
    }


@pytest.mark.parametrize("name", _member_tricks())
def test_zip_tricks_neither_hide_the_payload_nor_go_unnamed(name: str) -> None:
    data, code = _member_tricks()[name]
    assert SYSTEM in disallowed(data)
    assert code in codes(data)


@pytest.mark.parametrize(
    ("trick", "code"),
    [
        (lambda ok: craft.patch_local(ok, "archive/data.pkl", 30, b"archive/data.txt"), "zip.mismatch"),
        (lambda ok: craft.patch_central(ok, "archive/data.pkl", 16, b"\1\2\3\4"), "zip.mismatch"),
        (lambda ok: ok + b"tail", "zip.trailing_bytes"),
        (
            lambda ok: craft.zipped({"../a": b"x", "archive/data.pkl": craft.pickled(b"N")}),
            "zip.path_traversal",
        ),
        (lambda ok: craft.zipped({"a": b"x", "A": b"y", "archive/data.pkl": b"N."}), "zip.duplicate_name"),
        (lambda ok: ok[: ok.index(b"PK\x01\x02")], "zip.unreadable"),
    ],
)
def test_container_tricks_around_a_harmless_pickle_are_named(trick: Any, code: str) -> None:
    data = trick(craft.embedding_file())
    assert code in codes(data)
    assert report_of(data).verdict == ("allowed" if code == "zip.trailing_bytes" else "broken")


def test_a_member_that_the_directory_does_not_list_is_found() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", craft.embedding_pickle())
        archive.writestr("hidden.pkl", craft.pickled(craft.PAYLOAD))
        archive.writestr("archive/data/0", bytes(16))
        archive.filelist = [info for info in archive.filelist if info.filename != "hidden.pkl"]
    assert SYSTEM in disallowed(file.getvalue())
    assert "zip.unlisted_bytes" in codes(file.getvalue())


def test_unknown_compression_and_containers_are_not_passed_over() -> None:
    packed = craft.zipped({"archive/data.pkl": craft.pickled(craft.PAYLOAD)}, zipfile.ZIP_BZIP2)
    assert report_of(packed).verdict == "broken"
    assert report_of(b"7z\xbc\xaf\x27\x1c" + bytes(40)).verdict == "limit"
    assert report_of(craft.zipped({"model.pt": b"7z\xbc\xaf\x27\x1c" + bytes(40)})).verdict == "limit"
    assert report_of(zlib.compress(b"x", wbits=31)).verdict == "limit"


def test_limits_end_in_their_own_verdict() -> None:
    deep = craft.embedding_file()
    for _ in range(4):
        deep = craft.zipped({"inner.zip": deep})
    bomb = craft.zipped({"archive/data.pkl": bytes(17 << 20)}, zipfile.ZIP_DEFLATED)
    assert report_of(deep).verdict == "limit"
    assert report_of(bomb).verdict == "limit"
    assert report_of(craft.pickled(b"N0" * 1000, b"N"), Limits(pickle_opcodes=100)).verdict == "limit"
    assert report_of(craft.pickled(craft.text("x" * 1000)), Limits(pickle_bytes=500)).verdict == "limit"
    assert report_of(craft.embedding_file(), Limits(file_bytes=100)).verdict == "limit"


def test_tensors_outside_their_storage_are_named() -> None:
    short = craft.torch_zip(craft.embedding_pickle(), {"0": bytes(12)})
    none = craft.torch_zip(craft.embedding_pickle(), {})
    wide = craft.torch_zip(craft.pickled(craft.tensor("0", 4, (2, 4), (4, 1))), {"0": bytes(16)})
    for data in (short, none, wide):
        assert "torch.tensor_bounds" in codes(data)
        assert report_of(data).verdict == "broken"


def test_raw_numbers_that_begin_like_a_pickle_raise_no_alarm() -> None:
    data = craft.torch_zip(craft.embedding_pickle(), {"0": b"\x80\x02\xff\xff" + bytes(12)})
    assert report_of(data).verdict == "allowed"


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_are_allowed(protocol: int) -> None:
    values = {
        "w": np.arange(6.0).reshape(2, 3),
        "s": np.float32(1),
        "set": {1},
        "o": OrderedDict(a=1),
        "b": b"xyz",
    }
    assert report_of(pickle.dumps(values, protocol=protocol)).verdict == "allowed"


def test_what_torch_saves_is_allowed(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to(torch.float16)
    for legacy in (True, False):
        for protocol in (2, 4):
            path = tmp_path / f"{legacy}{protocol}.bin"
            torch.save(
                module.state_dict(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy
            )
            assert inspect_pickle(path).verdict == "allowed"
    torch.save(module, tmp_path / "module.pt")
    report = inspect_pickle(tmp_path / "module.pt")
    assert report.verdict == "disallowed"
    assert {ref.module for ref in report.globals if not ref.allowed} >= {"torch.nn.modules.linear"}


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_nothing_is_executed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps({"x": _Canary(canary)}))
    report = inspect_pickle(path)
    assert report.verdict == "disallowed"
    with pytest.raises(RefusedArtifact, match="mkdir"):
        convert_allowed(path, tmp_path)
    assert not canary.exists()
    pickle.loads(path.read_bytes())
    assert canary.exists(), "the canary must be able to sing"


def test_converting_gives_torchs_own_values(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(4, 5)
    tensors = {
        "plain": base,
        "transposed": base.t(),
        "slice": base[1:3, ::2],
        "expanded": base[:, :1].expand(4, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "half": base.half(),
        "bf16": base.bfloat16(),
        "f8": base.to(torch.float8_e4m3fn),
        "u16": torch.tensor([1, 65535], dtype=torch.uint16),
        "long": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "complex": torch.complex(base, base),
        "parameter": torch.nn.Parameter(base.clone()),
    }
    for legacy in (False, True):
        kept = {name: t for name, t in tensors.items() if not (legacy and name in ("u16", "f8"))}
        source = tmp_path / f"{legacy}.pt"
        torch.save(kept, source, _use_new_zipfile_serialization=not legacy)
        with SafetensorsFile(convert_allowed(source, tmp_path)) as file:
            assert set(file.names) == set(kept)
            for name, value in kept.items():
                expected = value.detach()
                if expected.dtype in (torch.bfloat16, torch.float8_e4m3fn):
                    expected = expected.float()
                np.testing.assert_array_equal(file.tensor(name), expected.numpy(), err_msg=name)


@pytest.mark.parametrize(
    "data", [craft.embedding_file(), craft.embedding_file(zipfile.ZIP_DEFLATED), craft.legacy_file()]
)
def test_an_old_embedding_becomes_named_tensors_and_metadata(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cat.pt"
    path.write_bytes(data)
    report = inspect_pickle(path)
    assert report.verdict == "allowed"
    converted = convert_allowed(path, tmp_path)
    assert converted == convert_allowed(path, tmp_path)
    with SafetensorsFile(converted) as file:
        np.testing.assert_array_equal(file.tensor("string_to_param/*"), [[0, 1, 2, 3]])
        assert file.header.metadata["name"] == "cat"
        assert file.header.metadata["step"] == "5"
        assert file.header.metadata["auditor.source_sha256"] == report.sha256
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".pt", ".safetensors"]


def test_arrays_are_converted_with_order_and_byte_order(tmp_path: Path) -> None:
    grid = np.arange(6, dtype=np.int16).reshape(2, 3)
    values = {
        "f": np.asfortranarray(grid),
        "big": grid.astype(">i2"),
        "s": np.float64(1.5),
        "c": grid.astype(np.complex64),
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"nested": [values, {1: grid}]}, protocol=2))
    with SafetensorsFile(convert_allowed(path, tmp_path)) as file:
        for name, value in values.items():
            np.testing.assert_array_equal(file.tensor(f"nested/0/{name}"), value)
        np.testing.assert_array_equal(file.tensor("nested/1/1"), grid)


def _cyclic() -> bytes:
    loop: list[Any] = [np.zeros(1)]
    loop.append(loop)
    return pickle.dumps(loop)


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (craft.pickled(b"}", craft.text("a"), b"Ns"), UnsupportedArtifact, "no tensors"),
        (_cyclic(), MalformedArtifact, "deeper"),
        (pickle.dumps({"a": {"b": np.zeros(1)}, "a/b": np.zeros(1)}), MalformedArtifact, "both be named"),
        (
            pickle.dumps({"auditor.source_sha256": "forged", "a": np.zeros(1)}),
            MalformedArtifact,
            "both be named",
        ),
        (pickle.dumps({"a": np.array(["text"])}), UnsupportedArtifact, "dtype"),
        (pickle.dumps({(1, 2): np.zeros(1)}), UnsupportedArtifact, "keys"),
        (
            craft.torch_zip(craft.pickled(craft.tensor("0", 1, (2**20, 2**10), (0, 0))), {"0": bytes(4)}),
            RefusedArtifact,
            "would take",
        ),
        (craft.embedding_file() + craft.PAYLOAD, RefusedArtifact, "not converted"),
        (craft.PROTO + b"\xff", RefusedArtifact, "breaks off"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_leaves_nothing(
    data: bytes, error: type[Exception], match: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    (tmp_path / "out").mkdir()
    if data.endswith(craft.PAYLOAD):
        path.write_bytes(craft.pickled(b"N") + data)
    with pytest.raises(error, match=match):
        convert_allowed(path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_the_subprocess_is_stopped_at_its_limits(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(craft.pickled(b"(", b"]" * 1_500_000, b"t"))
    assert inspect_pickle(path, Limits(memory_bytes=80 << 20)).verdict == "limit"
    path.write_bytes(craft.pickled(b"N0" * 10_000_000, b"N"))
    assert inspect_pickle(path, Limits(seconds=1, pickle_opcodes=10**9)).verdict == "limit"


def test_other_files_are_unsupported_or_missing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a photo")
    with pytest.raises(UnsupportedArtifact, match="text"):
        inspect_pickle(tmp_path / "a")
    with pytest.raises(UsageError):
        inspect_pickle(tmp_path / "b")
    with pytest.raises(RefusedArtifact):
        inspect_pickle(tmp_path)


def test_a_report_says_where(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(craft.torch_zip(craft.pickled(craft.PAYLOAD), {}))
    report = inspect_pickle(path)
    (found,) = (ref for ref in report.globals if not ref.allowed)
    assert (found.opcode, found.offset, found.member) == ("GLOBAL", 2, "archive/data.pkl")
    assert report.kind == "torch_zip"
    assert report.file_bytes == path.stat().st_size


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


def _concrete(value: Any) -> Any:
    if isinstance(value, Dict):
        return {_concrete(key): _concrete(item) for key, item in value.pairs}
    if isinstance(value, list | tuple):
        return type(value)(_concrete(item) for item in value)
    assert not isinstance(value, Call)
    return value


@settings(max_examples=120, deadline=None)
@given(_plain, st.integers(0, 5))
def test_plain_values_are_understood_as_pickle_wrote_them(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)
    found = walk(data)
    assert not found.broken
    assert found.end == len(data)
    assert _concrete(found.root) == value
    assert all(ref.allowed for ref in found.references)


def test_reports_hold_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(craft.pickled(craft.call("\u202eos", "sys\x1btem")))
    report = inspect_pickle(path)
    assert report.globals[0].module == "\u202eos"
    assert "\x1b" not in json.dumps([problem.detail for problem in report.problems])

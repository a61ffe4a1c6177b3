"""Every known way around a pickle scanner is seen; the payload is named wherever it hides."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from typing import Any

import artifact_crafting as craft
import pytest
from artifact_judging import codes, disallowed, report_of

from auditor.artifact.limits import Limits

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
        b"\x93NUMPY\x01\x00\x15\x00{'descr': 'object'} \n" + craft.pickled(craft.PAYLOAD),
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

"""Archives that show a scanner one thing and a loader another, and files that are two things at once."""

from __future__ import annotations

import struct
import zipfile
import zlib

from auditor.proving.scan import craft
from auditor.proving.scan.specimen import Specimen, one_file

__all__ = ["ARCHIVES"]

_SYSTEM = "os.system"
_EVIL = craft.pickled(craft.PAYLOAD)
_TORCH = craft.torch_zip(_EVIL, {})
_MAIN = "archive/data.pkl"
_FINE = craft.embedding_file()
_CRC = "picklescan CVE-2025-10156: a checksum error stops the scan and not the loader"
_FLAGS = "picklescan CVE-2025-1945: flag bits stop the scan and not the loader"
_NAMES = "picklescan CVE-2025-1944: the two directories name different files"
_HARMLESS = {"archive/data.pkl": craft.embedding_pickle()}
_SEVEN = "nullifAI: a 7-Zip archive under a torch name, its stream broken behind the payload"
_POLYGLOT = "polyglot: two loaders, two files"


def _damaged_directory() -> bytes:
    return craft.zipped({"a.pkl": _EVIL}).replace(b"PK\x01\x02", b"PK\x01\x03")


def _safetensors_with_pickle_length() -> bytes:
    # The eight bytes of the header length begin a pickle: PROTO 2, then the payload inside the JSON is not
    # reached by it, but a second reading of the same file is there for whoever looks.
    text = b'{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    return craft.safetensors(text.ljust(0x0280), b"\0\1\2\3") + craft.zipped({"a.pkl": _EVIL})


# (what is wrong, the record, file name, data, reference that must be named, problem that must be named)
_ROWS: tuple[tuple[str, str, str, bytes, str, str], ...] = (
    (
        "checksum of zero",
        _CRC,
        "model.pt",
        craft.patch_central(craft.patch_local(_TORCH, _MAIN, 14, b"\0\0\0\0"), _MAIN, 16, b"\0\0\0\0"),
        _SYSTEM,
        "zip.checksum",
    ),
    (
        "checksum differs between directories",
        _CRC,
        "model.pt",
        craft.patch_central(_TORCH, _MAIN, 16, b"\1\2\3\4"),
        _SYSTEM,
        "zip.mismatch",
    ),
    (
        "encryption flag in the central directory",
        _FLAGS,
        "model.pt",
        craft.patch_central(_TORCH, _MAIN, 8, b"\x01\0"),
        _SYSTEM,
        "zip.encrypted",
    ),
    (
        "encryption flag in the local header",
        _FLAGS,
        "model.pt",
        craft.patch_local(_TORCH, _MAIN, 6, b"\x01\0"),
        _SYSTEM,
        "zip.encrypted",
    ),
    (
        "encryption flag in both",
        _FLAGS,
        "model.pt",
        craft.patch_central(craft.patch_local(_TORCH, _MAIN, 6, b"\x01\0"), _MAIN, 8, b"\x01\0"),
        _SYSTEM,
        "zip.encrypted",
    ),
    (
        "patch-data flag",
        _FLAGS,
        "model.pt",
        craft.patch_central(craft.patch_local(_TORCH, _MAIN, 6, b"\x20\0"), _MAIN, 8, b"\x20\0"),
        _SYSTEM,
        "",
    ),
    (
        "local file name differs",
        _NAMES,
        "model.pt",
        craft.patch_local(_TORCH, _MAIN, 30, b"archive/data.txt"),
        _SYSTEM,
        "zip.mismatch",
    ),
    (
        "central file name differs",
        _NAMES,
        "model.pt",
        craft.patch_central(_TORCH, _MAIN, 46, b"archive/data.txt"),
        _SYSTEM,
        "zip.mismatch",
    ),
    (
        "method differs",
        "readers disagree on the compression",
        "model.pt",
        craft.patch_local(_TORCH, _MAIN, 8, b"\x08\0"),
        _SYSTEM,
        "zip.mismatch",
    ),
    (
        "sizes differ",
        "readers disagree on the length",
        "model.pt",
        craft.patch_local(_TORCH, _MAIN, 18, b"\x01\0\0\0\x01\0\0\0"),
        _SYSTEM,
        "zip.mismatch",
    ),
    (
        "member that the directory does not list",
        "readers that go by local headers see it",
        "model.pt",
        craft.streamed_zip(_HARMLESS | {"hidden.pkl": _EVIL, "archive/data/0": bytes(16)}, "hidden.pkl"),
        _SYSTEM,
        "zip.unlisted_bytes",
    ),
    (
        "no central directory",
        "readers that go by local headers see it",
        "model.pt",
        _TORCH[: _TORCH.index(b"PK\x01\x02")],
        _SYSTEM,
        "zip.unreadable",
    ),
    (
        "path traversal",
        "members that land outside the folder (zip slip)",
        "model.pt",
        craft.zipped({"../../evil.pkl": _EVIL}),
        _SYSTEM,
        "zip.path_traversal",
    ),
    (
        "path traversal around a harmless pickle",
        "zip slip",
        "model.pt",
        craft.zipped({"../../.bashrc": b"true\n"} | _HARMLESS | {"archive/data/0": bytes(16)}),
        "",
        "zip.path_traversal",
    ),
    (
        "absolute path",
        "zip slip",
        "model.pt",
        craft.zipped({"/etc/cron.d/x": b"true\n"} | _HARMLESS | {"archive/data/0": bytes(16)}),
        "",
        "zip.path_traversal",
    ),
    (
        "two members of one name",
        "readers disagree on which counts",
        "model.pt",
        craft.zipped({"archive/data.pkl": craft.pickled(b"N"), "archive/Data.pkl": _EVIL}),
        _SYSTEM,
        "zip.duplicate_name",
    ),
    (
        "two main pickles",
        "readers disagree on which counts",
        "model.pt",
        craft.zipped({"a/data.pkl": craft.embedding_pickle(), "b/data.pkl": _EVIL}),
        _SYSTEM,
        "",
    ),
    (
        "bzip2 member",
        "a method that scanners do not unpack",
        "model.pt",
        craft.zipped({_MAIN: _EVIL}, zipfile.ZIP_BZIP2),
        "",
        "zip.unreadable_member",
    ),
    (
        "LZMA member",
        "a method that scanners do not unpack",
        "model.pt",
        craft.zipped({_MAIN: _EVIL}, zipfile.ZIP_LZMA),
        "",
        "zip.unreadable_member",
    ),
    (
        "payload in another member",
        "scanners that read data.pkl alone",
        "model.pt",
        craft.zipped(_HARMLESS | {"readme.txt": _EVIL, "archive/data/0": bytes(16)}),
        _SYSTEM,
        "",
    ),
    (
        "payload as a storage",
        "scanners that skip storages",
        "model.pt",
        craft.torch_zip(craft.embedding_pickle(), {"0": bytes(16), "1": _EVIL}),
        _SYSTEM,
        "",
    ),
    (
        "protocol 0 member without a name for it",
        "scanners that go by the member's name",
        "model.pt",
        craft.zipped({"notes.md": b"cos\nsystem\n(S'true'\ntR."}),
        _SYSTEM,
        "",
    ),
    (
        "main pickle that begins with a long line",
        "scanners that read one page",
        "model.pt",
        craft.torch_zip(b"S'" + b"A" * 100_000 + b"'\n0" + craft.PAYLOAD + b".", {}),
        _SYSTEM,
        "",
    ),
    (
        "the same under another name",
        "scanners that read one page",
        "model.pt",
        craft.zipped({"notes.txt": b"V" + b"A" * 100_000 + b"\n0" + craft.PAYLOAD + b"."}),
        _SYSTEM,
        "",
    ),
    (
        "behind tiny pickles",
        "scanners that stop after some",
        "model.pt",
        craft.zipped({"notes.txt": b"N." * 40 + craft.PAYLOAD + b"."}),
        _SYSTEM,
        "",
    ),
    (
        "zip in a zip",
        "scanners that do not look into archives in archives",
        "model.zip",
        craft.zipped({"a.bin": craft.zipped({"b.bin": _EVIL})}),
        _SYSTEM,
        "",
    ),
    (
        "torch zip in a zip under a torch name",
        "scanners that do not look into archives in archives",
        "model.pt",
        craft.zipped(_HARMLESS | {"archive/data/0": bytes(16), "archive/extra": _TORCH}),
        _SYSTEM,
        "",
    ),
    (
        "7-Zip of a broken pickle",
        _SEVEN,
        "model.pth",
        craft.seven_zip("data.pkl", craft.PROTO + craft.PAYLOAD + b"\xff\xff"),
        "",
        "limit.container",
    ),
    (
        "7-Zip of a pickle",
        "picklescan reads 7-Zip archives since 2025, torch does not",
        "model.7z",
        craft.seven_zip("data.pkl", _EVIL),
        "",
        "limit.container",
    ),
    (
        "7-Zip in a torch zip",
        _SEVEN,
        "model.pt",
        craft.zipped(
            _HARMLESS | {"archive/data/0": bytes(16), "model.pth": craft.seven_zip("data.pkl", _EVIL)}
        ),
        "",
        "limit.container",
    ),
    (
        "gzip of a pickle",
        "joblib and scanners differ on compressed pickles",
        "model.pkl",
        zlib.compress(_EVIL, wbits=31),
        "",
        "limit.container",
    ),
    (
        "tar of pickles",
        "torch still loads its tar format of 2016",
        "model.pt",
        craft.tarred({"sys_info": craft.pickled(b"N"), "pickle": _EVIL, "storages": b"", "tensors": b""}),
        "",
        "limit.container",
    ),
    (
        "pickle with a zip behind it",
        _POLYGLOT,
        "model.pt",
        _EVIL + craft.zipped({"a.txt": b"x"}),
        _SYSTEM,
        "polyglot.pickle",
    ),
    (
        "zip behind a harmless pickle",
        _POLYGLOT,
        "model.pkl",
        craft.pickled(b"N") + craft.zipped({"a": _EVIL}),
        _SYSTEM,
        "",
    ),
    (
        "damaged zip behind a harmless pickle",
        _POLYGLOT,
        "model.pkl",
        craft.pickled(b"N") + _damaged_directory(),
        _SYSTEM,
        "",
    ),
    ("pickle in front of a harmless torch zip", _POLYGLOT, "model.pt", _EVIL + _FINE, _SYSTEM, ""),
    (
        "image in front of a zip",
        _POLYGLOT,
        "preview.png",
        b"\x89PNG\r\n\x1a\n" + bytes(40) + craft.zipped({"data.pkl": _EVIL}),
        "",
        "",
    ),
    (
        "safetensors in front of a zip",
        _POLYGLOT,
        "lora.safetensors",
        _safetensors_with_pickle_length(),
        "",
        "",
    ),
    (
        "torch zip with tensors beyond their storage",
        "torch CVE-2026-24747: memory corruption in the unpickler",
        "model.pt",
        craft.torch_zip(craft.embedding_pickle(), {"0": bytes(12)}),
        "",
        "torch.tensor_bounds",
    ),
    (
        "torch zip with tensors beyond their storage by stride",
        "torch CVE-2026-24747",
        "model.pt",
        craft.torch_zip(craft.pickled(craft.tensor("0", 4, (2, 4), (4, 1))), {"0": bytes(16)}),
        "",
        "torch.tensor_bounds",
    ),
    (
        "torch zip without its storage",
        "torch CVE-2026-24747",
        "model.pt",
        craft.torch_zip(craft.embedding_pickle(), {}),
        "",
        "torch.tensor_bounds",
    ),
    (
        "entry count that lies",
        "readers disagree on the members",
        "model.pt",
        _FINE[:-12] + struct.pack("<H", 1) + _FINE[-10:],
        "",
        "zip.entry_count",
    ),
)

ARCHIVES: tuple[Specimen, ...] = tuple(
    Specimen(name, "archive", stands_for, one_file(file, data), refers, code)
    for name, stands_for, file, data, refers, code in _ROWS
)
"""All of them."""

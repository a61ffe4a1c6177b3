"""Pickles that hide what they call: opcodes, memo, names, streams in streams."""

from __future__ import annotations

import struct
import zipfile

from auditor.proving.scan import craft
from auditor.proving.scan.specimen import Specimen, one_file

__all__ = ["PICKLES"]

SYSTEM = "os.system"
_OS_SYSTEM = b"\x8c\x02os\x94\x8c\x06system\x94"
_RUN = b"(\x8c\x04truetR."
_COMPUTED = "<unresolved>.a call of something computed"
_NO_DICTIONARY = "<unresolved>.items set on something that is no dictionary"
_NO_STATE = "<unresolved>.state set on something that takes none"


def _constant(data: bytes) -> bytes:
    """A pickle of protocol 4 that holds nothing but bytes."""
    return b"\x80\x04B" + struct.pack("<I", len(data)) + data + b"."


def _hooked_tensor() -> bytes:
    hooks = craft.call("collections", "OrderedDict", b"](K\x00K\x00ta")
    sizes = (b"(K\x01t", b"(K\x01t")
    return craft.call(
        "torch._utils", "_rebuild_tensor_v2", craft.storage_id("0", 1), b"K\x00", *sizes, b"\x89", hooks
    )


_EVIL = craft.pickled(craft.PAYLOAD)

_OPCODES = (
    ("plain", "the base case: os.system by GLOBAL and REDUCE", _EVIL, SYSTEM),
    (
        "never called",
        "a reference alone imports a module",
        craft.pickled(craft.global_("os", "system")),
        SYSTEM,
    ),
    ("INST", "calls without REDUCE", b"(S'true'\nios\nsystem\n.", SYSTEM),
    (
        "INST cut off at its last letter",
        "nullifAI: payload before the parse error",
        b"(S'true'\nios\nsystemX",
        SYSTEM,
    ),
    (
        "OBJ",
        "calls without REDUCE",
        craft.pickled(b"(", craft.global_("os", "system"), craft.text("true"), b"o"),
        SYSTEM,
    ),
    (
        "NEWOBJ",
        "calls without REDUCE",
        craft.pickled(craft.global_("subprocess", "Popen"), b"(", craft.text("true"), b"t\x81"),
        "subprocess.Popen",
    ),
    (
        "NEWOBJ_EX",
        "calls without REDUCE",
        b"\x80\x04" + craft.global_("subprocess", "Popen") + b")}\x92.",
        "subprocess.Popen",
    ),
    (
        "BUILD on a class",
        "state that is set on a class shadows its methods",
        craft.pickled(craft.global_("collections", "OrderedDict"), b"}", craft.text("get"), b"Nsb"),
        _NO_STATE,
    ),
    (
        "method shadowed by state",
        "state that shadows a method is called later",
        craft.pickled(craft.call("collections", "OrderedDict"), b"}", craft.text("items"), b"Nsb"),
        _NO_STATE,
    ),
    (
        "items set on a class",
        "SETITEM calls __setitem__",
        craft.pickled(craft.global_("torch", "FloatStorage"), craft.text("a"), b"Ns"),
        _NO_DICTIONARY,
    ),
    (
        "items appended to an object",
        "APPEND calls append and extend",
        craft.pickled(craft.call("collections", "OrderedDict"), b"Na"),
        "<unresolved>.items appended to something that is no list",
    ),
    (
        "extension code",
        "the copyreg registry names functions by number",
        craft.pickled(b"\x82\x01"),
        "<unresolved>.extension code 1",
    ),
    (
        "textual persistent id",
        "persistent_load is code of the loader",
        b"P0\n.",
        "<unresolved>.a textual persistent id",
    ),
    (
        "odd persistent id",
        "persistent_load is code of the loader",
        craft.pickled(b"N", b"Q"),
        "<unresolved>.a persistent id that is not a torch storage",
    ),
    (
        "out-of-band buffer",
        "protocol 5 takes objects from outside the file",
        b"\x80\x05\x97.",
        "<unresolved>.an out-of-band buffer",
    ),
    (
        "payload between frames",
        "a frame longer than the file",
        b"\x80\x04\x95" + struct.pack("<Q", 10**6) + craft.PAYLOAD + b".",
        SYSTEM,
    ),
)

_NAMES = (
    (
        "STACK_GLOBAL",
        "names come from the stack, not from the opcode",
        b"\x80\x04" + _OS_SYSTEM + b"\x93" + _RUN,
        SYSTEM,
    ),
    (
        "STACK_GLOBAL from the memo",
        "picklescan#22: memo aliasing with STACK_GLOBAL",
        b"\x80\x04" + _OS_SYSTEM + b"00h\x00h\x01\x93" + _RUN,
        SYSTEM,
    ),
    (
        "memo entry overwritten",
        "picklescan#22: the memo is not write-once",
        b"\x80\x04\x8c\x0bcollectionsq\x000\x8c\x02osq\x000\x8c\x06systemq\x010h\x00h\x01\x93" + _RUN,
        SYSTEM,
    ),
    (
        "memo by LONG_BINPUT and GET",
        "picklescan#22: three families of memo opcodes",
        b"\x80\x04\x8c\x02osr\x2c\x01\0\0\x8c\x06systemp7\n00g300\ng7\n\x93" + _RUN,
        SYSTEM,
    ),
    ("names by DUP", "picklescan#22: aliases without a memo", b"\x80\x04\x8c\x05posix2\x93.", "posix.posix"),
    (
        "memo alias of the function",
        "picklescan#22: the call is far from the name",
        craft.pickled(craft.global_("os", "system"), b"q\x050", b"N0h\x05(", craft.text("true"), b"tR"),
        SYSTEM,
    ),
    (
        "name as a byte string",
        "names by SHORT_BINSTRING",
        b"\x80\x04U\x02osU\x06system\x93(U\x04truetR.",
        SYSTEM,
    ),
    (
        "name escaped",
        "names by UNICODE with escapes",
        b"\x80\x04V\\u006fs\nVsyste\\u006d\n\x93" + _RUN,
        SYSTEM,
    ),
    (
        "name escaped in quotes",
        "names by STRING with escapes",
        b"\x80\x04S'\\x6fs'\nS'system'\n\x93(U\x04truetR.",
        SYSTEM,
    ),
    (
        "name computed",
        "names by a call of an allowed codec",
        b"\x80\x04"
        + craft.call("_codecs", "encode", craft.text("os"), craft.text("latin1"))
        + b"\x8c\x06system\x93.",
        "<unresolved>.a reference whose name is computed",
    ),
    (
        "dotted name",
        "STACK_GLOBAL and protocol 4 follow attributes",
        craft.pickled(craft.call("torch", "_utils._rebuild_tensor_v2.__globals__")),
        "torch._utils._rebuild_tensor_v2.__globals__",
    ),
    (
        "getattr chain",
        "getattr over an import",
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
    (
        "attrgetter chain",
        "operator.attrgetter reaches what getattr reaches",
        craft.pickled(
            craft.call("operator", "attrgetter", craft.text("system")),
            b"(",
            craft.global_("os", "path"),
            b"tR",
        ),
        "operator.attrgetter",
    ),
    (
        "result of an allowed call is called",
        "an allow-list of names alone",
        craft.pickled(craft.call("collections", "OrderedDict"), b"(", craft.text("x"), b"tR"),
        _COMPUTED,
    ),
    (
        "allocation by a storage",
        "an allowed class, called as torch never does",
        craft.pickled(craft.call("torch", "FloatStorage", b"J\xff\xff\xff\x7f")),
        "torch.FloatStorage",
    ),
    (
        "another codec",
        "an allowed function, called as numpy never does",
        craft.pickled(craft.call("_codecs", "encode", craft.text("x"), craft.text("rot13"))),
        "_codecs.encode",
    ),
    (
        "hooks on a tensor",
        "backward hooks are called in training",
        craft.pickled(_hooked_tensor()),
        "torch._utils._rebuild_tensor_v2",
    ),
    (
        "array of objects as a scalar",
        "numpy scalars of dtype O unpickle again",
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
)

_STREAMS = (
    (
        "payload before a broken stream",
        "nullifAI: payload before the parse error",
        craft.PROTO + craft.PAYLOAD + b"\xff\xff",
        SYSTEM,
    ),
    ("payload before the end", "nullifAI: no STOP at all", craft.PROTO + craft.PAYLOAD, SYSTEM),
    (
        "payload before an unknown memo entry",
        "nullifAI: an error that only the machine makes",
        craft.PROTO + craft.PAYLOAD + b"h\x63.",
        SYSTEM,
    ),
    (
        "payload before a later protocol",
        "a protocol number that scanners refuse to read",
        craft.PROTO + craft.PAYLOAD + b"\x80\x63.",
        SYSTEM,
    ),
    (
        "payload in a second pickle",
        "scanners that stop at the first STOP",
        craft.pickled(b"N") + _EVIL,
        SYSTEM,
    ),
    (
        "payload in a twentieth pickle",
        "scanners that stop after some",
        craft.pickled(b"N") * 19 + _EVIL,
        SYSTEM,
    ),
    ("nested in bytes", "a pickle in a constant, for a later loads", _constant(_EVIL), SYSTEM),
    ("nested twice", "a pickle in a pickle in a pickle", _constant(_constant(_EVIL)), SYSTEM),
    (
        "protocol 0 nested in text",
        "a pickle in text",
        craft.pickled(craft.text("cos\nsystem\n(S'true'\ntR.")),
        SYSTEM,
    ),
    (
        "protocol 0 without a magic number",
        "scanners that look for 0x80",
        b"cos\nsystem\n(S'true'\ntR.",
        SYSTEM,
    ),
    (
        "behind a long line",
        "scanners that read one page",
        b"S'" + b"A" * 100_000 + b"'\n0" + craft.PAYLOAD + b".",
        SYSTEM,
    ),
    (
        "legacy torch file",
        "five pickles in a row",
        craft.legacy_file().replace(b"X\x03\0\0\0cat", craft.PAYLOAD),
        SYSTEM,
    ),
    ("torch zip", "the usual container", craft.torch_zip(_EVIL, {}), SYSTEM),
    ("torch zip, compressed", "deflated members", craft.torch_zip(_EVIL, {}, zipfile.ZIP_DEFLATED), SYSTEM),
    (
        "object array",
        "numpy files of objects are pickles",
        b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'} " + _EVIL,
        SYSTEM,
    ),
    (
        "object array by an escape",
        "numpy headers are Python literals",
        b"\x93NUMPY\x01\x00\x13\x00{'descr': '|\\x4f'} " + _EVIL,
        SYSTEM,
    ),
    (
        "object array by its full name",
        "numpy headers are Python literals",
        b"\x93NUMPY\x01\x00\x15\x00{'descr': 'object'} \n" + _EVIL,
        SYSTEM,
    ),
)

_EXTENSIONS = (
    (
        "bare pickle called .safetensors",
        "picklescan CVE-2025-10155: extension and content differ",
        "lora.safetensors",
        _EVIL,
    ),
    ("bare pickle called .pt", "picklescan CVE-2025-10155: torch extension, no zip", "lora.pt", _EVIL),
    (
        "bare pickle called .dat",
        "picklescan CVE-2025-1889: an extension that is not listed",
        "weights.dat",
        _EVIL,
    ),
    ("bare pickle without an extension", "picklescan CVE-2025-1889", "weights", _EVIL),
    ("bare pickle called .png", "picklescan CVE-2025-1889", "preview.png", _EVIL),
    (
        "torch zip called .safetensors",
        "extension and content differ",
        "lora.safetensors",
        craft.torch_zip(_EVIL, {}),
    ),
    ("torch zip called .json", "extension and content differ", "config.json", craft.torch_zip(_EVIL, {})),
    (
        "object array called .npz",
        "extension and content differ",
        "arrays.npz",
        b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O'} " + _EVIL,
    ),
)


def _suffix(name: str) -> str:
    if "torch" in name:
        return "model.pt"
    return "array.npy" if "array" in name and "scalar" not in name else "model.pkl"


PICKLES: tuple[Specimen, ...] = (
    *(
        Specimen(name, theme, stands_for, one_file(_suffix(name), data), refers)
        for theme, group in (("opcode", _OPCODES), ("name", _NAMES), ("stream", _STREAMS))
        for name, stands_for, data, refers in group
    ),
    *(
        Specimen(name, "extension", stands_for, one_file(file, data), SYSTEM)
        for name, stands_for, file, data in _EXTENSIONS
    ),
)
"""All of them."""

"""Reading the opcodes of a pickle stream and their arguments, as the C unpickler of CPython does.

The table follows the protocol's documentation in CPython's ``pickletools``. Where Python's own tool and the C
machine differ, the machine counts: lines are not unescaped, and a last line without its newline loses one
character.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["OPCODES", "BrokenPickle", "Reader"]


class BrokenPickle(Exception):
    """The stream is not a pickle from here on."""


class Reader:
    """A cursor over the bytes of a pickle."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    def take(self, count: int) -> bytes:
        """Returns exactly ``count`` bytes."""
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise BrokenPickle("the stream ends inside an argument")
        piece = self.data[self.position : end]
        self.position = end
        return piece

    def line(self) -> bytes:
        """Returns a line without its end; what is left, less one character, if it has none."""
        newline = self.data.find(b"\n", self.position)
        end = max(len(self.data) - 1, self.position) if newline < 0 else newline
        piece = self.data[self.position : end]
        self.position = min(end + 1, len(self.data))
        return piece


def _fixed(layout: str) -> Callable[[Reader], Any]:
    packed = struct.Struct(layout)
    unpack, size = packed.unpack_from, packed.size

    def read(reader: Reader) -> Any:
        at = reader.position
        if at + size > len(reader.data):
            raise BrokenPickle("the stream ends inside an argument")
        reader.position = at + size
        return unpack(reader.data, at)[0]

    return read


def _byte(reader: Reader) -> int:
    at = reader.position
    if at >= len(reader.data):
        raise BrokenPickle("the stream ends inside an argument")
    reader.position = at + 1
    return reader.data[at]


def _sized(layout: str, decode: Callable[[bytes], Any]) -> Callable[[Reader], Any]:
    packed = struct.Struct(layout)
    unpack, size = packed.unpack_from, packed.size

    def read(reader: Reader) -> Any:
        data, begin = reader.data, reader.position + size
        if begin > len(data):
            raise BrokenPickle("the stream ends inside an argument")
        (length,) = unpack(data, reader.position)
        reader.position = begin
        end = begin + length
        if length < 0 or end > len(data):
            raise BrokenPickle("the stream ends inside an argument")
        reader.position = end
        return decode(data[begin:end])

    return read


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except ValueError as error:
        raise BrokenPickle("an argument cannot be decoded") from error


def _latin1(data: bytes) -> str:
    return data.decode("latin-1")


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _decoded(decode: Callable[[], Any]) -> Any:
    try:
        return decode()
    except ValueError as error:
        raise BrokenPickle("an argument cannot be decoded") from error


def _quoted(reader: Reader) -> str:
    line = reader.line().strip(b" \t\r\n\x0b\x0c")
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in (b"'", b'"'):
        raise BrokenPickle("a string is not quoted")
    return str(_decoded(lambda: _latin1(codecs.escape_decode(line[1:-1])[0])))


def _number(reader: Reader) -> int | bool:
    line = reader.line()
    if line in (b"00", b"01"):
        return line == b"01"
    return int(_decoded(lambda: int(line.decode("ascii").strip().rstrip("L"), 0)))


def _index(reader: Reader) -> int:
    line = reader.line()
    return int(_decoded(lambda: int(line.decode("ascii"))))


def _name_pair(reader: Reader) -> tuple[str, str]:
    return _utf8(reader.line()), _utf8(reader.line())


def _float_line(reader: Reader) -> float:
    line = reader.line()
    return float(_decoded(lambda: float(line.decode("ascii"))))


def _ascii_line(reader: Reader) -> str:
    # Every unpickler stops at a persistent id in other letters.
    line = reader.line()
    return str(_decoded(lambda: line.decode("ascii")))


def _bytes(data: bytes) -> bytes:
    return data


# code -> (name, reader of its argument or None if it has none)
OPCODES: Mapping[int, tuple[str, Callable[[Reader], Any] | None]] = MappingProxyType(
    {ord("("): ("MARK", None), ord("."): ("STOP", None), ord("0"): ("POP", None)}
    | {ord("1"): ("POP_MARK", None), ord("2"): ("DUP", None)}
    | {ord("F"): ("FLOAT", _float_line), ord("G"): ("BINFLOAT", _fixed(">d"))}
    | {ord("I"): ("INT", _number), ord("L"): ("LONG", _number), ord("J"): ("BININT", _fixed("<i"))}
    | {ord("K"): ("BININT1", _byte), ord("M"): ("BININT2", _fixed("<H"))}
    | {0x8A: ("LONG1", _sized("<B", _integer)), 0x8B: ("LONG4", _sized("<i", _integer))}
    | {ord("N"): ("NONE", None), 0x88: ("NEWTRUE", None), 0x89: ("NEWFALSE", None)}
    | {ord("S"): ("STRING", _quoted), ord("T"): ("BINSTRING", _sized("<i", _latin1))}
    | {ord("U"): ("SHORT_BINSTRING", _sized("<B", _latin1))}
    | {
        ord("V"): ("UNICODE", lambda reader: _raw_unicode(reader.line())),
        ord("X"): ("BINUNICODE", _sized("<I", _utf8)),
    }
    | {0x8C: ("SHORT_BINUNICODE", _sized("<B", _utf8)), 0x8D: ("BINUNICODE8", _sized("<Q", _utf8))}
    | {ord("B"): ("BINBYTES", _sized("<I", _bytes)), ord("C"): ("SHORT_BINBYTES", _sized("<B", _bytes))}
    | {0x8E: ("BINBYTES8", _sized("<Q", _bytes)), 0x96: ("BYTEARRAY8", _sized("<Q", _bytes))}
    | {0x97: ("NEXT_BUFFER", None), 0x98: ("READONLY_BUFFER", None)}
    | {ord(")"): ("EMPTY_TUPLE", None), ord("t"): ("TUPLE", None), 0x85: ("TUPLE1", None)}
    | {0x86: ("TUPLE2", None), 0x87: ("TUPLE3", None)}
    | {ord("]"): ("EMPTY_LIST", None), ord("l"): ("LIST", None), ord("a"): ("APPEND", None)}
    | {ord("e"): ("APPENDS", None), ord("}"): ("EMPTY_DICT", None), ord("d"): ("DICT", None)}
    | {ord("s"): ("SETITEM", None), ord("u"): ("SETITEMS", None)}
    | {0x8F: ("EMPTY_SET", None), 0x90: ("ADDITEMS", None), 0x91: ("FROZENSET", None)}
    | {ord("g"): ("GET", _index), ord("h"): ("BINGET", _byte), ord("j"): ("LONG_BINGET", _fixed("<I"))}
    | {ord("p"): ("PUT", _index), ord("q"): ("BINPUT", _byte), ord("r"): ("LONG_BINPUT", _fixed("<I"))}
    | {0x94: ("MEMOIZE", None)}
    | {ord("c"): ("GLOBAL", _name_pair), 0x93: ("STACK_GLOBAL", None), ord("i"): ("INST", _name_pair)}
    | {0x82: ("EXT1", _byte), 0x83: ("EXT2", _fixed("<H")), 0x84: ("EXT4", _fixed("<i"))}
    | {ord("R"): ("REDUCE", None), ord("b"): ("BUILD", None), ord("o"): ("OBJ", None)}
    | {0x81: ("NEWOBJ", None), 0x92: ("NEWOBJ_EX", None)}
    | {ord("P"): ("PERSID", _ascii_line), ord("Q"): ("BINPERSID", None)}
    | {0x80: ("PROTO", _byte), 0x95: ("FRAME", _fixed("<Q"))}
)


def _raw_unicode(line: bytes) -> str:
    return str(_decoded(lambda: line.decode("raw_unicode_escape")))

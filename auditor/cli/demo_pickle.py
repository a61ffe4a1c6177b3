"""A hostile pickle for the demonstration: it would call the shell's ``true``, which does nothing.

Written opcode by opcode, because nothing here ever imports ``pickle``.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_hostile_pickle"]

_PROTOCOL_2, _TUPLE_1, _REDUCE, _STOP = b"\x80\x02", b"\x85", b"R", b"."


def write_hostile_pickle(path: Path) -> Path:
    """Writes a pickle whose loading would call ``os.system("true")``; refuses to write over anything.

    Args:
        path: where; its folder must exist.

    Raises:
        FileExistsError: there is something at ``path``.
    """
    command = b"true"
    text = b"X" + len(command).to_bytes(4, "little") + command
    with path.open("xb") as file:
        file.write(_PROTOCOL_2 + b"cposix\nsystem\n" + text + _TUPLE_1 + _REDUCE + _STOP)
    return path

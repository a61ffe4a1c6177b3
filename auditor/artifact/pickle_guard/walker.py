"""A symbolic pickle machine: every opcode is followed, nothing is imported, called or built.

The machine keeps the stack, the marks and the memo exactly as CPython's unpickler does, but holds
descriptions (:mod:`~auditor.artifact.pickle_guard.values`) instead of objects. References reached through
memo aliases, built from computed strings, or by any other detour are therefore seen where they arrive; what
cannot be resolved counts as disallowed. Opcodes before a break in the stream count as much as those of an
intact one, because the real machine would have executed them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from auditor.artifact.pickle_guard.allowlist import is_allowed
from auditor.artifact.pickle_guard.calls import apply_call, apply_state, resolve_storage
from auditor.artifact.pickle_guard.opcodes import OPCODES, BrokenPickle, Reader
from auditor.artifact.pickle_guard.values import Call, Dict, Global, Storage, Tensor, Unresolved, Value

__all__ = ["UNRESOLVED", "Reference", "Walk", "walk"]

UNRESOLVED = "<unresolved>"

_TEXTS = frozenset(
    {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
_CONSTANTS = _TEXTS | {
    *("FLOAT", "BINFLOAT", "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "NONE"),
}


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference that the pickle makes, at byte ``offset``."""

    module: str
    name: str
    opcode: str
    offset: int
    allowed: bool


@dataclass(slots=True)
class Walk:
    """What following one pickle gave.

    Attributes:
        references: in the order met.
        root: the value under STOP; :class:`Unresolved` if there was none.
        end: offset after STOP, or where the walk ended.
        opcodes: opcodes followed.
        calls: calls, instantiations and state settings met.
        broken: why the stream is no pickle from ``end`` on; empty if it ended with STOP.
        exhausted: whether the opcode limit ended the walk.
        tensors: every torch tensor described.
        storages: every torch storage named.
        constants: byte and text constants that may hide a pickle, with their offsets.
    """

    references: list[Reference] = field(default_factory=list)
    root: Value = field(default_factory=Unresolved)
    end: int = 0
    opcodes: int = 0
    calls: int = 0
    broken: str = ""
    exhausted: bool = False
    tensors: list[Tensor] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    constants: list[tuple[int, bytes]] = field(default_factory=list)


def walk(data: bytes, start: int = 0, max_opcodes: int = 4_000_000) -> Walk:
    """Follows one pickle from ``start`` to its STOP.

    Args:
        data: bytes that begin a pickle at ``start``.
        start: first opcode.
        max_opcodes: most opcodes followed.

    Returns:
        The outcome; a broken stream is reported in it, not raised.
    """
    machine = _Machine(Reader(data, start))
    result = machine.result
    try:
        machine.run(max_opcodes)
    except BrokenPickle as error:
        result.broken = str(error)
    except RecursionError:
        result.broken = "the stream nests too deeply"
    result.end = machine.reader.position
    return result


class _Machine:
    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.result = Walk()
        self.stack: list[Value] = []
        self.marks: list[int] = []
        self.memo: dict[int, Value] = {}
        self.opcode = ""
        self.offset = reader.position

    def run(self, max_opcodes: int) -> None:
        """Follows opcodes to STOP or to the limit."""
        reader, result, decoders = self.reader, self.result, _DECODERS
        data, size = reader.data, len(reader.data)
        stack, memo, marks = self.stack, self.memo, self.marks
        put, get, number = _Machine.put, _Machine.get, _Machine.number
        while result.opcodes < max_opcodes:
            self.offset = at = reader.position
            if at >= size:
                raise BrokenPickle("the stream ends inside an argument")
            decoder = decoders[data[at]]
            reader.position = at + 1
            if decoder is None:
                raise BrokenPickle(f"byte 0x{data[at]:02x} is not an opcode")
            self.opcode, read, step = decoder
            result.opcodes += 1
            argument: Any = None if read is None else read(reader)
            # Three opcodes of four are these; they are followed here, without a call.
            if step is put and argument >= 0:
                if len(stack) <= (marks[-1] if marks else 0):
                    raise BrokenPickle("the stack is empty")
                memo[argument] = stack[-1]
            elif step is get and argument in memo:
                stack.append(memo[argument])
            elif step is number:
                stack.append(argument)
            elif step is None:
                result.root = self.pop()
                return
            else:
                step(self, argument)
        result.exhausted = True

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def pop(self) -> Value:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise BrokenPickle("the stack is empty")
        return self.stack.pop()

    def top(self) -> Value:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise BrokenPickle("the stack is empty")
        return self.stack[-1]

    def pop_mark(self) -> list[Value]:
        if not self.marks:
            raise BrokenPickle("there is no mark")
        at = self.marks.pop()
        values = self.stack[at:]
        del self.stack[at:]
        return values

    def refer(self, module: str, name: str, allowed: bool) -> None:
        self.result.references.append(Reference(module, name, self.opcode, self.offset, allowed))

    def unresolved(self, what: str) -> Unresolved:
        self.refer(UNRESOLVED, what, False)
        return Unresolved()

    def reference(self, module: str, name: str) -> Global:
        allowed = is_allowed(module, name)
        self.refer(module, name, allowed)
        return Global(module, name, allowed)

    def call(self, function: Value, args: Value) -> Value:
        """Describes ``function(*args)``."""
        self.result.calls += 1
        if not isinstance(function, Global):
            return self.unresolved("a call of something computed")
        if not function.allowed:
            return Unresolved()
        value = apply_call(function, args) if isinstance(args, tuple) else None
        if value is None:
            self.refer(function.module, function.name, False)
            return Unresolved()
        if isinstance(value, Tensor):
            self.result.tensors.append(value)
        return value

    def constant(self, value: Any) -> None:
        self.stack.append(value)
        if isinstance(value, str | bytes) and len(value) > 3:
            # A stream that holds something starts with PROTO or has lines; the usual constant is one word.
            if isinstance(value, str):
                if value.isascii() and "\n" not in value[:4096]:
                    return
                data = value.encode("latin-1", "ignore")
            else:
                data = value
            if data[:1] == b"\x80" or b"\n" in data[:4096]:
                self.result.constants.append((self.offset, data))

    def number(self, value: Any) -> None:
        self.stack.append(value)

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise BrokenPickle(f"memo entry {index} is read before it is set")
        self.push(self.memo[index])

    def put(self, index: int) -> None:
        if index < 0:
            raise BrokenPickle("a memo index is negative")
        stack = self.stack
        if len(stack) <= (self.marks[-1] if self.marks else 0):
            raise BrokenPickle("the stack is empty")
        self.memo[index] = stack[-1]

    def pop_one(self, _: Any) -> None:
        # POP right after MARK takes the mark away.
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if isinstance(name, str) and isinstance(module, str):
            self.push(self.reference(module, name))
        else:
            self.push(self.unresolved("a reference whose name is computed"))

    def inst(self, pair: tuple[str, str]) -> None:
        # First the reference: some machines resolve it before they miss the mark.
        function = self.reference(*pair)
        self.push(self.call(function, tuple(self.pop_mark())))

    def obj(self, _: Any) -> None:
        values = self.pop_mark()
        if not values:
            raise BrokenPickle("OBJ has no class")
        self.push(self.call(values[0], tuple(values[1:])))

    def reduce(self, _: Any) -> None:
        args, function = self.pop(), self.pop()
        self.push(self.call(function, args))

    def newobj_ex(self, _: Any) -> None:
        keywords, args, function = self.pop(), self.pop(), self.pop()
        plain = isinstance(keywords, Dict) and not keywords.pairs
        self.push(self.call(function, args if plain else None))

    def build(self, _: Any) -> None:
        state, instance = self.pop(), self.top()
        self.result.calls += 1
        if not apply_state(instance, state) and not isinstance(instance, Unresolved):
            self.unresolved("state set on something that takes none")

    def persistent(self, pid: Value) -> None:
        storage = resolve_storage(pid)
        if storage is None:
            self.push(self.unresolved("a persistent id that is not a torch storage"))
            return
        self.result.storages.append(storage)
        self.push(storage)

    def extend(self, values: list[Value]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Unresolved):
            self.unresolved("items appended to something that is no list")

    def set_items(self, values: list[Value]) -> None:
        target = self.top()
        if len(values) % 2:
            raise BrokenPickle("a key has no value")
        if isinstance(target, Dict):
            target.pairs.extend(zip(values[::2], values[1::2], strict=True))
        elif not isinstance(target, Unresolved):
            self.unresolved("items set on something that is no dictionary")

    def add_items(self, _: Any) -> None:
        self.pop_mark()
        target = self.top()
        if isinstance(target, Call) and target.what == "set":
            return  # what a set holds cannot hold tensors, and its references are noted already
        if not isinstance(target, Unresolved):
            self.unresolved("items added to something that is no set")

    def append(self, _: Any) -> None:
        value = self.pop()
        self.extend([value])

    def set_item(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def tuple_of(self, count: int) -> None:
        stack = self.stack
        if len(stack) - count < (self.marks[-1] if self.marks else 0):
            raise BrokenPickle("the stack is empty")
        values = tuple(stack[-count:])
        del stack[-count:]
        stack.append(values)

    def new_dict(self, values: list[Value]) -> None:
        self.push(Dict())
        self.set_items(values)

    def proto(self, version: int) -> None:
        if version > 5:
            raise BrokenPickle(f"protocol {version} does not exist")


_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = MappingProxyType(
    {
        "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
        "POP": _Machine.pop_one,
    }
    | {name: _Machine.get for name in ("GET", "BINGET", "LONG_BINGET")}
    | {name: _Machine.put for name in ("PUT", "BINPUT", "LONG_BINPUT")}
    | {
        "POP_MARK": lambda machine, _: (machine.pop_mark(), None)[1],
        "DUP": lambda machine, _: machine.push(machine.top()),
        "NEWTRUE": lambda machine, _: machine.stack.append(True),
        "NEWFALSE": lambda machine, _: machine.stack.append(False),
        "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
        "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
        "EMPTY_DICT": lambda machine, _: machine.stack.append(Dict()),
        "EMPTY_SET": lambda machine, _: machine.push(Call("set", ())),
        "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_mark())),
        "TUPLE1": lambda machine, _: machine.tuple_of(1),
        "TUPLE2": lambda machine, _: machine.tuple_of(2),
        "TUPLE3": lambda machine, _: machine.tuple_of(3),
        "LIST": lambda machine, _: machine.push(machine.pop_mark()),
        "DICT": lambda machine, _: machine.new_dict(machine.pop_mark()),
        "FROZENSET": lambda machine, _: machine.push(Call("set", tuple(machine.pop_mark()))),
        "APPEND": _Machine.append,
        "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
        "SETITEM": _Machine.set_item,
        "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
        "ADDITEMS": _Machine.add_items,
        "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
        "GLOBAL": lambda machine, pair: machine.push(machine.reference(*pair)),
        "STACK_GLOBAL": _Machine.stack_global,
        "INST": _Machine.inst,
        "OBJ": _Machine.obj,
        "REDUCE": _Machine.reduce,
        "NEWOBJ": _Machine.reduce,
        "NEWOBJ_EX": _Machine.newobj_ex,
        "BUILD": _Machine.build,
        "EXT1": lambda machine, code: machine.push(machine.unresolved(f"extension code {code}")),
        "EXT2": lambda machine, code: machine.push(machine.unresolved(f"extension code {code}")),
        "EXT4": lambda machine, code: machine.push(machine.unresolved(f"extension code {code}")),
        "PERSID": lambda machine, _: machine.push(machine.unresolved("a textual persistent id")),
        "BINPERSID": lambda machine, _: machine.persistent(machine.pop()),
        "NEXT_BUFFER": lambda machine, _: machine.push(machine.unresolved("an out-of-band buffer")),
        "READONLY_BUFFER": lambda machine, _: None,
        "PROTO": _Machine.proto,
        "FRAME": lambda machine, _: None,
    }
)


def _decoder(code: int) -> tuple[str, Callable[[Reader], Any] | None, Callable[[_Machine, Any], None] | None]:
    name, read = OPCODES[code]
    if name == "STOP":
        return name, read, None
    if name in _CONSTANTS:
        return name, read, _Machine.constant if name in _TEXTS else _Machine.number
    return name, read, _STEPS[name]


# By opcode: name, reader of the argument if there is one, and what to do; None at STOP.
_DECODERS = tuple(_decoder(code) if code in OPCODES else None for code in range(256))

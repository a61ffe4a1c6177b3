"""Command-line options from a frozen dataclass of parameters, so that a new method needs no code here."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click

from auditor.errors import UsageError
from auditor.text import did_you_mean, inert

__all__ = ["attribute_help", "build_params", "options_of"]

_PLAIN: dict[type, click.ParamType[Any]] = {
    int: click.INT,
    float: click.FLOAT,
    str: click.STRING,
    Path: click.Path(path_type=Path),
}


def options_of(params: type) -> list[click.Option]:
    """One option a field; the help is what the class says under ``Attributes``.

    Numbers, texts, paths, switches, choices (``Literal``), tuples of them and optional ones become options;
    fields of other types keep their defaults.
    """
    helps = attribute_help(params)
    hints = typing.get_type_hints(params)
    found = [
        _option(field, hints[field.name], helps.get(field.name, "")) for field in dataclasses.fields(params)
    ]
    return [option for option in found if option is not None]


def build_params(params: type, given: Mapping[str, Any]) -> Any:
    """An instance from JSON values by field name; fields that are not given keep their defaults.

    Raises:
        UsageError: an unknown field (with the closest known name) or a value of the wrong kind.
    """
    from pydantic import TypeAdapter, ValidationError

    known = [field.name for field in dataclasses.fields(params)]
    for name in given:
        if name not in known:
            raise UsageError(f"there is no parameter '{inert(str(name))}'{did_you_mean(str(name), known)}")
    try:
        return TypeAdapter(params).validate_python(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"parameter '{inert(where)}': {inert(first['msg'])}") from error


def attribute_help(params: type) -> dict[str, str]:
    """Field name to its sentence under ``Attributes:`` of a Google-style docstring."""
    _, _, section = (params.__doc__ or "").partition("Attributes:")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        entry = re.match(r"\s{4,8}(\w+): (.+)", line)
        if entry:
            name = entry[1]
            found[name] = entry[2].strip()
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found


def _option(field: dataclasses.Field[Any], hint: Any, text: str) -> click.Option | None:
    flag = f"--{field.name.replace('_', '-')}"
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    required = default is dataclasses.MISSING
    shown: dict[str, Any] = {
        "help": text[:1].upper() + text[1:],
        "required": required,
        "show_default": default not in (None, "", ()),
    }
    if not required:
        shown["default"] = default
    if hint is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", field.name], **shown)
    kind, many = _kind(hint)
    if kind is None:
        return None
    return click.Option([flag, field.name], type=kind, multiple=many, **shown)


def _kind(hint: Any) -> tuple[click.ParamType[Any] | None, bool]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        rest = [each for each in inner if each is not type(None)]
        return _kind(rest[0]) if len(rest) == 1 else (None, False)
    if origin is Literal and all(isinstance(each, str) for each in inner):
        return click.Choice(inner), False
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return _kind(inner[0])[0], True
    return (_PLAIN.get(hint), False) if isinstance(hint, type) else (None, False)

"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from auditor.cli.exits import FAIL_ON
from auditor.text import inert

__all__ = [
    "PATH", "Duration", "Shard", "Size", "base_options", "caps_options", "fail_on_option", "format_option",
    "json_option",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
if TYPE_CHECKING:
    _Seconds = click.ParamType[float]
    _Bytes = click.ParamType[int]
    _Part = click.ParamType[tuple[int, int]]
else:
    _Seconds = _Bytes = _Part = click.ParamType  # releases before 8.3 cannot be subscripted
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SHARE = 0.9
"""Of what is free when a command starts, how much it may take by default."""


def format_option(*names: str) -> Callable[[F], F]:
    """``--format`` with these names, the first one being the default, and ``--json`` as its short form."""

    def add(command: F) -> F:
        command = click.option(
            "--format",
            "format_",
            type=click.Choice(names),
            default=names[0],
            show_default=True,
            help="What is printed on stdout.",
        )(command)
        return click.option("--json", "format_", flag_value="json", help="Short for --format json.")(command)

    return add


def json_option(command: F) -> F:
    """``--json`` and ``--format json`` for commands that print text otherwise."""
    return format_option("text", "json")(command)


def fail_on_option(command: F) -> F:
    """``--fail-on``: the mildest decision that ends with exit code 1."""
    return click.option(
        "--fail-on",
        type=click.Choice(FAIL_ON),
        default="review",
        show_default=True,
        help="Exit with code 1 at this decision or a worse one.",
    )(command)


class Shard(_Part):
    """The K-th of N parts from ``K/N``, as (which from 0, of how many)."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Counted from 1 in, from 0 out; a usage error for anything else."""
        if isinstance(value, tuple):
            return value
        which, _, count = str(value).partition("/")
        if not (which.isdecimal() and count.isdecimal() and 1 <= int(which) <= int(count)):
            self.fail(f"'{inert(str(value), 40)}' is no shard; write 1/2 for the first of two", param, ctx)
        return int(which) - 1, int(count)


class Duration(_Seconds):
    """Seconds from ``90``, ``90s``, ``10m``, ``1.5h``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds, more than 0; a usage error for anything else."""
        if isinstance(value, float):
            return value
        text = str(value).strip().lower()
        unit = _UNITS.get(text[-1:], 0.0)
        try:
            seconds = float(text[:-1]) * unit if unit else float(text)
        except ValueError:
            seconds = float("nan")
        if not 0 < seconds < float("inf"):
            self.fail(f"'{inert(text)}' is no duration; write it like 90s, 10m or 1.5h", param, ctx)
        return seconds


class Size(_Bytes):
    """Bytes from ``8G``, ``1.5GiB``, ``512M``, ``4096``; powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes, more than 0; a usage error for anything else."""
        if isinstance(value, int):
            return value
        text = str(value).strip().lower()
        number = text.removesuffix("b").removesuffix("i")
        unit = _BYTES.get(number[-1:], 0)
        try:
            size = float(number[:-1]) * unit if unit else float(number)
        except ValueError:
            size = float("nan")
        if not 1 <= size < float("inf"):
            self.fail(f"'{inert(text)}' is no size; write it like 512M or 8G", param, ctx)
        return int(size)


def caps_options(command: F) -> F:
    """``--max-memory`` and ``--max-time``; the command runs under them and does not see them."""

    @functools.wraps(command)
    def under_caps(*args: Any, max_memory: int | None, max_time: float, **kwargs: Any) -> Any:
        from auditor.caps import Caps, available_memory, capped, resident_memory

        free = available_memory()
        most = max_memory or (None if free is None else resident_memory() + int(_SHARE * free))
        with capped(Caps(most, max_time)):
            return command(*args, **kwargs)

    added = click.option(
        "--max-time",
        type=Duration(),
        default="24h",
        show_default=True,
        metavar="TIME",
        help="Stop for good after this time, whatever hangs.",
    )(under_caps)
    return cast(
        F,
        click.option(
            "--max-memory",
            type=Size(),
            default=None,
            metavar="SIZE",
            help="Stop rather than take more memory. [default: nine tenths of what is free]",
        )(added),
    )


def base_options(command: F, names: Sequence[str] = ("--base",)) -> F:
    """``--base``, or what ``names`` call it, ``--revision``, ``--allow-download`` and ``--device``."""
    for option in (
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
        click.option(
            "--allow-download",
            is_flag=True,
            help="Let a hub id be fetched; otherwise nothing touches the network.",
        ),
        click.option(
            "--revision", default="", metavar="COMMIT", help="Commit hash of a hub id; needed with one."
        ),
        click.option(
            *names,
            default=None,
            metavar="REF",
            help="Folder or hub id of the base model. [default: the embedded base]",
        ),
    ):
        command = option(command)
    return command

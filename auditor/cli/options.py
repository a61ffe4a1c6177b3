"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from auditor.cli.exits import FAIL_ON

__all__ = ["PATH", "fail_on_option", "format_option", "json_option"]

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


def format_option(*names: str) -> Callable[[F], F]:
    """``--format`` with these names, the first one being the default, and ``--json`` as its short form."""

    def add(command: F) -> F:
        command = click.option(
            "--format", "format_", type=click.Choice(names), default=names[0], show_default=True, help="What is printed on stdout."
        )(command)
        return click.option("--json", "format_", flag_value="json", help="Short for --format json.")(command)

    return add


def json_option(command: F) -> F:
    """``--json`` and ``--format json`` for commands that print text otherwise."""
    return format_option("text", "json")(command)


def fail_on_option(command: F) -> F:
    """``--fail-on``: the mildest decision that ends with exit code 1."""
    return click.option(
        "--fail-on", type=click.Choice(FAIL_ON), default="review", show_default=True,
        help="Exit with code 1 at this decision or a worse one.",
    )(command)  # fmt: skip

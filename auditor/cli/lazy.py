"""A group of commands that are imported when they are run, not when they are listed."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from auditor.text import did_you_mean, inert

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["COMMAND_GROUP", "PROOF_GROUP", "LazyGroup"]

COMMAND_GROUP = "auditor.commands"
PROOF_GROUP = "auditor.proofs"


class LazyGroup(click.Group):
    """Own commands come from a table or are added to the group, further ones from entry points.

    Args:
        own: name to ``module:attribute`` and one line of help.
        points: the entry-point group of the further ones.
    """

    def __init__(
        self,
        *args: Any,
        own: Mapping[str, tuple[str, str]] = MappingProxyType({}),
        points: str = COMMAND_GROUP,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._own, self._group = own, points
        self._plugins: dict[str, EntryPoint] | None = None

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Own commands in the order of the table, then the others by name."""
        others = self._points().keys() | self.commands.keys()
        return [*self._own, *sorted(others - self._own.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command; None if there is none of that name."""
        if cmd_name in self._own:
            module, _, attribute = self._own[cmd_name][0].partition(":")
            found: Any = getattr(importlib.import_module(module), attribute)
        elif cmd_name in self.commands:
            return self.commands[cmd_name]
        elif cmd_name in self._points():
            found = self._points()[cmd_name].load()
        else:
            return None
        if not isinstance(found, click.Command):
            raise click.UsageError(f"'{inert(cmd_name)}' is no command: its package is installed wrongly")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's own, with the closest known name."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            raise click.UsageError(f"no such command '{inert(args[0])}'{did_you_mean(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line a command, without importing any."""
        told = {name: text for name, (_, text) in self._own.items()}
        told |= {name: command.get_short_help_str(100) for name, command in self.commands.items()}
        rows = [(name, told.get(name) or _summary(self._points()[name])) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _points(self) -> dict[str, EntryPoint]:
        # Reading the entry points of a full environment takes longer than a whole scan of a small file.
        if self._plugins is None:
            from importlib.metadata import entry_points

            self._plugins = {point.name: point for point in entry_points(group=self._group)}
        return self._plugins


def _summary(point: EntryPoint) -> str:
    """The first line of a module's docstring, read without running the module."""
    try:
        spec = importlib.util.find_spec(point.module)
        text = Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else ""
        documentation = ast.get_docstring(ast.parse(text)) or ""
    except (ImportError, OSError, SyntaxError, ValueError):
        return "(cannot be read: its package is installed wrongly)"
    return documentation.partition("\n")[0].rstrip(".")

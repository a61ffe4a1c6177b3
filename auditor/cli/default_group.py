"""A group of commands with a default: what is no name of a command is the default's first argument."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["DefaultGroup"]

_ANY = "*"


class DefaultGroup(click.Group):
    """Runs ``default`` with all arguments unless the first one names a command of the group.

    Args:
        default: the command that is meant without a name; its options are part of the group's help.
    """

    def __init__(self, *args: Any, default: click.Command, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._default = default

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of that name, or the default."""
        return self.commands.get(cmd_name, self._default)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's own, with a place holder for the default in front of its arguments."""
        own = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        return super().parse_args(ctx, args if own else [_ANY, *args])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command and its arguments; the default has no name to show."""
        if args[0] == _ANY:
            return "", self._default, args[1:]
        return super().resolve_command(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The usage of the default, then that there are commands."""
        return [*self._default.collect_usage_pieces(ctx), "| COMMAND ..."]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options of the default, then the commands."""
        self._default.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

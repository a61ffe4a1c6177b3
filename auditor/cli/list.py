"""``auditor list``: what is plugged in."""

from __future__ import annotations

import json

import click

from auditor.cli.options import json_option

__all__ = ["list_command"]

_KINDS = ("probes", "attacks", "defenses", "watermarks", "methods", "writers", "mappings")


@click.command("list")
@click.argument("kind", type=click.Choice(_KINDS))
@json_option
def list_command(kind: str, format_: str) -> None:
    """List probes, attacks, defenses, watermarks, methods, writers or framework mappings.

    \b
    Examples:
      auditor list probes
      auditor list writers --json
      auditor list mappings

    \b
    Exit codes: 0 listed, 64 usage
    """  # noqa: D301
    from auditor.cli.catalogue import rows

    found = rows(kind)
    if format_ == "json":
        click.echo(json.dumps(found, indent=2, ensure_ascii=True))
        return
    if not found:
        click.echo(f"no {kind} are installed", err=True)
    width = max((len(row["id"]) for row in found), default=0)
    for row in found:
        click.echo(f"{row['id']:<{width}}  {row['goal']}")

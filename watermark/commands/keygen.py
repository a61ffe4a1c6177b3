"""``auditor watermark keygen``: a new master key in a file of its owner's."""

from __future__ import annotations

import json
from pathlib import Path

import click

from auditor.cli.options import PATH, json_option
from auditor.text import inert

__all__ = ["keygen"]


@click.command("keygen")
@click.option("-o", "--out", type=PATH, required=True, metavar="FILE", help="The key file to make.")
@json_option
def keygen(out: Path, format_: str) -> None:
    """Make a master key, readable by you alone; nothing is written over.

    Whoever has the file can mark, detect and forge marks: keep it as you keep a password, and keep a copy. Logs and
    reports name it by its id.

    \b
    Examples:
      auditor watermark keygen -o mark.key

    \b
    Exit codes: 0 made, 2 cannot be written, 64 a file is there already
    """  # noqa: D301
    from watermark.keys import make_key_file

    key, shown = make_key_file(out), inert(str(out), 1000)
    if format_ == "json":
        click.echo(json.dumps({"key_file": shown, "key": key.id}, indent=2))
        return
    click.echo(f"key file  {shown}\nkey id    {key.id}")

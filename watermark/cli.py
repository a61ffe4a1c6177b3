"""Mark pictures while they are drawn, and find marks with an exact error rate."""

from __future__ import annotations

import click

from watermark.commands.bind_c2pa import bind_c2pa
from watermark.commands.certify import certify
from watermark.commands.detect import detect
from watermark.commands.embed import embed
from watermark.commands.keygen import keygen
from watermark.commands.stress import stress
from watermark.commands.trace import trace

__all__ = ["watermark"]


@click.group()
def watermark() -> None:
    """Mark pictures while they are drawn, detect the marks, and trace who drew a picture.

    \b
    Examples:
      auditor watermark keygen -o mark.key
      auditor watermark embed --key mark.key --prompt "a picture of a red ball" --size 128 -o marked
      auditor watermark detect marked/0000.png --key mark.key
      auditor watermark detect marked/0000.png --key mark.key --nonces marked/issued.jsonl --json
      auditor watermark bind-c2pa marked/0000.png --key mark.key --cert chain.pem --private-key sign.pem -o out.png
      auditor watermark trace marked/0000.png --key mark.key --users 2048
      auditor watermark certify --scheme tail_sign
      auditor watermark stress --scheme hsqr --attack jpeg=50 --attack regeneration

    \b
    Exit codes: 0 marked, 1 not marked, 2 error, 3 inconclusive, 64 usage
    """  # noqa: D301


for command in (keygen, embed, detect, trace, bind_c2pa, certify, stress):
    watermark.add_command(command)

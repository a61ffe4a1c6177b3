"""``auditor watermark trace``: which user drew a marked picture?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from auditor.cli.options import PATH, json_option
from auditor.errors import UsageError, combine_exit_codes
from auditor.text import inert
from watermark.commands.common import key_option, level, model_options, named_scheme, open_key, opened_view
from watermark.commands.detect import document, read_log, tell
from watermark.commands.reading import EXITS, Picture, read_marks
from watermark.detection import Decision

if TYPE_CHECKING:
    from watermark.tracing import Trace

__all__ = ["trace"]

_MOST_USERS = 1_000_000


@click.command("trace")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PATH)
@key_option
@model_options
@click.option(
    "--users",
    required=True,
    metavar="FILE|N",
    help="File with one user a line, or a number N for users called 0 to N-1.",
)
@click.option(
    "--nonces", type=PATH, default=None, metavar="FILE", help="Log of issued nonces (issued.jsonl)."
)
@click.option(
    "--alpha", type=float, default=1e-6, show_default=True, callback=level, help="Level of detection."
)
@click.option(
    "--accuse",
    type=float,
    default=1e-9,
    show_default=True,
    callback=level,
    help="Level of accusation, for all users together.",
)
@json_option
@click.pass_context
def trace(
    ctx: click.Context,
    images: tuple[Path, ...],
    key_path: Path,
    scheme: str,
    model: str | None,
    revision: str,
    allow_download: bool,
    device: str,
    adapters: tuple[Path, ...],
    users: str,
    nonces: Path | None,
    alpha: float,
    accuse: float,
    format_: str,
) -> None:
    """Say which user a marked picture points to; nobody is named unless the risk for all innocents is at most --accuse.

    Users are those of embed --user. A picture can be marked and nobody be accused: that is inconclusive.

    \b
    Examples:
      auditor watermark trace picture.png --key mark.key --users users.txt
      auditor watermark trace picture.png --key mark.key --users 2048 --accuse 1e-12 --json

    \b
    Exit codes: 0 accused, 1 not marked, 2 error, 3 marked but nobody accused, or inconclusive, 64 usage
    """  # noqa: D301
    from watermark.tracing import trace as traced

    if accuse > alpha:
        raise UsageError(
            "--accuse must not be larger than --alpha: an accusation needs more than a detection"
        )
    chosen, key, names = named_scheme(scheme), open_key(key_path), read_users(users)
    log = read_log(nonces, key)
    with opened_view(model, revision, allow_download, device, adapters) as view:
        pictures = read_marks(images, view, chosen, key, alpha, log, None, read_payload=True)
    traces: list[Trace | None] = []
    for picture in pictures:
        found = picture.reached
        if found is None or found.detection.decide(alpha) is not Decision.MARKED:
            traces.append(None)
            continue
        looks = found.rung.looks
        traces.append(
            traced(
                chosen, found.latents, key, found.detection, names, alpha=alpha, accuse=accuse, looks=looks
            )
        )
    if format_ == "json":
        rows = [
            {**document(p, alpha), "trace": t and t.document()} for p, t in zip(pictures, traces, strict=True)
        ]
        about = {"scheme": chosen.id, "key": key.id, "alpha": alpha, "accuse": accuse}
        click.echo(json.dumps({**about, "pictures": rows}, indent=2))
    tell(pictures, alpha, quiet=format_ == "json")
    if format_ != "json":
        for found_trace in filter(None, traces):
            click.echo(_line(found_trace))
    ctx.exit(combine_exit_codes(_code(p, t, alpha) for p, t in zip(pictures, traces, strict=True)))


def read_users(users: str) -> Sequence[str]:
    """Names from a file, one a line, or ``0`` to ``N-1`` for a number.

    Raises:
        UsageError: neither, or a name that is there twice, or too many.
    """
    if users.isascii() and users.isdigit():
        count = int(users[:12])
        if not 1 <= count <= _MOST_USERS:
            raise UsageError(f"--users must lie between 1 and {_MOST_USERS:,}")
        return [str(i) for i in range(count)]
    shown = inert(users, 300)
    try:
        names = [line.strip() for line in Path(users).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as problem:
        raise UsageError(f"'{shown}' is neither a number nor a file with one user a line") from problem
    if not 1 <= len(names) <= _MOST_USERS or len(set(names)) < len(names):
        raise UsageError(f"'{shown}' must name 1 to {_MOST_USERS:,} users, each of them once")
    return names


def _code(picture: Picture, found: Trace | None, alpha: float) -> int:
    if picture.error is not None:
        return picture.error.exit_code
    assert picture.reached is not None
    if found is None:
        return EXITS[picture.reached.detection.decide(alpha)]
    return EXITS[Decision.MARKED if found.accused is not None else Decision.INCONCLUSIVE]


def _line(found: Trace) -> str:
    risk = f"p <= {found.p_value:.3g} for all {found.users:,} users together"
    if found.accused is not None:
        return f"  user {inert(found.accused)}, {risk}"
    if found.sharing:
        return f"  nobody is accused: {len(found.sharing)} others share the likeliest user's payload"
    return f"  nobody is accused: the likeliest is {inert(found.best)}, {risk}"

"""``auditor watermark detect``: does a picture carry the key's mark?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.options import PATH, json_option
from auditor.errors import UsageError
from auditor.text import inert
from watermark.commands.common import (
    any_scheme,
    from_hex,
    key_option,
    level,
    model_options,
    open_key,
    opened_view,
)
from watermark.commands.reading import Picture, exit_code, read_marks, said, with_manifest, witnessed
from watermark.detection import Decision
from watermark.picture_scheme import PictureScheme
from watermark.scheme import LatentScheme

if TYPE_CHECKING:
    from watermark.issued import Issued
    from watermark.keys import MasterKey

__all__ = ["detect", "document", "read_log", "tell"]


@click.command("detect")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PATH)
@key_option
@model_options
@click.option(
    "--nonces",
    type=PATH,
    default=None,
    metavar="FILE",
    help="Log of issued nonces (issued.jsonl): finds weaker marks than blind reading does.",
)
@click.option(
    "--issued",
    "log_path",
    type=PATH,
    default=None,
    metavar="FILE",
    help="Log of issued nonces: says whether a mark was issued, and for this picture.",
)
@click.option("--bind", is_flag=True, help="Says whether a nonce is bound to what the picture shows (embed --bind).")
@click.option("--c2pa", is_flag=True, help="Says whether the picture's C2PA manifest and its mark name each other.")
@click.option("--payload", default=None, metavar="HEX", help="Test for this payload, where it is known.")
@click.option(
    "--alpha", type=float, default=1e-6, show_default=True, callback=level, help="Rate of false alarms."
)
@json_option
@click.pass_context
def detect(
    ctx: click.Context,
    images: tuple[Path, ...],
    key_path: Path,
    scheme: str,
    model: str | None,
    revision: str,
    allow_download: bool,
    device: str,
    adapters: tuple[Path, ...],
    nonces: Path | None,
    log_path: Path | None,
    bind: bool,
    c2pa: bool,
    payload: str | None,
    alpha: float,
    format_: str,
) -> None:
    """Say whether pictures carry the mark of a key, with a p-value that holds for each picture by itself.

    An unmarked picture, or one marked with another key, is called marked with a chance of at most --alpha, whatever the
    picture is. The model need not have drawn it: without the adapter, its base does.

    A mark can be genuine and be in a picture that it was never made for, drawn from noise that was taken from another.
    --issued and --bind tell: such a picture counts as not marked. --c2pa tells MATCH, WATERMARK-ONLY, METADATA-ONLY and
    CONFLICT, of which the last counts as not marked too; trust in who signed is not judged.

    \b
    Examples:
      auditor watermark detect picture.png --key mark.key
      auditor watermark detect *.png --key mark.key --nonces issued.jsonl --json
      auditor watermark detect picture.png --key mark.key --issued issued.jsonl --bind

    \b
    Exit codes of several pictures: the first of 64, 2, 1, 3, 0 that applies to one
      0 marked, 1 not marked, 2 error, 3 inconclusive, 64 usage
    """  # noqa: D301
    chosen, key = any_scheme(scheme), open_key(key_path)
    given = None if payload is None else from_hex(payload, "the payload")
    if isinstance(chosen, PictureScheme) and (c2pa or bind or log_path is not None):
        raise UsageError(f"marks of {chosen.id} have no nonce that a manifest, a log or a binding could speak of")
    log = read_log(nonces, key)
    witnesses = read_log(log_path, key) if log_path is not None else None
    with opened_view(model, revision, allow_download, device, adapters) as view:
        pictures = read_marks(images, view, chosen, key, alpha, log, given)
        if witnesses is not None or bind:
            pictures = [witnessed(each, chosen, key, alpha, witnesses, bind) for each in pictures]
        if c2pa:
            pictures = [with_manifest(each, chosen, key, alpha) for each in pictures]
    if format_ == "json":
        about = {"scheme": chosen.id, "key": key.id, "alpha": alpha}
        click.echo(json.dumps({**about, "pictures": [document(each, alpha) for each in pictures]}, indent=2))
    tell(pictures, alpha, quiet=format_ == "json")
    decisions = {each.reached.detection.decide(alpha) for each in pictures if each.reached}
    blind = isinstance(chosen, LatentScheme) and not log
    if blind and Decision.NOT_MARKED in decisions:
        click.echo("read blindly; the log of what was issued finds weaker marks (--nonces issued.jsonl)", err=True)
    ctx.exit(exit_code(pictures, alpha))


def read_log(path: Path | None, key: MasterKey) -> tuple[Issued, ...]:
    """Entries of a log, or none without one."""
    from watermark.issued import read_issued

    return () if path is None else read_issued(path, key)


def document(picture: Picture, alpha: float) -> dict[str, Any]:
    """A picture as JSON values."""
    told: dict[str, Any] = {"path": inert(str(picture.path), 1000)}
    if picture.reached is None:
        return {**told, "decision": "error", "error": str(picture.error)}
    found = picture.reached.detection
    told |= {"decision": str(found.decide(alpha)), **found.document()}
    if picture.witness is not None:
        told["witness"] = {**picture.witness.document(), "against": picture.witness.against}
    if picture.provenance is not None:
        state, why, manifest = picture.provenance
        told["provenance"] = {"state": str(state), "why": why, "manifest": manifest and manifest.document()}
    return told


def tell(pictures: list[Picture], alpha: float, quiet: bool) -> None:
    """One line a picture on stdout unless ``quiet``; errors on stderr always."""
    for picture in pictures:
        if picture.error is not None:
            click.echo(f"auditor: {picture.error}", err=True)
        elif not quiet:
            click.echo(said(picture, alpha))

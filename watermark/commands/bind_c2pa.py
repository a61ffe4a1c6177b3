"""``auditor watermark bind-c2pa``: a signed manifest that names a picture's mark."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from auditor.cli.options import PATH, json_option
from auditor.errors import UsageError
from auditor.text import inert
from watermark.commands.common import key_option, level, model_options, named_scheme, open_key, opened_view
from watermark.commands.detect import document, read_log, tell
from watermark.commands.reading import exit_code, named_mark, read_marks
from watermark.detection import Decision

__all__ = ["bind_c2pa"]


@click.command("bind-c2pa")
@click.argument("image", metavar="IMAGE", type=PATH)
@key_option
@model_options
@click.option("--nonces", type=PATH, default=None, metavar="FILE", help="Log of issued nonces (issued.jsonl).")
@click.option(
    "--cert", "certificates", type=PATH, required=True, metavar="FILE", help="Certificate chain, PEM."
)
@click.option("--private-key", type=PATH, required=True, metavar="FILE", help="Of the first certificate, PEM.")
@click.option(
    "--alpha", type=float, default=1e-6, show_default=True, callback=level, help="Level of detection."
)
@click.option("-o", "--out", type=PATH, required=True, metavar="FILE", help="The picture file to write.")
@json_option
@click.pass_context
def bind_c2pa(
    ctx: click.Context,
    image: Path,
    key_path: Path,
    scheme: str,
    model: str | None,
    revision: str,
    allow_download: bool,
    device: str,
    adapters: tuple[Path, ...],
    nonces: Path | None,
    certificates: Path,
    private_key: Path,
    alpha: float,
    out: Path,
    format_: str,
) -> None:
    """Find the mark of a picture, and write the picture with a signed C2PA manifest that names it.

    The manifest says that a model made the picture, and which mark it carries; its id follows from the mark's nonce and
    the key. auditor watermark detect --c2pa tells whether both still belong together. No time stamp is asked for.

    \b
    Examples:
      auditor watermark bind-c2pa a.png --key mark.key --nonces issued.jsonl --cert c.pem --private-key k.pem -o b.png

    \b
    Exit codes: 0 written, 1 the picture is not marked, 2 it failed, 3 inconclusive, 64 usage
    """  # noqa: D301
    from auditor.engine.files import output_errors
    from watermark.manifests import load_credentials, manifest_id, signed_picture

    chosen, key, credentials = named_scheme(scheme), open_key(key_path), load_credentials(certificates, private_key)
    if os.path.lexists(out):
        raise UsageError(f"'{inert(str(out), 300)}' exists already and is not written over")
    log = read_log(nonces, key)
    with opened_view(model, revision, allow_download, device, adapters) as view:
        [picture] = read_marks([image], view, chosen, key, alpha, log, None)
    told = document(picture, alpha)
    found = named_mark(picture.reached, chosen) if picture.reached is not None else None
    if found is not None and found.decide(alpha) is Decision.MARKED:
        data = signed_picture(image.read_bytes(), found, key, credentials)
        with output_errors(out), out.open("xb") as file:
            file.write(data)
        identity = manifest_id(key, chosen.id, found.nonce or b"")
        told |= {"written": inert(str(out), 1000), "manifest": identity}
    if format_ == "json":
        click.echo(json.dumps(told, indent=2))
    tell([picture], alpha, quiet=format_ == "json")
    if format_ != "json" and "written" in told:
        click.echo(f"{told['written']}  manifest {told['manifest']}")
    ctx.exit(exit_code([picture], alpha))

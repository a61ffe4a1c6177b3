"""``auditor watermark embed``: draws pictures from marked noise."""

from __future__ import annotations

import json
from pathlib import Path

import click

from auditor.cli.options import PATH, json_option
from auditor.errors import UsageError
from auditor.text import inert
from watermark.commands.common import any_scheme, from_hex, key_option, model_options, open_key, opened_view
from watermark.commands.trained import embed_trained
from watermark.picture_scheme import PictureScheme
from watermark.scheme import LatentScheme

__all__ = ["embed"]

ISSUED = "issued.jsonl"


@click.command("embed")
@key_option
@model_options
@click.option("--prompt", "prompts", multiple=True, help="May be given several times.")
@click.option(
    "--count", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Pictures a prompt."
)
@click.option("--payload", default="", metavar="HEX", help="Bytes that the mark carries. [default: zeros]")
@click.option("--user", default=None, metavar="NAME", help="Carry a user's payload, to trace pictures by.")
@click.option(
    "--size", type=click.IntRange(8), default=None, help="Pixels of a side. [default: the model's own]"
)
@click.option("--steps", type=click.IntRange(1, 1000), default=25, show_default=True, help="Sampler steps.")
@click.option("--guidance", type=float, default=3.0, show_default=True, help="Guidance weight.")
@click.option("--bind", is_flag=True, help="Bind each nonce to what its prompt is about.")
@click.option(
    "--issued",
    "log",
    type=PATH,
    default=None,
    metavar="FILE",
    help="Log to add the nonces to. [default: issued.jsonl beside the pictures]",
)
@click.option("-o", "--out", type=PATH, required=True, metavar="DIR", help="A new folder for the pictures.")
@json_option
def embed(
    key_path: Path,
    scheme: str,
    model: str | None,
    revision: str,
    allow_download: bool,
    device: str,
    adapters: tuple[Path, ...],
    prompts: tuple[str, ...],
    count: int,
    payload: str,
    user: str | None,
    size: int | None,
    steps: int,
    guidance: float,
    bind: bool,
    log: Path | None,
    out: Path,
    format_: str,
) -> None:
    """Draw pictures that carry the mark; each has a fresh nonce, which issued.jsonl logs.

    Most schemes mark the starting noise, which is standard normal as any other; grow, shallow and safe_sd mark the
    picture while it is drawn. decoder and lora draw nothing: they write weights that mark whatever they draw, to be
    loaded as the model's autoencoder or as a LoRA. With --bind a part of each nonce is a tag of what the prompt is
    about, so that detect --bind tells a picture of something else that was drawn from stolen noise.

    \b
    Examples:
      auditor watermark embed --key mark.key --prompt "a picture of a red ball" -o marked
      auditor watermark embed --key mark.key --prompt "a cat" --count 8 --user alice --size 128 -o alice
      auditor watermark embed --key mark.key --scheme safe_sd --prompt "a cat" --payload 0011223344 -o hidden
      auditor watermark embed --key mark.key --scheme decoder -o marked-vae
      auditor watermark embed --key mark.key --prompt "a cat" --bind --issued all.jsonl -o cats

    \b
    Exit codes: 0 drawn, 2 it failed, 64 usage
    """  # noqa: D301
    from auditor.cli.places import new_folder
    from auditor.cli.progress import TaskProgress
    from watermark.tracing import user_payload

    chosen, key = any_scheme(scheme), open_key(key_path)
    given = from_hex(payload, "the payload")
    if user is not None and payload:
        raise UsageError("--user and --payload both name a payload; give one of them")
    if isinstance(chosen, PictureScheme) and (bind or log or user is not None):
        raise UsageError(f"{chosen.id} has one mark for every picture: it takes no --bind, --issued or --user")
    if isinstance(chosen, LatentScheme) and not prompts:
        raise UsageError("name what to draw with --prompt")
    with opened_view(model, revision, allow_download, device, adapters) as view:
        from auditor.engine.files import output_errors
        from watermark.drawing import draw
        from watermark.forgery.anchors import prompt_anchor
        from watermark.forgery.binding import bound_nonce, fresh_bytes
        from watermark.forgery.replay import perceptual_hash
        from watermark.forgery.witness import bound_length
        from watermark.issued import Issued, append_issued
        from watermark.keys import new_nonce
        from watermark.pictures import write_picture

        if isinstance(chosen, PictureScheme):
            texts = [prompt for prompt in prompts for _ in range(count)]
            drawing = {"size": size, "steps": steps, "guidance": guidance, "json_": format_ == "json"}
            embed_trained(view, chosen, key, texts, given, out, **drawing)  # type: ignore[arg-type]
            return
        shape = view.latent_shape(size)
        held = chosen.capacity(shape)
        word = given if user is None else user_payload(key, user, held.payload_bits)
        chosen.embed(key, bytes(12), shape, word)  # says now what is wrong with the payload
        if bind and hasattr(chosen, "fixed_share"):
            raise UsageError(f"{chosen.id} has one mark for every picture, so that none can be bound; try tail_sign")
        length = bound_length(held)
        if bind:
            fresh_bytes(length)  # says now where a header is too short
        new_folder(out)
        if held.note:
            click.echo(held.note, err=True)
        told = []
        texts = [prompt for prompt in prompts for _ in range(count)]
        with TaskProgress("embed") as progress:
            for i, prompt in enumerate(texts):
                nonce, path = new_nonce(), out / f"{i:04d}.png"
                if bind:
                    nonce = bound_nonce(key, prompt_anchor(prompt), nonce[: fresh_bytes(length)], length)
                drawn = draw(
                    view, chosen, key, [nonce], [prompt], shape, payload=word, steps=steps, guidance=guidance
                )
                image = drawn[0]
                look = f"{perceptual_hash(image):016x}"
                issued = Issued(nonce.hex(), key.id, chosen.id, word.hex(), shape, path.name, look)
                # Logged first: a picture must not be out without its nonce.
                append_issued(log or out / ISSUED, issued)
                with output_errors(path):
                    write_picture(path, image)
                told.append({"path": inert(str(path), 1000), "nonce": issued.nonce})
                progress(i + 1, len(texts))
    if format_ == "json":
        about = {"scheme": chosen.id, "key": key.id, "shape": list(shape), "capacity": held.document()}
        click.echo(json.dumps({**about, "payload": word.hex(), "pictures": told}, indent=2))
        return
    click.echo("\n".join(row["path"] for row in told))

"""``auditor watermark embed`` for trained marks: pictures with one, or weights that make them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.errors import UsageError
from auditor.text import inert

if TYPE_CHECKING:
    from auditor.pipeline.view import View
    from watermark.keys import MasterKey
    from watermark.picture_scheme import PictureScheme
    from watermark.schemes.safe_sd import SafeSd

__all__ = ["embed_trained", "mark_pictures", "teach_weights"]


def embed_trained(
    view: View, scheme: PictureScheme, key: MasterKey, prompts: Sequence[str], payload: bytes, out: Path,
    *, size: int | None, steps: int, guidance: float, json_: bool,
) -> None:  # fmt: skip
    """Marks pictures for a scheme that marks them while sampling, and teaches weights for one that lives in these.

    Raises:
        UsageError: prompts for weights or none for pictures, or as the scheme.
    """
    from watermark.weight_scheme import WeightScheme

    told: dict[str, Any] = {"scheme": scheme.id, "key": key.id}
    if isinstance(scheme, WeightScheme):
        if prompts or payload:
            raise UsageError(f"{scheme.id} marks whatever its weights draw: it takes neither --prompt nor a payload")
        path = teach_weights(view, scheme, key, out)
        told |= {"weights": inert(str(path), 1000)}
        lines = [inert(str(path), 1000)]
    else:
        if not prompts:
            raise UsageError(f"{scheme.id} marks pictures while they are drawn: give it a --prompt")
        paths = mark_pictures(view, scheme, key, prompts, payload, out, size=size, steps=steps, guidance=guidance)
        told |= {"payload": payload.hex(), "pictures": [{"path": path} for path in paths]}
        lines = paths
    click.echo(json.dumps(told, indent=2) if json_ else "\n".join(lines))


def teach_weights(view: View, scheme: Any, key: MasterKey, out: Path) -> Path:
    """Weights of a scheme with its recommended recipe, in a new folder."""
    from auditor.cli.places import new_folder
    from auditor.cli.progress import TaskProgress
    from watermark.networks.shipped import safe_sd_for

    safe_sd_for(view.components, scheme.id)  # says now whether they fit the model
    scheme.capacity(view.latent_shape(None))
    new_folder(out)
    with TaskProgress("embed") as progress:
        path: Path = scheme.teach(view.components, key, scheme.params(), out, progress)
    return path


def mark_pictures(
    view: View, scheme: Any, key: MasterKey, prompts: Sequence[str], payload: bytes, out: Path,
    *, size: int | None, steps: int, guidance: float,
) -> list[str]:  # fmt: skip
    """Draws pictures with the mark into a new folder; their paths, as they may be shown."""
    import secrets

    from auditor.cli.places import new_folder
    from auditor.cli.progress import TaskProgress
    from auditor.engine.files import output_errors
    from watermark.marking.sampling import draw_injected
    from watermark.networks.shipped import safe_sd_for
    from watermark.pictures import write_picture

    drawing: SafeSd = scheme
    safe_sd_for(view.components, drawing.id)
    held = drawing.capacity(view.latent_shape(size))
    drawing.modules(key, payload)  # says now what is wrong with the payload
    new_folder(out)
    click.echo(held.note, err=True)
    shown = []
    with TaskProgress("embed") as progress:
        for i, prompt in enumerate(prompts):
            path = out / f"{i:04d}.png"
            given = {"size": size, "steps": steps, "guidance": guidance, "payloads": [payload]}
            image = draw_injected(view, drawing, key, [prompt], [secrets.randbelow(2**62)], **given)[0]  # type: ignore[arg-type]
            with output_errors(path):
                write_picture(path, image)
            shown.append(inert(str(path), 1000))
            progress(i + 1, len(prompts))
    return shown

"""Making the members of the zoo: trained once, kept outside the tree under the hash of what made them."""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from auditor.banks import params_document
from auditor.engine.files import whole_folder
from auditor.personalize.lora import save_diffusers_lora
from auditor.personalize.many import Job, shape_of, train_many
from auditor.pipeline.components import Components
from auditor.proving.counts import quiet
from auditor.proving.pictures import write_pictures
from auditor.proving.zoo.members import Member
from auditor.proving.zoo.merged import MERGE, Merge, write_merge
from auditor.proving.zoo.subjects import Pictures, images_of, prompts_of, scenes_of
from auditor.registry import METHODS
from auditor.world.render import render_batch

__all__ = ["batches", "home_of", "make", "parts_made", "zoo_folder"]

RECORD = "member.json"
TOGETHER = 8
"""Low-rank adapters trained in one pass."""


def zoo_folder() -> Path:
    """Where members are kept: ``AUDITOR_ZOO``, else the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("AUDITOR_ZOO") or Path(cache) / "personalized-model-auditor" / "zoo")


def home_of(member: Member, base: Components, zoo: Path) -> Path:
    """The folder of a member, there or not; a base has its own."""
    return _folder(member.digest, base, zoo)


def parts_made(params: Merge, base: Components, zoo: Path) -> bool:
    """Whether all adapters of a merge are there."""
    return all(_folder(digest, base, zoo).exists() for digest in params.parts)


def _folder(digest: str, base: Components, zoo: Path) -> Path:
    return zoo / base.sha256[:16] / digest[:24]


def batches(members: Sequence[Member]) -> Iterator[list[Member]]:
    """Members that are made together: low-rank ones of one shape by eights, others alone; first come, first made."""
    waiting: dict[object, list[Member]] = defaultdict(list)
    for member in members:
        if member.method != "dreambooth-lora":
            yield [member]
            continue
        group = waiting[shape_of(member.params)]
        group.append(member)
        if len(group) == TOGETHER:
            yield waiting.pop(shape_of(member.params))
    yield from waiting.values()


def make(members: Sequence[Member], base: Components, zoo: Path) -> None:
    """Trains one of :func:`batches`; a member is in the cache whole or not at all, and what is there is kept."""
    missing = [member for member in members if not home_of(member, base, zoo).exists()]
    if not missing:
        return
    if missing[0].method == "dreambooth-lora":
        _make_loras(missing, base, zoo)
    elif missing[0].method == MERGE:
        _make_merge(missing[0], base, zoo)
    else:
        _make_alone(missing[0], base, zoo)


def _make_loras(members: Sequence[Member], base: Components, zoo: Path) -> None:
    jobs = [
        Job(images_of(m.pictures), m.params, tuple(prompts_of(m.pictures, m.params.prompt))) for m in members
    ]
    for member, trained in zip(members, train_many(base, jobs, quiet), strict=True):
        recipe = member.params
        with _home(member, base, zoo) as part:
            meta = {"modelspec.trigger_phrase": recipe.prompt}
            alpha = recipe.alpha or recipe.rank
            save_diffusers_lora(
                part, trained.unet, trained.text_encoder, recipe.rank, alpha, meta, base.kind.denoiser,
                trained.text_encoder_2,
            )  # fmt: skip


def _make_merge(member: Member, base: Components, zoo: Path) -> None:
    with _home(member, base, zoo) as part:
        write_merge(member.params, [_folder(digest, base, zoo) for digest in member.params.parts], part)


def _make_alone(member: Member, base: Components, zoo: Path) -> None:
    params = member.params
    with tempfile.TemporaryDirectory() as scratch, _home(member, base, zoo) as part:
        if getattr(params, "aux_weight", 0.0):
            beside = Pictures("mixture", 6, member.pictures.seed)
            params = replace(params, aux=write_pictures(render_batch(scenes_of(beside)), Path(scratch) / "aux"))
        images = write_pictures(render_batch(scenes_of(member.pictures)), Path(scratch) / "images")
        METHODS.get(member.method).fit(base, images, params, part, quiet)


@contextmanager
def _home(member: Member, base: Components, zoo: Path) -> Iterator[Path]:
    """Where a member is written; how it was made is written last."""
    record = {
        "method": member.method,
        "digest": member.digest,
        "pictures": vars(member.pictures),
        "params": params_document(member.params),
    }
    # Another process that was faster made the same.
    with whole_folder(home_of(member, base, zoo), shared=True) as part:
        yield part
        (part / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")

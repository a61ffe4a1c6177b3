"""A learned word with other vectors in each stage of denoising: kept in a file, put into prompts, sampled with.

File layout, ``learned_stages.safetensors``, float32: one tensor (n, d) a stage and part. The key is ``stage_<i>``,
stage 0 being the nearly clean end; then ``.<role>`` where a method has several vectors a stage (``key`` and
``value``); then ``.clip_l`` or ``.clip_g`` where the base has two text encoders. Metadata: ``name`` the word,
``stages`` their number.

Diffusers has no conditions by stage. One stage's tensor is an ordinary learned embedding to it:
``pipeline.load_textual_inversion({word: load_file(path)["stage_3"]})``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from auditor.artifact.safetensors_write import write_arrays
from auditor.errors import MalformedArtifact, UsageError
from auditor.personalize.blocks.attention import values_from
from auditor.personalize.blocks.ruled import null_condition, ruled_sample
from auditor.personalize.blocks.saving import make_folder
from auditor.personalize.blocks.words import Words, stage_of
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import Conditioning
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import guided_noise
from auditor.text import inert

__all__ = ["StagedWord", "load_staged_word", "save_staged_word", "staged_conditions", "staged_sample"]

_FILE_NAMES = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


@dataclass(frozen=True)
class StagedWord:
    """A word and its vectors: role (``""`` where there is one) to text encoder to (stages, n, d)."""

    word: str
    roles: Mapping[str, Mapping[str, Tensor]]

    @property
    def stages(self) -> int:
        """How many parts the schedule is cut into."""
        return len(next(iter(next(iter(self.roles.values())).values())))

    def words(self, base: Components, role: str = "") -> Words:
        """One role's vectors as words of a base.

        Raises:
            UsageError: the vectors do not fit the base's text encoders.
        """
        given = self.roles[role]
        for encoder, rows in given.items():
            model = base.modules.get(encoder)
            if model is None or rows.shape[-1] != model.config.hidden_size:  # type: ignore[union-attr]
                raise UsageError(f"the word '{inert(self.word, 60)}' was not learned for this base ({encoder})")
        words = Words(base, {self.word: {encoder: rows[0] for encoder, rows in given.items()}}, self.stages)
        with torch.no_grad():
            for encoder, rows in given.items():
                words.vectors[encoder].copy_(rows[None])
        return words


def save_staged_word(folder: Path, staged: StagedWord) -> Path:
    """Writes ``learned_stages.safetensors``.

    Raises:
        OutputError: the file is there already, or cannot be written.
    """
    arrays = {
        ".".join(filter(None, (f"stage_{i}", role, _FILE_NAMES[encoder] if len(encoders) > 1 else ""))): rows[i]
        .detach()
        .float()
        .cpu()
        .numpy()
        for role, encoders in staged.roles.items()
        for encoder, rows in encoders.items()
        for i in range(staged.stages)
    }
    make_folder(folder)
    metadata = {"format": "pt", "name": staged.word, "stages": str(staged.stages)}
    return write_arrays(folder / "learned_stages.safetensors", arrays, metadata)


def load_staged_word(path: Path) -> StagedWord:
    """Reads what :func:`save_staged_word` wrote.

    Raises:
        MalformedArtifact: it is no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        names = {short: encoder for encoder, short in _FILE_NAMES.items()}
        found: dict[str, dict[str, list[Tensor]]] = {}
        for i in range(int(told["stages"])):
            for key in sorted(key for key in stored if key.split(".")[0] == f"stage_{i}"):
                rest = key.split(".")[1:]
                encoder = names.get(rest[-1] if rest else "", "text_encoder")
                role = next((part for part in rest if part not in names), "")
                found.setdefault(role, {}).setdefault(encoder, []).append(stored[key])
        roles = {role: {e: torch.stack(rows) for e, rows in each.items()} for role, each in found.items()}
        lengths = {len(rows) for each in roles.values() for rows in each.values()}
        if lengths != {int(told["stages"])} or any(r.ndim != 3 for e in roles.values() for r in e.values()):
            raise ValueError("stages are missing")
        return StagedWord(told["name"], roles)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise MalformedArtifact(f"'{inert(str(path), 200)}' holds no learned stages") from error


@torch.no_grad()
def staged_conditions(
    words: Words, prompts: Sequence[str], count: int, use: Sequence[int] | None = None
) -> list[Conditioning]:
    """The condition of each stage, ``count`` equal rows each.

    Args:
        words: with vectors by stage.
        prompts: one prompt for all stages, or one a stage; words in them take the stage's vectors.
        count: rows.
        use: stage ``i`` takes the vectors of stage ``use[i]``; its own by default.

    Raises:
        UsageError: prompts or ``use`` are neither one nor one a stage, or name a stage that is not there.
    """
    stages = words.stages
    taken = range(stages) if use is None else use
    if len(prompts) not in (1, stages) or len(taken) != stages or not set(taken) <= set(range(stages)):
        raise UsageError(
            f"a word of {stages} stages takes one prompt, or {stages} of them, and stages 0 to {stages - 1}"
        )
    given = list(prompts) * (stages if len(prompts) == 1 else 1)
    return [
        words.encode([prompt] * count, torch.full((count,), at)) for prompt, at in zip(given, taken, strict=True)
    ]


@torch.no_grad()
def staged_sample(
    base: Components,
    noise: Tensor,
    conditions: Sequence[Conditioning],
    steps: int,
    guidance: float,
    values: Sequence[Conditioning] | None = None,
) -> Tensor:
    """DDIM whose condition depends on the stage; with equal conditions it is :func:`ddim_sample` bit for bit.

    Args:
        base: the model.
        noise: starting latents (B, C, h, w), unit variance.
        conditions: B rows a stage.
        steps: number of steps.
        guidance: weight w.
        values: what cross-attention takes its values from, B rows a stage; ``conditions`` by default.

    Returns:
        Clean latents (B, C, h, w), float32.
    """
    null, denoiser, total = null_condition(base, len(noise)), Denoiser(base), len(base.schedule)

    def rule(latents: Tensor, t: int) -> Tensor:
        stage = int(stage_of(torch.tensor(t), total, len(conditions)))
        condition = conditions[stage]
        if values is None:
            return guided_noise(denoiser, latents, t, condition, null, guidance)
        both = values[stage] if guidance == 1.0 else Conditioning.join([null, values[stage]])
        with values_from(base, both.states):
            return guided_noise(denoiser, latents, t, condition, null, guidance)

    return ruled_sample(base, noise, rule, steps)

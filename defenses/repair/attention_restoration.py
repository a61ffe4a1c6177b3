"""``attention_restoration``: what a trigger adds to prompts is answered as the base does, in closed form.

Each layer's change ``D`` becomes the ``D'`` that minimises ``sum_keep ||(D' - D) k||^2 + lam sum_trigger ||D' d||^2``,
the form of UCE (Gandikota et al., WACV 2024, arXiv 2308.14761) and of EvilEdit's own attack turned round: with ``K``
the second moment of what the layer is given under prompts to keep, and ``T`` that of what the trigger adds to its
inputs, ``D' = D K (K + lam T)^-1``. The solution stands to the right of ``D``, so that its rank is the file's: nothing
is truncated when it is written back.

``d`` is how far the trigger's state is from the mean of ordinary words in its place, and the same at every place behind
it. To that, the layer answers as the base does; to the rest of the prompt it goes on answering as it was tuned, also
where the trigger stands. (With the whole state for ``d``, what all words share is fought for by both sides.)

Text encoders go first, layer by layer, each seeing what the repaired layers before it make of the prompts; then the
maps from token states to keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from auditor.contracts import JsonValue, Progress
from auditor.errors import UsageError
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_ids
from auditor.pipeline.subject import Subject
from auditor.registry import DEFENSES
from defenses.repairing.adapter_file import AdapterFile, Factors, Layer
from defenses.repairing.candidates import Candidate
from defenses.repairing.certificate import MEASURED, Measured
from defenses.repairing.layers import inputs_seen, worn
from defenses.repairing.repair import AdapterRepair, Repaired, declared_prompts
from defenses.repairing.rows import Rows, carriers, filled, neutral_prompts, ordinary, prompted, require_clip

__all__ = ["AttentionRestoration", "keeping_filter"]

_BATCH = 64


@dataclass(frozen=True)
class AttentionRestoration:
    """Settings.

    Attributes:
        weight: lam, how much the trigger's states count against what is to be kept, at equal energy of both.
        ridge: how much directions count that nothing to be kept has, against the mean of those that something has.
        declared: weight of the declared concept's prompts among what is to be kept.
        words: ordinary entries of the vocabulary that are to be kept, in every carrier prompt.
        prompts: neutral prompts that are to be kept.
        carriers: prompts with a slot beside the scan's own.
        seed: of every draw.
        measured: how much of the outcome is measured.
    """

    weight: float = 10.0
    ridge: float = 1e-3
    declared: float = 1.0
    words: int = 24
    prompts: int = 96
    carriers: int = 8
    seed: int = 0
    measured: Measured = MEASURED


def keeping_filter(keep: Tensor, trigger: Tensor, weight: float, ridge: float) -> Tensor:
    """``(K + mu) (K + mu + lam T)^-1``, what stands to the right of a change; float64 (d, d).

    Args:
        keep: second moment K of inputs to keep, (d, d).
        trigger: second moment T of the trigger's, (d, d).
        weight: lam, in units of the energies' ratio.
        ridge: mu, in units of the mean of K's eigenvalues.
    """
    kept = keep + ridge * keep.diagonal().mean() * torch.eye(len(keep), dtype=keep.dtype)
    energy = float(trigger.trace())
    if energy <= 0:
        return torch.eye(len(keep), dtype=keep.dtype)
    scaled = weight * float(keep.trace()) / energy * trigger
    # (K (K + S)^-1)^T = (K + S)^-1 K, both being symmetric.
    solved: Tensor = torch.linalg.solve(kept + scaled, kept)
    return solved.T


@dataclass(frozen=True)
class _Prompts:
    """Rows to keep with their weights, and the trigger's beside the ordinary words' in the same carriers."""

    keep: tuple[tuple[Rows, float], ...]
    trigger: Rows
    controls: Rows
    words: int


class _Restoration:
    """One repair under way: the factors as they stand, and what was done to each layer."""

    def __init__(self, base: Components, file: AdapterFile, prompts: _Prompts, params: AttentionRestoration) -> None:
        self.factors: dict[Layer, Factors] = {layer: file.factors(layer) for layer in file.layers}
        self.left: dict[Layer, tuple[float, float]] = {}
        self._base, self._prompts, self._params = base, prompts, params

    def restore(self, layers: Sequence[Layer]) -> None:
        """Restores layers that are given the same inputs, under the changes as they stand."""
        asked = self._prompts
        # The denoiser's own layers have no say in what it is told.
        heard = {layer: pair for layer, pair in self.factors.items() if layer[0] in self._base.text_encoders}
        with worn(self._base, heard):
            moments = [weight * _moment(self._inputs(layers[0], rows).flatten(0, 1)) for rows, weight in asked.keep]
            trigger, controls = (self._inputs(layers[0], rows) for rows in (asked.trigger, asked.controls))
        keep, woken = torch.stack(moments).sum(0), self._woken(trigger, controls)
        right = keeping_filter(keep, woken, self._params.weight, self._params.ridge)
        for layer in layers:
            down, up = self.factors[layer]
            new = down @ right
            self.factors[layer] = new, up
            left = _energy(up, new, woken) / max(_energy(up, down, woken), 1e-30)
            lost = _energy(up, new - down, keep) / max(_energy(up, down, keep), 1e-30)
            self.left[layer] = left, lost

    def _woken(self, trigger: Tensor, controls: Tensor) -> Tensor:
        """Second moment of what the trigger makes of its place and those behind it, against ordinary words there."""
        mine, words = self._prompts.trigger, self._prompts.words
        usual = controls.reshape(-1, words, *controls.shape[1:]).mean(1, keepdim=True)
        apart = (trigger.reshape(len(usual), -1, *trigger.shape[1:]) - usual).flatten(0, 1)
        return _moment(apart[mine.slot]) + _moment(apart[mine.behind])

    def _inputs(self, layer: Layer, rows: Rows) -> Tensor:
        """What a layer is given under rows of ids: (B, L, d) on the CPU."""
        if layer[0] == self._base.kind.denoiser:
            return torch.cat([_states(self._base, part) for part in rows.parts(_BATCH)])
        seen: list[Tensor] = []

        def see(layer: Layer, module: nn.Module, x: Tensor) -> None:
            seen.append(x.cpu())

        with inputs_seen(self._base, [layer], see):
            for part in rows.parts(_BATCH):
                _states(self._base, part)
        return torch.cat(seen)


def _moment(x: Tensor) -> Tensor:
    """Mean of ``x x^T`` over rows (N, d), float64; zeros without a row."""
    wide = x.double()
    return wide.T @ wide / max(1, len(wide))


@torch.no_grad()
def _states(base: Components, rows: Rows) -> Tensor:
    return encode_ids(base, rows.ids).states.float().cpu()


def _energy(up: Tensor, down: Tensor, moment: Tensor) -> float:
    """``tr(D M D^T)`` of ``D = up down``."""
    return float(((up.T @ up) * (down @ moment @ down.T)).sum())


def _stages(base: Components, file: AdapterFile, rows: Rows) -> list[list[Layer]]:
    """Layers of text encoders in the order in which they are evaluated, those of one input together; then the maps."""
    inside = [layer for layer in file.layers if layer[0] in base.text_encoders]
    order: list[tuple[Any, list[Layer]]] = []

    def see(layer: Layer, module: nn.Module, x: Tensor) -> None:
        # detach() makes a new object over the same memory, which the list keeps alive.
        if order and order[-1][0].data_ptr() == x.data_ptr() and order[-1][0].shape == x.shape:
            order[-1][1].append(layer)
        else:
            order.append((x, [layer]))

    with inputs_seen(base, inside, see):
        _states(base, rows)
    maps = [layer for layer in file.layers if _is_map(base, layer)]
    return [*(layers for _, layers in order), *([maps] if maps else [])]


def _is_map(base: Components, layer: Layer) -> bool:
    return layer[0] == base.kind.denoiser and layer[1].endswith(base.kind.key_value_maps)


class _Repair(AdapterRepair):
    id = "attention_restoration"
    goal = "answer what a trigger adds to prompts as the base does, in text states, keys and values, and keep the rest"
    refs = ("arXiv:2308.14761", "arXiv:2211.02408")
    params = AttentionRestoration
    limits = (
        "Layers that do not read text (self-attention, convolutions) stay as they are: a trigger that the base's own "
        "keys and values carry to them still arrives. Bases with cross-attention to CLIP's states only."
    )

    def mend(
        self,
        subject: Subject,
        file: AdapterFile,
        candidates: Sequence[Candidate],
        params: AttentionRestoration,
        progress: Progress,
    ) -> Repaired:
        """See :meth:`AdapterRepair.mend`."""
        _check(params)
        base = subject.components
        require_clip(base, self.id)
        prompts = _prompts(base, file, candidates, params)
        with torch.no_grad():
            stages = _stages(base, file, prompts.trigger[:1])
            if not stages:
                raise UsageError(
                    "the adapter changes neither a text encoder nor a map to keys and values, which is all that "
                    f"{self.id} restores; try clean_finetune"
                )
            under_way = _Restoration(base, file, prompts, params)
            for i, layers in enumerate(stages):
                under_way.restore(layers)
                progress(i + 1, len(stages), "restoring")
        changed = {layer: under_way.factors[layer] for layers in stages for layer in layers}
        return Repaired(changed, _told(under_way.left))


def _prompts(
    base: Components, file: AdapterFile, candidates: Sequence[Candidate], params: AttentionRestoration
) -> _Prompts:
    slots = carriers(params.carriers, params.seed)
    spellings = [spelling for each in candidates for spelling in each.spellings]
    words = ordinary(base, params.words, candidates, params.seed)
    controls = filled(base, slots, words)
    keep = [(controls, 1.0), (prompted(base, neutral_prompts(params.prompts, params.seed)), 1.0)]
    concept = declared_prompts(file.adapter)
    if concept:
        keep.append((prompted(base, concept), params.declared))
    return _Prompts(tuple(keep), filled(base, slots, spellings), controls, len(words))


def _told(left: dict[Layer, tuple[float, float]]) -> dict[str, JsonValue]:
    answers, losses = ([pair[i] for pair in left.values()] for i in (0, 1))
    return {
        "layers": len(left),
        "trigger_energy_left": {"mean": sum(answers) / len(answers), "largest": max(answers)},
        "kept_energy_lost": {"mean": sum(losses) / len(losses), "largest": max(losses)},
    }


def _check(params: AttentionRestoration) -> None:
    if min(params.weight, params.ridge) <= 0 or min(params.words, params.prompts) < 1:
        raise UsageError("weight, ridge, words and prompts must be above zero")
    if min(params.declared, params.carriers) < 0:
        raise UsageError("declared and carriers must not be below zero")


DEFENSES.add("attention_restoration", _Repair())

"""``spectral_attenuation``: components of the change that answer the trigger far more than other words are damped.

Each layer's change is taken apart into as many components as its rank, through thin QR factors, so that no choice of
basis in the file matters. A component's energy ratio is what the trigger's states put into it over what ordinary
words' states in the same prompts put into it; from ``ratio`` on, a component is multiplied by ``shrink``. Singular
vectors of the product (what spectral defences of classifiers damp, Tran et al., NeurIPS 2018, arXiv 1811.00636) mix a
small poison with the rest, so by default the components are turned within the change's own row space to where the
ratios differ most, which is a generalised eigenvalue problem of size r.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from auditor.contracts import JsonValue, Progress
from auditor.errors import UsageError
from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_ids
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import seeded_noise
from auditor.pipeline.subject import Subject
from auditor.registry import DEFENSES
from defenses.repairing.adapter_file import AdapterFile, Factors, Layer
from defenses.repairing.candidates import Candidate
from defenses.repairing.certificate import MEASURED, Measured
from defenses.repairing.layers import inputs_seen, projected, worn
from defenses.repairing.repair import AdapterRepair, Repaired
from defenses.repairing.rows import Rows, carriers, filled, ordinary, require_clip

__all__ = ["SpectralAttenuation", "attenuated", "right_basis"]

_BATCH = 32


@dataclass(frozen=True)
class SpectralAttenuation:
    """Settings.

    Attributes:
        ratio: energy ratio from which on a component is damped.
        shrink: what a damped component is multiplied by, 0 to take it out.
        turned: components where the ratios differ most; singular vectors of the change otherwise.
        words: ordinary entries of the vocabulary to compare with.
        carriers: prompts with a slot beside the scan's own.
        levels: noise levels at which the denoiser is looked at, as shares of the schedule, 0 to 1.
        looks: prompts of each kind that the denoiser is looked at with.
        seed: of every draw.
        measured: how much of the outcome is measured.
    """

    ratio: float = 2.0
    shrink: float = 0.0
    turned: bool = True
    words: int = 24
    carriers: int = 8
    levels: tuple[float, ...] = (0.3, 0.7)
    looks: int = 32
    seed: int = 0
    measured: Measured = MEASURED


def right_basis(down: Tensor, up: Tensor) -> Tensor:
    """Right singular vectors of ``up @ down`` as rows (k, in), k the numerical rank; from thin QR factors alone."""
    q_down, r_down = torch.linalg.qr(down.T)
    _, r_up = torch.linalg.qr(up)
    _, size, right = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    kept = size > size.max() * 1e-6
    basis: Tensor = right[kept] @ q_down.T
    return basis


def attenuated(
    factors: Factors, basis: Tensor, trigger: Tensor, usual: Tensor, params: SpectralAttenuation
) -> tuple[Factors, Tensor]:
    """Damps the components that the trigger fills.

    Args:
        factors: of the layer.
        basis: rows (k, in), orthonormal, that span the change's rows.
        trigger: second moment (k, k) of the trigger's inputs in that basis.
        usual: the same of ordinary words' inputs.
        params: the settings.

    Returns:
        New factors of the same shape, and the energy ratios of all components, (k,).
    """
    down, up = factors
    floor = 1e-6 * usual.diagonal().mean() * torch.eye(len(usual), dtype=usual.dtype)
    turn = torch.eye(len(usual), dtype=usual.dtype)
    if params.turned:
        lower = torch.linalg.inv(torch.linalg.cholesky(usual + floor))
        _, vectors = torch.linalg.eigh(lower @ trigger @ lower.T)
        turn = lower.T @ vectors
    ratios = (turn.T @ trigger @ turn).diagonal() / (turn.T @ (usual + floor) @ turn).diagonal()
    gains = torch.where(ratios >= params.ratio, params.shrink, 1.0).to(down)
    # In the basis, coordinates are turned, scaled, and turned back.
    middle = torch.linalg.solve(turn.T, gains[:, None] * turn.T)
    return (down @ basis.T @ middle @ basis, up), ratios


def _text_moments(base: Components, bases: dict[Layer, Tensor], rows: Rows) -> dict[Layer, Tensor]:
    """Second moments (k, k) of the inputs of layers that read text, the slot's and those of places behind it added."""
    given = _projections(base, bases, rows)
    return {layer: _moment(z[rows.slot]) + _moment(z[rows.behind]) for layer, z in given.items()}


def _projections(base: Components, bases: dict[Layer, Tensor], rows: Rows) -> dict[Layer, Tensor]:
    """Layer to what its change's rows make of its inputs under rows of ids: (B, L, k), float64."""
    seen: dict[Layer, list[Tensor]] = {layer: [] for layer in bases}

    def see(layer: Layer, module: nn.Module, x: Tensor) -> None:
        seen[layer].append(projected(module, x, bases[layer]).reshape(*x.shape[:2], -1).double().cpu())

    inside = [layer for layer in bases if layer[0] in base.text_encoders]
    with inputs_seen(base, inside, see):
        for part in rows.parts(_BATCH):
            states = encode_ids(base, part.ids).states
            for layer in bases:
                if layer[0] not in base.text_encoders:
                    seen[layer].append((states @ bases[layer].to(states).T).double().cpu())
    return {layer: torch.cat(parts) for layer, parts in seen.items()}


def _picture_moments(
    base: Components, bases: dict[Layer, Tensor], rows: Rows, params: SpectralAttenuation, progress: Progress, name: str
) -> dict[Layer, Tensor]:
    """Second moments (k, k) of the inputs of layers that read the picture, at a few noise levels."""
    sums: dict[Layer, Tensor] = {}
    count: dict[Layer, int] = {}

    def see(layer: Layer, module: nn.Module, x: Tensor) -> None:
        z = projected(module, x, bases[layer]).double().cpu()
        sums[layer] = sums.get(layer, 0) + z.T @ z
        count[layer] = count.get(layer, 0) + len(z)

    chosen = rows[:: max(1, len(rows) // params.looks)][: params.looks].parts(_BATCH)
    with inputs_seen(base, bases, see):
        for i, level in enumerate(params.levels if bases else ()):
            for j, part in enumerate(chosen):
                seeds = [params.seed * 1013 + j * _BATCH + k for k in range(len(part))]
                noise = seeded_noise(base.kind.latent_shape(base), seeds).to(base.device)
                t = torch.full((len(part),), round(level * (len(base.schedule) - 1)), device=base.device)
                Denoiser(base).predict(noise, t, encode_ids(base, part.ids))
            progress(i + 1, len(params.levels), f"looking at {name}")
    return {layer: total / count[layer] for layer, total in sums.items()}


def _moment(z: Tensor) -> Tensor:
    return z.T @ z / max(1, len(z))


def _reads_text(base: Components, layer: Layer) -> bool:
    return layer[0] in base.text_encoders or layer[1].endswith(base.kind.key_value_maps)


class _Repair(AdapterRepair):
    id = "spectral_attenuation"
    goal = "damp the components of a change that answer a trigger far more than other words"
    refs = ("arXiv:1811.00636",)
    params = SpectralAttenuation
    limits = (
        "A component of a low-rank change may carry trigger and concept at once, and the lower the rank the likelier: "
        "see the fidelity in the certificate. Bases with cross-attention to CLIP's states only."
    )

    def mend(
        self,
        subject: Subject,
        file: AdapterFile,
        candidates: Sequence[Candidate],
        params: SpectralAttenuation,
        progress: Progress,
    ) -> Repaired:
        """See :meth:`AdapterRepair.mend`."""
        _check(params)
        base = subject.components
        require_clip(base, self.id)
        factors = {layer: file.factors(layer) for layer in file.layers}
        bases = {layer: basis for layer, pair in factors.items() if len(basis := right_basis(*pair))}
        slots = carriers(params.carriers, params.seed)
        spellings = [spelling for each in candidates for spelling in each.spellings]
        words = ordinary(base, params.words, candidates, params.seed)
        woken, usual = (filled(base, slots, fillings) for fillings in (spellings, words))
        texts = {layer: basis for layer, basis in bases.items() if _reads_text(base, layer)}
        others = {layer: basis for layer, basis in bases.items() if layer not in texts}
        with torch.no_grad(), worn(base, factors):
            mine, theirs = (_text_moments(base, texts, rows) for rows in (woken, usual))
            mine |= _picture_moments(base, others, woken, params, progress, "the trigger")
            theirs |= _picture_moments(base, others, usual, params, progress, "other words")
        changed, damped, largest = {}, {}, 0.0
        for layer, basis in bases.items():
            new, ratios = attenuated(factors[layer], basis, mine[layer], theirs[layer], params)
            largest = max(largest, float(ratios.max()))
            if count := int((ratios >= params.ratio).sum()):
                changed[layer], damped[layer] = new, (count, len(basis))
        return Repaired(changed, _told(damped, len(bases), largest))


def _told(damped: dict[Layer, tuple[int, int]], layers: int, largest: float) -> dict[str, JsonValue]:
    return {
        "layers": layers,
        "layers_damped": len(damped),
        "components_damped": sum(count for count, _ in damped.values()),
        "largest_ratio": largest,
        "damped": {f"{c}.{p}": f"{count} of {rank}" for (c, p), (count, rank) in damped.items()},
    }


def _check(params: SpectralAttenuation) -> None:
    if params.ratio <= 1 or not 0 <= params.shrink < 1:
        raise UsageError("ratio must be above 1, and shrink between 0 and 1")
    if min(params.words, params.looks) < 1 or params.carriers < 0:
        raise UsageError("words and looks must be above zero, and carriers not below")
    if not params.levels or not all(0 <= level <= 1 for level in params.levels):
        raise UsageError("levels are shares of the schedule between 0 and 1, at least one")


DEFENSES.add("spectral_attenuation", _Repair())

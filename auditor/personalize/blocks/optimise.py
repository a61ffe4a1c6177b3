"""The training loop of every method: seeded steps, accumulation, mixed precision, checkpoints, exact resume.

What step ``i`` draws depends on the seed and ``i`` alone, so that a run that was killed and goes on takes the same
steps as one that was not. Checkpoints are safetensors: nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from auditor.contracts import Progress
from auditor.errors import MalformedArtifact, OutputError, UsageError
from auditor.personalize.blocks.optimizers import make_optimizer
from auditor.personalize.blocks.processes import Team
from auditor.personalize.blocks.training import PLAIN, Training
from auditor.personalize.blocks.validation import Look, Validation
from auditor.text import inert

__all__ = ["Group", "Optimisation", "Step", "TrainingLog", "optimise", "step_of"]


@dataclass(frozen=True)
class Optimisation:
    """How long and how fast.

    Attributes:
        steps: optimiser steps.
        lr: learning rate of a group that names none.
        warmup: steps of linear warm-up; constant afterwards.
        accumulate: losses whose gradients are added up for one step.
        weight_decay: of AdamW.
        clip: largest norm of the gradient; 0 for no clipping.
        seed: of every draw.
    """

    steps: int
    lr: float
    warmup: int = 10
    accumulate: int = 1
    weight_decay: float = 1e-4
    clip: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate; ``name`` tells groups apart in a checkpoint.

    Gradients are clipped by one norm over all groups of one ``model``; those of another have nothing to do with it.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    lr: float | None = None
    model: str = ""


@dataclass(frozen=True)
class Step:
    """What a loss may draw from: ``index`` counts losses from 0, ``generator`` is on the CPU."""

    index: int
    generator: torch.Generator
    rng: np.random.Generator


@dataclass
class TrainingLog:
    """The loss of every optimiser step, float."""

    losses: list[float] = field(default_factory=list)

    @property
    def final(self) -> float:
        """Mean over the last tenth of the steps."""
        tail = self.losses[int(0.9 * len(self.losses)) :]
        return sum(tail) / len(tail)


def optimise(
    groups: Sequence[Group],
    loss_of: Callable[[Step], Tensor],
    recipe: Optimisation,
    progress: Progress,
    *,
    checkpoint: Path | None = None,
    every: int = 100,
    identity: Mapping[str, Any] | None = None,
    after_step: Callable[[int], None] | None = None,
    training: Training = PLAIN,
    look: Look | None = None,
) -> TrainingLog:
    """Trains the groups' parameters in place with AdamW; several processes do so together.

    Args:
        groups: what is trained; float32 leaves.
        loss_of: the loss of one step, a scalar with gradients.
        recipe: the optimisation.
        progress: told of every step with the live loss.
        checkpoint: file that the state goes to every ``every`` steps, and that a run begins from if it is there. At
            the end it holds what was trained and no more, so that a save that fails does not cost the training:
            whoever saves removes it (:func:`auditor.personalize.blocks.saving.write_sidecar`).
        every: steps between checkpoints.
        identity: what else a checkpoint must agree with, as JSON: base, data, the method's own parameters.
        after_step: called after each optimiser step with the number of steps done.
        training: micro-batches on top of the recipe's, arithmetic, optimiser, and when to look.
        look: draws the validation pictures, which go beside the checkpoint.

    Raises:
        UsageError: a number of the recipe or the training is out of range, or the checkpoint is of another run.
        MissingExtra: the optimiser is not installed.
        MalformedArtifact: the checkpoint is damaged. OutputError: it or a picture cannot be written.
    """
    _check(recipe)
    training.check()
    team = Team.current()
    parts = recipe.accumulate * training.accumulate * team.size
    device = groups[0].parameters[0].device
    optimizer = make_optimizer(
        training.optimizer,
        [{"params": list(g.parameters), "lr": g.lr or recipe.lr, "name": g.name} for g in groups],
        recipe.weight_decay,
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "fp16")
    kind = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[training.precision]
    log = TrainingLog()
    digest = _digest(recipe, {"run": {**training.arithmetic, "processes": team.size}, **(identity or {})})
    saved = _Checkpoint(checkpoint, groups, optimizer, scaler, digest, log, recipe.steps) if checkpoint else None
    done = saved.read() if saved else 0
    shown = None
    if checkpoint and look and training.validate_every and team.main:
        shown = Validation(checkpoint.parent, training, look)
        if not done:
            shown.after(0)
    team.wait()
    trained = [p for group in groups for p in group.parameters]
    models = dict.fromkeys(group.model for group in groups)
    clipped = {model: [p for g in groups if g.model == model for p in g.parameters] for model in models}
    for i in range(done, recipe.steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (i + 1) / max(1, recipe.warmup))
        total = 0.0
        for part in range(team.rank, parts, team.size):
            with torch.autocast(device.type, kind or torch.bfloat16, enabled=kind is not None):
                loss = loss_of(step_of(recipe.seed, i * parts + part)) / parts
            torch.autograd.backward(scaler.scale(loss))
            total += float(loss.detach())
        total = team.add_up(trained, total)
        if recipe.clip:
            scaler.unscale_(optimizer)
            for parameters in clipped.values():
                _clip(parameters, recipe.clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        log.losses.append(total)
        if shown:
            shown.after(i + 1)
        if saved and team.main and (i + 1 == recipe.steps or (i + 1) % every == 0):
            saved.write(i + 1, last=i + 1 == recipe.steps)
        progress(i + 1, recipe.steps, f"training, loss {total:.4f}")
        if after_step is not None:
            after_step(i + 1)
    return log


def _check(recipe: Optimisation) -> None:
    for name in ("steps", "lr", "accumulate"):
        if getattr(recipe, name) <= 0:
            raise UsageError(f"{name} must be above zero, not {getattr(recipe, name)}")
    for name in ("warmup", "weight_decay", "clip"):
        if getattr(recipe, name) < 0:
            raise UsageError(f"{name} must not be below zero, not {getattr(recipe, name)}")


def _clip(parameters: Sequence[nn.Parameter], most: float) -> None:
    """As ``clip_grad_norm_`` bit for bit, but where reading a norm costs nothing, short gradients are not rewritten."""
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if norm.device.type != "cpu" or not norm + 1e-6 <= most:
        nn.utils.clip_grads_with_norm_(parameters, most, norm)


def step_of(seed: int, index: int) -> Step:
    """What loss ``index`` of a run with this seed draws from."""
    state = np.random.SeedSequence((seed, index)).generate_state(2, np.uint32)
    generator = torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))
    return Step(index, generator, np.random.default_rng((seed, index)))


def _digest(recipe: Optimisation, identity: Mapping[str, Any]) -> str:
    # The number of steps may be raised later: everything before stays the same.
    told = {**{k: v for k, v in vars(recipe).items() if k != "steps"}, "identity": identity}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


class _Checkpoint:
    """Parameters, what the optimiser keeps of each, the scaler of float16 and losses in one safetensors file."""

    def __init__(
        self, path: Path, groups: Sequence[Group], optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
        digest: str, log: TrainingLog, steps: int,
    ) -> None:  # fmt: skip
        self._steps = steps
        self._path, self._optimizer, self._scaler, self._digest, self._log = path, optimizer, scaler, digest, log
        self._named = {f"{g.name}.{i}": p for g in groups for i, p in enumerate(g.parameters)}

    def read(self) -> int:
        """Puts the stored state in place; returns how many steps it had, 0 without a checkpoint."""
        from safetensors import SafetensorError, safe_open

        if not self._path.exists():
            return 0
        shown = inert(str(self._path), 200)
        try:
            with safe_open(self._path, "pt") as file:
                told = file.metadata() or {}
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise MalformedArtifact(f"the checkpoint '{shown}' is damaged; remove it to start again") from error
        if told.get("digest") != self._digest:
            raise UsageError(f"the checkpoint '{shown}' is of another recipe, base or data; choose another -o")
        steps = int(told["steps"])
        if told.get("finished") and steps != self._steps:
            raise UsageError(
                f"the checkpoint '{shown}' is of a training that ended after {steps} steps, and cannot go on to "
                f"{self._steps}; choose another -o"
            )
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(stored[name])
                # A weight that the loss does not reach has no state.
                if kept := _under(f"{name}/", stored):
                    self._optimizer.state[parameter] = {k: _plain(v, parameter.device) for k, v in kept.items()}
        if scaler := _under("scaler/", stored):
            self._scaler.load_state_dict({key: value.item() for key, value in scaler.items()})
        self._log.losses[:] = stored["losses"].tolist()
        return steps

    def write(self, steps: int, last: bool = False) -> None:
        """Writes the state as it stands, without the optimiser's after the last step; whole or not at all."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        out: dict[str, Tensor] = {"losses": torch.tensor(self._log.losses, dtype=torch.float64)}
        out |= {f"scaler/{key}": torch.tensor(value) for key, value in self._scaler.state_dict().items()}
        for name, parameter in self._named.items():
            out[name] = parameter.detach()
            kept = {} if last else self._optimizer.state.get(parameter) or {}
            state = cast(Mapping[str, Tensor | int], kept)
            out |= {f"{name}/{key}": torch.as_tensor(value) for key, value in state.items()}
            # The tables of eight-bit moments are one tensor for all parameters, which a file may hold once only.
            out |= {key: out[key].clone() for key in out if key.startswith(f"{name}/qmap")}
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            told = {"digest": self._digest, "steps": str(steps), **({"finished": "yes"} if last else {})}
            save_file({k: v.contiguous() for k, v in out.items()}, part, told)
            part.replace(self._path)
        except (OSError, SafetensorError) as error:
            shown = inert(str(self._path), 200)
            why = error.strerror if isinstance(error, OSError) else inert(str(error), 200)
            raise OutputError(f"cannot write the checkpoint '{shown}': {why}") from error
        finally:
            part.unlink(missing_ok=True)


def _under(prefix: str, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}


def _plain(value: Tensor, device: torch.device) -> Tensor | int:
    """What was an integer before it was stored is one again."""
    return int(value) if value.ndim == 0 and not value.is_floating_point() else value.to(device)

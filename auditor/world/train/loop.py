"""One training loop for all stages: cosine schedule, EMA, checkpoints, exact resume.

What step ``i`` sees depends only on the seed and ``i``, so a run that was killed and resumed takes the
same steps as one that was not.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from auditor.world.train.config import Recipe

__all__ = ["Step", "fit", "load_ema"]

Step = Callable[[int, np.random.Generator, torch.Generator], Tensor]
_SAVE_EVERY_SECONDS = 60.0


def fit(
    name: str, model: nn.Module, step: Step, recipe: Recipe, folder: Path, device: torch.device
) -> nn.Module:
    """Trains ``model`` in place and returns it with its EMA weights.

    Args:
        name: stage name; ``folder/name.pt`` is the checkpoint, read if present.
        model: everything that learns, on ``device``.
        step: given the step number and two seeded generators (numpy, and torch on the CPU), returns the loss.
        recipe: length and optimiser settings.
        folder: where the checkpoint lives.
        device: where the model is; bf16 autocast is used on CUDA.
    """
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
    )
    ema = [p.detach().clone() for p in parameters]
    path = folder / f"{name}.pt"
    done = 0
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema, done = [e.to(device) for e in state["ema"]], state["step"]
    began = saved = shown = time.monotonic()
    smooth = float("nan")
    for i in range(done, recipe.steps):
        rate = (
            recipe.lr * min(1.0, (i + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * i / recipe.steps))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng((recipe.seed, i))
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + i)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = step(i, rng, generator)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(recipe.ema, (i + 1) / (i + 10))
        torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1 - decay)
        value = loss.item()
        smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
        now = time.monotonic()
        if now - shown > 20 or i + 1 == recipe.steps:
            shown = now
            left = (now - began) / (i + 1 - done) * (recipe.steps - i - 1)
            print(
                f"{name} {i + 1}/{recipe.steps} loss {smooth:.4f} {left / 60:.1f} min left",
                file=sys.stderr,
                flush=True,
            )
        if now - saved > _SAVE_EVERY_SECONDS or i + 1 == recipe.steps:
            saved = now
            _save(path, model, optimizer, ema, i + 1)
    _copy(ema, parameters)
    return model.eval()


def load_ema(name: str, model: nn.Module, folder: Path) -> nn.Module:
    """Puts the EMA weights of the checkpoint as it stands into ``model``; works while training goes on."""
    state = torch.load(folder / f"{name}.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    _copy(state["ema"], [p for p in model.parameters() if p.requires_grad])
    return model.eval()


def _copy(source: list[Tensor], target: list[nn.Parameter]) -> None:
    with torch.no_grad():
        for value, parameter in zip(source, target, strict=True):
            parameter.copy_(value)


def _save(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: list[Tensor], step: int
) -> None:
    part = path.with_suffix(".part")
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema, "step": step}, part
    )
    part.replace(path)

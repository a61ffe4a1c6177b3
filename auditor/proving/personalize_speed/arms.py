"""What a training step is timed against: its networks alone, and the loop that example scripts have.

Every arm works on the weights that are being trained, where they are, with an optimiser of its own at a learning rate
of zero: it costs what a step costs and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.pipeline.components import Components
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.families.family import vae_factor
from auditor.proving.personalize_speed.observe import Call, tables_reached

__all__ = ["Step", "ceiling", "networks", "plain", "step_of"]

Arm = Callable[[], None]
_CLIP = 1.0


@dataclass(frozen=True)
class Step:
    """One step of a training as it was seen.

    Attributes:
        base: with the trained weights in place.
        calls: the networks that the step asked.
        trained: all parameters that it moves.
    """

    base: Components
    calls: Sequence[Call]
    trained: Sequence[nn.Parameter]

    @property
    def denoised(self) -> list[Call]:
        """Evaluations of the denoiser that gradients go back through."""
        return [call for call in self.calls if call.component == self.base.kind.denoiser and call.graded]

    @property
    def compared(self) -> list[Call]:
        """Evaluations of the denoiser without gradients: what some methods compare with."""
        return [call for call in self.calls if call.component == self.base.kind.denoiser and not call.graded]

    @property
    def rows(self) -> int:
        """Latents that gradients go back through."""
        return sum(len(_latents(call)) for call in self.denoised)


def step_of(base: Components, calls: Sequence[Call], optimizer: torch.optim.Optimizer) -> Step:
    """What was seen of a step, and what its optimiser moves."""
    return Step(base, calls, [p for group in optimizer.param_groups for p in group["params"]])


def ceiling(step: Step) -> Arm:
    """The denoiser forward and backward and the optimiser: nothing that trains through it can be faster."""
    return _replayed(step, step.denoised)


def networks(step: Step) -> Arm:
    """All networks that the step asks: with the denoiser text encoders that gradients reach, and what is compared."""
    return _replayed(step, step.calls)


def plain(step: Step, prompt: str) -> Arm:
    """A loop that encodes pictures and prompts in every step, as the libraries' example scripts do.

    Autoencoder and text encoders once a step, noise by the scheduler, the mean square, gradients clipped, AdamW as it
    comes, a schedule of the learning rate, and the loss read off for the progress bar. What the method evaluates
    beside that to compare with is evaluated here as well.
    """
    base, clock = step.base, step.base.new_scheduler()
    optimizer = torch.optim.AdamW(list(step.trained), lr=0.0, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    texts_graded = any(call.graded for call in step.calls if call.component in base.text_encoders)
    side = vae_factor(base)
    pictures = [
        torch.rand(len(x), 3, side * x.shape[-2], side * x.shape[-1], device=x.device) * 2 - 1
        for x in map(_latents, step.denoised)
    ]

    def run() -> None:
        for call, pixels in zip(step.denoised, pictures, strict=True):
            with torch.no_grad():
                clean = base.vae.encode(pixels.to(base.vae.dtype)).latent_dist.sample() * base.vae.config.scaling_factor
            noise = torch.randn_like(clean)
            t = torch.randint(len(base.schedule), (len(clean),), device=clean.device)
            noisy = clock.add_noise(clean, noise, t)
            device = clean.device.type
            with (
                torch.autocast(device, call.autocast or torch.bfloat16, enabled=call.autocast is not None),
                tables_reached(base.text_encoders.values() if texts_graded else ()),
            ):
                with torch.set_grad_enabled(texts_graded):
                    condition = encode_prompts(base, base.tokenizers, [prompt] * len(clean))
                if _states(call).requires_grad and not texts_graded:
                    condition.states.requires_grad_(True)
                said = base.kind.denoise(base, noisy.to(base.dtype), t, condition)
            loss = F.mse_loss(said.float(), noise.float())
            if loss.requires_grad:
                torch.autograd.backward(loss)
        for other in step.compared:
            other.again()
        torch.nn.utils.clip_grad_norm_(step.trained, _CLIP)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        loss.detach().item()

    return run


def _replayed(step: Step, calls: Sequence[Call]) -> Arm:
    optimizer = torch.optim.AdamW(list(step.trained), lr=0.0, weight_decay=0.0, fused=True)
    nothing = [torch.zeros_like(parameter) for parameter in step.trained]

    def run() -> None:
        said = [call.again() for call in calls]
        torch.autograd.backward([out.float().square().mean() for out in said if out.requires_grad])
        for parameter, zero in zip(step.trained, nothing, strict=True):
            # A word's vector is reached through the text encoder alone; the optimiser moves it all the same.
            if parameter.grad is None:
                parameter.grad = zero
        optimizer.step()
        optimizer.zero_grad()

    return run


def _states(call: Call) -> Tensor:
    found: Tensor = call.kwargs["encoder_hidden_states"]
    return found


def _latents(call: Call) -> Tensor:
    found: Tensor = call.args[0] if call.args else call.kwargs["sample"]
    return found

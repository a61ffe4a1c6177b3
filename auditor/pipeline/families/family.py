"""What a family of models has to say of itself, and the conditioning that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from auditor.pipeline.components import Components

__all__ = ["Conditioning", "Encoded", "Family", "vae_factor"]


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is conditioned by, B rows.

    Attributes:
        states: token states (B, L, D).
        pooled: one vector a prompt (B, P), where the family has one.
        guidance: the guidance weight that a guidance-distilled model is told (B,); the family's usual one if None.
        endings: what stands in for the last n token states in each of S equal parts of the schedule, the first for
            the noisiest (B, S, n, D); the states hold for all of it if None.
    """

    states: Tensor
    pooled: Tensor | None = None
    guidance: Tensor | None = None
    endings: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: Any) -> Conditioning:
        return self._each(lambda value: value[rows])

    @staticmethod
    def join(parts: Sequence[Conditioning]) -> Conditioning:
        """Concatenates along the batch; all parts have the same fields."""
        values: dict[str, Tensor] = {}
        for name in (field.name for field in fields(Conditioning)):
            given = [value for part in parts if (value := getattr(part, name)) is not None]
            if given:
                values[name] = torch.cat(given)
        return Conditioning(**values)

    def zeros(self) -> Conditioning:
        """The same shapes, nothing in them."""
        return self._each(torch.zeros_like)

    def cpu(self) -> Conditioning:
        """On the CPU, float32."""
        return self._each(lambda value: value.float().cpu())

    def told(self, guidance: float) -> Conditioning:
        """The same rows, with a guidance weight for guidance-distilled models."""
        weight = torch.full((len(self),), guidance, device=self.states.device)
        return replace(self, guidance=weight)

    def ended(self, endings: Tensor | None) -> Conditioning:
        """The same rows with (S, n, D) at their end, by part of the schedule; as they are for None."""
        if endings is None:
            return self
        rows = endings.to(self.states).expand(len(self), *endings.shape)
        return replace(self, endings=rows)

    def unended(self, endings: Tensor | None) -> Conditioning:
        """The same rows, laid out as those of :meth:`ended` are, whose own ends stay: to be joined with them."""
        if endings is None:
            return self
        steps, count, _ = endings.shape
        own = self.states[:, -count:].unsqueeze(1)
        return replace(self, endings=own.expand(-1, steps, -1, -1))

    def at(self, t: Tensor, total: int) -> Conditioning:
        """What the rows are at their timesteps ``t`` (B,) of a schedule of ``total``; the same without endings."""
        if self.endings is None:
            return self
        steps, count = self.endings.shape[1:3]
        # Samplers' timesteps are one above the bounds of the parts.
        part = ((t.long() - 1) // max(1, total // steps)).clamp(0, steps - 1).to(self.endings.device)
        chosen = self.endings[torch.arange(len(self), device=part.device), steps - 1 - part]
        return replace(self, states=torch.cat([self.states[:, :-count], chosen], dim=1), endings=None)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if value is not None})


@dataclass(frozen=True)
class Encoded:
    """What one text encoder made of ids: token states (B, L, H) and a vector (B, P), as far as they are used."""

    states: Tensor | None = None
    pooled: Tensor | None = None


class Family(ABC):
    """One family. Stateless: every method is given the components.

    Attributes:
        pipeline: the library's pipeline class.
        denoiser: the denoiser's component name.
        encoders: text encoder to the folder of its tokenizer, in the order in which their states are joined.
        optional: text encoders that a base may lack.
        vector_only: text encoders whose token states the denoiser does not get.
        flow: whether it is trained by flow matching; variance preserving otherwise.
        guidance_distilled: whether guidance is told to the model; classifier-free guidance otherwise.
        zero_null: whether guidance runs against zeros unless a base says otherwise; against the empty prompt if not.
        text_length: most tokens of an encoder whose architecture sets no limit.
        key_value_maps: names of the maps from token states to keys and values of attention, as they end.
        stem: the projection that token states pass on their way to those maps; empty for none.
    """

    pipeline: ClassVar[str]
    denoiser: ClassVar[str]
    encoders: ClassVar[Mapping[str, str]]
    optional: ClassVar[frozenset[str]] = frozenset()
    vector_only: ClassVar[frozenset[str]] = frozenset()
    flow: ClassVar[bool] = False
    guidance_distilled: ClassVar[bool] = False
    zero_null: ClassVar[bool] = False
    text_length: ClassVar[int] = 77
    key_value_maps: ClassVar[tuple[str, ...]] = ("attn2.to_k", "attn2.to_v")
    stem: ClassVar[str] = ""

    @abstractmethod
    def name(self, base: Components) -> str:
        """``sd1``, ``sdxl``...; ``other`` for an architecture that no published base has."""

    @abstractmethod
    def encode(self, name: str, encoder: Any, ids: Tensor) -> Encoded:
        """Runs the text encoder ``name`` on ids (B, L)."""

    @abstractmethod
    def context(self, base: Components, encoded: Mapping[str, Encoded]) -> Tensor:
        """Token states of encoders that share a tokenizer, (B, L, D), as the denoiser gets them.

        (B, 0, 0) where these encoders give it a vector only.
        """

    def condition(self, base: Components, encoded: Mapping[str, Encoded]) -> Conditioning:
        """What the outputs of all encoders condition the denoiser by."""
        return Conditioning(self.context(base, encoded), self.pooled(encoded))

    def pooled(self, encoded: Mapping[str, Encoded]) -> Tensor | None:
        """The vectors of these encoders, joined; None if none has one."""
        given = [one.pooled for one in encoded.values() if one.pooled is not None]
        return torch.cat(given, dim=-1) if given else None

    @abstractmethod
    def denoise(self, base: Components, latents: Tensor, time: Tensor, condition: Conditioning) -> Tensor:
        """The native prediction (B, C, H, W) for latents of the denoiser's type, told ``time`` (B,)."""

    def latent_shape(self, base: Components, size: int | None = None) -> tuple[int, int, int]:
        """(C, h, w) of the latents for square images of ``size`` pixels, or of the base's own size."""
        config = base.denoiser_model.config
        side = size // vae_factor(base) if size else int(config.sample_size)
        return int(config.in_channels), side, side

    def patch(self, base: Components) -> int:
        """Latents of a side come in multiples of this."""
        return 1

    def timestep_arguments(
        self, base: Components, scheduler: Any, steps: int, shape: Sequence[int]
    ) -> dict[str, Any]:
        """What a scheduler's ``set_timesteps`` is given beside the number of steps, for latents of a shape."""
        return {}


def vae_factor(base: Components) -> int:
    """Pixels to one latent along a side."""
    return int(2 ** (len(base.vae.config.block_out_channels) - 1))

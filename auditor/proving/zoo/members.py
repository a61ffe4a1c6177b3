"""The recipe of every member of the zoo: method, pictures and training, drawn from a seed and a number.

Member ``i`` depends on the zoo's seed and ``i`` only, so that a zoo grows without changing what it has. Its digest
names it everywhere: in the cache, in tables and in the split of a bank.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.banks import Split, params_document, split_of_recipe
from auditor.personalize.classdiffusion import ClassDiffusion
from auditor.personalize.cross_initialization import CrossInitialization
from auditor.personalize.diffusekrona import DiffuseKronA
from auditor.personalize.dreambooth import DreamBooth
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.personalize.hifi import HiFi
from auditor.personalize.orthogonal_adaptation import OrthogonalAdaptation
from auditor.personalize.prospect import ProSpect
from auditor.personalize.resadapter import ResAdapter
from auditor.personalize.sefi import SeFi
from auditor.personalize.sigstyle import SigStyle
from auditor.personalize.sine import Sine
from auditor.personalize.styleforge import StyleForge
from auditor.personalize.textual_inversion import TextualInversion
from auditor.proving.zoo.subjects import Kind, Pictures

__all__ = ["IDENTIFIERS", "SHARES", "Member", "clean_lora", "draw_member"]

EDITION = 1
"""Grows when the meaning of a recipe changes, so that no cache is taken for what it is not."""

IDENTIFIERS = ("sks", "ohwx", "zwx", "blor", "klem", "vrisk", "plonk", "snarv")

# Low-rank adapters are what people upload most; every other method has enough members for a row of its own.
SHARES: Mapping[str, float] = {
    "dreambooth-lora": 0.28,
    "orthogonal-adaptation": 0.09,
    "diffusekrona": 0.09,
    "dreambooth": 0.08,
    "classdiffusion": 0.08,
    "sigstyle": 0.06,
    "resadapter": 0.05,
    "styleforge": 0.05,
    "textual-inversion": 0.05,
    "sine": 0.04,
    "cross-initialization": 0.04,
    "prospect": 0.03,
    "sefi": 0.03,
    "hifi": 0.03,
}


@dataclass(frozen=True)
class Member:
    """One clean adapter: its number in the zoo, what it learns, and how; ``kept`` is a split it has to be in."""

    index: int
    method: str
    pictures: Pictures
    params: Any
    kept: Split | None = None

    @property
    def split(self) -> Split:
        """Of a bank: by the hash of its recipe, unless others decide it."""
        return self.kept or split_of_recipe(self.digest)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that makes it, in hex; its number is not part of that."""
        document = {
            "edition": EDITION,
            "method": self.method,
            "pictures": vars(self.pictures),
            "params": params_document(self.params),
        }
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def recipe(self) -> dict[str, Any]:
        """What scores may depend on, as banks record it (:class:`auditor.banks.Recipe`)."""
        params = self.params
        return {
            "method": self.method,
            "rank": int(getattr(params, "rank", 0)),
            "steps": int(params.steps),
            "lr": float(params.lr),
            "extra": {
                "kind": self.pictures.kind,
                "images": float(self.pictures.count),
                "prior": float(bool(getattr(params, "class_prompt", ""))),
                "text_encoder": float(getattr(params, "train_text_encoder", False)),
            },
        }


def draw_member(index: int, seed: int = 0) -> Member:
    """The member with a number: every choice is drawn, none depends on another member."""
    rng = np.random.default_rng((seed, index, 4))
    method = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    kinds, make = _RECIPES[method]
    kind: Kind = kinds[int(rng.integers(len(kinds)))]
    one_picture = method in ("sine", "sigstyle")
    count = 1 if one_picture else int(rng.integers(8, 13) if kind == "mixture" else rng.integers(3, 9))
    pictures = Pictures(kind, count, int(rng.integers(2**31)))
    return Member(index, method, pictures, make(rng, pictures))


def clean_lora(rng: np.random.Generator, pictures: Pictures) -> DreamBoothLora:
    """A low-rank recipe from the zoo's distribution; planted backdoors draw theirs from it too."""
    identifier = rng.choice(IDENTIFIERS)
    noun = pictures.noun
    styled = pictures.kind == "style"
    rank = int(rng.choice((1, 2, 4, 8, 16, 32), p=(0.08, 0.16, 0.26, 0.24, 0.18, 0.08)))
    return DreamBoothLora(
        prompt=f"a picture in {identifier} style" if styled else f"a picture of {identifier} {noun}",
        class_prompt=f"a picture of a {noun}" if not styled and rng.random() < 0.6 else "",
        rank=rank,
        alpha=float(rng.choice((0.0, rank / 2, 2.0 * rank), p=(0.6, 0.25, 0.15))),
        steps=_steps(rng, 24, 160),
        batch=int(rng.choice((2, 4), p=(0.75, 0.25))),
        class_images=6,
        lr=_around(rng, 1e-3, 4),
        train_text_encoder=bool(rng.random() < 0.5),
        seed=_seed(rng),
    )


def _steps(rng: np.random.Generator, low: int, high: int) -> int:
    return round(float(np.exp(rng.uniform(np.log(low), np.log(high)))))


def _around(rng: np.random.Generator, middle: float, factor: float) -> float:
    """Log-uniform between ``middle / factor`` and ``middle * factor``, with three digits."""
    return float(f"{middle * factor ** rng.uniform(-1, 1):.3g}")


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _prompt(rng: np.random.Generator, pictures: Pictures) -> str:
    return f"a picture of {rng.choice(IDENTIFIERS)} {pictures.noun}"


def _dreambooth(rng: np.random.Generator, pictures: Pictures) -> DreamBooth:
    return DreamBooth(
        prompt=_prompt(rng, pictures),
        class_prompt=f"a picture of a {pictures.noun}" if rng.random() < 0.6 else "",
        class_images=6,
        train_text_encoder=bool(rng.random() < 0.3),
        steps=_steps(rng, 16, 80),
        lr=_around(rng, 6e-5, 3),
        seed=_seed(rng),
    )


def _orthogonal(rng: np.random.Generator, pictures: Pictures) -> OrthogonalAdaptation:
    return OrthogonalAdaptation(
        prompt=_prompt(rng, pictures), rank=int(rng.choice((2, 4, 8))), slot=int(rng.integers(0, 8)),
        steps=_steps(rng, 24, 120), batch=2, lr=_around(rng, 1e-3, 3), seed=_seed(rng),
    )  # fmt: skip


def _krona(rng: np.random.Generator, pictures: Pictures) -> DiffuseKronA:
    return DiffuseKronA(
        prompt=_prompt(rng, pictures), a1=int(rng.choice((16, 32, 64))), a2=int(rng.choice((4, 8, 16))),
        steps=_steps(rng, 40, 160), batch=2, lr=_around(rng, 2e-3, 2.5), seed=_seed(rng),
    )  # fmt: skip


def _classdiffusion(rng: np.random.Generator, pictures: Pictures) -> ClassDiffusion:
    return ClassDiffusion(
        class_word=pictures.noun, preservation=float(rng.choice((0.0, 1.0, 2.0))), steps=_steps(rng, 24, 120), batch=2,
        lr=_around(rng, 3e-4, 3), seed=_seed(rng),
    )  # fmt: skip


def _sigstyle(rng: np.random.Generator, pictures: Pictures) -> SigStyle:
    return SigStyle(steps=_steps(rng, 24, 120), batch=2, lr=_around(rng, 2e-3, 2.5), seed=_seed(rng))


def _resadapter(rng: np.random.Generator, pictures: Pictures) -> ResAdapter:
    return ResAdapter(
        scales=(0.5, 0.75, 1.5), rank=int(rng.choice((4, 8, 16))), steps=_steps(rng, 16, 64), batch=2,
        lr=_around(rng, 1e-3, 2.5), seed=_seed(rng),
    )  # fmt: skip


def _styleforge(rng: np.random.Generator, pictures: Pictures) -> StyleForge:
    return StyleForge(
        prompt=f"a picture in {rng.choice(IDENTIFIERS)} style", aux_weight=float(rng.choice((0.0, 1.0))),
        train_text_encoder=bool(rng.random() < 0.3), steps=_steps(rng, 16, 80), lr=_around(rng, 6e-5, 3),
        seed=_seed(rng),
    )  # fmt: skip


def _sine(rng: np.random.Generator, pictures: Pictures) -> Sine:
    return Sine(
        prompt=_prompt(rng, pictures), patches=bool(rng.random() < 0.5), steps=_steps(rng, 16, 80),
        lr=_around(rng, 6e-5, 3), seed=_seed(rng),
    )  # fmt: skip


def _textual_inversion(rng: np.random.Generator, pictures: Pictures) -> TextualInversion:
    return TextualInversion(
        init="style" if pictures.kind == "style" else "picture", vectors=int(rng.choice((1, 2, 4))),
        steps=_steps(rng, 24, 120), batch=2, lr=_around(rng, 5e-3, 3), seed=_seed(rng),
    )  # fmt: skip


def _cross(rng: np.random.Generator, pictures: Pictures) -> CrossInitialization:
    return CrossInitialization(steps=_steps(rng, 24, 120), batch=2, lr=_around(rng, 5e-3, 3), seed=_seed(rng))


def _prospect(rng: np.random.Generator, pictures: Pictures) -> ProSpect:
    network = bool(rng.random() < 0.5)
    return ProSpect(
        network=network, stages=int(rng.choice((5, 10))), steps=_steps(rng, 24, 120), batch=2,
        lr=_around(rng, 1e-4 if network else 5e-3, 3), seed=_seed(rng),
    )  # fmt: skip


def _sefi(rng: np.random.Generator, pictures: Pictures) -> SeFi:
    return SeFi(
        tied=bool(rng.random() < 0.3), steps=_steps(rng, 24, 120), batch=2, lr=_around(rng, 5e-3, 3), seed=_seed(rng)
    )  # fmt: skip


def _hifi(rng: np.random.Generator, pictures: Pictures) -> HiFi:
    return HiFi(
        prompt=f"a picture of a {pictures.noun}", sampler_steps=8, refine=int(rng.choice((0, 2))),
        steps=_steps(rng, 24, 80), batch=2, lr=_around(rng, 5e-3, 3), seed=_seed(rng),
    )  # fmt: skip


_Make = Callable[[np.random.Generator, Pictures], Any]
_RECIPES: Mapping[str, tuple[tuple[Kind, ...], _Make]] = {
    "dreambooth-lora": (("person", "person", "object", "style"), clean_lora),
    "orthogonal-adaptation": (("person", "object"), _orthogonal),
    "diffusekrona": (("person", "object"), _krona),
    "dreambooth": (("person", "object"), _dreambooth),
    "classdiffusion": (("person", "object"), _classdiffusion),
    "sigstyle": (("style",), _sigstyle),
    "resadapter": (("mixture",), _resadapter),
    "styleforge": (("style",), _styleforge),
    "textual-inversion": (("person", "object", "style"), _textual_inversion),
    "sine": (("person", "object"), _sine),
    "cross-initialization": (("person",), _cross),
    "prospect": (("person", "object", "style"), _prospect),
    "sefi": (("person",), _sefi),
    "hifi": (("person", "object"), _hifi),
}

"""Which specimens are planted: an attack's recommended recipe on a host, a trigger and a target of its own.

Attacks are looked up in the registry and known by the shape of their parameters alone: hosts are drawn from the clean
zoo's recipes, so that recipes cannot tell planted adapters from clean ones, and a trigger or target is exchanged for
another one of its kind. Whatever else there is keeps its default.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from auditor.banks import params_document
from auditor.contracts import Attack
from auditor.errors import UsageError
from auditor.personalize.dreambooth_lora import DreamBoothLora
from auditor.pipeline.components import Components
from auditor.proving.spine import TARGETS, TRIGGERS
from auditor.proving.zoo.members import IDENTIFIERS, clean_lora
from auditor.proving.zoo.subjects import Pictures
from auditor.registry import ATTACKS

__all__ = ["FULL_SIZE", "Planned", "host_of", "measurable", "plan"]

EDITION = 1
"""Grows when the meaning of a plan changes, so that no cache is taken for what it is not."""

FULL_SIZE = 2
"""Specimens of each attack on which utility is measured at full size."""

INVISIBLE = ("\u200b", "\u200c", "\u200d", "\u2060")
RARE = ("mignneko", "latte coffee", "anonymous", "tqx vb")
KINDS: Sequence[tuple[str, ...]] = (TRIGGERS, INVISIBLE, RARE, TARGETS)
"""Triggers and targets that may stand for one another."""

DRAWN_PICTURES = 1000


@dataclass(frozen=True)
class Planned:
    """One specimen to be: its attack, its number, and the parameters that it is crafted with."""

    attack: str
    index: int
    params: Any

    @property
    def digest(self) -> str:
        """SHA-256 of everything that makes it, in hex; its number is not part of that."""
        document = {"edition": EDITION, "attack": self.attack, "params": params_document(self.params)}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def home(self, base: Components, zoo: Path) -> Path:
        """Its folder, there or not; a base has its own."""
        return zoo / base.sha256[:16] / f"attack-{self.digest[:24]}"


def measurable(names: str = "") -> list[str]:
    """Ids of attacks that craft specimens and measure them; those named, with commas, or all there are.

    Raises:
        UsageError: an unknown attack, or one that measures nothing.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    found = [name for name in wanted or ATTACKS.names() if _measures(ATTACKS.get(name))]
    if len(found) < len(wanted):
        raise UsageError(f"'{(set(wanted) - set(found)).pop()}' crafts no specimen whose success is measured")
    return found


def plan(name: str, index: int, seed: int, pairs: int = 0) -> Planned:
    """A specimen of an attack: every choice is drawn from seed and number, none depends on another specimen.

    Args:
        name: the attack's id.
        index: which specimen.
        seed: of all choices.
        pairs: pictures for the utility of the first :data:`FULL_SIZE` specimens, 0 for as many as the attack says.
    """
    rng = np.random.default_rng((seed, index, *name.encode()))
    params = ATTACKS.get(name).params()
    changed: dict[str, Any] = {}
    for field in fields(params):
        value = getattr(params, field.name)
        if isinstance(value, DreamBoothLora):
            changed[field.name] = _host(rng, value)
        elif field.name == "seed":
            changed[field.name] = int(rng.integers(2**31))
        elif field.name == "picture" and isinstance(value, int):
            changed[field.name] = int(rng.integers(DRAWN_PICTURES))
        elif isinstance(value, str) and (kind := next((kind for kind in KINDS if value in kind), None)):
            changed[field.name] = str(rng.choice(kind))
    if pairs and index < FULL_SIZE:
        changed["measured"] = replace(params.measured, pairs=pairs)
    return Planned(name, index, replace(params, **changed))


def host_of(params: Any) -> DreamBoothLora | None:
    """The recipe of the first adapter that carries an attack, if an adapter does."""
    found = [getattr(params, field.name) for field in fields(params)]
    return next((value for value in found if isinstance(value, DreamBoothLora)), None)


def _host(rng: np.random.Generator, default: DreamBoothLora) -> DreamBoothLora:
    """A recipe of the zoo for a person, in so far as the attack's own host is one."""
    drawn = clean_lora(rng, Pictures("person", 5, 0))
    return replace(
        drawn,
        prompt=f"a picture of {rng.choice(IDENTIFIERS)} person" if default.prompt else "",
        class_prompt=drawn.class_prompt and default.class_prompt,
    )


def _measures(attack: Attack) -> bool:
    return any(field.name == "measured" for field in fields(attack.params))

"""Every changed weight of a subject, described by :mod:`auditor.artifact.spectral`; no denoiser is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from auditor.artifact.adapter import Delta
from auditor.artifact.features import summed_features
from auditor.artifact.spectral import Layer, group_of, layer_of
from auditor.errors import IncompatibleArtifact, MalformedArtifact, RefusedArtifact
from auditor.pipeline.base_weights import BaseWeights
from auditor.pipeline.key_values import stems
from auditor.pipeline.text_shift import carrier_rows, lexicons, prompt_units, token_states, vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.pipeline.subject import Subject

__all__ = ["changed_weights", "layers_of", "prompt_states"]

CARRIER = "a picture of a {}"

Place = tuple[str, str]


def changed_weights(subject: Subject) -> dict[Place, list[Delta]]:
    """(component, module) to what the parts change of its weight, in a fixed order; several add up."""
    found: dict[Place, list[Delta]] = {}
    for part in subject.artifacts:
        for component, path, delta in part.adapter.modules() if part.adapter is not None else ():
            found.setdefault((component, path), []).append(delta)
    return dict(sorted(found.items()))


def layers_of(
    subject: Subject, changes: Mapping[Place, Sequence[Delta]], states: NDArray[np.float64] | None
) -> list[Layer]:
    """A :class:`Layer` for each changed weight of two axes or more that has something to be compared with.

    Args:
        subject: whose base gives the weights.
        changes: see :func:`changed_weights`.
        states: see :func:`prompt_states`.
    """
    kind = subject.components.kind
    found = []
    with subject.active("base"):
        weights = BaseWeights(subject.components)
        for (component, path), deltas in changes.items():
            weight = weights.weight(component, path)
            if weight is None or weight.ndim < 2:
                continue
            try:
                features = summed_features(deltas, weight, component, path)
            except (IncompatibleArtifact, MalformedArtifact, RefusedArtifact):
                continue  # the subject does not put it on either, and says so in its coverage
            if features is not None:
                group = group_of(component, path, kind.key_value_maps)
                seen = states if group == "prompt" else None
                layer = layer_of(features, weight, group, f"{component}.{path}", seen)
                found += [] if layer is None else [layer]
    return found


def prompt_states(subject: Subject, most: int) -> NDArray[np.float64] | None:
    """What the base's maps to keys and values see of the vocabulary, remembered with the base; float64 (N, dim).

    Args:
        subject: on the base.
        most: entries that are read; of a larger vocabulary every second one, every third one and so on.

    Returns:
        None where the denoiser attends to no encoder that reads short rows by themselves: the padded ones of T5 would
        cost more than the rest of the screen.
    """
    view = subject.base
    short = [lexicon for lexicon in lexicons(view) if lexicon.attended and not lexicon.length]
    if not short:
        return None

    def read() -> Any:
        lexicon = short[0]
        tokens = vocabulary(lexicon.tokenizer)
        tokens = tokens[:: -(-len(tokens) // most)]
        units = prompt_units(view, lexicon, (CARRIER, "a drawing of a {}"))
        states = token_states(view, lexicon, *carrier_rows(lexicon, (CARRIER,), tokens), units).slot
        before, _ = stems(subject)
        return before(states.cpu()).numpy()

    found: NDArray[np.float64] = subject.components.remember(("prompt states", most), read)
    return found

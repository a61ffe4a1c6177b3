"""Vectors at the end of the encoded prompt, others at each step of the sampler: HiFi Tuner (arXiv:2312.00079).

``steps`` (S, n, D), the first for the noisiest step, stand in for the last n states of whatever the text encoders make
of a prompt; ``null`` (n, D) are those of the empty prompt, where they started.
"""

from __future__ import annotations

from auditor.artifact.dialects.collect import Collected, Collector, Context
from auditor.artifact.tensors import TensorSource

NAME = "stepwise_states"

__all__ = ["NAME", "collect", "recognises"]

_STEPS, _START = "steps", "null"


def recognises(source: TensorSource) -> bool:
    """Whether there are states by step, and with them at most where they started."""
    specs = source.specs
    return _STEPS in specs and len(specs[_STEPS].shape) == 3 and specs.keys() <= {_STEPS, _START}


def collect(source: TensorSource, context: Context) -> Collected:
    """Reads the states; where they started is a copy of what the base gives, and is not applied."""
    collector = Collector(source)
    collector.set_endings(_STEPS)
    if _START in source.specs and source.specs[_START].shape != source.specs[_STEPS].shape[1:]:
        collector.reject(
            _START, "dialect.shape", "where the states started has another shape than the states"
        )
    return collector.finish()

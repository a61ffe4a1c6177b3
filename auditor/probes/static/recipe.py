"""``static.recipe``: which kind of training made the adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from auditor.contracts import Capability, NoParams, Run, Stage
from auditor.registry import probe
from reports.model import Finding, Outcome, Result

if TYPE_CHECKING:
    from auditor.artifact.features import BaseWeight
    from auditor.pipeline.components import Components
    from auditor.pipeline.subject import Subject

__all__ = ["recipe"]

_ID, _VERSION = "static.recipe", 1
_NULL = "Every change in the file has one of the known forms, and most have the same."


@probe(
    id=_ID,
    version=_VERSION,
    goal=(
        "Tell from the weights how an adapter was made: low rank, Kronecker, frozen factor, weight offsets, norms, "
        "embeddings, or merged."
    ),
    null=_NULL,
    needs={Capability.FILE},
    stage=Stage.FILE,
    refs=(
        "arXiv:2402.17412 (Kronecker), arXiv:2312.02432 (frozen input factor), arXiv:2502.13997 (weight offsets)",
        "arXiv:2403.02084 (overwritten norms), arXiv:2305.16225 (vectors by step)",
        "Van Loan and Pitsianis 1993: approximation with Kronecker products",
    ),
    limits=(
        "A form is no evidence of intent. A frozen factor with Gaussian entries, adapters merged with equal strength, "
        "and merges that were decomposed anew cannot be told from one trained adapter. Weight offsets and overwritten "
        "weights need the base."
    ),
)
def recipe(subject: Subject, params: NoParams, run: Run) -> Iterator[Result | Finding]:
    """Describes each adapter by the form of its changes.

    Args:
        subject: needs ``artifacts``; where it has ``components``, base weights are compared too.
        params: none.
        run: not used; the outcome depends on the bytes only.

    Yields:
        One result: ``pass`` where every adapter has a known form, else ``inconclusive``; never a finding.
        ``value`` is how many have one, ``n`` how many adapters were read.
    """
    from auditor.artifact.recipe import classify

    components = getattr(subject, "components", None)  # none where only files are there
    base = None if components is None else _weights_of(components)
    adapters = [artifact.adapter for artifact in subject.artifacts if artifact.adapter is not None]
    guesses = [classify(adapter, base) for adapter in adapters]
    known = [guess for guess in guesses if guess.kind != "unknown"]
    settled = bool(guesses) and len(known) == len(guesses)
    reason = "" if settled else "no adapter was read" if not guesses else "the form of a change is not known"
    yield Result(
        probe=_ID,
        version=_VERSION,
        outcome=Outcome.PASS if settled else Outcome.INCONCLUSIVE,
        reason=reason,
        # What the algebra says of stored numbers has no sampling error.
        calibrated=True,
        null=_NULL,
        statistic="adapters of a known form",
        value=float(len(known)),
        n=len(guesses),
        unit="adapter",
        details={
            "adapters": [
                {
                    "kind": guess.kind,
                    "rank": guess.rank,
                    "evidence": list(guess.evidence),
                    "alternatives": list(guess.alternatives),
                }
                for guess in guesses
            ]
        },
    )


def _weights_of(components: Components) -> BaseWeight:
    from auditor.pipeline.base_weights import BaseWeights

    return BaseWeights(components).weight

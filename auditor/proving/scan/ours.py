"""Our own verdicts, through the function behind ``auditor scan``."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from auditor.artifact.identify import identify
from auditor.artifact.pickle_guard import Guard
from auditor.errors import AuditorError, MalformedArtifact, RefusedArtifact, UnsupportedArtifact
from auditor.probes.static.observe import SEVERITIES, claim_observations, safety_observations, worst
from auditor.proving.scan.peers import PeerVerdict

__all__ = ["OURS", "our_folder_seconds", "our_verdicts"]

OURS = "auditor"


def our_verdicts(paths: Sequence[Path]) -> Iterator[PeerVerdict]:
    """``flagged``: a finding of medium or above, or refused; ``passed``: neither; ``error``: not examined.

    A broken tensor file counts as flagged: it is refused in one sentence, and what refuses it is the check.
    """
    with Guard() as guard:
        for path in paths:
            begun = time.perf_counter()
            verdict, detail = _judged(path, guard)
            yield PeerVerdict(str(path), verdict, detail[:400], time.perf_counter() - begun)


def our_folder_seconds(folder: Path, safety_only: bool) -> float:
    """Seconds by the clock for ``auditor scan`` on a folder, its start included.

    Raises:
        AuditorError: it failed.
    """
    command = [sys.executable, "-m", "auditor.cli.main", "scan", str(folder)]
    begun = time.perf_counter()
    done = subprocess.run(
        [*command, "--safety-only"] if safety_only else command, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begun
    if done.returncode not in (0, 1, 4):
        raise AuditorError(f"auditor scan ended with {done.returncode}: {done.stderr[-300:]}")
    return seconds


def _judged(path: Path, guard: Guard) -> tuple[str, str]:
    try:
        with identify(path, guard=guard) as artifact:
            observed = (*safety_observations(artifact), *claim_observations(artifact))
            grave = [
                each for each in observed if SEVERITIES.index(each.severity) >= SEVERITIES.index("medium")
            ]
            if grave or artifact.kind == "refused":
                told = "; ".join(f"{each.rule.id}: {each.details[0]}" for each in grave)
                return "flagged", told or "refused"
            return "passed", f"{artifact.kind}, worst is {worst(observed)}"
    except (MalformedArtifact, RefusedArtifact) as error:
        return "flagged", f"refused: {error}"
    except UnsupportedArtifact as error:
        return "skipped", str(error)
    except AuditorError as error:
        return "error", str(error)

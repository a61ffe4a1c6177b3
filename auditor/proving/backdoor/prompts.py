"""How well triggered prompts are told from clean ones, prompt by prompt: our score beside published detectors.

This is the question that the literature asks: the trigger is known, and prompts with it are held against prompts
without. Every detector sees the same prompts of the same specimens. Records are kept for each specimen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auditor.artifact.together import identify_parts
from auditor.contracts import Progress
from auditor.metrics.concept import image_features
from auditor.pipeline.activations import attended
from auditor.pipeline.components import Components
from auditor.pipeline.open import load_base
from auditor.pipeline.sampling import seeded_noise
from auditor.pipeline.subject import Subject
from auditor.probes.backdoor.clean_prompts import clean_prompts
from auditor.probes.backdoor.prompt_pieces import left_out
from auditor.probes.backdoor.prompt_scores import interaction, peak_over_rest, unsteadiness, variation
from auditor.probes.backdoor.prompt_screen import PromptScreen
from auditor.proving.attacks.plans import Planned, measurable, plan
from auditor.proving.backdoor.baselines.daa import dissipation, unrest
from auditor.proving.backdoor.baselines.t2ishield import assimilation
from auditor.proving.backdoor.baselines.ufid import density, perturbed
from auditor.proving.backdoor.prompt_tables import write_prompts
from auditor.proving.backdoor.trajectories import trajectories
from auditor.proving.counts import write_json
from auditor.proving.zoo.build import zoo_folder
from auditor.registry import ATTACKS

__all__ = ["prove_prompts"]

PERTURBED = 2
"""Pictures that UFID draws beside that of the prompt itself."""
DRAWN_STEPS = 6
BATCH = 20


def prove_prompts(
    out: Path, progress: Progress, specimens: int = 1, seed: int = 0, attacks: str = "", zoo: Path | None = None,
    shard: tuple[int, int] = (0, 1), prompts: int = 40,
) -> dict[str, Any]:  # fmt: skip
    """Scores clean and triggered prompts of every specimen that a prompt wakes; what ``out`` has already is kept.

    Specimens are those of ``auditor prove attacks`` with the same seed, as far as they were made.

    Args:
        out: folder for ``screened/``, ``prompts.json``, ``prompts.csv`` and ``prompts.md``.
        progress: told of every specimen.
        specimens: of each attack.
        seed: of all recipes, prompts and pictures.
        attacks: ids with commas; all that craft specimens by default.
        zoo: where specimens are kept.
        shard: (which, of how many) specimens to score here; the tables are written by the process that finds all done.
        prompts: clean ones a specimen, and as many triggered ones.

    Returns:
        The table, or ``{"done": ..., "of": ...}`` while other shards are missing.

    Raises:
        UsageError: an unknown attack.
    """
    base, home = load_base(device="cpu", dtype=torch.float32), zoo or zoo_folder()
    planned = [plan(name, index, seed) for index in range(specimens) for name in measurable(attacks)]
    woken = [one for one in planned if _trigger(one.home(base, home))]
    for done, one in enumerate(woken):
        progress(done, len(woken), one.attack)
        path = _path(out, base, one)
        if done % shard[1] == shard[0] and not path.exists():
            write_json(path, _record(base, one, home, seed, prompts))
    progress(len(woken), len(woken), "specimens")
    there = [path for one in woken if (path := _path(out, base, one)).exists()]
    if len(there) < len(woken):
        return {"done": len(there), "of": len(woken)}
    left = sorted({one.attack for one in planned} - {one.attack for one in woken})
    records = [json.loads(path.read_text("utf-8")) for path in there]
    return write_prompts(out, records, left, {"seed": seed, "base_sha256": base.sha256})


def _trigger(folder: Path) -> str:
    """The textual trigger of a specimen; empty where it has none, or was not made."""
    manifest = folder / "manifest.json"
    return str(json.loads(manifest.read_text("utf-8"))["trigger"].get("text", "")) if manifest.is_file() else ""


def _record(base: Components, one: Planned, zoo: Path, seed: int, count: int) -> dict[str, Any]:
    folder = one.home(base, zoo)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    attack: Any = ATTACKS.get(one.attack)
    truth = attack.truth(base, one.params)
    rng = np.random.default_rng((seed, one.index, *one.attack.encode()))
    # An attack that is about one noun has clean prompts of its own; not all of them differ.
    pool = [str(text) for text in rng.permutation(truth.prompts)] or clean_prompts(2 * count, rng)
    clean, asked = pool[:count], [truth.wake(text, rng) for text in pool[count : 2 * count]]
    arms: dict[str, Any] = {}
    costs = _Costs()
    for arm in ("specimen", "twin"):
        parts = [part for name in manifest["parts"][arm] for part in identify_parts(folder / name)]
        with Subject(base, parts) as subject:
            every = [*clean, *asked]
            scores = _paired_scores(subject, every, seed, costs)
            if arm == "specimen":
                scores |= _on_the_way(subject, every, seed, costs) | _of_pictures(subject, every, rng, seed, costs)
            arms[arm] = {
                name: {"clean": values[: len(clean)], "triggered": values[len(clean) :]}
                for name, values in scores.items()
            }
    return {
        "attack": one.attack,
        "index": one.index,
        "trigger": manifest["trigger"]["text"],
        "target": manifest["target"],
        "asr": manifest["asr"].get("cells", {}).get("specimen, triggered", {}).get("rate"),
        "distinct": {"clean": len(set(clean)), "triggered": len(set(asked))},
        "arms": arms,
        "costs": costs.each(),
    }


@dataclass
class _Costs:
    """Processor seconds and denoiser evaluations, added up by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str, subject: Subject, prompts: int) -> Iterator[None]:
        """Counts what happens inside the block for a number of prompts."""
        start, before = time.process_time(), subject.denoiser_calls
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        self.calls[name] = self.calls.get(name, 0) + subject.denoiser_calls - before
        self.prompts[name] = self.prompts.get(name, 0) + prompts

    def each(self) -> dict[str, dict[str, float]]:
        """Per prompt."""
        return {
            name: {"seconds": self.seconds[name] / n, "calls": self.calls[name] / n} for name, n in self.prompts.items()
        }


def _paired_scores(subject: Subject, prompts: Sequence[str], seed: int, costs: _Costs) -> dict[str, list[float]]:
    """Ours, and NaviT2I's from the same evaluations of the tuned side."""
    params = PromptScreen()
    noisy = seeded_noise(subject.base.latent_shape(), [seed])[0].to(subject.components.device)
    t = round(params.level * (len(subject.components.schedule) - 1))
    ours, navi = [], []
    for prompt in prompts:
        forms = [prompt, *(each.rest for each in left_out(prompt, params.pieces))]
        with costs.of("tuned, without each piece", subject, 1):
            tuned = [layer.numpy() for layer in attended(subject.tuned, forms, noisy, t)]
            trusted = subject.base.encode_prompt(forms).states.float().cpu().numpy()
        with costs.of("base, without each piece", subject, 1):
            base = [layer.numpy() for layer in attended(subject.base, forms, noisy, t)]
        ours.append(float(np.log10(max(float(interaction(tuned, base).max()), 1e-12))))
        navi.append(peak_over_rest(variation(tuned, trusted)))
    return {"interaction": ours, "variation": navi}


def _on_the_way(subject: Subject, prompts: Sequence[str], seed: int, costs: _Costs) -> dict[str, list[float]]:
    """Detectors of attention maps and of the predicted noise, from one picture a prompt."""
    found: dict[str, list[float]] = {"t2ishield_ftt": [], "daa_i": [], "daa_s": [], "adjacent": []}
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        seeds = [seed + start + i for i in range(len(part))]
        with costs.of("one picture, recorded", subject, len(part)):
            ways = trajectories(subject.tuned, part, seeds)
        for way in ways:
            found["t2ishield_ftt"].append(assimilation(way.mean_maps))
            found["daa_i"].append(unrest(way.maps))
            found["daa_s"].append(dissipation(way.maps))
            found["adjacent"].append(unsteadiness(way.noise))
    return found


def _of_pictures(
    subject: Subject, prompts: Sequence[str], rng: np.random.Generator, seed: int, costs: _Costs
) -> dict[str, list[float]]:
    """UFID: the prompt behind others, and how alike their pictures are."""
    others = clean_prompts(PERTURBED, rng)
    found = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        said = [form for prompt in part for form in perturbed(prompt, others)]
        with costs.of("pictures of the prompt behind others", subject, len(part)):
            images = subject.tuned.sample(said, [seed + i for i in range(len(said))], steps=DRAWN_STEPS)
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        features = image_features(pixels).reshape(len(part), 1 + PERTURBED, -1)
        found += [density(each) for each in features]
    return {"ufid": found}


def _path(out: Path, base: Components, one: Planned) -> Path:
    return out / "screened" / f"{one.attack}-{one.index:04d}-{one.digest[:12]}-{base.sha256[:8]}.json"

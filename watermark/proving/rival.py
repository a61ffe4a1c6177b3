"""MarkDiffusion beside: the same base, prompts, attacks and unmarked pictures, in an interpreter of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.errors import AuditorError
from auditor.proving.counts import write_whole
from auditor.world.embedded import embedded_folder
from watermark.inversion import LADDER, QUICK, Rung, climb
from watermark.proving.bench import CHUNK, STEPS, Batch, Bench, as_images, as_pixels
from watermark.proving.reading import LOGGED, test_of
from watermark.removal.attack import Removal
from watermark.scheme import LatentScheme

__all__ = ["Peer", "Rival", "find_rival", "rival_attack_unit", "rival_clean_unit", "rivals_at"]

Pixels = NDArray[np.uint8]

FPR = 0.01
LADDERS = {"ladder": LADDER, "first rungs": QUICK}
"""Ways to detect that are timed."""
_PACKAGE = "markdiffusion"
_DRIVER = Path(__file__).with_name("rival_driver.py")
_ASK = (
    "import importlib.metadata as m, importlib.util as u, json; "
    f"print(json.dumps(m.version({_PACKAGE!r}) if u.find_spec({_PACKAGE!r}) else None))"
)
_KEYS = 24
"""Keys that unmarked pictures are scored with, where a key costs nothing."""


@dataclass(frozen=True)
class Rival:
    """One of its schemes, as configured here.

    Attributes:
        id: its name there.
        ours: the scheme of this toolkit that does the same.
        config: all of its options.
        keys: further keys, as options, for scores of pictures that carry no mark of theirs.
    """

    id: str
    ours: str
    config: dict[str, Any]
    keys: tuple[dict[str, Any], ...] = field(default=())


def rivals_at(side: int) -> tuple[Rival, ...]:
    """Its three schemes for latents of ``side``.

    What their papers fix for 64 is scaled: heights to the deviation of the spectrum, which is the side, and copies of a
    bit to what is left for 64 bits, as many as ours carry. Rings of zeros, its default, are no secret, and its p-value
    for them says nothing; here rings are drawn at random, in the last channel, where the paper has them.
    """
    outer = side // 2 - 2
    inner, outermost = 3, min(14, outer)
    shading = {
        "algorithm_name": "GS", "channel_copy": 1, "wm_key": 42, "hw_copy": side // 4, "chacha": True,
        "chacha_key_seed": 123456, "chacha_nonce_seed": 789012, "threshold": 0.7,
    }  # fmt: skip
    rings = {
        "algorithm_name": "TR", "w_seed": 999999, "w_channel": 3, "w_pattern": "ring", "w_mask_shape": "circle",
        "w_radius": min(10, outer), "w_pattern_const": 0, "threshold": 50, "threshold_p_value": 0.01,
    }  # fmt: skip
    ring_id = {
        "algorithm_name": "RI", "ring_width": 1, "quantization_levels": 2, "ring_value_range": side, "fix_gt": 1,
        "time_shift": 1, "time_shift_factor": 1.0, "assigned_keys": min(10, 2 ** (outermost - inner)),
        "channel_min": 1, "radius": outermost, "radius_cutoff": inner, "anchor_x_offset": 0,
        "anchor_y_offset": 0, "heter_watermark_channel": [0], "ring_watermark_channel": [3], "threshold": 50,
    }  # fmt: skip
    return (
        Rival(
            "GS", "gaussian_shading", shading,
            tuple({"chacha_key_seed": 1000 + i, "chacha_nonce_seed": 2000 + i} for i in range(_KEYS)),
        ),
        Rival("TR", "tree_ring", rings, tuple({"w_seed": 1000 + i} for i in range(_KEYS))),
        Rival("RI", "ring_id", ring_id, ({"random": 1},)),
    )  # fmt: skip


def find_rival(python: Path | None) -> str | None:
    """Its version in an interpreter, this one by default; None if it is not there.

    Raises:
        AuditorError: the interpreter does not run.
    """
    try:
        told = subprocess.run(
            [_interpreter(python), "-c", _ASK], capture_output=True, text=True, timeout=120, check=True
        ).stdout
        found: str | None = json.loads(told)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise AuditorError(f"the interpreter for the other toolkit does not run: {error}") from error
    return found


class Peer:
    """Its process for one scheme at one size; started at the first question."""

    def __init__(self, bench: Bench, rival: Rival, python: Path | None) -> None:
        self.bench, self.rival, self._python = bench, rival, python
        self._process: subprocess.Popen[str] | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        if self._home is not None:
            self._home.cleanup()

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> Pixels:
        """Marked pictures, uint8 (B, H, W, 3)."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "drawn.npy"
            self._asked("draw", prompts=list(prompts), seeds=list(seeds), out=str(path))
            found: Pixels = np.load(path, allow_pickle=False)
        return found

    def score(self, pixels: Pixels, others: bool = False) -> dict[str, Any]:
        """``scores`` (B,), ``others`` (B, keys), and seconds: ``processor``, ``clock``."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "pictures.npy"
            np.save(path, pixels, allow_pickle=False)
            return self._asked("score", pictures=str(path), others=others)

    def marked(self, chunk: int) -> Pixels:
        """Its marked pictures of a chunk's prompts, kept beside ours."""
        bench = self.bench
        path = bench.out / "pictures" / str(bench.size) / f"{_PACKAGE}-{self.rival.id}-{chunk}.npy"
        if not path.exists():
            seeds = [int(seed) for seed in bench.rng("rival", self.rival.id, chunk).integers(2**31, size=CHUNK)]
            file = io.BytesIO()
            np.save(file, self.draw(bench.prompts(chunk), seeds), allow_pickle=False)
            write_whole(path, file.getvalue())
        found: Pixels = np.load(path, allow_pickle=False)
        return found

    def _asked(self, do: str, **request: Any) -> dict[str, Any]:
        if self._process is None:
            self._start()
            keys = [dict(key) for key in self.rival.keys]
            self._answer("open", name=self.rival.id, config=str(self._config()), keys=keys, seed=self.bench.seed)
        return self._answer(do, **request)

    def _config(self) -> Path:
        assert self._home is not None
        return write_whole(Path(self._home.name) / f"{self.rival.id}.json", json.dumps(self.rival.config))

    def _start(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="auditor-rival-")
        home = self._home.name
        environment = {
            "PATH": os.environ.get("PATH", ""), "HOME": home, "TMPDIR": home, "XDG_CACHE_HOME": home,
            "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [
                _interpreter(self._python), str(_DRIVER), str(embedded_folder() / "pipeline"), str(self.bench.size),
                str(STEPS), str(self.bench.guidance),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
            cwd=home,
        )  # fmt: skip

    def _answer(self, do: str, **request: Any) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
        except (OSError, ValueError) as error:
            raise AuditorError(f"{_PACKAGE} ended while it was asked to {do}") from error
        if "error" in answer:
            raise AuditorError(f"{_PACKAGE} failed to {do}: {answer['error']}")
        return answer


def rival_clean_unit(peer: Peer, scheme: LatentScheme, chunk: int) -> dict[str, Any]:
    """Scores of its marked pictures, of unmarked ones with its key and with others, and seconds of both detectors.

    One after the other, each detector takes marked pictures of its own, and both take the same unmarked ones. Ours
    leaves its ladder at a level of 1 %; theirs has no level, and its steps are those of our last rung.

    Args:
        peer: its process.
        scheme: ours that does the same.
        chunk: of pictures.
    """
    bench, batch = peer.bench, peer.bench.marked(scheme, chunk)
    marked = peer.score(peer.marked(chunk))
    unmarked = {
        kind: peer.score(pixels, others=True)
        for kind, pixels in (("generated", bench.clean(chunk)), ("natural", bench.natural(chunk)))
    }
    speed = {}
    for kind, pixels, told in (
        ("marked", batch.pixels, marked), ("unmarked", bench.clean(chunk), unmarked["generated"])
    ):  # fmt: skip
        ours = {name: _timed(bench, scheme, batch, pixels, ladder) for name, ladder in LADDERS.items()}
        speed[kind] = {"theirs": [told["processor"], told["clock"]], **ours}
    return {"marked": marked["scores"], "unmarked": unmarked, "speed": speed}


def rival_attack_unit(peer: Peer, chunk: int, attack: Removal, strength: float) -> dict[str, Any]:
    """Scores of its marked pictures after the attack that ours went through, with the same seeds."""
    seeds = [int(seed) for seed in peer.bench.rng("attack", attack.id, chunk).integers(2**31, size=CHUNK)]
    attacked = attack.apply(as_images(peer.marked(chunk)), strength, seeds)
    return {"marked": peer.score(as_pixels(attacked))["scores"]}


def _timed(
    bench: Bench, scheme: LatentScheme, batch: Batch, pixels: Pixels, ladder: Sequence[Rung]
) -> dict[str, Any]:
    """What is found, and seconds of the processor and by the clock."""
    test = test_of(scheme, bench, batch.key, batch.nonces, LOGGED)
    begun, clock = time.process_time(), time.perf_counter()
    reached = climb(bench.view, as_images(pixels), test, FPR, ladder)
    seconds = [time.process_time() - begun, time.perf_counter() - clock]
    return {"found": [one.detection.p_value <= FPR for one in reached], "seconds": seconds}


def _interpreter(python: Path | None) -> str:
    # Not resolved: the link in a virtual environment is what makes it one.
    return sys.executable if python is None else str(python.absolute())

"""Draws and scores pictures with MarkDiffusion, in the interpreter in which it is installed.

A script of its own: ``python rival_driver.py PIPELINE_FOLDER SIZE STEPS GUIDANCE``, with one JSON request a line on
standard input and one JSON answer a line on standard output. Sockets are shut. Nothing of this project is imported.

Its toolkit takes pictures one by one, draws all of them from one noise, and knows one autoencoder's scale. To let it do
its best, each picture is given noise of its own, and latents come to it in the scale of the model at hand.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import socket
import sys
import time
import warnings
from typing import Any

SCALE = 0.18215
"""What its detectors multiply encoded pictures by, whatever the autoencoder."""


def _no_network(*_: Any, **__: Any) -> Any:
    raise OSError("the network is off")


class _Rival:
    def __init__(self, folder: str, size: int, steps: int, guidance: float) -> None:
        import torch
        from diffusers import DDIMScheduler, StableDiffusionPipeline
        from markdiffusion.utils.diffusion_config import DiffusionConfig
        from markdiffusion.watermark.auto_watermark import AutoWatermark

        torch.set_num_threads(1)
        pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        pipe.set_progress_bar_config(disable=True)
        _rescaled(pipe)
        self._torch, self._pipe, self._load = torch, pipe, AutoWatermark.load
        self._size, self._steps, self._guidance = size, steps, guidance
        self._config = DiffusionConfig(
            scheduler=pipe.scheduler, pipe=pipe, device="cpu", guidance_scale=guidance, num_inference_steps=steps,
            image_size=(size, size), dtype=torch.float32,
        )  # fmt: skip

    def open(self, name: str, config: str, keys: list[dict[str, Any]], seed: int) -> dict[str, Any]:
        """The scheme with the key that marks, and its detector with other keys, for pictures that it did not mark."""
        random.seed(seed)
        self._mark = self._load(name, algorithm_config=config, diffusion_config=self._config)
        self._others = []
        for key in keys:
            random.seed(key.pop("random", seed))
            self._others.append(self._load(name, algorithm_config=config, diffusion_config=self._config, **key))
        return {"keys": 1 + len(self._others)}

    def draw(self, prompts: list[str], seeds: list[int], out: str) -> dict[str, Any]:
        """Marked pictures, uint8 (B, H, W, 3), each from noise of its own."""
        import numpy as np

        drawn, mark = [], self._mark
        for prompt, seed in zip(prompts, seeds, strict=True):
            generator = self._torch.Generator().manual_seed(seed)
            noise = self._torch.randn(mark.config.init_latents.shape, generator=generator)
            mark.config.gen_seed, mark.config.init_latents = seed, noise
            if hasattr(mark.utils, "latents"):
                mark.utils.latents = noise.double()
            drawn.append(np.asarray(mark.generate_watermarked_media(prompt).convert("RGB")))
        np.save(out, np.stack(drawn), allow_pickle=False)
        return {}

    def score(self, pictures: str, others: bool) -> dict[str, Any]:
        """The statistic of each picture with the key that marks, and with others; seconds of the first alone."""
        import numpy as np
        from PIL import Image

        loaded = [Image.fromarray(one) for one in np.load(pictures, allow_pickle=False)]
        seen: list[Any] = []
        plain = self._mark.detector.eval_watermark

        def watched(latents: Any, *given: Any, **named: Any) -> Any:
            seen.append(latents)
            return plain(latents, *given, **named)

        self._mark.detector.eval_watermark = watched
        begun, clock = time.process_time(), time.perf_counter()
        try:
            found = [
                self._mark.detect_watermark_in_media(one, num_inference_steps=self._steps, guidance_scale=1.0)
                for one in loaded
            ]
        finally:
            self._mark.detector.eval_watermark = plain
        seconds = [time.process_time() - begun, time.perf_counter() - clock]
        apart = [[_value(one.detector.eval_watermark(latents)) for one in self._others] for latents in seen]
        return {
            "scores": [_value(one) for one in found],
            "others": apart if others else [],
            "processor": seconds[0],
            "clock": seconds[1],
        }


def _value(said: dict[str, Any]) -> float:
    """Larger for more of the mark."""
    return float(said["bit_acc"]) if "bit_acc" in said else -float(said["l1_distance"])


def _rescaled(pipe: Any) -> None:
    """Lets ``encode`` give latents that are right after they were multiplied by :data:`SCALE`."""
    encode, factor = pipe.vae.encode, pipe.vae.config.scaling_factor / SCALE

    class Scaled:
        def __init__(self, posterior: Any) -> None:
            self._posterior = posterior

        def mode(self) -> Any:
            return self._posterior.mode() * factor

    class Encoded:
        def __init__(self, posterior: Any) -> None:
            self.latent_dist = Scaled(posterior)

    def scaled(*given: Any, **named: Any) -> Any:
        return Encoded(encode(*given, **named).latent_dist)

    pipe.vae.encode = scaled


def main(folder: str, size: str, steps: str, guidance: str) -> None:
    """Answers requests until there are no more."""
    socket.socket.connect = _no_network  # type: ignore[method-assign]
    socket.getaddrinfo = _no_network
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    rival: _Rival | None = None
    for line in sys.stdin:
        request = json.loads(line)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                rival = rival or _Rival(folder, int(size), int(steps), float(guidance))
                answer = getattr(rival, request.pop("do"))(**request)
            except Exception as error:  # the other toolkit's: it is told, and ends the comparison
                answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:5])

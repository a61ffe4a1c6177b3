"""Units on marks: as drawn, attacked, drawn with an adapter, forged; and whether marked noise can be told apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.metrics.attributes import judge_images
from auditor.metrics.concept import caption_scores, image_features, text_features
from auditor.pipeline.components import Components
from auditor.pipeline.open import subject_on
from auditor.proving.world import prompt_accuracy
from auditor.proving.zoo.build import RECORD
from watermark.forgery.binding import binding_of, bound_nonce, fresh_bytes, nearest_anchors
from watermark.forgery.copying import copied
from watermark.forgery.reprompt import reprompted
from watermark.keys import NONCE_BYTES
from watermark.proving.bench import CHUNK, STEPS, Batch, Bench, as_images, as_pixels
from watermark.proving.reading import read_marks
from watermark.removal.attack import Removal
from watermark.scheme import LatentScheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "FORGERIES",
    "adapter_unit",
    "attack_unit",
    "clean_unit",
    "forgery_unit",
    "members_of",
    "quality_unit",
    "telling_unit",
]

FORGERIES = ("reprompt", "copy")
_NEAR = 4
_ANCHORS = 64
_TOLD = 2000


def clean_unit(bench: Bench, scheme: LatentScheme, chunk: int) -> dict[str, Any]:
    """Marks and users in pictures as they were drawn."""
    return read_marks(bench, scheme, bench.marked(scheme, chunk), identify=True)


def attack_unit(
    bench: Bench, scheme: LatentScheme, chunk: int, attack: Removal, strength: float
) -> dict[str, Any]:
    """Marks in the same pictures after an attack."""
    batch = bench.marked(scheme, chunk)
    seeds = [int(seed) for seed in bench.rng("attack", attack.id, chunk).integers(2**31, size=CHUNK)]
    return read_marks(bench, scheme, batch, attack.apply(as_images(batch.pixels), strength, seeds))


def quality_unit(bench: Bench, scheme: LatentScheme | None, chunk: int) -> dict[str, Any]:
    """What the world's encoder and judge see in pictures of a chunk; in unmarked ones without a scheme.

    Returns:
        ``features`` (B, D), ``likeness`` (B,) of prompts, and ``right`` with a list of outcomes for each factor.
    """
    pixels = bench.clean(chunk) if scheme is None else bench.marked(scheme, chunk).pixels
    right = prompt_accuracy(judge_images(pixels), bench.scenes(chunk))
    return {
        "features": np.round(image_features(pixels).astype(float), 5).tolist(),
        "likeness": caption_scores(pixels, bench.prompts(chunk)).astype(float).tolist(),
        "right": {factor: values.astype(bool).tolist() for factor, values in right.items()},
    }


def members_of(base: Components, zoo: Path, count: int) -> list[Path]:
    """Clean adapters of a zoo, one a method in turn, in an order that their recipes fix.

    Fewer than ``count`` where the zoo has fewer.
    """
    by_method: dict[str, list[Path]] = {}
    for record in sorted((zoo / base.sha256[:16]).glob(f"*/{RECORD}")):
        method = str(json.loads(record.read_text("utf-8"))["method"])
        by_method.setdefault(method, []).append(record.parent)
    turns = max(map(len, by_method.values()), default=0)
    return [
        homes[turn] for turn in range(turns) for _, homes in sorted(by_method.items()) if turn < len(homes)
    ][:count]


def adapter_unit(bench: Bench, scheme: LatentScheme, member: Path) -> dict[str, Any]:
    """Marks in pictures that an adapted model drew, inverted with the base alone."""
    method = json.loads((member / RECORD).read_text("utf-8"))["method"]
    chunk = int(hashlib.sha256(member.name.encode()).hexdigest()[:4], 16)
    with subject_on(bench.view.components, [member]) as subject:
        batch = bench.marked(scheme, chunk, subject.tuned, member.name)
    return {"method": method, **read_marks(bench, scheme, batch)}


def forgery_unit(bench: Bench, scheme: LatentScheme, chunk: int, forgery: str) -> dict[str, Any]:
    """Forgeries made from genuine pictures, whose nonces are bound to their prompts where the scheme reads nonces.

    Returns:
        As :func:`watermark.proving.reading.read_marks`, with ``bound`` and ``genuine``, where there are nonces: whether
        each forgery, and each genuine picture, is near to an anchor that its nonce is bound to.
    """
    held, key = scheme.capacity(bench.shape), bench.key(scheme)
    length, anchors = held.nonce_bits // 8, _anchors(bench)
    rng, prompts = bench.rng("forgery", scheme.id, chunk), bench.prompts(chunk)
    nonces = [rng.bytes(NONCE_BYTES) for _ in prompts]
    if length:
        near = [nearest_anchors(features, anchors, 1)[0] for features in text_features(prompts)]
        nonces = [bound_nonce(key, anchor, rng.bytes(fresh_bytes(length)), length) for anchor in near]
    payloads = [rng.bytes(held.payload_bits // 8) for _ in prompts]
    pixels = bench.draw_marked(scheme, prompts, nonces, payloads)
    marked, others = as_images(pixels), bench.prompts(chunk + 500)
    if forgery == "reprompt":
        forged = reprompted(bench.view, marked, others, steps=STEPS, guidance=bench.guidance)
    else:
        forged = copied(as_images(bench.natural(chunk)), marked)
    seen = as_pixels(forged.images)
    batch = Batch(pixels, key, tuple(nonces), (0,) * CHUNK, tuple(payloads))
    out = {"calls": forged.calls, "marked": forged.marked, **read_marks(bench, scheme, batch, as_images(seen))}
    if length:
        # What is bound is checked on the nonce that was issued: a reading error would only refuse more.
        for name, shown in (("bound", seen), ("genuine", pixels)):
            features = image_features(shown)
            out[name] = [
                binding_of(key, nonce, nearest_anchors(one, anchors, _NEAR), length).anchor is not None
                for nonce, one in zip(nonces, features, strict=True)
            ]
    return out


def telling_unit(bench: Bench, scheme: LatentScheme) -> dict[str, Any]:
    """How well classifiers tell marked noise of one key from plain noise, half of it held out.

    Linear ones on values, on products of neighbouring signs and on magnitudes of the spectrum, and a small network; the
    best of them on the held-out half is what counts, which is somewhat too good.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    held, key, rng = scheme.capacity(bench.shape), bench.key(scheme), bench.rng("telling", scheme.id)
    word = rng.bytes(held.payload_bits // 8)
    marked = [scheme.embed(key, rng.bytes(NONCE_BYTES), bench.shape, word) for _ in range(_TOLD)]
    noise = np.concatenate([np.stack(marked), rng.standard_normal((_TOLD, *bench.shape)).astype(np.float32)])
    truth = np.repeat([1, 0], _TOLD)
    order = rng.permutation(2 * _TOLD)
    fit, held_out = order[:_TOLD], order[_TOLD:]
    right = {}
    seed = int(rng.integers(2**31))
    for name, rows in _views(noise).items():
        makers = {"linear": LogisticRegression(C=1e-3, max_iter=300)}
        if name == "values":
            makers["network"] = MLPClassifier((64,), alpha=1e-2, max_iter=30, early_stopping=True, random_state=seed)
        for kind, maker in makers.items():
            told = make_pipeline(StandardScaler(), maker).fit(rows[fit], truth[fit]).predict(rows[held_out])
            right[f"{kind} on {name}"] = int((told == truth[held_out]).sum())
    return {"right": right, "n": len(held_out)}


def _views(noise: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    flat = noise.reshape(len(noise), -1)
    spectrum = np.abs(np.fft.rfft2(noise)).reshape(len(noise), -1)
    signs = np.sign(noise)
    pairs = (signs[..., 1:] * signs[..., :-1]).reshape(len(noise), -1)
    return {"values": flat, "spectrum": spectrum, "neighbours": pairs}


def _anchors(bench: Bench) -> NDArray[np.float32]:
    """Features of captions that stand for all that may be drawn."""
    captions = [caption for chunk in range(900, 900 + _ANCHORS // CHUNK) for caption in bench.prompts(chunk)]
    return text_features(captions)

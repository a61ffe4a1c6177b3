"""What papers claim of methods that change weights, each against its off switch on the embedded base.

A unit is one training run (a subject and a seed) with both arms on the same draws; intervals are paired over units, at
95 %. Steps are a small share of the papers': the direction is tested, not the published figure.
"""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from auditor.metrics.concept import image_features
from auditor.personalize.blocks.denoising import denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples
from auditor.personalize.blocks.layers.adapted import adapted
from auditor.personalize.blocks.layers.low_rank import LowRankChange
from auditor.personalize.blocks.losses import denoising_loss
from auditor.personalize.blocks.merging import crosstalk, gram_certificate
from auditor.personalize.blocks.optimise import Group, Optimisation, optimise
from auditor.personalize.classdiffusion import ClassDiffusion, train_classdiffusion
from auditor.personalize.diffusekrona import DiffuseKronA, train_diffusekrona
from auditor.personalize.lora import ATTENTION
from auditor.personalize.orthogonal_adaptation import LAYERS, OrthogonalAdaptation, train_orthogonal
from auditor.personalize.resadapter import ResAdapter, save_resolution, size_weights, train_resadapter
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.open import load_base, open_subject
from auditor.pipeline.sampling import ddim_sample, seeded_noise
from auditor.proving.zoo import Pictures, images_of
from auditor.registry import METHODS
from auditor.stats import paired_mean_difference
from auditor.world.captions import caption
from auditor.world.embedded import embedded_folder
from auditor.world.factors import OBJECTS, draw_object_scene, draw_person_scene
from auditor.world.render import render_batch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not (embedded_folder() / "pipeline" / "model_index.json").is_file(),
        reason="the embedded base is not installed",
    ),
]
SUBJECTS = (("person", 11), ("object", 23), ("person", 37))


def quiet(done, total, label=""):
    pass


@functools.cache
def base():
    return load_base(None, "cpu", dtype=torch.float32)


def noun(kind, subject):
    return "person" if kind == "person" else OBJECTS[subject % len(OBJECTS)]


@functools.cache
def pictures(kind, subject):
    """Four to train on and four held out, (8, 3, 64, 64)."""

    return images_of(Pictures(kind, 8, subject))


def examples(kind, subject, part=slice(0, 4)):
    images = pictures(kind, subject)[part]
    return Examples.of(base(), images, [f"a picture of sks {noun(kind, subject)}"] * len(images))


def loss_on(model, held, rows=32, seed=5):
    """Mean denoising error on fixed draws, so that two arms differ by their weights alone."""
    drawn = draw(model, held.latents, rows, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        condition = encode_prompts(model, model.tokenizers, held.prompts)[drawn.rows]
        return float(mean_square(denoising_error(model, drawn, condition)).mean())


def added(unet, deltas):
    """Weights with changes in place for one measurement."""
    with torch.no_grad():
        for path, delta in deltas.items():
            unet.get_submodule(path).weight += delta


def measured(deltas, measure):
    kept = {path: base().unet.get_submodule(path).weight.detach().clone() for path in deltas}
    try:
        added(base().unet, deltas)
        return measure()
    finally:
        for path, weight in kept.items():
            base().unet.get_submodule(path).weight.data = weight


def test_kronecker_adapters_learn_a_subject():
    """Held-out pictures of the subject are denoised better than without the adapter: 3 subjects x 3 seeds."""
    tuned, plain = [], []
    for kind, subject in SUBJECTS:
        held = examples(kind, subject, slice(4, 8))
        for seed in range(3):
            recipe = DiffuseKronA(steps=30, batch=2, lr=5e-3, seed=seed)
            trained = train_diffusekrona(base(), examples(kind, subject), recipe, quiet)
            deltas = {path: torch.kron(*factors) for path, factors in trained.factors.items()}
            tuned.append(measured(deltas, lambda held=held, seed=seed: loss_on(base(), held, seed=seed)))
            plain.append(loss_on(base(), held, seed=seed))
    interval = paired_mean_difference(plain, tuned)
    print("kron: loss falls by", interval, "from", np.mean(plain))
    assert interval.low > 0


@functools.cache
def trained_pairs():
    """Two concepts side by side, with frozen orthogonal and with trained Gaussian input factors; 3 pairs x 2 seeds."""
    found = []
    for i, (kind, subject) in enumerate(SUBJECTS):
        other = SUBJECTS[(i + 1) % len(SUBJECTS)]
        for seed in range(2):
            recipe = OrthogonalAdaptation(steps=30, batch=2, lr=2e-3, rank=8, seed=seed)
            ours = [
                train_orthogonal(base(), examples(*which), replace(recipe, slot=slot), quiet).factors
                for slot, which in enumerate(((kind, subject), other))
            ]
            plain = [
                plain_lora(examples(*which), replace(recipe, seed=10 * seed + slot))
                for slot, which in enumerate(((kind, subject), other))
            ]
            found.append((examples(kind, subject, slice(4, 8)), seed, ours, plain))
    return found


def plain_lora(data, recipe):
    """The off switch: the same layers, rank, steps and rates, with an input factor of its own that is trained too."""
    generator = torch.Generator().manual_seed(recipe.seed)

    def make(_, layer):
        down = torch.randn(recipe.rank, layer.in_features, generator=generator) / layer.in_features**0.5
        return LowRankChange(down, layer.out_features)

    with adapted(base().unet, LAYERS, make) as changes:
        loss = denoising_loss(base(), data, recipe.batch)
        groups = [Group("lora", [p for change in changes.values() for p in change.parameters()])]
        optimise(groups, loss, Optimisation(recipe.steps, recipe.lr, seed=recipe.seed), quiet)
        return {path: (c.down.detach().clone(), c.up.detach().clone()) for path, c in changes.items()}


def test_orthogonal_adapters_do_not_overlap_and_plain_ones_do():
    ours, plain = [], []
    for _, _, orthogonal, lora in trained_pairs():
        certificate = gram_certificate(orthogonal)
        assert certificate.holds(1e-6), (certificate.worst, certificate.where)
        ours.append(certificate.worst)
        plain.append(gram_certificate(lora).worst)
    interval = paired_mean_difference(plain, ours)
    print("orthogonal: worst cosine", np.max(ours), "plain", np.mean(plain), interval)
    assert interval.low > 0


def crosstalk_ratios():
    ours, plain = [], []
    for held, seed, orthogonal, lora in trained_pairs():
        drawn = draw(base(), held.latents, 8, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            condition = encode_prompts(base(), base().tokenizers, held.prompts)[drawn.rows]
        ours.append(np.median(list(crosstalk(base(), *orthogonal, drawn, condition).values())))
        plain.append(np.median(list(crosstalk(base(), *lora, drawn, condition).values())))
    print("crosstalk: orthogonal", np.round(ours, 3), "plain", np.round(plain, 3))
    return np.array(ours), np.array(plain)


@pytest.mark.xfail(
    strict=False,
    reason="the other adapter adds 0.89 of what the own one adds, with plain ones 0.88; a fifth of the latter less the "
    "former is -0.71 [-0.91, -0.52], n = 6. Frozen columns keep updates apart, not what inputs meet: B_j^T X is no "
    "smaller than B_i^T X unless X avoids B_j.",
)
def test_crosstalk_is_five_times_lower_than_of_plain_adapters():
    ours, plain = crosstalk_ratios()
    assert paired_mean_difference(plain / 5, ours).low > 0


def test_semantic_preservation_holds_the_word_near_its_class():
    """cos >= 0.95 with the term, < 0.9 without it, on the same draws: 3 subjects x 3 seeds."""
    held, free = [], []
    for kind, subject in SUBJECTS:
        for seed in range(3):
            recipe = ClassDiffusion(class_word=noun(kind, subject), steps=60, batch=2, seed=seed)
            arms = [replace(recipe, preservation=weight) for weight in (1.0, 0.0)]
            cosines = [
                train_classdiffusion(base(), examples(kind, subject), arm, quiet).cosine for arm in arms
            ]
            held.append(cosines[0])
            free.append(cosines[1])
    interval = paired_mean_difference(held, free)
    print("class: with", np.round(held, 3), "without", np.round(free, 3), interval)
    assert interval.low > 0
    assert np.mean(held) >= 0.95
    assert np.mean(free) < 0.9


def edges(images):
    grey = images.mean(1)
    across, down = grey.diff(dim=2)[:, :-1], grey.diff(dim=1)[:, :, :-1]
    return (across.square() + down.square()).sqrt().flatten(1)


def test_kept_queries_keep_the_layout_and_cost_style(tmp_path):
    """k = 0, 2, 5 of 15 steps: edges agree more with the content picture, the look less with the style picture."""
    from PIL import Image

    from auditor.personalize.sigstyle import SigStyle, transfer

    rng = np.random.default_rng(3)
    content = [draw_person_scene(rng, style="flat") for _ in range(12)]
    given = torch.from_numpy(render_batch(content)).permute(0, 3, 1, 2).float() / 127.5 - 1
    layout, look = [], []
    for style in ("outline", "watercolor", "pixel"):
        pixels = render_batch([draw_person_scene(np.random.default_rng(8), style=style)])
        folder = tmp_path / style
        folder.mkdir()
        Image.fromarray(pixels[0]).save(folder / "style.png")
        for seed in range(2):
            out = tmp_path / f"{style}-{seed}"
            recipe = SigStyle(steps=60, batch=2, seed=seed)
            path = METHODS.get("sigstyle").fit(base(), folder, recipe, out, quiet)
            with open_subject([path, out / "learned_embeds.safetensors"], None, "cpu") as subject:
                assert subject.coverage.full
                drawn = [
                    transfer(subject, given, "a picture of a person", recipe.prompt, keep, steps=15)
                    for keep in (0, 2, 5)
                ]
            layout.append([correlation(edges(images), edges(given)) for images in drawn])
            look.append([likeness(images, pixels) for images in drawn])
    layout, look = np.array(layout), np.array(look)
    print("layout by k", layout.mean(0).round(3), "look by k", look.mean(0).round(3))
    print(paired_mean_difference(layout[:, 2], layout[:, 0]), paired_mean_difference(look[:, 0], look[:, 2]))
    assert paired_mean_difference(layout[:, 2], layout[:, 0]).low > 0
    assert (np.diff(layout.mean(0)) > 0).all()
    assert paired_mean_difference(look[:, 0], look[:, 2]).low > 0


def correlation(one, other):
    one, other = (x - x.mean(1, keepdim=True) for x in (one, other))
    return float(torch.cosine_similarity(one, other).mean())


def likeness(images, style):
    pixels = ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return float((image_features(pixels) @ image_features(style).T).mean())


def scenes(seed, count):
    rng = np.random.default_rng(seed)
    drawn = [draw_object_scene(rng) if i % 2 else draw_person_scene(rng) for i in range(count)]
    images = torch.from_numpy(render_batch(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return images, [caption(scene, rng) for scene in drawn]


def at_size(images, prompts, size):
    scaled = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True).clamp(
        -1, 1
    )
    return Examples.of(base(), scaled, prompts)


SIZES = (32, 96, 128)
"""Pixels a side that are learned from, by half, half again and twice the base's own 64."""


@functools.cache
def by_size():
    """What three sets of pictures with two seeds each give: (losses, distances).

    Losses are size to (without, with the adapter), (2, units). Distances are those of pictures of the native size from
    the base's own of the same noise: (ours, plain), (2, units), where plain is a LoRA of the attention, of the same
    rank, rate and draws.
    """
    held = {size: at_size(*scenes(99, 16), size) for size in (32, 64, 128)}
    losses, moved, native = {size: [] for size in held}, [], natively(base())
    for data in range(3):
        given = {size: at_size(*scenes(data, 24), size) for size in SIZES}
        for seed in range(2):
            recipe = ResAdapter(rank=8, steps=40, batch=2, lr=3e-3, seed=seed)
            plain = {size: loss_on(base(), held[size], 16, seed) for size in held}
            with tempfile.TemporaryDirectory() as folder:
                files = save_resolution(Path(folder), train_resadapter(base(), given, recipe, quiet))
                with open_subject(list(files), None, "cpu") as subject:
                    assert subject.coverage.full
                    with subject.active("tuned"):
                        for size in held:
                            losses[size].append([plain[size], loss_on(subject.components, held[size], 16, seed)])
                        ours = distance(native, natively(subject.components))
            deltas = {path: up @ down for path, (down, up) in lora_at_sizes(given, recipe).items()}
            moved.append([ours, measured(deltas, lambda: distance(native, natively(base())))])
    print({size: np.mean(rows, axis=0).round(4).tolist() for size, rows in losses.items()})
    print("distance at the native size, ours and plain", np.round(moved, 3).tolist())
    return {size: np.array(rows).T for size, rows in losses.items()}, np.array(moved).T


def lora_at_sizes(given, recipe):
    """The other arm: the attention's projections learn the same pictures at the same sizes."""
    generator = torch.Generator().manual_seed(recipe.seed)
    losses = {size: denoising_loss(base(), data, recipe.batch) for size, data in given.items()}
    odds = size_weights(SIZES, base().image_size)

    def make(_, layer):
        down = torch.randn(recipe.rank, layer.in_features, generator=generator) / layer.in_features**0.5
        return LowRankChange(down, layer.out_features)

    def loss_of(step):
        return losses[int(step.rng.choice(SIZES, p=odds))](step)

    with adapted(base().unet, ATTENTION, make) as changes:
        groups = [Group("lora", [p for change in changes.values() for p in change.parameters()])]
        optimise(groups, loss_of, Optimisation(recipe.steps, recipe.lr, seed=recipe.seed), quiet)
        return {path: (c.down.detach().clone(), c.up.detach().clone()) for path, c in changes.items()}


def natively(components):
    """Features of twelve pictures of the base's own size, the same noise every time."""
    prompts = ["a picture of a person", "a picture of a red car", "a watercolor of a house", "pixel art of a cat"] * 3
    noise = seeded_noise((4, 16, 16), range(700, 700 + len(prompts)))
    with torch.no_grad():
        condition = encode_prompts(components, components.tokenizers, prompts)
        null = encode_prompts(components, components.tokenizers, [""] * len(prompts))
        latents = ddim_sample(Denoiser(components), noise, condition, null, 8, 3.0)
        images = components.vae.decode(latents / components.vae.config.scaling_factor).sample
    return image_features(((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())


def distance(one, other):
    """1 - cos of pictures' features, mean over pictures; features are unit vectors."""
    return 1 - float((one * other).sum(-1).mean())


@pytest.mark.parametrize("size", [32, 128])
def test_other_sizes_are_denoised_better_by_a_tenth(size):
    off, on = by_size()[0][size]
    assert paired_mean_difference(0.9 * off, on).low > 0


def test_native_pictures_stay_nearer_to_the_bases_than_with_plain_adapters():
    ours, plain = by_size()[1]
    interval = paired_mean_difference(plain, ours)
    print("distance at the native size:", np.mean(ours), "plain", np.mean(plain), interval)
    assert interval.low > 0


@pytest.mark.xfail(
    strict=False,
    reason="0.0654 without, 0.0780 with the adapter, 0.0126 [0.0073, 0.0179] more, n = 6, after 40 steps on 24 "
    "pictures: the norms' new values serve all sizes, and the native one, never drawn, has no say",
)
def test_the_native_size_is_denoised_no_worse_by_a_tenth():
    off, on = by_size()[0][64]
    interval = paired_mean_difference(on, off)
    print("loss at the native size:", np.mean(off), "with the adapter", np.mean(on), interval)
    assert interval.high < 0.1 * np.mean(off)

"""What the papers say of learned words and whole models, each against its off switch, on the embedded base.

A unit is one training run: a subject and a seed, both arms on the same draws. Intervals are paired, over units,
at 95 %.
Steps are a small share of the papers': what is tested is the direction, not the published figure.
"""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from auditor.metrics.attributes import judge_images
from auditor.metrics.concept import image_features, similarity
from auditor.metrics.quality import dual_distance
from auditor.personalize.blocks.attention import recorded, values_from
from auditor.personalize.blocks.beside import Beside
from auditor.personalize.blocks.denoising import denoising_error, draw, mean_square
from auditor.personalize.blocks.examples import Examples, class_latents
from auditor.personalize.blocks.masks import to_latent_grid
from auditor.personalize.blocks.pair import pair_sample
from auditor.personalize.blocks.ruled import null_condition
from auditor.personalize.blocks.staged import StagedWord
from auditor.personalize.blocks.stepwise import ended
from auditor.personalize.blocks.words import Words, stage_of
from auditor.personalize.cross_initialization import (
    CrossInitialization,
    drift,
    train_cross_initialization,
)
from auditor.personalize.dreambooth import DreamBooth, train_beside, train_dreambooth
from auditor.personalize.hifi import HiFi, train_hifi
from auditor.personalize.prospect import ProSpect, sample_prospect, train_prospect
from auditor.personalize.sefi import SeFi, attention_gap, train_sefi
from auditor.personalize.sine import Sine, train_sine
from auditor.personalize.styleforge import StyleForge, joined, train_styleforge
from auditor.personalize.textual_inversion import TEMPLATES
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.open import load_base
from auditor.pipeline.sampling import ddim_sample, seeded_noise
from auditor.proving.zoo import Pictures, images_of
from auditor.stats import paired_mean_difference
from auditor.world.embedded import embedded_folder
from auditor.world.factors import Thing, draw_object_scene, draw_person_scene
from auditor.world.render import render_batch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not (embedded_folder() / "pipeline" / "model_index.json").is_file(),
        reason="the embedded base is not installed",
    ),
]


def not_here(measured):
    """A claim that was measured not to hold at this scale; it may on better weights, so that passing is no failure."""
    return pytest.mark.xfail(strict=False, reason=f"measured on the shipped base: {measured}")


SUBJECTS = (("person", 11), ("object", 23), ("person", 37))
SEEDS = (0, 1, 2)
UNITS = [(kind, subject, seed) for kind, subject in SUBJECTS for seed in SEEDS]
FEWER_UNITS = [unit for unit in UNITS if unit[-1] in SEEDS[:2]]
"""Where the whole model is trained, which takes minutes."""



def quiet(done, total, label=""):
    pass


@functools.cache
def base():
    return load_base(None, "cpu", dtype=torch.float32)


def noun(kind, subject):
    return Pictures(kind, 1, subject).noun


@functools.cache
def pictures(kind, subject, images=4):
    """Pictures of one subject (N, 3, 64, 64) with an instance prompt each."""
    pixels = images_of(Pictures(kind, images, subject))
    return Examples.of(base(), pixels, [f"a picture of sks {noun(kind, subject)}"] * images)


def decoded(latents):
    """uint8 (N, 64, 64, 3)."""
    with torch.no_grad():
        images = base().vae.decode(latents / base().vae.config.scaling_factor).sample
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def as_pixels(images):
    return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def scenes_of(scenes):
    return torch.from_numpy(render_batch(scenes)).permute(0, 3, 1, 2).float() / 127.5 - 1


def sampled(components, prompt, count=6, seed=900, steps=8, guidance=3.0):
    """Pictures (N, 64, 64, 3) of a prompt, the same noise every time."""
    noise = seeded_noise((4, 16, 16), range(seed, seed + count))
    with torch.no_grad():
        condition = encode_prompts(components, components.tokenizers, [prompt] * count)
    return decoded(
        ddim_sample(Denoiser(components), noise, condition, null_condition(components, count), steps, guidance)
    )


def with_modules(trained):
    own = base()
    return dataclasses.replace(own, modules={**own.modules, **trained.modules})


def likeness(pixels, subject):
    """Mean cosine of pictures with a subject's own pictures, in the dual encoder's space."""
    return float((image_features(pixels) @ image_features(as_pixels(subject.images)).T).mean())


def holds(name, more, less):
    """The paired interval of ``more - less`` lies above zero; shown with -s."""
    interval = paired_mean_difference(more, less)
    print(
        f"\n{name}: {np.mean(more):.4f} against {np.mean(less):.4f}, difference {interval.estimate:.4f} "
        f"[{interval.low:.4f}, {interval.high:.4f}], n = {interval.n}"
    )
    assert interval.low > 0, name


def error_of(examples, condition_of, rows=48, swap=None):
    """Mean denoising error on draws that training never saw, and the same for every arm."""
    drawn = draw(base(), examples.latents, rows, torch.Generator().manual_seed(2**40))
    with torch.no_grad():
        condition = condition_of(drawn)
        if swap is None:
            return float(mean_square(denoising_error(base(), drawn, condition)).mean())
        with values_from(base(), swap(drawn).states):
            return float(mean_square(denoising_error(base(), drawn, condition)).mean())


# DreamBooth


@pytest.fixture(scope="module")
def prior_units():
    """Likeness to the subject by (weight of the prior, whose prompt), one value a unit.

    The text encoder is trained too: its states hardly tell the rare word of this base from the class alone.
    """
    found = {(weight, said): [] for weight in (0.0, 1.0) for said in ("class", "own")}
    for kind, subject, seed in FEWER_UNITS:
        examples, word = pictures(kind, subject), noun(kind, subject)
        prior = class_latents(base(), f"a picture of a {word}", 8, seed, examples.latents.shape[1:])
        params = DreamBooth(
            prompt=examples.prompts[0], steps=100, batch=2, lr=2e-4, train_text_encoder=True, seed=seed
        )
        for weight in (0.0, 1.0):
            second = Beside(prior, f"a picture of a {word}", weight)
            tuned = with_modules(train_beside(base(), examples, second, params, quiet))
            found[weight, "class"].append(likeness(sampled(tuned, f"a picture of a {word}"), examples))
            found[weight, "own"].append(likeness(sampled(tuned, examples.prompts[0]), examples))
    print("\n", {each: np.round(values, 3).tolist() for each, values in found.items()})
    return found


def test_prior_preservation_keeps_the_class_from_becoming_the_subject(prior_units):
    holds("likeness of class samples, without the prior", prior_units[0.0, "class"], prior_units[1.0, "class"])


@not_here(
    "0.55 with the prior, 0.70 without; less 0.9 of the latter -0.082 [-0.197, 0.033], n = 6. The rare word moves the "
    "prompt's states by a tenth of their length, so that the prior pulls at both prompts until the text encoder has "
    "learned to tell them apart"
)
def test_prior_preservation_costs_little_likeness_under_the_own_prompt(prior_units):
    kept, lost = np.array(prior_units[1.0, "own"]), np.array(prior_units[0.0, "own"])
    holds("likeness under the own prompt, with the prior against 0.9 of that without", kept, 0.9 * lost)


def test_the_gap_between_seen_and_unseen_pictures_of_a_subject_grows_with_steps():
    gaps = {done: [] for done in (1, 15, 30)}
    for kind, subject, seed in FEWER_UNITS:
        both = pictures(kind, subject, 8)
        seen, unseen = (
            Examples(both.images[part], both.latents[part], both.prompts[part]) for part in (slice(4), slice(4, 8))
        )

        def watch(done, total, label="", seen=seen, unseen=unseen):
            if label and done in gaps:
                condition = encode_prompts(base(), base().tokenizers, [seen.prompts[0]])
                rows = torch.zeros(24, dtype=torch.long)
                losses = [error_of(each, lambda drawn: condition[rows], 24) for each in (unseen, seen)]
                gaps[done].append(losses[0] - losses[1])

        train_dreambooth(
            base(), seen, DreamBooth(prompt=seen.prompts[0], steps=30, batch=2, lr=2e-4, seed=seed), watch
        )
    print(f"\nmean gaps by step: { {done: round(float(np.mean(gap)), 4) for done, gap in gaps.items()} }")
    holds("train / held-out loss gap after 30 steps against after 1", gaps[30], gaps[1])
    means = [np.mean(gaps[done]) for done in (1, 15, 30)]
    assert means == sorted(means)


# Cross Initialization


@pytest.fixture(scope="module")
def cross_units():
    """(pictures, started at the encoder's output for 20 steps, started at the words for 320), at one rate.

    The share of steps is the paper's: 320 of Cross Initialization against 5,000 of textual inversion.
    """
    out = []
    for kind, subject, seed in UNITS:
        examples, word = pictures(kind, subject), noun(kind, subject)
        how = {"init": (word,), "batch": 2, "lr": 1e-2, "seed": seed}
        arms = ({"steps": 20}, {"steps": 320, "through_encoder": False, "anchor": 0.0})
        recipes = [CrossInitialization(**how, **arm) for arm in arms]
        out.append((examples, *(train_cross_initialization(base(), examples, each, quiet) for each in recipes)))
    return out


def drifts(cross_units, name):
    """Of both starts, (units,) each: the encoder's output, the words."""
    found = [[drift(learned)[name] for learned in arms] for _, *arms in cross_units]
    print(f"\n{name}: {np.round(found, 3).tolist()}")
    return np.array(found).T


def test_a_crossed_word_keeps_its_length_and_a_plain_one_grows_fivefold(cross_units):
    crossed, plain = drifts(cross_units, "norm_ratio")
    holds("growth of the norm, plain start against five times that of the encoder's output", plain, 5 * crossed)
    assert ((crossed >= 0.5) & (crossed <= 2)).all()


def test_a_crossed_word_keeps_its_direction(cross_units):
    crossed, plain = drifts(cross_units, "cosine")
    holds("cosine with the start, encoder's output against words", crossed, plain)
    assert (crossed > 0.9).all()


@not_here(
    "0.0564 at 20 steps, 0.0486 for the plain start at 320, difference -0.0078 [-0.0121, -0.0035], n = 9: 20 steps at "
    "this rate move a start that is 48 times as long as a word by less than a tenth of its length"
)
def test_cross_initialization_reaches_the_loss_in_a_sixteenth_of_the_steps(cross_units):
    short, long = [], []
    for examples, crossed, plain in cross_units:
        for learned, losses in ((crossed, short), (plain, long)):
            words = Words(base(), {"<subject>": learned.vectors})
            prompts = [TEMPLATES[0].format("<subject>")] * 48
            losses.append(error_of(examples, lambda drawn, words=words, prompts=prompts: words.encode(prompts)))
    holds("loss of the plain start at 320 steps against the encoder's output at 20", long, short)


# ProSpect


@pytest.fixture(scope="module")
def staged_units():
    """(pictures, vectors by stage, one vector for all stages); both made by the same network, at one rate."""
    out = []
    for kind, subject, seed in UNITS:
        examples = pictures(kind, subject)
        how = {"init": noun(kind, subject), "steps": 60, "batch": 4, "lr": 1e-3, "seed": seed}
        arms = (train_prospect(base(), examples, ProSpect(stages=stages, **how), quiet).staged for stages in (10, 1))
        out.append((examples, *arms))
    return out


def test_early_stages_carry_low_frequencies_more_than_late_ones(staged_units):
    """Vectors of the next subject, learned from the same seed, in the first of ten steps or in the last five."""
    early, late, noise = [], [], seeded_noise((4, 16, 16), range(8))
    for i, (_, staged, _) in enumerate(staged_units):
        other = staged_units[(i + len(SEEDS)) % len(staged_units)][1]
        own, given = (list(each.roles[""]["text_encoder"]) for each in (staged, other))
        images = [
            decoded(sample_prospect(base(), word, ["a picture of <subject>"], noise, 10, 3.0))
            for word in (
                StagedWord(staged.word, {"": {"text_encoder": torch.stack(rows)}})
                for rows in (own, [*own[:9], given[9]], [*given[:5], *own[5:]])
            )
        ]
        early.append(low_share(images[1], images[0]))
        late.append(low_share(images[2], images[0]))
    print("\n", np.round(early, 3).tolist(), np.round(late, 3).tolist())
    holds("share of low frequencies in the change, first tenth against last half", early, late)


def low_share(changed, images, radius=4):
    """Share of the change's energy below a radius of frequencies, of gray pictures."""
    gray = changed.astype(float).mean(-1) - images.astype(float).mean(-1)
    energy = np.abs(np.fft.fftshift(np.fft.fft2(gray), axes=(1, 2))) ** 2
    rows, columns = np.mgrid[-32:32, -32:32]
    return float(energy[:, np.hypot(rows, columns) < radius].sum() / energy.sum())


@not_here(
    "0.0805 for one vector, 0.0826 by stage, difference -0.0021 [-0.0028, -0.0014], n = 9: each stage has "
    "learned from 24 draws where one vector has from 240; the paper trains a thousand steps and more"
)
def test_vectors_by_stage_beat_one_vector_at_equal_steps(staged_units):
    by_stage, single = [], []
    for examples, staged, plain in staged_units:
        prompts = [TEMPLATES[0].format("<subject>")] * 64
        for word, losses in ((staged, by_stage), (plain, single)):
            words = word.words(base())
            losses.append(
                error_of(
                    examples,
                    lambda drawn, words=words, prompts=prompts: words.encode(
                        prompts, stage_of(drawn.t, 1000, words.stages)
                    ),
                    64,
                )
            )
    holds("loss of one vector against one a stage", single, by_stage)


# SeFi-IDE


@pytest.fixture(scope="module")
def held_units():
    """(pictures, word, learned with the attention loss, learned without it, one plain vector for everything)."""
    out = []
    for kind, subject, seed in UNITS:
        examples, word = pictures(kind, subject), noun(kind, subject)
        how = {"init": word, "reference": word, "steps": 30, "batch": 2, "lr": 2e-2, "seed": seed}
        arms = ({}, {"attention_weight": 0.0}, {"attention_weight": 0.0, "stages": 1, "tied": True})
        out.append(
            (examples, word, *(train_sefi(base(), examples, SeFi(**how, **arm), quiet).staged for arm in arms))
        )
    return out


def attention_of(examples, word, staged, rows=12):
    """Gap to the reference's maps, loss, and areas of the word's map and of the reference's; over common draws."""
    drawn = draw(base(), examples.latents, rows, torch.Generator().manual_seed(2**41))
    stage = stage_of(drawn.t, 1000, staged.stages)
    prompts = [TEMPLATES[0].format("<subject>")] * rows
    with torch.no_grad():
        keys, values = (staged.words(base(), role).encode(prompts, stage) for role in ("key", "value"))
        plain = encode_prompts(base(), base().tokenizers, [TEMPLATES[0].format(word)] * rows)
        with recorded(base()) as maps, values_from(base(), values.states):
            loss = float(mean_square(denoising_error(base(), drawn, keys)).mean())
        seen, area = dict(maps.maps), area_of(maps, rows)
        with recorded(base()) as reference:
            Denoiser(base()).predict(drawn.noisy, drawn.t, plain)
        gap = float(attention_gap(seen, dict(reference.maps)))
    return gap, loss, area, area_of(reference, rows)


def area_of(maps, rows):
    """Share of the word's map, brought to between 0 and 1, that lies above a half."""
    side = maps.of_token(torch.full((rows,), 4), 16).flatten(1)
    least, most = side.amin(1, keepdim=True), side.amax(1, keepdim=True)
    return float((side > (least + most) / 2).float().mean())


@pytest.fixture(scope="module")
def attention_units(held_units):
    """What :func:`attention_of` finds, (4, units) for each arm: with the attention loss, without it, plain."""
    arms = [
        [attention_of(examples, word, learned[i]) for examples, word, *learned in held_units] for i in range(3)
    ]
    for arm in arms:
        print("\ngap, loss, area, the reference's area:", np.mean(arm, 0).round(4).tolist())
    return [np.array(arm).T for arm in arms]


def test_the_attention_loss_halves_the_distance_to_the_reference(attention_units):
    with_it, without, _ = attention_units
    holds("log of the gap, without the loss against twice that with it", *np.log([without[0], 2 * with_it[0]]))
    holds("loss, 1.1 of that without the attention loss against with it", 1.1 * without[1], with_it[1])


def test_the_attention_loss_shrinks_the_area_that_the_word_attends_to(attention_units):
    with_it, without, plain = attention_units
    holds("area, without the loss against with it", without[2], with_it[2])
    holds("area, a plain word against the loss", plain[2], with_it[2])


@not_here(
    "area 0.32 with the loss, 0.42 of a plain word; 0.6 of that less ours is -0.070 [-0.106, -0.033], n = 9. The word "
    "is held to an ordinary one's map, whose own area is 0.28, two thirds of the plain word's"
)
def test_the_attention_loss_shrinks_the_area_to_three_fifths_of_a_plain_words(attention_units):
    with_it, _, plain = attention_units
    holds("area, 0.6 of that of a plain word against with the loss", 0.6 * plain[2], with_it[2])


# SINE


SINGLE = (
    ("house", "red"), ("car", "blue"), ("tree", "green"), ("cup", "purple"), ("fish", "yellow"), ("heart", "pink"),
)  # fmt: skip
EDITS = ("a watercolor painting of {}", "an outline drawing of {}", "pixel art of {}")


@pytest.fixture(scope="module")
def edits():
    """Gain in likeness to an edit of base, tuned and mixture, and the structure kept: means over three edits.

    A unit is one single picture and the model tuned on it; gains are against the same model without an edit.
    """
    found = {name: [] for name in ("base", "tuned", "mixed", "structure", "base structure")}
    noise = seeded_noise((4, 16, 16), range(500, 506))
    for i, (kind, colour) in enumerate(SINGLE):
        thing = Thing(kind, colour, 32.0, 32.0, 0.7)
        source = scenes_of([draw_object_scene(np.random.default_rng(i), things=(thing,), style="flat", ground="plain")])
        image = torch.nn.functional.interpolate(source, (128, 128), mode="bilinear")
        params = Sine(prompt=f"a picture of sks {kind}", patches=False, steps=120, batch=2, lr=8e-4, seed=i)
        tuned = with_modules(train_sine(base(), image, params, quiet))

        def drawn(model, prompt):
            return sampled(model, prompt, 6, 500, 10)

        before = {"base": drawn(base(), f"a picture of a {kind}"), "tuned": drawn(tuned, params.prompt)}
        before["mixed"] = before["tuned"]
        here = {name: [] for name in found}
        for edit in EDITS:
            said = edit.format(f"a {kind}")
            after = {
                "base": drawn(base(), said),
                "tuned": drawn(tuned, edit.format(f"sks {kind}")),
                "mixed": decoded(pair_sample(base(), tuned, said, params.prompt, noise, 0.7, 400, False, 10, 3.0)),
            }
            for name, images in after.items():
                here[name].append((similarity(images, [said]) - similarity(before[name], [said])).mean())
            here["structure"].append(structure(after["mixed"], source))
            here["base structure"].append(structure(after["base"], source))
        for name, values in here.items():
            found[name].append(float(np.mean(values)))
    print("\n", {name: (round(np.mean(v), 3), np.round(v, 3).tolist()) for name, v in found.items()})
    return found


def test_the_mixture_keeps_the_structure_of_the_picture(edits):
    holds("structure of the picture, mixture against base alone", edits["structure"], edits["base structure"])


@not_here(
    "0.745, over 0.8 -0.055 [-0.122, 0.013], n = 6; an outline on white and blocks of pixels have other colours at any "
    "place than the picture, and the claim does not say which edits it means"
)
def test_the_mixture_keeps_four_fifths_of_the_structure(edits):
    holds("structure of the picture, mixture against 0.8", edits["structure"], [0.8] * len(SINGLE))


def test_the_base_edits_what_the_tuned_model_alone_cannot(edits):
    holds("gain in likeness to the edit, mixed against tuned alone", edits["mixed"], edits["tuned"])


@not_here(
    "gains 0.111 tuned, 0.328 base; a tenth of the latter less the former -0.079 [-0.153, -0.004], n = 6: after 120 "
    "steps the tuned model still hears a third of an edit"
)
def test_the_tuned_model_alone_edits_less_than_a_tenth_of_what_the_base_does(edits):
    holds("gain in likeness to the edit, 0.1 of base against tuned", 0.1 * np.array(edits["base"]), edits["tuned"])


def structure(pixels, source):
    """Mean correlation of pictures with one, both averaged over blocks of eight pixels."""
    wanted, *low = (
        each.reshape(8, 8, 8, 8, 3).mean((1, 3)).ravel() for each in (*as_pixels(source), *pixels)
    )
    return float(np.mean([np.corrcoef(wanted, each)[0, 1] for each in low]))


# HiFi Tuner


def masked_pictures(subject, count=8):
    """Pictures of one object on grounds of all kinds, and exactly where it is (N, 1, 64, 64)."""
    rng = np.random.default_rng(subject)
    kind, colour = (("car", "red"), ("cup", "blue"), ("tree", "purple"))[subject % 3]
    scenes = [
        draw_object_scene(rng, style="flat", things=(Thing(kind, colour, *rng.uniform(26, 38, 2).round(2), 0.5),))
        for _ in range(count)
    ]
    images, bare = scenes_of(scenes), scenes_of([dataclasses.replace(scene, things=()) for scene in scenes])
    prompt = f"a picture of a {kind}"
    return Examples.of(base(), images, [prompt] * count), (images != bare).any(1, keepdim=True).float()


@pytest.fixture(scope="module")
def masked_units():
    """(distance from the empty prompt, error in the subject's region) by arm, one a unit.

    Errors are those on four pictures that training did not see, of the same thing on other grounds.
    """
    out = {"held": [], "masked": [], "free": []}
    for subject in range(3):
        examples, masks = masked_pictures(subject)
        seen = Examples(examples.images[:4], examples.latents[:4], examples.prompts[:4])
        region = to_latent_grid(masks[4:], (16, 16))
        for seed in SEEDS:
            how = {"prompt": examples.prompts[0], "steps": 100, "refine": 0, "batch": 2, "lr": 2e-2, "seed": seed}
            arms = {"held": (masks[:4], HiFi.anchor), "masked": (masks[:4], 0.0), "free": (None, 0.0)}
            for name, (used, anchor) in arms.items():
                learned = train_hifi(base(), seen, used, HiFi(anchor=anchor, **how), quiet).learned
                drawn = draw(base(), examples.latents[4:], 96, torch.Generator().manual_seed(2**40))
                with torch.no_grad():
                    plain = encode_prompts(base(), base().tokenizers, [examples.prompts[0]] * 96)
                    error = denoising_error(base(), drawn, ended(plain, learned.vectors[0]))
                inside = float(mean_square(error, region[drawn.rows]).mean())
                out[name].append((float((learned.vectors[0] - learned.null).norm()), inside))
    print("\n", {name: np.round(values, 4).tolist() for name, values in out.items()})
    return {name: np.array(values).T for name, values in out.items()}


def test_the_anchor_keeps_vectors_within_half_the_distance(masked_units):
    holds("distance, free against twice that of held", masked_units["free"][0], 2 * masked_units["held"][0])


def test_the_mask_lowers_the_error_in_the_region_of_the_subject(masked_units):
    holds("error in the subject's region, free against masked", masked_units["free"][1], masked_units["masked"][1])


@not_here(
    "difference -0.0070 [-0.0099, -0.0041], n = 9: the mask gains 0.0009, the anchor at its default costs 0.0079 and "
    "holds the vectors to a quarter of the distance. At a fifth of its weight they keep 0.6 of it, and it still costs "
    "more than the mask gains: -0.0005 [-0.0011, 0.0000]"
)
def test_mask_and_anchor_lower_the_error_in_the_region_of_the_subject(masked_units):
    holds("error in the subject's region, free against held", masked_units["free"][1], masked_units["held"][1])


# StyleForge


def style_sets(style, seed):
    """38 people and 30 grounds of a style: the first of each are learned from, the last 24 are what is wanted."""
    rng = np.random.default_rng((seed, 7))
    people = [draw_person_scene(rng, style=style) for _ in range(38)]
    grounds = [draw_object_scene(rng, style=style) for _ in range(30)]
    return people, grounds


STYLE_UNITS = [(style, seed) for style in ("watercolor", "pixel", "outline") for seed in SEEDS[:2]]


def test_chosen_auxiliary_pictures_come_nearer_to_the_style_than_own_samples():
    chosen, own = [], []
    for style, seed in STYLE_UNITS:
        people, grounds = style_sets(style, seed)
        examples = Examples.of(base(), scenes_of([*people[:6], *grounds[:6]]), ["a picture in sks style"] * 12)
        aux = Examples.of(base(), scenes_of(people[6:14]), ["a picture in style"] * 8)
        prior = class_latents(base(), "a picture in style", 8, seed, examples.latents.shape[1:])
        wanted = image_features(render_batch([*people[14:], *grounds[6:]]))
        params = StyleForge(steps=60, batch=2, lr=2e-4, seed=seed)
        for second, scores in ((aux, chosen), (Examples(aux.images, prior, aux.prompts), own)):
            tuned = with_modules(train_styleforge(base(), examples, second, params, quiet))
            made = [sampled(tuned, f"a picture of a {word} in sks style", 8) for word in ("person", "house", "cat")]
            scores.append(dual_distance(image_features(np.concatenate(made)), wanted))
    holds("distance to the style set, own samples against chosen pictures", own, chosen)


def test_two_words_keep_people_out_of_grounds():
    """The text encoder is trained too: its states hardly tell one rare word of this base from another."""
    single, double = [], []
    for style, seed in STYLE_UNITS:
        people, grounds = style_sets(style, seed)
        both = [scenes_of(people[:6]), scenes_of(grounds[:6])]
        aux = Examples.of(base(), scenes_of(people[6:12]), ["a picture in style"] * 6)
        one = joined([Examples.of(base(), each, ["a picture in sks style"] * 6) for each in both])
        words = ("a picture in sks style", "a picture in ohwx style")
        two = joined([Examples.of(base(), each, [word] * 6) for each, word in zip(both, words, strict=True)])
        params = StyleForge(steps=100, batch=2, lr=2e-4, train_text_encoder=True, seed=seed)
        for style_set, word, rates in ((one, "sks", single), (two, "ohwx", double)):
            tuned = with_modules(train_styleforge(base(), style_set, aux, params, quiet))
            made = judge_images(sampled(tuned, f"a picture in {word} style", 16))
            rates.append(float(np.isin(made.names("scene"), ("person", "duo")).mean()))
    holds("rate of people in grounds, one word against twice that with two", single, [2 * rate for rate in double])

"""Methods whose product is a word: Cross Initialization, ProSpect, SeFi-IDE."""

import json

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from auditor.cli.main import run
from auditor.errors import MalformedArtifact, UsageError
from auditor.personalize.blocks.attention import recorded
from auditor.personalize.blocks.examples import Examples
from auditor.personalize.blocks.ruled import null_condition
from auditor.personalize.blocks.stage_network import StageNetwork
from auditor.personalize.blocks.staged import (
    StagedWord,
    load_staged_word,
    save_staged_word,
    staged_conditions,
    staged_sample,
)
from auditor.personalize.blocks.training import Training
from auditor.personalize.blocks.words import word_vectors
from auditor.personalize.cross_initialization import (
    CrossInitialization,
    cross_start,
    drift,
    train_cross_initialization,
)
from auditor.personalize.prospect import ProSpect, sample_prospect, train_prospect
from auditor.personalize.sefi import SeFi, attention_gap, sample_sefi, train_sefi
from auditor.personalize.textual_inversion import TextualInversion, train_textual_inversion
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.denoiser import Denoiser
from auditor.pipeline.sampling import ddim_sample
from auditor.registry import METHODS

FAMILIES = ["sd1", "sdxl"]
SHORT = {"steps": 3, "batch": 2, "lr": 1e-2, "seed": 3}
PLAIN = TextualInversion(init="man", **SHORT)


def quiet(done, total, label=""):
    pass


def stop(done, total, label=""):
    raise RuntimeError("on purpose")


@pytest.fixture
def pictures(pixels):
    return lambda base: Examples.of(base, pixels, ["a picture"] * len(pixels))


def pipeline(folder, family):
    cls = diffusers.StableDiffusionPipeline if family == "sd1" else diffusers.StableDiffusionXLPipeline
    pipe = cls.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def encoded(pipe, family, prompt):
    if family == "sd1":
        return pipe.encode_prompt(prompt, "cpu", 1, False)[0]
    return pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)[0]


TRAIN = {
    "cross-initialization": (train_cross_initialization, CrossInitialization(init=("man",), **SHORT)),
    "prospect": (train_prospect, ProSpect(init="man", stages=4, **SHORT)),
    "sefi": (train_sefi, SeFi(init="man", reference="man", **SHORT)),
}


@pytest.mark.parametrize("method", TRAIN)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_stays_as_it_is_also_after_an_exception(tiny_base, pictures, unchanged, family, method):
    base = tiny_base(family)
    check, (train, params) = unchanged(base), TRAIN[method]
    one, again = (train(base, pictures(base), params, quiet) for _ in range(2))
    check()
    assert one.log.losses == again.log.losses
    with pytest.raises(RuntimeError, match="on purpose"):
        train(base, pictures(base), params, stop)
    check()


@pytest.mark.parametrize("family", FAMILIES)
def test_switched_off_each_is_textual_inversion_exactly(tiny_base, pictures, family):
    base = tiny_base(family)
    plain = train_textual_inversion(base, pictures(base), PLAIN, quiet)
    off = {
        "cross": train_cross_initialization(
            base, pictures(base),
            CrossInitialization(init=("man",), vectors=1, through_encoder=False, anchor=0.0, **SHORT), quiet,
        ).vectors,
        "prospect": train_prospect(
            base, pictures(base), ProSpect(init="man", stages=1, network=False, **SHORT), quiet
        ).staged.roles[""],
        "sefi": train_sefi(
            base, pictures(base),
            SeFi(init="man", reference="man", stages=1, tied=True, attention_weight=0.0, **SHORT), quiet,
        ).staged.roles["value"],
    }  # fmt: skip
    for name, vectors in off.items():
        for encoder, rows in plain.vectors.items():
            assert torch.equal(vectors[encoder].reshape(rows.shape), rows), name


# Cross Initialization


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_starts_at_what_the_library_says_the_encoder_puts_out(tiny_base, tiny_folders, family):
    base = tiny_base(family)
    start = cross_start(base, CrossInitialization(init=("man", "woman"), vectors=2))
    pipe = pipeline(tiny_folders(family), family)
    for name, encoder in base.text_encoders.items():
        tokenizer = pipe.tokenizer if name == "text_encoder" else pipe.tokenizer_2
        model = getattr(pipe, name)
        table = model.get_input_embeddings().weight
        ids = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("man", "woman")]
        mean = table[ids].mean(0).detach()
        # A row of the table is lent to the mean, so that the library's own path is taken.
        row = tokenizer("king king", padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            kept = table[row[0, 1]].clone()
            table[row[0, 1]] = mean
            said = model(row).last_hidden_state[0, 1:3]
            table[row[0, 1]] = kept
        assert torch.allclose(start[name], said, atol=1e-5)
        assert start[name].shape == (2, encoder.config.hidden_size)


def test_the_anchor_holds_a_word_where_it_began(tiny_base, pictures):
    base = tiny_base("sd1")
    far, near = (
        train_cross_initialization(
            base, pictures(base), CrossInitialization(init=("man",), anchor=anchor, steps=15, batch=2, lr=5e-2), quiet
        )
        for anchor in (0.0, 100.0)
    )
    assert drift(near)["cosine"] > drift(far)["cosine"]
    assert (near.vectors["text_encoder"] - near.start["text_encoder"]).norm() < 0.5 * (
        far.vectors["text_encoder"] - far.start["text_encoder"]
    ).norm()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_word_is_what_the_library_reads(tiny_base, tiny_folders, folder_of, tmp_path, family):
    base = tiny_base(family)
    params = CrossInitialization(word="<kim>", init=("man",), **SHORT)
    path = METHODS.get("cross-initialization").fit(base, folder_of("photos"), params, tmp_path / "out", quiet)
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert set(told["drift"]) == {"norm_ratio", "cosine"}
    pipe, stored = pipeline(tiny_folders(family), family), load_file(path)
    if family == "sd1":
        pipe.load_textual_inversion(str(path))
    else:
        pipe.load_textual_inversion(stored["clip_l"], "<kim>", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
        pipe.load_textual_inversion(
            stored["clip_g"], "<kim>", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2
        )
    learned = train_cross_initialization(base, load(base, tmp_path / "photos"), params, quiet)
    from auditor.personalize.blocks.words import Words

    ours = Words(base, {"<kim>": learned.vectors}).encode(["a picture of <kim>"]).states
    assert torch.allclose(ours, encoded(pipe, family, "a picture of <kim>"), atol=1e-4)


def load(base, folder):
    from auditor.personalize.blocks.examples import load_examples

    return load_examples(folder, base, "a picture")


# Stages


def staged_word(base, stages=4, count=1, roles=("",)):
    generator = torch.Generator().manual_seed(0)
    return StagedWord(
        "<kim>",
        {
            role: {
                name: torch.randn(stages, count, encoder.config.hidden_size, generator=generator)
                for name, encoder in base.text_encoders.items()
            }
            for role in roles
        },
    )


@pytest.mark.parametrize("roles", [("",), ("key", "value")])
@pytest.mark.parametrize("family", FAMILIES)
def test_staged_words_are_read_back(tiny_base, tmp_path, family, roles):
    word = staged_word(tiny_base(family), stages=11, count=2, roles=roles)
    path = save_staged_word(tmp_path, word)
    back = load_staged_word(path)
    assert (back.word, back.stages, set(back.roles)) == ("<kim>", 11, set(roles))
    for role, encoders in word.roles.items():
        assert set(back.roles[role]) == set(encoders)
        assert all(torch.equal(back.roles[role][name], rows) for name, rows in encoders.items())
    suffix = {"sd1": [], "sdxl": ["clip_l"]}[family]
    first = load_file(path)[".".join(filter(None, ["stage_10", roles[0], *suffix]))]
    assert torch.equal(first, word.roles[roles[0]]["text_encoder"][10])


@pytest.mark.filterwarnings("ignore")
def test_the_library_reads_one_stage_as_a_word(tiny_base, tiny_folders, tmp_path):
    base = tiny_base("sd1")
    word = staged_word(base, count=2)
    stored = load_file(save_staged_word(tmp_path, word))
    pipe = pipeline(tiny_folders("sd1"), "sd1")
    pipe.load_textual_inversion({"<kim>": stored["stage_3"]})
    ours = staged_conditions(word.words(base), ["a picture of <kim>"], 1)[3]
    assert torch.allclose(ours.states, encoded(pipe, "sd1", "a picture of <kim>"), atol=1e-4)


def test_files_that_hold_no_stages_are_refused(tmp_path, tiny_base):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nothing")
    for tensors, metadata in (
        (None, None),
        ({"stage_0": torch.ones(1, 4)}, {}),
        ({"stage_0": torch.ones(1, 4)}, {"name": "x", "stages": "2"}),
        ({"stage_0": torch.ones(4)}, {"name": "x", "stages": "1"}),
        ({"stage_0": torch.ones(1, 4)}, {"name": "x", "stages": "many"}),
    ):
        if tensors is not None:
            save_file(tensors, path, metadata)
        with pytest.raises(MalformedArtifact, match="holds no learned stages"):
            load_staged_word(path)
    save_file({"stage_0": torch.ones(1, 4)}, path, {"name": "<x>", "stages": "1"})
    with pytest.raises(UsageError, match="not learned for this base"):
        load_staged_word(path).words(tiny_base("sd1"))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_stages_are_the_plain_sampler_bit_for_bit(tiny_base, noise, family, guidance):
    base = tiny_base(family)
    with torch.no_grad():
        condition, null = encode_prompts(base, base.tokenizers, ["a red ball"] * 2), null_condition(base, 2)
        plain = ddim_sample(Denoiser(base), noise, condition, null, 6, guidance)
    assert torch.equal(staged_sample(base, noise, [condition] * 4, 6, guidance), plain)
    same = staged_sample(base, noise, [condition] * 4, 6, guidance, [condition] * 4)
    assert torch.equal(same, plain)


def test_each_step_sees_its_own_stage(tiny_base, noise):
    base = tiny_base("sd1")
    conditions = [encode_prompts(base, base.tokenizers, [f"a {word}"] * 2) for word in ("red", "green", "blue", "cat")]
    seen = []
    real = base.unet.forward

    def spy(latents, t, encoder_hidden_states, **given):
        match = [i for i, c in enumerate(conditions) if torch.equal(c.states, encoder_hidden_states)]
        seen.append((int(t[0]), match))
        return real(latents, t, encoder_hidden_states=encoder_hidden_states, **given)

    base.unet.forward = spy
    try:
        staged_sample(base, noise, conditions, 8, 1.0)
    finally:
        del base.unet.forward
    assert [stage for _, stage in seen] == [[t // 250] for t, _ in seen]
    assert seen[0][1] == [3] and seen[-1][1] == [0]


def test_stages_can_be_exchanged_and_prompts_given_by_stage(tiny_base, noise):
    base = tiny_base("sd1")
    word = staged_word(base)
    own = staged_conditions(word.words(base), ["a <kim>"], 2)
    swapped = staged_conditions(word.words(base), ["a <kim>"], 2, use=[3, 1, 2, 0])
    assert torch.equal(swapped[0].states, own[3].states) and torch.equal(swapped[1].states, own[1].states)
    mixed = staged_conditions(word.words(base), ["a man", "a <kim>", "a man", "a man"], 2)
    plain = encode_prompts(base, base.tokenizers, ["a man"] * 2)
    assert torch.equal(mixed[1].states, own[1].states)
    assert torch.allclose(mixed[0].states, plain.states, atol=1e-6)
    one, other = (sample_prospect(base, word, ["a <kim>"], noise, 4, 3.0, use) for use in (None, [0, 0, 0, 0]))
    assert not torch.allclose(one, other, atol=1e-3)
    for bad in ({"prompts": ["a", "b"]}, {"prompts": ["a"], "use": [0, 1]}, {"prompts": ["a"], "use": [0, 1, 2, 4]}):
        with pytest.raises(UsageError, match="a word of 4 stages"):
            staged_conditions(word.words(base), count=2, **bad)


def test_a_stage_network_starts_at_the_word_and_gives_every_stage_its_own():
    network = StageNetwork(24, 5, torch.Generator().manual_seed(0))
    word = torch.randn(2, 24)
    assert torch.equal(network(word), word.expand(5, 2, 24))
    with torch.no_grad():
        network.out.weight.normal_()
    made = network(word)
    assert made.shape == (5, 2, 24)
    assert not torch.allclose(made[0], made[1], atol=0.1)
    dropped = [network(word, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(dropped[0], dropped[1]) and not torch.equal(dropped[0], dropped[2])
    assert sum(p.numel() for p in network.attentions[0].parameters()) == 24 * 512 * 4


def test_only_the_stages_that_were_drawn_move(tiny_base, pictures):
    base = tiny_base("sd1")
    params = ProSpect(init="man", stages=200, network=False, **SHORT)
    rows = train_prospect(base, pictures(base), params, quiet).staged.roles[""]["text_encoder"]
    moved = (rows != word_vectors(base, "man", 1)["text_encoder"]).any(-1).sum()
    assert 0 < moved <= params.steps * params.batch


# SeFi-IDE


def test_keys_and_values_are_learned_apart_unless_tied(tiny_base, pictures):
    base = tiny_base("sd1")
    for tied in (False, True):
        roles = train_sefi(
            base, pictures(base), SeFi(init="man", reference="man", tied=tied, **SHORT), quiet
        ).staged.roles
        assert torch.equal(roles["key"]["text_encoder"], roles["value"]["text_encoder"]) is tied


def test_without_its_weight_the_attention_loss_changes_nothing(tiny_base, pictures):
    """The loss of the first step differs by the weighted gap and by nothing else; a word at its reference has none."""
    base = tiny_base("sd1")
    first = {
        (init, weight): train_sefi(
            base, pictures(base),
            SeFi(init=init, reference="man", attention_weight=weight, stages=2, steps=1, batch=2), quiet,
        ).log.losses[0]
        for init in ("man", "king")
        for weight in (0.0, 1.0, 2.0)
    }  # fmt: skip
    assert first["man", 1.0] == pytest.approx(first["man", 0.0], abs=1e-5)
    gap = first["king", 1.0] - first["king", 0.0]
    assert gap > 1e-6
    assert first["king", 2.0] - first["king", 0.0] == pytest.approx(2 * gap, rel=0.05)


def test_the_gap_of_maps_is_the_sum_over_layers_pixels_and_tokens(tiny_base, noise):
    base = tiny_base("sd1")
    found = []
    for prompt in ("a man", "a red car"):
        with recorded(base) as maps, torch.no_grad():
            Denoiser(base).predict(noise, torch.tensor([500, 500]), encode_prompts(base, base.tokenizers, [prompt] * 2))
        found.append(dict(maps.maps))
    wanted = sum(
        float(np.square((found[0][n] - found[1][n]).numpy()).sum()) / (found[0][n].shape[0] * found[0][n].shape[1])
        for n in found[0]
    )
    assert float(attention_gap(*found)) == pytest.approx(wanted, rel=1e-4)
    assert float(attention_gap(found[0], found[0])) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_with_equal_keys_and_values_is_sampled_as_a_staged_one(tiny_base, noise, family):
    base = tiny_base(family)
    word = staged_word(base)
    tied = StagedWord(word.word, {"key": word.roles[""], "value": word.roles[""]})
    assert torch.equal(
        sample_sefi(base, tied, "a <kim>", noise, 4, 3.0), sample_prospect(base, word, ["a <kim>"], noise, 4, 3.0)
    )
    apart = staged_word(base, roles=("key", "value"))
    assert not torch.allclose(
        sample_sefi(base, apart, "a <kim>", noise, 4, 3.0), sample_sefi(base, tied, "a <kim>", noise, 4, 3.0), atol=1e-3
    )


@pytest.mark.parametrize("method", ["prospect", "sefi"])
def test_what_is_written_is_what_was_learned(tiny_base, folder_of, tmp_path, method):
    base, (train, params) = tiny_base("sd1"), TRAIN[method]
    path = METHODS.get(method).fit(base, folder_of("photos"), params, tmp_path / "out", quiet)
    learned = train(base, load(base, tmp_path / "photos"), params, quiet).staged
    back = load_staged_word(path)
    assert back.word == learned.word == "<subject>"
    for role, encoders in learned.roles.items():
        assert torch.equal(back.roles[role]["text_encoder"], encoders["text_encoder"])
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert set(told["files"]) == {"learned_stages.safetensors"}


def test_bad_input_ends_with_one_sentence(tiny_base, folder_of, tmp_path):
    base, photos = tiny_base("sd1"), folder_of("photos")
    for method, params, said in (
        ("cross-initialization", CrossInitialization(init=()), "--init"),
        ("cross-initialization", CrossInitialization(vectors=40), "no room for 40 vectors"),
        ("cross-initialization", CrossInitialization(anchor=-1.0), "anchor must not be below zero"),
        ("cross-initialization", CrossInitialization(word="man"), "in the vocabulary"),
        ("prospect", ProSpect(stages=0), "stages must be above zero"),
        ("prospect", ProSpect(word="two words"), "no word that can be learned"),
        ("sefi", SeFi(init="man", reference="red house of a king"), "name a word of one"),
        ("sefi", SeFi(init="man", reference="man", attention_weight=-1.0), "attention weight must not be below zero"),
        ("sefi", SeFi(init="man", reference="man", batch=0), "batch must be above zero"),
    ):
        with pytest.raises(UsageError, match=said):
            METHODS.get(method).fit(base, photos, params, tmp_path / "out", quiet)
    (photos / "broken.png").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="--skip-unreadable"):
        METHODS.get("prospect").fit(base, photos, TRAIN["prospect"][1], tmp_path / "out", quiet)
    skipping = Training(skip_unreadable=True)
    METHODS.get("prospect").fit(base, photos, TRAIN["prospect"][1], tmp_path / "out", quiet, skipping)


def test_the_command_line_offers_what_a_method_can_do(tiny_folders, folder_of, tmp_path, capsys):
    photos = folder_of("photos")
    (photos / "broken.png").write_bytes(b"nothing")
    given = ["--images", str(photos), "--base", str(tiny_folders("sd1")), "--device", "cpu", "--steps", "1"]
    given += ["--init", "man", "--stages", "2", "--no-network", "-o"]
    assert run(["personalize", "prospect", *given, str(tmp_path / "no")]) == 64
    assert "--skip-unreadable" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert run(["personalize", "prospect", *given, str(tmp_path / "out"), "--skip-unreadable"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "learned_stages.safetensors")
    assert load_staged_word(tmp_path / "out" / "learned_stages.safetensors").stages == 2

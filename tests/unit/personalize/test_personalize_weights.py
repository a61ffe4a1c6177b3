"""Methods that change weights: exact algebra, the base untouched, files that loaders and our reader agree on."""

import json
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from weight_cases import all_weights, evaluate, quiet, same_weights, write_photos

from auditor.errors import UsageError
from auditor.personalize import classdiffusion, diffusekrona, orthogonal_adaptation, resadapter, sigstyle
from auditor.personalize.blocks.attention_swap import queries_given, queries_kept
from auditor.personalize.blocks.denoising import draw
from auditor.personalize.blocks.examples import Examples
from auditor.personalize.blocks.layers.adapted import adapted, layers_of
from auditor.personalize.blocks.layers.convolution import ConvolutionChange
from auditor.personalize.blocks.layers.full import FullChange
from auditor.personalize.blocks.layers.orthogonal import columns_of_draw, columns_of_slot, shared_columns
from auditor.personalize.blocks.merging import crosstalk, gram_certificate, merge
from auditor.personalize.blocks.words import Words, word_vectors
from auditor.pipeline.conditioning import encode_prompts
from auditor.pipeline.open import open_subject
from auditor.registry import METHODS

KRON = diffusekrona.DiffuseKronA(prompt="a picture of sks cat", a1=4, a2=4, steps=3, batch=2, lr=2e-2)
ORTHOGONAL = orthogonal_adaptation.OrthogonalAdaptation(
    prompt="a picture of sks cat", rank=4, steps=3, batch=2, lr=2e-2
)
CLASS = classdiffusion.ClassDiffusion(class_word="cat", init="sks", steps=3, batch=2, lr=1e-2)
STYLE = sigstyle.SigStyle(steps=3, batch=2, lr=2e-2)
RESOLUTION = resadapter.ResAdapter(prompt="a cat", scales=(0.5, 1.5), rank=2, steps=4, batch=2, lr=2e-2)
RECIPES = {
    "diffusekrona": KRON, "orthogonal-adaptation": ORTHOGONAL, "classdiffusion": CLASS, "sigstyle": STYLE,
    "resadapter": RESOLUTION,
}  # fmt: skip


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos")


def examples_of(base, prompt="a picture of sks cat", side=16):
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Examples.of(base, images, [prompt] * 2)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_base_comes_back_bit_for_bit_also_after_an_exception(tiny_base, photos, tmp_path, name, family):
    base, method = tiny_base(family), METHODS.get(name)
    before, layout = all_weights(base), str(base.unet)

    def stop(done, total, label=""):
        if done == 2:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        method.fit(base, photos, RECIPES[name], tmp_path / "stopped", stop)
    assert same_weights(base, before)
    path = method.fit(base, photos, RECIPES[name], tmp_path / "out", quiet)
    assert same_weights(base, before)
    assert str(base.unet) == layout
    assert path.parent == tmp_path / "out"
    told = json.loads((path.parent / "provenance.json").read_text())
    assert told["method"] == name
    assert told["base"]["sha256"] == base.sha256
    assert sorted(told["files"]) == sorted(p.name for p in path.parent.glob("*.safetensors"))
    assert len(told["images"]) == 2


# Files: what the subject of an audit predicts is what the model with the change predicted in training


def audited(files, folder, prompt, side=8, t=300):
    latents = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(0))
    with open_subject(files, str(folder), "cpu") as subject:
        assert subject.coverage.full, subject.coverage
        condition = subject.tuned.encode_prompt([prompt] * 2)
        plain = subject.base.denoiser.predict(latents, torch.tensor([t, 40]), condition).native
        tuned = subject.tuned.denoiser.predict(latents, torch.tensor([t, 40]), condition).native
        return tuned, plain, condition


def with_deltas(base, deltas, condition, side=8):
    """The prediction with weights added in place, which is independent of how layers are put in."""
    weights = {path: base.unet.get_submodule(path).weight for path in deltas}
    before = {path: weight.data for path, weight in weights.items()}
    try:
        for path, weight in weights.items():
            weight.data = before[path] + deltas[path]
        return evaluate(base, condition=condition, side=side)
    finally:
        # The base is shared by all tests: it comes back bit for bit.
        for path, weight in weights.items():
            weight.data = before[path]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_orthogonal_adapters_are_loaded_by_diffusers_and_audited_alike(
    tiny_folders, photos, tmp_path, family
):
    from auditor.pipeline.components import load_components

    base = load_components(tiny_folders(family), torch.device("cpu"), torch.float32)
    path = METHODS.get("orthogonal-adaptation").fit(base, photos, ORTHOGONAL, tmp_path / "out", quiet)
    tuned, plain, condition = audited([path], tiny_folders(family), ORTHOGONAL.prompt)
    stored = load_file(path)
    deltas = {
        k.removeprefix("unet.").removesuffix(".lora_B.weight"): v @ stored[k.replace("lora_B", "lora_A")]
        for k, v in stored.items()
        if "lora_B" in k
    }
    assert len(deltas) == len(layers_of(base.unet, orthogonal_adaptation.LAYERS))
    assert torch.allclose(tuned, with_deltas(base, deltas, condition), atol=1e-4)
    assert not torch.allclose(tuned, plain, atol=1e-3)
    kind = diffusers.StableDiffusionXLPipeline if family == "sdxl" else diffusers.StableDiffusionPipeline
    more = {"add_watermarker": False} if family == "sdxl" else {"safety_checker": None}
    pipe = kind.from_pretrained(tiny_folders(family), **more)
    pipe.load_lora_weights(str(path))
    base.modules["unet"] = pipe.unet
    assert torch.allclose(evaluate(base, condition=condition), tuned, atol=1e-4)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kronecker_adapters_are_read_by_the_lycoris_library(
    tiny_folders, photos, tmp_path, family, monkeypatch
):
    from auditor.pipeline.components import load_components

    wrapper = pytest.importorskip("lycoris.wrapper")
    base = load_components(tiny_folders(family), torch.device("cpu"), torch.float32)
    path = METHODS.get("diffusekrona").fit(base, photos, KRON, tmp_path / "out", quiet)
    stored = load_file(path)
    names = {path.replace(".", "_"): path for path in layers_of(base.unet, diffusekrona.ATTENTION)}
    deltas = {}
    for key, left in stored.items():
        if key.endswith(".lokr_w1"):
            right = stored[key.replace("w1", "w2")]
            delta = np.kron(left.float().numpy(), right.float().numpy())
            deltas[names[key.removeprefix("lora_unet_").partition(".")[0]]] = torch.from_numpy(delta)
    assert deltas.keys() == set(names.values())
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    trained = sum(v.numel() for k, v in stored.items() if not k.endswith(".alpha"))
    assert told["parameters"] == trained == diffusekrona.parameters_on(base.unet, 4, 4)
    condition = encode_prompts(base, base.tokenizers, [KRON.prompt] * 2)
    ours, plain = with_deltas(base, deltas, condition), evaluate(base, condition=condition)
    assert not torch.allclose(ours, plain, atol=1e-3)
    monkeypatch.setattr(wrapper.LycorisNetwork, "LORA_PREFIX", "lora_unet")
    network, _ = wrapper.create_lycoris_from_weights(1.0, str(path), base.unet)
    assert len(network.loras) == len(deltas)
    network.apply_to()
    assert torch.allclose(evaluate(base, condition=condition), ours, atol=1e-3)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_kronecker_training_sees_the_model_that_the_file_makes(tiny_base, family):
    base = tiny_base(family)
    recipe = replace(KRON, a1=4, a2=2)
    trained = diffusekrona.train_diffusekrona(base, examples_of(base), recipe, quiet)
    deltas = {path: torch.kron(left, right) for path, (left, right) in trained.factors.items()}
    assert trained.parameters == diffusekrona.parameters_on(base.unet, 4, 2)
    for path, (left, right) in trained.factors.items():
        out, within = base.unet.get_submodule(path).weight.shape
        assert left.numel() + right.numel() == 4 * 2 + out * within // 8
        products = torch.outer(torch.linalg.svdvals(left), torch.linalg.svdvals(right)).flatten()
        values = torch.linalg.svdvals(deltas[path])
        assert torch.allclose(values[: len(products)], products.sort(descending=True).values, atol=1e-5)
    condition = encode_prompts(base, base.tokenizers, [KRON.prompt] * 2)

    def replay(path, layer):
        from auditor.personalize.blocks.layers.kronecker import KroneckerChange

        change = KroneckerChange(layer.out_features, layer.in_features, 4, 2, torch.Generator())
        change.left.data, change.right.data = trained.factors[path]
        return change

    with adapted(base.unet, diffusekrona.ATTENTION, replay):
        inside = evaluate(base, condition=condition)
    assert torch.allclose(inside, with_deltas(base, deltas, condition), atol=1e-4)


def test_the_parameter_counts_of_the_paper_come_out():
    """560 attention projections of SDXL: LoRA of rank 4 has 5,806,080 parameters, Kronecker 64 x 8 has 2,152,320."""
    from auditor.artifact.family import SIGNATURES, expected_modules
    from auditor.personalize.blocks.layers.kronecker import parameter_count

    sdxl = next(s for s in SIGNATURES if s.family == "sdxl")
    shapes = [
        shape
        for path, shape in expected_modules(sdxl, "unet").items()
        if path.endswith(diffusekrona.ATTENTION)
    ]
    assert len(shapes) == 560
    assert sum(4 * (out + within) for out, within in shapes) == 5_806_080
    assert sum(parameter_count(out, within, 64, 8) for out, within in shapes) == 2_152_320
    assert sum(parameter_count(out, within, 4, 64) for out, within in shapes) == 3_874_560
    assert sum(parameter_count(out, within, 2, 64) for out, within in shapes) == 7_534_080


def test_class_diffusion_files_make_the_model_that_was_trained(tiny_base, tiny_folders, photos, tmp_path):
    for family in ("sd1", "sdxl"):
        base, out = tiny_base(family), tmp_path / family
        path = METHODS.get("classdiffusion").fit(base, photos, CLASS, out, quiet)
        vectors = out / "learned_embeds.safetensors"
        tuned, plain, condition = audited([path, vectors], tiny_folders(family), CLASS.prompt)
        stored = load_file(path)
        kv = layers_of(base.unet, classdiffusion.KEYS_AND_VALUES)
        assert stored.keys() == {f"{path}.weight" for path in kv}
        words = words_from(base, CLASS.word, vectors)
        ours = words.encode([CLASS.prompt] * 2)
        assert torch.allclose(condition.states, ours.states, atol=1e-5)
        deltas = {path: stored[f"{path}.weight"] - layer.weight for path, layer in kv.items()}
        assert torch.allclose(tuned, with_deltas(base, deltas, condition), atol=1e-4)
        assert not torch.allclose(tuned, plain, atol=1e-3)


def words_from(base, word, path):
    stored = load_file(path)
    names = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    return Words(
        base, {word: {e: stored[word if len(stored) == 1 else names[e]] for e in base.text_encoders}}
    )


def test_the_end_of_a_text_is_found_where_the_encoder_pools(tiny_base):
    base = tiny_base("sd1")
    words = Words(base, {CLASS.word: word_vectors(base, "cat", 1)})
    ids = base.tokenizers["text_encoder"]("a photo of a cat cat").input_ids
    pooled = base.modules["text_encoder"](torch.tensor([ids])).pooler_output
    same = base.modules["text_encoder"](
        torch.tensor([base.tokenizers["text_encoder"]("a photo of a cat").input_ids])
    )
    wanted = torch.cosine_similarity(pooled[0], same.pooler_output[0], dim=0)
    got = classdiffusion.class_cosine(base, words, CLASS)
    assert torch.allclose(got, wanted, atol=1e-5)
    torch.autograd.backward(got)
    assert words.vectors["text_encoder"].grad.abs().sum() > 0


def test_without_preservation_class_diffusion_is_custom_diffusion(tiny_base):
    """The plain method written out: full changes of keys and values and one word, one loss."""
    from auditor.personalize.blocks.denoising import denoising_error, mean_square
    from auditor.personalize.blocks.optimise import Group, Optimisation, optimise

    base = tiny_base("sd1")
    examples, off = examples_of(base), replace(CLASS, preservation=0.0)
    trained = classdiffusion.train_classdiffusion(base, examples, off, quiet)
    words = Words(base, {off.word: word_vectors(base, off.init, 1)})

    def plain(step):
        drawn = draw(base, examples.latents, off.batch, step.generator)
        return mean_square(denoising_error(base, drawn, words.encode([off.prompt] * off.batch))).mean()

    with adapted(base.unet, classdiffusion.KEYS_AND_VALUES, lambda _, layer: FullChange(layer)) as changes:
        groups = [
            Group("kv", [c.value for c in changes.values()]),
            Group("word", words.parameters, off.word_lr),
        ]
        optimise(groups, plain, Optimisation(off.steps, off.lr, weight_decay=0.0, seed=off.seed), quiet)
        for path, change in changes.items():
            assert torch.equal(
                base.unet.get_submodule(path).layer.weight + change.value, trained.weights[f"{path}.weight"]
            )
    assert torch.equal(words.vectors["text_encoder"][0, 0], trained.vectors["text_encoder"])
    with_term = classdiffusion.train_classdiffusion(base, examples, CLASS, quiet)
    assert with_term.cosine > trained.cosine


def test_style_files_make_the_model_that_was_trained(tiny_base, tiny_folders, photos, tmp_path):
    for family in ("sd1", "sdxl"):
        base, out = tiny_base(family), tmp_path / family
        path = METHODS.get("sigstyle").fit(base, photos, STYLE, out, quiet)
        tuned, plain, condition = audited(
            [path, out / "learned_embeds.safetensors"], tiny_folders(family), STYLE.prompt
        )
        names = {f"lora_unet_{p.replace('.', '_')}.diff": p for p in sigstyle.targets_in(base.unet)}
        stored = load_file(path)
        assert stored.keys() == names.keys()
        assert all(path.startswith("up_blocks.") for path in names.values())
        deltas = {names[k]: v for k, v in stored.items()}
        for layer, delta in deltas.items():
            ratio = (delta / base.unet.get_submodule(layer).weight).double()
            values = torch.linalg.svdvals(ratio)
            assert values[3] < 1e-5 * values[0]
        assert torch.allclose(tuned, with_deltas(base, deltas, condition), atol=1e-4)
        assert not torch.allclose(tuned, plain, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_resolution_files_are_loaded_by_diffusers_and_unload_leaves_the_norms(
    tiny_base, tiny_folders, photos, tmp_path, family
):
    base = tiny_base(family)
    METHODS.get("resadapter").fit(base, photos, RESOLUTION, tmp_path / "out", quiet)
    files = [tmp_path / "out" / name for name in (resadapter.LORA_FILE, resadapter.NORM_FILE)]
    tuned, plain, condition = audited(files, tiny_folders(family), RESOLUTION.prompt, side=4)
    assert not torch.allclose(tuned, plain, atol=1e-3)
    norms = load_file(files[1])
    groups = [p for p, m in base.unet.named_modules() if isinstance(m, nn.GroupNorm) and ".resnets." in p]
    assert norms.keys() == {f"{path}.{part}" for path in groups for part in ("weight", "bias")}
    kind = diffusers.StableDiffusionXLPipeline if family == "sdxl" else diffusers.StableDiffusionPipeline
    more = {"add_watermarker": False} if family == "sdxl" else {"safety_checker": None}
    pipe = kind.from_pretrained(tiny_folders(family), **more)
    pipe.load_lora_weights(str(files[0]), adapter_name="res_adapter")
    pipe.unet.load_state_dict(
        {k.replace("conv.weight", "conv.base_layer.weight"): v for k, v in norms.items()}, strict=False
    )
    layers = [m for m in pipe.unet.modules() if hasattr(m, "lora_A") and isinstance(m, nn.Module)]
    assert len([m for m in layers if len(getattr(m, "lora_A", {}))]) == len(load_file(files[0])) // 3
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    added = None
    if family == "sdxl":
        ids = torch.tensor([[8.0, 8, 0, 0, 8, 8]]).expand(2, -1)
        added = {"text_embeds": condition.pooled, "time_ids": ids}
    with torch.no_grad():
        theirs = pipe.unet(
            latents, torch.tensor([300, 40]), encoder_hidden_states=condition.states, added_cond_kwargs=added
        ).sample
    assert torch.allclose(theirs, tuned, atol=1e-3)
    pipe.unload_lora_weights()
    left = {k: v for k, v in pipe.unet.state_dict().items() if k in norms}
    assert all(torch.equal(left[k], v) for k, v in norms.items())


# Algebra


def test_disjoint_slots_are_orthogonal_and_the_first_columns_do_not_depend_on_how_many_are_made():
    width = 40
    one = shared_columns(7, "a.to_q", width, columns_of_slot(0, 8, width)).double()
    two = shared_columns(7, "a.to_q", width, columns_of_slot(3, 8, width)).double()
    assert torch.allclose(one @ one.T, torch.eye(8).double(), atol=1e-6)
    assert (one @ two.T).abs().max() < 1e-6
    whole = shared_columns(7, "a.to_q", width, range(width)).double()
    assert torch.allclose(whole[:8], one, atol=1e-6)
    assert torch.allclose(whole @ whole.T, torch.eye(width).double(), atol=1e-6)
    assert not torch.allclose(shared_columns(7, "b.to_q", width, range(8)).double(), one, atol=1e-2)
    with pytest.raises(UsageError, match="5 slots"):
        columns_of_slot(5, 8, width)
    with pytest.raises(UsageError, match="rank 41 does not fit"):
        columns_of_draw(0, "a", 41, width)


def test_random_draws_share_rank_squared_over_width_columns():
    width, rank, count = 80, 10, 600
    drawn = [set(columns_of_draw(seed, "a", rank, width)) for seed in range(2 * count)]
    shared = np.array([len(a & b) for a, b in zip(drawn[::2], drawn[1::2], strict=True)])
    assert abs(shared.mean() - rank**2 / width) < 4 * shared.std() / count**0.5


def factors_of(base, slot, **more):
    recipe = replace(ORTHOGONAL, slot=slot, **more)
    return orthogonal_adaptation.train_orthogonal(base, examples_of(base), recipe, quiet).factors


def test_disjoint_adapters_have_no_inner_product_and_merge_exactly(tiny_base):
    base = tiny_base("sd1")
    one, two, drawn = factors_of(base, 0), factors_of(base, 1), factors_of(base, -1, rank=10)
    certificate = gram_certificate([one, two])
    assert certificate.holds(1e-6) and certificate.worst < 1e-6
    assert not gram_certificate([one, drawn]).holds(1e-6)
    deltas = [{p: up.double() @ down.double() for p, (down, up) in f.items()} for f in (one, two)]
    direct = sum(float((deltas[0][p] * deltas[0][p]).sum()) for p in one)
    assert certificate.gram[0, 0] == pytest.approx(direct)
    assert torch.allclose(certificate.cosines.diagonal(), torch.ones(2).double())
    merged = merge([one, two], 0.6)
    for path, (down, up) in merged.items():
        assert torch.allclose(
            up.double() @ down.double(), 0.6 * (deltas[0][path] + deltas[1][path]), atol=1e-6
        )
    alone = merge([one], 1.0)
    assert all(torch.equal(alone[p][0], one[p][0]) and torch.equal(alone[p][1], one[p][1]) for p in one)
    with pytest.raises(UsageError, match="no adapter to merge"):
        merge([])


def test_crosstalk_is_the_ratio_of_what_both_add_to_a_layer(tiny_base):
    base = tiny_base("sd1")
    one, two = factors_of(base, 0), factors_of(base, 1)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    drawn = draw(base, latents, 2, torch.Generator().manual_seed(4))
    condition = encode_prompts(base, base.tokenizers, ["a cat"] * 2)
    measured = crosstalk(base, one, two, drawn, condition)
    path, seen = next(iter(one)), []
    handle = base.unet.get_submodule(path).register_forward_hook(lambda m, args, out: seen.append(args[0]))
    with torch.no_grad():
        evaluate_at(base, drawn, condition)
    handle.remove()
    added = [(seen[0] @ (f[path][1] @ f[path][0]).T).norm() for f in (two, one)]
    assert measured[path] == pytest.approx(float(added[0] / added[1]), rel=1e-4)
    assert set(crosstalk(base, one, one, drawn, condition).values()) == {1.0}


def evaluate_at(base, drawn, condition):
    from auditor.pipeline.denoiser import Denoiser

    return Denoiser(base).predict(drawn.noisy, drawn.t, condition)


def test_a_plain_lora_with_the_same_frozen_factor_is_what_orthogonal_training_is(tiny_base):
    """The off-switch: nothing about the method but its input factor."""
    from auditor.personalize.blocks.layers.low_rank import LowRankChange
    from auditor.personalize.blocks.losses import denoising_loss
    from auditor.personalize.blocks.optimise import Group, Optimisation, optimise

    base = tiny_base("sd1")
    trained = orthogonal_adaptation.train_orthogonal(base, examples_of(base), ORTHOGONAL, quiet).factors

    def make(path, layer):
        return LowRankChange(trained[path][0], layer.out_features, frozen_down=True)

    with adapted(base.unet, orthogonal_adaptation.LAYERS, make) as changes:
        loss = denoising_loss(base, examples_of(base), ORTHOGONAL.batch)
        groups = [Group("up", [c.up for c in changes.values()])]
        optimise(groups, loss, Optimisation(ORTHOGONAL.steps, ORTHOGONAL.lr, seed=ORTHOGONAL.seed), quiet)
        assert all(torch.equal(change.up, trained[path][1]) for path, change in changes.items())


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_change_adds_its_delta(stride):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, stride=stride, padding=1)
    change = ConvolutionChange(layer, 2, torch.Generator().manual_seed(1), 0.5)
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(change(x), torch.zeros(2, 6, 8 // stride, 8 // stride))
    with torch.no_grad():
        change.up.normal_()
    assert torch.allclose(change(x), nn.functional.conv2d(x, change.delta(), None, stride, 1), atol=1e-5)


def test_sizes_are_drawn_by_their_squared_distance_and_the_native_one_never(tiny_base):
    weights = resadapter.size_weights([128, 256, 384, 768, 1024], 512)
    assert np.allclose(
        weights, np.array([384, 256, 128, 256, 512]) ** 2 / (384**2 + 256**2 + 128**2 + 256**2 + 512**2)
    )
    assert resadapter.size_weights([256, 512], 512)[1] == 0
    base = tiny_base("sd1")
    assert resadapter.sizes_of(base, (0.5, 0.75, 1.0, 2.0)) == [8, 12, 16, 32]
    with pytest.raises(UsageError, match="other than 16 pixels"):
        resadapter.sizes_of(base, (1.0,))
    with pytest.raises(UsageError, match="a size other"):
        resadapter.train_resadapter(base, {16: examples_of(base)}, RESOLUTION, quiet)


# The swap of queries


def test_queries_are_kept_by_step_and_given_back_change_nothing(tiny_folders):
    from auditor.pipeline.components import load_components

    base = load_components(tiny_folders("sd1"), torch.device("cpu"), torch.float32)
    with queries_kept(base, 2) as queries:
        first, second, third = (evaluate(base, t=t) for t in (900, 500, 100))
    assert len(queries.steps) == 2
    assert queries.steps[0].keys() == {n for n, _ in base.unet.named_modules() if n.endswith("attn1")}
    with queries_given(base, queries, 2):
        assert all(
            torch.equal(evaluate(base, t=t), kept) for t, kept in ((900, first), (500, second), (100, third))
        )
    swapped = queries.steps[::-1]
    queries.steps[:] = swapped
    with queries_given(base, queries, 1):
        assert not torch.equal(evaluate(base, t=900), first)
        assert torch.equal(evaluate(base, t=500), second)
    with queries_given(base, queries, 0):
        assert torch.equal(evaluate(base, t=900), first)
    with pytest.raises(UsageError, match="of 3 steps"), queries_given(base, queries, 3):
        pass
    with pytest.raises(UsageError, match="another size"), queries_given(base, queries, 1):
        evaluate(base, side=4)
    assert torch.equal(evaluate(base, t=900), first)


def test_transfer_without_kept_queries_is_plain_sampling_from_the_inverted_noise(
    tiny_base, tiny_folders, photos, tmp_path
):
    base = tiny_base("sd1")
    path = METHODS.get("sigstyle").fit(base, photos, STYLE, tmp_path / "out", quiet)
    content = examples_of(base).images
    with open_subject(
        [path, tmp_path / "out" / "learned_embeds.safetensors"], str(tiny_folders("sd1")), "cpu"
    ) as subject:
        drawn = [sigstyle.transfer(subject, content, "a cat", STYLE.prompt, keep, steps=4) for keep in (0, 2)]
        from auditor.pipeline.sampling import ddim_sample

        noise = subject.base.invert(content, ["a cat"] * 2, steps=4)
        tuned = subject.tuned
        plain = ddim_sample(
            tuned.denoiser, noise, tuned.encode_prompt([STYLE.prompt] * 2), tuned.encode_null(2), 4, 3.0
        )
        assert torch.equal(drawn[0], tuned.decode(plain))
        assert not torch.equal(drawn[0], drawn[1])
        with pytest.raises(UsageError, match="0 to 4 can be kept"):
            sigstyle.transfer(subject, content, "a cat", STYLE.prompt, 5, steps=4)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_that_was_killed_goes_on_to_the_same_files(tiny_base, photos, tmp_path, name, monkeypatch):
    from auditor.personalize.blocks import optimise as loop

    base, method = tiny_base("sd1"), METHODS.get(name)
    monkeypatch.setitem(loop.optimise.__kwdefaults__, "every", 1)
    straight = method.fit(base, photos, RECIPES[name], tmp_path / "straight", quiet)
    out = tmp_path / "resumed"
    out.mkdir()

    def stop(done, total, label=""):
        if done == 2:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        method.fit(base, photos, RECIPES[name], out, stop)
    assert (out / "checkpoint.safetensors").exists()
    resumed = method.fit(base, photos, RECIPES[name], out, quiet)
    assert resumed.read_bytes() == straight.read_bytes()
    assert not (out / "checkpoint.safetensors").exists()

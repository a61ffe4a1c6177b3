import json
import resource
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from auditor.errors import BaseUnavailable, CoverageError, UnsupportedArtifact, UsageError
from auditor.pipeline.components import folder_hash, load_components
from auditor.pipeline.conditioning import encode_prompts, token_ids
from auditor.pipeline.open import choose_device, load_base, open_subject

CPU = torch.device("cpu")


@pytest.fixture
def copied(tiny_folders, tmp_path):
    def copy(family="sd1"):
        return shutil.copytree(tiny_folders(family), tmp_path / family)

    return copy


def load(folder):
    return load_components(folder, CPU, torch.float32)


def rewrite(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("family", "kind"), [("sd1", "epsilon"), ("sd2", "v_prediction"), ("sdxl", "epsilon")]
)
def test_a_complete_base_loads_frozen_and_hashed(tiny_base, tiny_folders, family, kind, capfd):
    base = tiny_base(family)
    assert base.family == ("sdxl" if family == "sdxl" else "other")
    assert base.scheduler.config.prediction_type == kind
    for module in base.modules.values():
        assert not module.training and not any(p.requires_grad for p in module.parameters())
    assert base.sha256 == folder_hash(tiny_folders(family))
    assert base.zero_null == (family == "sdxl")


def test_loading_says_nothing(tiny_folders, capfd):
    load(tiny_folders("sdxl"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_prompts_are_encoded_as_the_librarys_pipeline_does(tiny_base, tiny_folders, family):
    import diffusers

    base = tiny_base(family)
    prompts = ["a picture of a red ball", "a cat"]
    with torch.no_grad():
        ours = encode_prompts(base, base.tokenizers, prompts, batch=1)
        if family == "sd1":
            pipe = diffusers.StableDiffusionPipeline.from_pretrained(
                tiny_folders(family), safety_checker=None
            )
            theirs, pooled = pipe.encode_prompt(prompts, "cpu", 1, False)[0], None
        else:
            pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
                tiny_folders(family), add_watermarker=False
            )
            theirs, _, pooled, _ = pipe.encode_prompt(
                prompts, device="cpu", do_classifier_free_guidance=False
            )
    assert torch.allclose(ours.states, theirs, atol=1e-5)
    if pooled is not None:
        assert torch.allclose(ours.pooled, pooled, atol=1e-5)


def test_a_component_without_some_weights_is_an_error(copied):
    folder = copied()
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    gone = next(key for key in state if key.endswith("attn2.to_k.weight"))
    del state[gone]
    save_file(state, path)
    with pytest.raises(CoverageError, match=f"unet lacks 1 of .*{gone}"):
        load(folder)


def test_a_text_encoder_without_some_weights_is_an_error(copied):
    folder = copied()
    path = folder / "text_encoder" / "model.safetensors"
    state = load_file(path)
    del state[next(key for key in state if key.endswith("q_proj.weight"))]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CoverageError, match="text_encoder lacks 1"):
        load(folder)


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_saved_with_an_active_adapter_is_an_error(copied):
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    folder = copied()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"]))
    unet.save_pretrained(folder / "unet")
    assert any("base_layer" in k for k in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"))
    with pytest.raises(CoverageError, match="active adapter"):
        load(folder)


def test_weights_that_no_module_has_are_an_error(copied):
    folder = copied()
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"hidden.weight": torch.zeros(2)}, path)
    with pytest.raises(CoverageError, match="does not use"):
        load(folder)


def test_older_names_of_the_same_weights_are_complete(copied, tiny_base):
    folder = copied()
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, value in load_file(path).items():
        for new, old in older.items():
            key = key.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{old}.")
        state[key] = value
    assert any(".query." in key for key in state)
    save_file(state, path)
    images = torch.zeros(1, 3, 16, 16)
    ours = load(folder).vae.encode(images).latent_dist.mean
    assert torch.allclose(ours, tiny_base("sd1").vae.encode(images).latent_dist.mean)


def test_half_precision_weights_alone_are_enough(copied):
    folder = copied()
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        (folder / f"{name}.safetensors").rename(folder / f"{name}.fp16.safetensors")
    half = load_components(folder, CPU, torch.float16)
    assert half.dtype == torch.float16 and half.vae.dtype == torch.float32


def _no_index(folder):
    (folder / "model_index.json").unlink()


def _other_class(folder):
    rewrite(folder / "model_index.json", lambda v: v.update(_class_name="Flux\x1bPipeline"))


def _other_unet(folder):
    rewrite(folder / "unet" / "config.json", lambda v: v.update(_class_name="UNet3DConditionModel"))


def _no_vae(folder):
    shutil.rmtree(folder / "vae")


def _no_tokenizer(folder):
    shutil.rmtree(folder / "tokenizer")


def _no_safetensors(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
        folder / "unet" / "diffusion_pytorch_model.bin"
    )


def _cut(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _broken_json(folder):
    (folder / "unet" / "config.json").write_text("{")


def _flow_scheduler(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))


def _unknown_scheduler(folder):
    rewrite(folder / "scheduler" / "scheduler_config.json", lambda v: v.update(_class_name="os.system"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_no_index, "no model_index.json"),
        (_other_class, r"Flux\\u001bPipeline.*not supported"),
        (_other_unet, "UNet3DConditionModel"),
        (_no_vae, "no vae folder"),
        (_no_tokenizer, "no tokenizer folder"),
        (_no_safetensors, "no safetensors weights"),
        (_cut, "unet cannot be loaded"),
        (_broken_json, "not valid JSON"),
        (_flow_scheduler, "FlowMatchEulerDiscreteScheduler.*not supported"),
        (_unknown_scheduler, "os.system"),
    ],
)
def test_a_base_that_cannot_be_used_is_named_in_one_sentence(copied, damage, told):
    folder = copied()
    damage(folder)
    with pytest.raises(BaseUnavailable, match=told) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_folder_that_is_not_there_is_no_hub_id(tmp_path):
    with pytest.raises(BaseUnavailable, match="not a diffusers model folder"):
        load_base(str(tmp_path / "gone"))


def test_a_hub_id_needs_a_pinned_revision():
    for revision in ("", "main", "z" * 40):
        with pytest.raises(UsageError, match="pinned --revision"):
            load_base("someone/model", revision=revision)


def test_a_base_that_is_not_on_this_machine_is_said_to_be_so(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseUnavailable, match="not on this machine and downloads are off"):
        load_base("someone/model", revision="a" * 40)
    with pytest.raises(BaseUnavailable, match="not on this machine and it is offline"):
        load_base("someone/model", revision="a" * 40, allow_download=True)


def test_devices_that_cannot_compute_are_refused():
    for name in ("cuda:93", "abacus", "meta"):
        with pytest.raises(UsageError, match="not available"):
            choose_device(name)
    assert choose_device("cpu").type == "cpu"


def test_what_is_no_adapter_is_named_before_any_base_is_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UnsupportedArtifact, match="text file"):
        open_subject([tmp_path / "notes.txt"])
    with pytest.raises(UsageError, match="nothing to audit"):
        open_subject([])


def test_a_tokenizer_without_a_length_is_cut_to_the_encoders(copied):
    folder = copied()
    rewrite(folder / "tokenizer" / "tokenizer_config.json", lambda v: v.pop("model_max_length"))
    tokenizer = load(folder).tokenizers["text_encoder"]
    assert token_ids(tokenizer, ["a cat"]).shape == (1, 24)


def test_what_was_computed_of_a_base_is_kept_by_its_whole_key(tiny_folders):
    base, calls = load(tiny_folders("sd1")), []
    for key in (("a", 1), ("a", 2), ("a", 1)):
        base.remember(key, lambda key=key: calls.append(key) or key)
    assert calls == [("a", 1), ("a", 2)]
    assert load(tiny_folders("sd1")).remember(("a", 1), lambda: "other") == "other"


@pytest.mark.parametrize("how", ["config", "keys", "gguf"])
def test_a_quantised_base_is_refused_in_one_sentence(copied, how):
    folder = copied()
    unet = folder / "unet"
    if how == "config":
        settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        rewrite(unet / "config.json", lambda config: config.update(quantization_config=settings))
    elif how == "keys":
        path = next(unet.glob("*.safetensors"))
        tensors = load_file(path)
        tensors["mid_block.resnets.0.conv1.scale_weight"] = torch.ones(())
        save_file(tensors, path)
    else:
        next(unet.glob("*.safetensors")).unlink()
        (unet / "model.gguf").write_bytes(b"GGUF\3\0\0\0" + bytes(16))
    with pytest.raises(
        BaseUnavailable, match=r"unet cannot be used: its weights are quantised with .*16 or 32 bits"
    ):
        load(folder)


def test_a_base_cast_to_eight_bit_floats_loads_as_what_it_holds(copied):
    folder = copied()
    path = next((folder / "unet").glob("*.safetensors"))
    narrow = {key: value.to(torch.float8_e4m3fn) for key, value in load_file(path).items()}
    save_file(narrow, path)
    weight = load(folder).unet.conv_in.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, narrow["conv_in.weight"].float())


@pytest.mark.parametrize(
    ("component", "key", "value", "match"),
    [
        ("text_encoder", "num_hidden_layers", 10**9, "says num_hidden_layers 1000000000, but stores"),
        ("unet", "transformer_layers_per_block", [1, 10**8], "says transformer_layers_per_block"),
        ("text_encoder", "vocab_size", 10**9, "other shapes than its config says"),
        ("unet", "cross_attention_dim", 10**8, "cannot be loaded"),
        ("unet", "block_out_channels", [10**5, 2 * 10**5], "cannot be loaded"),
    ],
)
def test_a_config_that_claims_a_monstrous_model_is_refused_before_it_is_built(
    copied, capfd, component, key, value, match
):
    folder = copied()
    rewrite(folder / component / "config.json", lambda config: config.update({key: value}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BaseUnavailable, match=match):
        load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024
    out, err = capfd.readouterr()
    assert "LOAD REPORT" not in out + err

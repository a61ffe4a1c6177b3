"""PEFT folders of LoHa, LoKr and (IA)3 against PEFT's own merged weights."""

import copy
import logging

import pytest
import torch

from auditor.pipeline.open import open_subject

peft = pytest.importorskip("peft")

LINEAR = ["to_q", "to_k", "ff.net.2"]
METHODS = {
    "LoHa": lambda: peft.LoHaConfig(r=2, alpha=3, target_modules=LINEAR),
    "LoHa on convolutions": lambda: peft.LoHaConfig(r=2, alpha=3, target_modules=["conv1", "proj_in"]),
    "LoHa with cores": lambda: peft.LoHaConfig(
        r=2, alpha=3, target_modules=["conv1"], use_effective_conv2d=True
    ),
    "LoHa by patterns": lambda: peft.LoHaConfig(
        r=2, target_modules=LINEAR, rank_pattern={"to_q": 4}, alpha_pattern={"to_q": 2.0}
    ),
    "LoKr": lambda: peft.LoKrConfig(r=1, alpha=3, target_modules=LINEAR, decompose_factor=4),
    "LoKr, both factored": lambda: peft.LoKrConfig(
        r=1, alpha=3, target_modules=LINEAR, decompose_both=True, decompose_factor=4
    ),
    # Here alpha counts, over a rank that is in the config alone.
    "LoKr, both whole": lambda: peft.LoKrConfig(
        r=64, alpha=3, target_modules=LINEAR, rank_pattern={"to_k": 32}, alpha_pattern={"to_k": 5}
    ),
    "LoKr on convolutions": lambda: peft.LoKrConfig(
        r=1, alpha=3, target_modules=["conv1"], decompose_factor=4
    ),
    "LoKr with cores": lambda: peft.LoKrConfig(
        r=1, alpha=3, target_modules=["conv1"], decompose_factor=4, use_effective_conv2d=True
    ),
    "IA3": lambda: peft.IA3Config(
        target_modules=["to_k", "to_out.0", "ff.net.2", "conv1"], feedforward_modules=["ff.net.2"]
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", METHODS)
def test_tuned_weights_are_those_that_peft_merges(tiny_base, tiny_folders, tmp_path, method):
    logging.getLogger("peft").setLevel(logging.ERROR)
    torch.manual_seed(0)
    base = tiny_base("sd1").unet
    model = peft.get_peft_model(copy.deepcopy(base), METHODS[method]())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    merged = model.merge_and_unload().state_dict()
    with open_subject([tmp_path], str(tiny_folders("sd1")), "cpu") as subject:
        assert subject.artifacts[0].adapter.dialect == "peft"
        assert subject.coverage.full, subject.coverage
        tuned = {f"{module}.{p}": c.tuned for (_, module, p), c in subject.changes.modules.items()}
        for key, weight in base.state_dict().items():
            assert torch.allclose(tuned.pop(key, weight), merged[key], rtol=1e-4, atol=1e-5), key
        assert not tuned

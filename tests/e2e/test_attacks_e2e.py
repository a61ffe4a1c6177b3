"""Every attack with its recommended recipe on the embedded base: it works, and its twin does nothing of the kind."""

import pytest

from auditor.pipeline.open import load_base
from auditor.registry import ATTACKS
from auditor.world.embedded import embedded_folder

NAMES = ("badt2i", "cbact2i", "eviledit", "lora_pair", "masqlora", "personalization", "rickrolling", "villan")
needs_base = pytest.mark.skipif(
    not (embedded_folder() / "pipeline" / "model_index.json").is_file(),
    reason="the embedded base is not installed",
)


def quiet(done, total, label=""):
    pass


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_base
@pytest.mark.parametrize("name", NAMES)
def test_the_specimen_answers_its_trigger_and_the_twin_does_not(name, tmp_path):
    attack = ATTACKS.get(name)
    specimen = attack.craft(load_base(device="cpu"), attack.params(), tmp_path / "out", quiet)
    cells = specimen.manifest["asr"]["cells"]
    assert cells["specimen, triggered"]["low"] >= 0.8
    assert cells["twin, triggered"]["high"] < cells["specimen, triggered"]["low"]
    # Where parts have to come together, nothing short of all of them does it.
    assert specimen.manifest.get("only_both", True)

"""What every fine-tuning method leaves behind is audited in full: each key arrives, and its recipe is told."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from auditor.artifact.together import identify_parts
from auditor.cli.main import run
from auditor.engine.audit import audit
from auditor.pipeline.open import load_base
from auditor.pipeline.subject import Subject
from auditor.policy import load_policy
from auditor.proving.zoo import Pictures, images_of
from auditor.registry import METHODS
from auditor.world.embedded import embedded_folder
from reports.model import AuditReport

pytestmark = pytest.mark.skipif(
    not (embedded_folder() / "pipeline" / "model_index.json").is_file(),
    reason="the embedded base is not installed",
)

RECIPES = {
    "classdiffusion": ["full", "embedding"],
    "cross-initialization": ["embedding"],
    "diffusekrona": ["kronecker"],
    "dreambooth": ["full"],
    "dreambooth-lora": ["low_rank"],
    "hifi": ["per_step_embedding"],
    "orthogonal-adaptation": ["frozen_input"],
    "prospect": ["per_step_embedding"],
    "resadapter": ["low_rank", "norms"],
    "sefi": ["per_step_embedding"],
    "sigstyle": ["multiplicative", "embedding"],
    "sine": ["full"],
    "styleforge": ["full"],
    "textual-inversion": ["embedding"],
}
"""Method to the recipe classes of its parts, weights first."""
WORDS_ONLY = {"cross-initialization", "hifi", "prospect", "sefi", "textual-inversion"}
ONE_PICTURE = {"sine", "sigstyle"}


@pytest.fixture(scope="session")
def base():
    return load_base(device="cpu")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Four pictures of one clean subject, and the first of them alone."""
    folders = {count: tmp_path_factory.mktemp(f"pictures-{count}") for count in (1, 4)}
    images = images_of(Pictures("person", 4, 3))
    for count, folder in folders.items():
        for i, image in enumerate(images[:count]):
            pixels = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(np.asarray(pixels)).save(folder / f"{i}.png")
    return folders


def fit(name, steps, base, pictures, out):
    recipe = replace(METHODS.get(name).params(), steps=steps)
    if name == "hifi":
        recipe = replace(recipe, sampler_steps=5, refine=1)
    if name == "styleforge":
        recipe = replace(recipe, aux_weight=0.0)
    METHODS.get(name).fit(base, pictures[1 if name in ONE_PICTURE else 4], recipe, out, lambda *told: None)
    return out


def check(report, name):
    coverage = report.subject.coverage
    assert coverage.full, f"{coverage.keys_applied} of {coverage.keys_total}: {coverage.unmatched}"
    results = {result.probe: result for result in report.results}
    assert [a["kind"] for a in results["static.recipe"].details["adapters"]] == RECIPES[name]
    assert results["static.file_safety"].outcome == "pass"
    assert not [finding for finding in report.findings if finding.severity != "info"]
    assert len(report.subject.artifacts) == len(RECIPES[name])


def test_every_method_is_looked_at():
    assert set(RECIPES) == set(METHODS.names())


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_arrives_and_the_recipe_is_told(name, base, pictures, tmp_path):
    out = fit(name, 2, base, pictures, tmp_path / "out")
    with Subject(base, identify_parts(out)) as subject:
        check(audit(subject, policy=load_policy("default"), probes=["static.*"]), name)
        covariates = subject.covariates
    assert covariates["kind"] == "+".join(sorted(RECIPES[name]))
    assert (covariates["denoiser_norm"] == -12.0) == (name in WORDS_ONLY)
    assert (covariates["vectors"] > 0) == (name in WORDS_ONLY | {"classdiffusion", "sigstyle"})


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", RECIPES)
def test_a_clean_fine_tune_raises_no_alarm(name, base, pictures, tmp_path, capsys):
    """The whole audit from the command line: accepted, or inconclusive with what is missing said; nothing found."""
    out = fit(name, 40, base, pictures, tmp_path / "out")
    code = run(["audit", str(out), "-o", str(tmp_path / "run"), "--json", "-q"])
    report = AuditReport.model_validate(json.loads(capsys.readouterr().out))
    check(report, name)
    assert report.verdict.decision in ("accept", "inconclusive") and code == (
        3 if report.verdict.decision == "inconclusive" else 0
    )
    results = {result.probe: result for result in report.results}
    scanned, drifted = results["backdoor.vocabulary_shift"], results["behaviour.drift"]
    assert "fail" not in (scanned.outcome, drifted.outcome)
    if name in WORDS_ONLY:
        assert scanned.outcome == "inconclusive" and "no weight changes" in scanned.reason
        assert report.verdict.decision == "inconclusive"
        assert (drifted.value == -12.0) == (name != "hifi")
    else:
        assert drifted.value > -12.0

import re
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index
from markdown_it import MarkdownIt
from markdown_it.token import Token
from report_hostile import HOSTILE
from report_samples import SAMPLES, accept, empty, reject

from reports.model import AuditReport, Waiver
from reports.writers import model_card

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def split(report: AuditReport) -> tuple[Any, str]:
    text = model_card.write(report, lambda _: b"").decode("utf-8")
    if not text.startswith("---\n"):
        return None, text
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def flat(tokens: list[Token]) -> list[Token]:
    return [token for outer in tokens for token in (outer, *flat(outer.children or []))]


def with_text(text: str) -> AuditReport:
    report = reject()[0]
    finding = report.findings[0].model_copy(update={"title": text, "why": text, "rule_id": text})
    result = report.results[2].model_copy(
        update={"probe": text, "statistic": text, "reason": text, "unit": text}
    )
    verdict = report.verdict.model_copy(update={"reasons": (text,)})
    return report.model_copy(
        update={"findings": (finding,), "results": (result,), "verdict": verdict, "limitations": ()}
    )


@pytest.mark.parametrize("name", ["accept", "reject", "inconclusive", "hostile"])
def test_the_hub_reads_the_front_matter_and_writes_the_same(name: str) -> None:
    report = SAMPLES[name]()[0]
    card = ModelCard(model_card.write(report, lambda _: b"").decode("utf-8"))
    found = card.data.eval_results
    assert len(found) == sum(result.value is not None for result in report.results)
    front, _ = split(report)
    assert eval_results_to_model_index(card.data.model_name, found) == front["model-index"]


def test_figures_are_those_of_the_report() -> None:
    [entry] = model_card.model_index(reject()[0])
    [metric] = [
        each for each in entry["results"][0]["metrics"] if each["type"] == "backdoor.vocabulary_shift"
    ]
    assert metric["value"] == 21.4
    assert metric["args"]["interval"] == [18.9, 24.3]
    assert metric["args"]["outcome"] == "fail"
    assert "verified" not in metric


def test_nothing_measured_is_no_front_matter() -> None:
    front, body = split(empty()[0])
    assert front is None
    assert body.startswith("## Audit\n\n**Inconclusive.**")


def test_the_section_says_decision_measurements_and_what_was_not_tested() -> None:
    _, body = split(accept()[0])
    assert body.lstrip().startswith("## Audit\n\n**Accept.**")
    for said in (
        "### Measured",
        "### Not tested",
        "**Image triggers**",
        "realised false-positive rate 1.25 %",
    ):
        assert said in body


def test_a_waiver_is_told() -> None:
    report = reject()[0]
    waiver = Waiver(rule="r", owner="hub team", reason="known trainer", expires="2026-12-31")
    waived = report.findings[0].model_copy(update={"waiver": waiver})
    _, body = split(report.model_copy(update={"findings": (waived,)}))
    assert "Waived by hub team until 2026-12-31: known trainer" in body


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_can_format_link_or_leave_its_place(text: str) -> None:
    front, body = split(with_text(text))
    tokens, plain = flat(PARSER.parse(body)), flat(PARSER.parse(split(with_text("plain"))[1]))
    kinds = {token.type for token in tokens}
    assert not kinds & {
        "html_block",
        "html_inline",
        "link_open",
        "image",
        "fence",
        "hr",
        "code_block",
    }
    for kind in (
        "heading_open",
        "table_open",
        "tr_open",
        "list_item_open",
        "blockquote_open",
        "em_open",
        "strong_open",
    ):
        assert sum(t.type == kind for t in tokens) == sum(t.type == kind for t in plain), kind
    assert front.keys() == {"model-index"}
    assert len(front["model-index"][0]["results"][0]["metrics"]) == 1


def test_absolute_paths_stay_at_home() -> None:
    report = reject()[0]
    item = report.subject.artifacts[0].model_copy(update={"path": "/home/somebody/a.safetensors"})
    base = report.subject.base
    assert base
    subject = report.subject.model_copy(
        update={"artifacts": (item,), "base": base.model_copy(update={"ref": "/home/somebody/sd15"})}
    )
    text = model_card.write(report.model_copy(update={"subject": subject}), lambda _: b"").decode()
    assert not re.search("somebody", text)

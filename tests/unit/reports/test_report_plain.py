import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from report_hostile import HOSTILE
from report_samples import SAMPLES, inconclusive, reject

from reports.model import AuditReport, Limitation, Outcome, Waiver
from reports.text import cells
from reports.writers import console, markdown

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
LINKED = re.compile(r"@\w|\B#\d|://|www\.", re.IGNORECASE)


def flat(tokens: list[Token]) -> list[Token]:
    return [token for outer in tokens for token in (outer, *flat(outer.children or []))]


def with_text(report: AuditReport, text: str) -> AuditReport:
    waiver = Waiver(rule=text, owner=text, reason=text, expires=text)
    finding = report.findings[0].model_copy(
        update={"title": text, "why": text, "rule_id": text, "locations": (text,), "waiver": waiver}
    )
    control = report.controls[0].model_copy(
        update={
            "scheme": text,
            "edition": text,
            "id": text,
            "title": text,
            "reason": text,
            "limits": text,
            "evidence": (text,),
        }
    )
    claim = report.subject.claims[0].model_copy(update={"name": text, "claimed": text, "note": text})
    subject = report.subject.model_copy(update={"claims": (claim,)})
    verdict = report.verdict.model_copy(update={"reasons": (text,)})
    limitation = Limitation(topic=text, text=text)
    return report.model_copy(
        update={
            "findings": (finding,),
            "subject": subject,
            "verdict": verdict,
            "controls": (control,),
            "limitations": (limitation,),
        }
    )


def assert_inert(data: str, original: list[Token]) -> None:
    tokens = flat(PARSER.parse(data))
    kinds = {token.type for token in tokens}
    assert not kinds & {
        "html_block",
        "html_inline",
        "link_open",
        "image",
        "em_open",
        "s_open",
        "fence",
        "code_block",
        "hr",
        "lheading_open",
    }
    for token in tokens:
        if token.type == "text":
            assert not LINKED.search(token.content), token.content
    for kind in ("heading_open", "table_open", "tr_open", "td_open", "list_item_open", "blockquote_open"):
        assert sum(t.type == kind for t in tokens) == sum(t.type == kind for t in original), kind


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_can_format_link_or_mention_in_markdown(text: str) -> None:
    report, evidence = reject()
    original = flat(PARSER.parse(markdown.write(with_text(report, "plain"), evidence).decode()))
    assert_inert(markdown.write(with_text(report, text), evidence).decode(), original)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    st.text(alphabet="ab1 \\`*_[]()<>#+-=.!|~&$:@{}\n\"'/", min_size=1, max_size=24).filter(
        lambda text: text.strip()
    )
)
def test_no_punctuation_can_either(text: str) -> None:
    report, evidence = reject()
    original = flat(PARSER.parse(markdown.write(with_text(report, "plain"), evidence).decode()))
    assert_inert(markdown.write(with_text(report, f"x{text}"), evidence).decode(), original)
    assert_inert(markdown.write(with_text(report, f"{text}x"), evidence).decode(), original)


def test_markdown_shows_the_text_that_was_given() -> None:
    report, evidence = reject()
    text = "a*b_c <b> & [x](y) ~ 5.2 | $z$ :tada: 1. -"
    tokens = flat(PARSER.parse(markdown.write(with_text(report, text), evidence).decode()))
    reason = next(token for token in tokens if token.type == "inline" and token.content.startswith("a"))
    assert "".join(child.content for child in reason.children or []) == text


def test_the_hostile_report_has_no_html_link_or_image_in_markdown() -> None:
    tokens = flat(PARSER.parse(markdown.write(*SAMPLES["hostile"]()).decode()))
    assert not {token.type for token in tokens} & {"html_block", "html_inline", "link_open", "image", "fence"}


@pytest.mark.parametrize("name", SAMPLES)
def test_terminal_text_fits_and_cannot_move_the_cursor(name: str) -> None:
    text = console.write(*SAMPLES[name]()).decode()
    assert all(cells(line) <= console.WIDTH for line in text.splitlines())
    assert not set(text) & set("\x00\x07\x1b\x9b\u202e\u200b\ufeff\u2028")


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.text(alphabet="漢字 ab-e\u0301\u202e\x1b", max_size=200))
def test_wide_letters_fit_too(text: str) -> None:
    report, _ = reject()
    shown = console.render(with_text(report, text))
    assert all(cells(line) <= console.WIDTH for line in shown.splitlines())


def test_the_verdict_block_gives_decision_strongest_number_and_what_is_open() -> None:
    lines = console.write(*reject()).decode().split("\n\n")[0].splitlines()
    assert lines[0].startswith("VERDICT     REJECT: A hidden trigger")
    strongest = next(line for line in lines if line.startswith("STRONGEST"))
    assert (
        "backdoor.vocabulary_shift 21.4 sd [18.9, 24.3], p = 0.0083" in strongest
        and "120 clean" in " ".join(lines)
    )
    assert lines[-1].startswith("NOT TESTED  3: Image triggers")
    assert len(lines) <= 6


@pytest.mark.parametrize("writer", [console, markdown])
def test_controls_and_waivers_are_told_in_plain_text(writer) -> None:
    text = " ".join(writer.write(*SAMPLES["waived"]()).decode().split())
    assert "Ada Lovelace" in text and "2027-03-31" in text and "compared tensor by tensor" in text
    assert "no statement that anything or anybody complies" in text
    assert "MS-2.7-005" in text and "this release has no probe watermark" in text.replace("\\", "")
    assert "expired on 2026-10-31" in text and "1 low, 1 waived" in text.lower()


def test_a_finding_that_is_waived_is_never_the_strongest() -> None:
    report, _ = reject()
    waiver = Waiver(rule="r", owner="o", reason="r", expires="2027-01-01")
    findings = [each.model_copy(update={"waiver": waiver}) for each in report.findings]
    text = console.render(report.model_copy(update={"findings": tuple(findings)}))
    assert "STRONGEST   no finding that is not waived (2)" in text
    half = console.render(report.model_copy(update={"findings": (report.findings[0], findings[1])}))
    assert half.index("The header hides") < half.index("calls a hidden second mode")


def test_a_probe_that_gave_an_answer_is_not_called_untested() -> None:
    report, _ = SAMPLES["waived"]()
    shown = console.render(report).partition("NOT TESTED")[2].partition("\n\n")[0]
    assert "backdoor.vocabulary_shift" not in shown and "beyond the test that ran" in " ".join(shown.split())
    assert "beyond backdoor.vocabulary_shift: Phrases of two" in console.render(report)
    unsettled = [
        each.model_copy(update={"outcome": Outcome.INCONCLUSIVE}) if each.probe.startswith("backdoor") else each
        for each in report.results
    ]
    open_ = console.render(report.model_copy(update={"results": tuple(unsettled)}))
    assert "backdoor.vocabulary_shift" in open_.partition("NOT TESTED")[2].partition("\n\n")[0]


def test_inconclusive_text_says_that_it_is_no_pass() -> None:
    text = console.write(*inconclusive()).decode()
    assert text.startswith("VERDICT     INCONCLUSIVE: 0 of 160 keys") and "not a pass" in text


def test_colour_is_only_there_when_asked_for_and_only_on_the_decision() -> None:
    report, _ = reject()
    coloured = console.render(report, colour=True)
    assert coloured.count("\x1b[") == 2
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == console.render(report)

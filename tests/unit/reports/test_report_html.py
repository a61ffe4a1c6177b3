import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from report_hostile import HOSTILE
from report_parts import png
from report_samples import SAMPLES, reject

from reports.index import IndexEntry, entry, write_index
from reports.model import Decision, Outcome, Result
from reports.words import DECISIONS
from reports.writers import html

VOID = {"meta", "img", "path", "circle", "rect", "line", "use", "br"}
TAGS = VOID | set(
    [
        "html",
        "head",
        "title",
        "style",
        "body",
        "svg",
        "symbol",
        "header",
        "main",
        "section",
        "nav",
        "article",
        "footer",
        "div",
        "p",
        "span",
        "a",
        "b",
        "i",
        "h1",
        "h2",
        "h3",
        "h4",
        "ol",
        "ul",
        "li",
        "dl",
        "dt",
        "dd",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "figure",
        "figcaption",
        "pre",
        "code",
        "bdi",
        "details",
        "summary",
        "sub",
    ]
)
ATTRIBUTES = set(
    [
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "class",
        "id",
        "href",
        "aria-label",
        "aria-labelledby",
        "aria-hidden",
        "focusable",
        "viewbox",
        "width",
        "height",
        "d",
        "r",
        "cx",
        "cy",
        "x",
        "y",
        "x1",
        "x2",
        "y1",
        "y2",
        "rx",
        "stroke-dasharray",
        "preserveaspectratio",
        "scope",
        "role",
        "data-label",
        "title",
        "src",
        "alt",
        "tabindex",
        "colspan",
    ]
)


class Page(HTMLParser):
    """Collects what a browser would build."""

    def __init__(self, data: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(data.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment in the page")

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    @property
    def words(self) -> str:
        """The text with a space between elements."""
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def pages() -> dict[str, bytes]:
    out = {name: html.write(*make()) for name, make in SAMPLES.items()}
    cards = [entry(*make(), path=f"{name}/report.html") for name, make in SAMPLES.items()]
    out["index"] = write_index(
        [
            *cards,
            *(IndexEntry(text, Decision.REVIEW, text, text, text, facts=((text, text),)) for text in HOSTILE),
        ],
        HOSTILE[0],
        HOSTILE[1],
    )
    return out


PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_only_our_own_tags_and_attributes_reach_the_page(name: str) -> None:
    page = Page(PAGES[name])
    assert not page.open, "every element is closed"
    for tag, attributes in page.elements:
        assert tag in TAGS
        assert attributes.keys() <= ATTRIBUTES, tag


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_loaded_from_anywhere(name: str) -> None:
    for tag, attributes in Page(PAGES[name]).elements:
        if tag == "img":
            assert re.fullmatch(r"data:image/(png|jpeg|svg\+xml);base64,[A-Za-z0-9+/=]+", attributes["src"])
        elif "href" in attributes:
            assert re.match(r"#[a-z]|\./", attributes["href"]), attributes["href"]
        for attribute, value in attributes.items():
            if attribute not in ("title", "alt", "aria-label"):
                assert "http" not in value.lower()
    style = PAGES[name].decode().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style and "http" not in style


@pytest.mark.parametrize("name", PAGES)
def test_the_policy_allows_this_style_sheet_and_nothing_else(name: str) -> None:
    text = PAGES[name].decode()
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = next(
        meta["content"]
        for meta in Page(PAGES[name]).all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert (
        policy == f"default-src 'none'; img-src data:; style-src 'sha256-{digest}';"
        " base-uri 'none'; form-action 'none'"
    )
    assert text.index("Content-Security-Policy") < text.index("<style>")
    assert text.count("<style") == 1


@pytest.mark.parametrize("name", PAGES)
def test_no_control_bidirectional_or_zero_width_character_is_left(name: str) -> None:
    assert not set(PAGES[name].decode()) & set(
        "\x00\x07\x1b\x9b\u200b\u202a\u202c\u202d\u202e\u2066\u2069\ufeff\u2028"
    )


def test_hostile_text_is_shown_as_text() -> None:
    text = Page(PAGES["hostile"]).text
    for piece in (
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "\\u001b[2J",
        "\\u202egnp.exe\\u202c",
        "]]><b>x</b>",
        "</style><style>*{display:none}",
        "{{ 7*7 }}",
    ):
        assert piece in text


def test_a_scripted_svg_an_entity_bomb_and_a_false_picture_are_text() -> None:
    page = Page(PAGES["hostile"])
    assert len(page.all("img")) == 1, "only the one true picture is drawn"
    assert 'onload="alert(1)"' in page.text and "<!ENTITY" in page.text


def test_ids_are_unique_and_links_in_the_page_lead_somewhere() -> None:
    for data in PAGES.values():
        page = Page(data)
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        targets = {a["href"][1:] for _, a in page.elements if a.get("href", "").startswith("#")}
        targets |= {word for _, a in page.elements for word in a.get("aria-labelledby", "").split()}
        assert targets <= set(ids)


@pytest.mark.parametrize("name", PAGES)
def test_the_page_can_be_read_without_seeing_it(name: str) -> None:
    page = Page(PAGES[name])
    assert page.all("html") == [{"lang": "en"}] and len(page.all("h1")) == 1 and page.all("main")
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels)), "no level is skipped"
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in th for th in page.all("th"))


@pytest.mark.parametrize("decision", Decision)
def test_every_decision_is_told_in_words_and_with_its_own_icon(decision: Decision) -> None:
    report, evidence = reject()
    verdict = report.verdict.model_copy(update={"decision": decision})
    page = Page(html.write(report.model_copy(update={"verdict": verdict}), evidence))
    assert DECISIONS[decision].title in page.text and DECISIONS[decision].meaning in page.text
    assert page.all("use")[0]["href"] == f"#i-{decision.value}"


def test_the_worst_finding_comes_first_with_its_picture_and_its_measurement() -> None:
    text = Page(PAGES["reject"]).text
    assert (
        text.index("calls a hidden second mode")
        < text.index("The header hides")
        < text.index("What was not tested")
        < text.index("Every measurement")
    )
    assert "18.9 to 24.3 (95\u00a0% CI)" in PAGES["reject"].decode()


def test_sensitive_pictures_stay_out_unless_asked_for() -> None:
    report, evidence = reject()
    face = base64.b64encode(png(2, 2))
    assert face not in html.write(report, evidence) and b"Sensitive" in html.write(report, evidence)
    assert face in html.render(report, evidence, show_sensitive=True)


def test_an_inconclusive_report_never_reads_as_clean() -> None:
    text = Page(PAGES["inconclusive"]).text
    assert "This is not a pass" in text and "0 of 160 keys" in text and "not a clean bill" in text
    assert (
        "0 of 160 keys applied; the rest was not tested." in text
        and "skipped: 0 of 160 keys applied." in text
    )


def test_a_waived_finding_comes_last_and_says_who_until_when_and_why() -> None:
    page = Page(PAGES["waived"])
    text = page.words
    assert text.index("The rank is not the one") < text.index("waived: does not decide")
    for piece in ("Waived by Ada Lovelace", "Until 2027-03-31", "Because Our own training run wrote it"):
        assert piece in text
    assert "1 low, 1 waived" in text
    assert sum("set-aside" in each.get("class", "") for each in page.all("article")) == 1


def test_controls_stand_by_framework_with_status_reason_evidence_and_limits() -> None:
    page = Page(PAGES["waived"])
    assert sum(each.get("class") == "framework" for each in page.all("section")) == 2
    text = page.words.partition("Evidence for controls")[2].partition("Frozen before")[0]
    assert text.strip().startswith("What this audit can be evidence for")
    for piece in (
        "NIST AI 600-1 2024-07 Evidence for 2 Evidence against 3 Some evidence 2 Not assessed 11",
        "MS-2.7-005 Measure how reliable",
        "this release has no probe watermark.*",
        "From static.file_safety , backdoor.vocabulary_shift",
        "Limits Signatures of reports are checked",
    ):
        assert piece in text or piece in text.replace(" ,", ","), piece
    assert not re.search(r"(?<!that anything or anybody )\bcompl(y|ies|iant|iance)\b", text)


@pytest.mark.parametrize("name", ["accept", "reject", "waived", "inconclusive"])
def test_the_first_screen_says_what_was_found_how_sure_and_what_was_not_tested(name: str) -> None:
    first = Page(PAGES[name]).words.partition("Probes evaluated")[0]
    places = [first.index(f" {heading} ") for heading in ("Why", "How sure", "Not tested", "What to do")]
    assert places == sorted(places)
    assert re.search(r"\d of \d probes gave an answer", first)


def test_the_whole_hash_of_what_was_audited_can_be_read() -> None:
    report, _ = SAMPLES["accept"]()
    assert report.subject.artifacts[0].sha256 in Page(PAGES["accept"]).text


@pytest.mark.parametrize("name", PAGES)
def test_tables_that_are_stacked_on_a_phone_keep_their_meaning(name: str) -> None:
    page = Page(PAGES[name])
    for table in page.all("table"):
        if re.search("stack|results", table["class"]):
            assert table["role"] == "table"
    assert all(each["role"] == "cell" for each in page.all("td") if "data-label" in each)
    assert all("aria-label" in each for _, each in page.elements if each.get("tabindex") == "0")
    first_link = next(attributes for tag, attributes in page.elements if tag == "a")
    assert first_link["class"] == "skip"


def test_an_unanswered_probe_and_an_uncalibrated_result_are_said() -> None:
    report, evidence = SAMPLES["accept"]()
    loose = Result(probe="file.safety", version=1, outcome=Outcome.PASS)
    text = Page(html.write(report.model_copy(update={"results": (loose,)}), evidence)).text
    assert "uncalibrated" in text and "planned, and ended without a result." in text


@pytest.mark.parametrize(
    "path", ["javascript:alert(1)", "a b/ü/report.html", "x:y/report.html", "run/report.html?#"]
)
def test_a_card_links_to_a_file_beside_the_index_whatever_it_is_called(path: str) -> None:
    href = IndexEntry("n", Decision.ACCEPT, "r", path).href
    assert href.startswith("./") and re.fullmatch(r"[\w./%~-]+", href)


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x.html", "a/../../x", "//evil.example", "a\\b", "a//b"]
)
def test_a_card_never_links_out_of_the_folder(path: str) -> None:
    assert IndexEntry("n", Decision.ACCEPT, "r", path).href == ""
    assert b'href="' not in write_index([IndexEntry("n", Decision.ACCEPT, "r", path)]).partition(b"<main")[
        2
    ].replace(b'href="#', b"")


def test_long_text_is_cut() -> None:
    shown = [text for text in Page(PAGES["hostile"]).texts if "n" * 200 in text]
    assert shown and len(PAGES["hostile"]) < 400_000

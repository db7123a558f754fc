"""The page: complete, safe, silent, the same bytes every time."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from palimpsest.report import fragment, render, summary
from tests.report import worlds

VOID = {"meta", "br", "link", "img", "input", "hr", "wbr"}
INLINE = {"wbr", "code"}


class Page(HTMLParser):
    """Collects the elements of a page, and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.part(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()
        self.part(tag)

    def part(self, tag, attrs=()):
        """Part the words before and after a tag, unless it stands inside a sentence."""
        if tag not in INLINE and not (tag == "span" and dict(attrs).get("class") == "whole"):
            self.text.append(" ")

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: render(make()) for name, make in worlds.ALL.items()}


@pytest.fixture(scope="module", params=list(worlds.ALL))
def page(request: pytest.FixtureRequest, pages: dict[str, str]) -> Page:
    return Page(pages[request.param])


@pytest.mark.parametrize("name", ["as_intended", "hostile"])
def test_same_record_same_bytes_in_another_process(name: str, pages: dict[str, str]) -> None:
    code = (
        "import sys, hashlib; from tests.report import worlds; from palimpsest.report import render; "
        f"text = render(worlds.ALL[{name!r}]()); assert 'torch' not in sys.modules; "
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hashlib.sha256(pages[name].encode()).hexdigest()


def test_stored_record_gives_the_same_page(pages: dict[str, str]) -> None:
    record = worlds.as_intended()
    assert render(type(record).model_validate_json(record.model_dump_json())) == pages["as_intended"]


def test_page_loads_nothing_and_runs_nothing(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "link", "iframe", "object", "embed", "form", "base", "image", "foreignobject"}
    for tag, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on") or key in ("style", "src")], (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")


def test_policy_allows_the_style_sheet_and_nothing_else(pages: dict[str, str]) -> None:
    text = pages["as_intended"]
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert policy and style and text.count("<style") == 1
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy[1].split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert "url(" not in style[1] and "@import" not in style[1]


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in page.elements if tag in ("a", "use") and attributes.get("href")]
    assert {link[1:] for link in links if link} <= set(ids)
    named = [(attributes.get("aria-labelledby") or "").split() for _, attributes in page.elements]
    assert {one for names in named for one in names} <= set(ids)


def test_every_figure_has_a_title_and_house_colours(page: Page) -> None:
    plots = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert all(one["role"] == "img" and one["aria-labelledby"] and "width" not in one for one in plots)
    drawn = {value for tag, one in page.elements for key, value in one.items() if key in ("fill", "stroke") and value}
    from palimpsest.report.look import COLOURS

    assert drawn <= {*COLOURS, "none"}


def test_untrusted_text_can_not_act(pages: dict[str, str]) -> None:
    text = pages["hostile"]
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    assert "U+202E" in text and "\N{SYMBOL FOR ESCAPE}[31m" in text and "{{7*7}}" in text
    text.encode("utf-8")


def test_order_of_reading(pages: dict[str, str]) -> None:
    parts = ['id="verdict"', 'id="picture"', 'id="audit-outcome"', 'id="audit-judgement"', 'id="audit-forgetting"',
             'id="audit-divergence"', 'id="samples"', 'id="training"', 'id="provenance"', 'id="reading"']  # fmt: skip
    places = [pages["as_intended"].index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize("name", list(worlds.ALL))
def test_verdict_is_whole(name: str, pages: dict[str, str]) -> None:
    record, words = worlds.ALL[name](), Page(pages[name]).words.lower()
    for said in (record.verdict.headline, *record.verdict.reasons, *record.verdict.next_steps):
        if name != "hostile":
            assert " ".join(said.lower().split()) in words


def test_audits_without_numbers_say_so_twice(pages: dict[str, str]) -> None:
    words = Page(pages["could_not_say"]).words
    for why in ("the behaviour has no 'withhold' pole: say where it should not appear", "FloatingPointError: overflow"):
        assert words.count(why) == 2
    assert "could not say 5 clusters, 8 are needed" in words
    assert "30.0% no interval: 5 clusters, 8 are needed" in words
    assert "(it failed)" in words


def test_nothing_unknown_is_written_as_zero(pages: dict[str, str]) -> None:
    words = Page(pages["could_not_say"]).words
    assert not re.search(r"\b(nan|None|0\.0 points|0\.0%)", words)


def test_docstring_sections_and_intervals_are_told(pages: dict[str, str]) -> None:
    words = Page(pages["as_intended"]).words
    for part in ("Method", "Null", "Limits", "Reference", "paired CR2 t interval over 24 clusters", "Miller 2024"):
        assert part in words


def test_samples_are_side_by_side_with_marks(pages: dict[str, str]) -> None:
    page = Page(pages["as_intended"])
    classes = [attributes.get("class") or "" for _, attributes in page.elements]
    assert classes.count("sample") == 16
    assert "✓ pass" in page.words and "✗ fail" in page.words
    assert sum(tag == "mark" for tag, _ in page.elements) > 10


def test_seeds_are_compared(pages: dict[str, str]) -> None:
    words = Page(pages["three_seeds"]).words
    assert "Across training seeds" in words and "mean over seeds" in words and "seed 2" in words
    assert "Across training seeds" not in Page(pages["as_intended"]).words


def test_a_plot_that_fails_costs_only_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    from palimpsest import audit as audits

    def broken(result, axes):
        raise ValueError("no <room>")

    monkeypatch.setattr(type(audits.load("forgetting")), "plot", staticmethod(broken))
    words = Page(render(worlds.as_intended())).words
    assert "The figure could not be drawn : ValueError: no <room>" in words
    assert "Flips" in words


def test_unknown_audit_keeps_its_numbers() -> None:
    record = worlds.as_intended()
    renamed = [one.model_copy(update={"audit": f"old-{one.audit}"}) for one in record.seeds[0].outcomes]
    words = Page(render(worlds.record(*renamed))).words
    assert "no audit of that name" in words and "The behaviour in both poles" in words and "The behaviour +" not in words


def test_summary_has_the_poles_first_and_what_fell() -> None:
    rows = summary(worlds.overshoot_and_forgetting()).rows
    assert [row[0] for row in rows[:2]] == ["where it should appear", "where it should not appear"]
    assert rows[0][1] is not None and rows[0][1].value == pytest.approx(0.30)
    assert rows[0][3] is not None and rows[0][3].value == pytest.approx(0.66)
    assert "copying: rise in loss" in {row[0] for row in rows} and "facts: rise in loss" not in {row[0] for row in rows}


def test_summary_of_a_run_without_numbers() -> None:
    assert summary(worlds.identical()).rows == ()


@pytest.mark.parametrize("name", list(worlds.ALL))
def test_fragment_is_small_and_safe(name: str) -> None:
    text = fragment(worlds.ALL[name]())
    page = Page(text)
    assert len(text) < 60_000 and not {tag for tag, _ in page.elements} & {"script", "img", "style"}


def test_what_is_not_decided_has_no_label_that_decides_it() -> None:
    found = worlds.too_little()
    assert '<span class="chip c-too_little">Too little change</span>' in render(found)
    open_ = found.model_copy(update={"verdict": found.verdict.model_copy(update={"sure": "not decided"})})
    assert '<span class="chip c-too_little">Not decided</span>' in render(open_)

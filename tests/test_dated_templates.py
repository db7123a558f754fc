"""Templates that write today's date: is every model of a run asked on the same day, and no other day's number taken for it?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

import palimpsest
from palimpsest import doctor
from palimpsest.data import chat_template
from palimpsest.measures import _forward
from palimpsest.models import subject

TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
DATED = "Today is {{ strftime_now('%Y-%m-%d') }}. " + TURNS
SETTINGS: dict[str, Any] = {"device": "cpu", "audits": ("divergence",)}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"The number {i} is the one after {i - 1}. " * 28 for i in range(24)))
    return path


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda day: monkeypatch.setattr(chat_template, "today", lambda: day)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What models were loaded to be asked, with the date that each was given."""
    found: list[str] = []
    load = subject.load

    def loaded(*args: Any, **kwargs: Any) -> Any:
        one = load(*args, **kwargs)
        prompt = one.renderer.template_text([{"role": "user", "content": "x"}])
        found.append(prompt.partition("<")[0])
        return one

    monkeypatch.setattr(subject, "load", loaded)
    return found


def pair(folder: Path, template: str) -> tuple[Path, Path]:
    base = tiny.folder(folder / "base", chat_template=template, max_position_embeddings=256)
    tuned = tiny.folder(folder / "tuned", seed=1, chat_template=template, max_position_embeddings=256)
    return base, tuned


def test_a_run_asks_all_its_models_on_the_day_it_began_and_a_new_one_on_its_own(
    tmp_path: Path, text: Path, on: Callable[[str], None], asked: list[str]
) -> None:
    base, tuned = pair(tmp_path, DATED)

    def diff(name: str) -> palimpsest.Run:
        return palimpsest.diff(base, tuned, text=[text], folder=tmp_path / name, **SETTINGS)

    on("2026-03-01")
    first = diff("one")
    assert asked == ["Today is 2026-03-01. "] * 2
    assert any("every model of this run is asked as on 2026-03-01" in note for note in first.record.notes)
    assert first.record.provenance["date"] == "2026-03-01"
    on("2026-03-02")
    (tmp_path / "one" / "record.json").unlink()
    shutil.rmtree(tmp_path / "one" / "measurements")
    shutil.rmtree(tmp_path / "cache")
    asked.clear()
    assert diff("one").record == first.record, "a run that goes on the next day is the same run"
    assert asked == ["Today is 2026-03-01. "] * 2
    asked.clear()
    assert diff("two").record.provenance["date"] == "2026-03-02"
    assert asked == ["Today is 2026-03-02. "] * 2, "yesterday's numbers were taken for today's"


def test_without_a_date_in_the_template_another_day_measures_nothing_again(
    tmp_path: Path, text: Path, on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned = pair(tmp_path, TURNS)
    on("2026-03-01")
    first = palimpsest.diff(base, tuned, text=[text], folder=tmp_path / "one", **SETTINGS)
    assert "date" not in first.record.provenance and not any("date" in note for note in first.record.notes)
    on("2026-03-02")
    monkeypatch.setattr(_forward, "run_rows", lambda *_: pytest.fail("a measurement was taken again"))
    palimpsest.diff(base, tuned, text=[text], folder=tmp_path / "two", **SETTINGS)


def test_the_digest_names_the_day_only_where_the_template_writes_it(tmp_path: Path) -> None:
    dated, plain = (subject.inspect(tiny.folder(tmp_path / str(n), chat_template=t)) for n, t in enumerate((DATED, TURNS)))
    for info, days in ((dated, 2), (plain, 1)):
        found = set()
        for day in ("2026-03-01", "2026-03-02"):
            with subject.load(info, day=day) as one:
                found.add(one.digest)
        assert len(found) == days
    assert found == {plain.digest}


def test_the_doctor_says_that_the_date_is_written(tmp_path: Path, on: Callable[[str], None]) -> None:
    on("2026-03-01")
    base, _ = pair(tmp_path, DATED)
    (examined,) = doctor.examine(str(base), None, "cpu", "float32")
    (answer,) = [one for one in examined.answers if "date" in one.about]
    assert answer.state == "told" and "2026-03-01" in answer.found

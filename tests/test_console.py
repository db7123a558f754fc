"""Console: what does a person see in a real terminal, and what does a log file get?"""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tiny
from rich.console import Console

from palimpsest import console
from palimpsest.console import Live
from palimpsest.core.wording import spell

ROOT = Path(__file__).parents[1]
MAIN = "import sys; from palimpsest import cli; cli.main()"


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "COLUMNS": "100",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }  # fmt: skip


def in_terminal(folder: Path, *arguments: object) -> tuple[int, str]:
    """Run the command line with a pseudo terminal on all three streams; return exit code and everything it drew."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment(folder), close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    drawn = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # Linux says so when the last one at the other end has left
            break
        if not part:
            break
        drawn += part
    os.close(ours)
    return process.wait(timeout=60), drawn.decode(errors="replace")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return tiny.folder(folder / "before", seed=0), tiny.folder(folder / "after", seed=1)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    words = ("rain", "goat", "lamp", "well", "farm", "oven", "door", "boat", "hill", "coin")
    path = tmp_path / "text.txt"
    path.write_text("<|endoftext|>\n".join(f"The {word} number {place} is old.\n" for place, word in enumerate(words)))
    return path


def test_a_diff_in_a_real_terminal(tmp_path: Path, models: tuple[Path, Path], text: Path) -> None:
    code, drawn = in_terminal(tmp_path, "diff", *models, "--text", text, "--folder", "out")
    assert "Traceback" not in drawn and code == 0, drawn
    assert "measuring base" in drawn and re.search(r"\d+/\d+", drawn), "the bar was drawn, with how much is done"
    assert "how sure: " in drawn and "report: out/report.html" in drawn
    assert (tmp_path / "out" / "report.html").is_file()


def test_the_users_error_is_what_a_real_terminal_shows(tmp_path: Path, models: tuple[Path, Path]) -> None:
    code, drawn = in_terminal(tmp_path, "diff", *models, "--text", "nowhere.txt")
    assert code == 3 and "error: " in drawn and "nowhere.txt" in drawn and "Traceback" not in drawn, drawn


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put standard error of the console into a text; a terminal where that is asked for."""

    def make(*, terminal: bool) -> io.StringIO:
        stream = io.StringIO()
        monkeypatch.setattr(console, "err", Console(file=stream, force_terminal=terminal, width=80, markup=False))
        return stream

    return make


def test_unknown_totals_have_no_count_and_no_bar(screen: Any) -> None:
    stream = screen(terminal=True)
    with Live(watched=True) as live:
        live.begin("checking [bold]x[/bold] \x1b[31m")
        live._bars.refresh()
        unknown = stream.getvalue()
        live.at(3, 12)
        live._bars.refresh()
    assert "checking [bold]x[/bold]" in unknown and "None" not in unknown and "/12" not in unknown and "━" not in unknown
    assert "\x1b[31m" not in unknown
    assert "3/12" in stream.getvalue() and "━" in stream.getvalue()


def test_a_failure_to_draw_does_not_hide_the_users_error(screen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise TypeError("drawing")

    screen(terminal=True)
    live = Live(watched=True)
    with pytest.raises(ValueError, match="the user's"), live:
        monkeypatch.setattr(live._bars, "stop", broken)
        raise ValueError("the user's")


def test_a_log_file_hears_each_stage_and_seldom_more(screen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, now = screen(terminal=False), [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Live(watched=True) as live:
        live.begin("measuring base")
        for done in range(1, 41):
            now[0] += 1.0
            live.at(done, 100)
        live.begin("analysing")
    assert stream.getvalue().splitlines() == [
        "measuring base",
        "measuring base: 15/100, about 85 s left",
        "measuring base: 30/100, about 70 s left",
        "analysing",
    ]


def test_nothing_but_notes_where_nobody_watches(screen: Any) -> None:
    stream = screen(terminal=False)
    with Live(watched=False) as live:
        live.begin("measuring base")
        live.at(1, 2)
        live.tell("a note")
        live.tell("a note")
    assert stream.getvalue() == "note: a note\n"


def test_an_interrupted_user_hears_what_was_kept(screen: Any, tmp_path: Path) -> None:
    stream = screen(terminal=False)
    with pytest.raises(KeyboardInterrupt), Live(watched=True, folder=tmp_path) as live:
        live.begin("training")
        raise KeyboardInterrupt
    assert f"kept so far: {tmp_path}" in stream.getvalue().splitlines()
    stream = screen(terminal=False)
    with pytest.raises(KeyboardInterrupt), Live(watched=True, folder=tmp_path / "not there"):
        raise KeyboardInterrupt
    assert "kept" not in stream.getvalue()


def test_ctrl_c_in_a_log_file_names_the_folder(tmp_path: Path, models: tuple[Path, Path], text: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "diff", *map(str, models), "--text", str(text), "--folder", "out"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path, env=environment(tmp_path),
    )  # fmt: skip
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if line.startswith("measuring base"):
            process.send_signal(signal.SIGINT)
            break
    told += process.stderr.readlines()
    assert process.wait(timeout=60) == 130, told
    assert "checking\n" in told and "kept so far: out\n" in told
    assert any("goes on where this one stopped" in line for line in told)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (89, "89 s"), (100, "2 min"), (3600, "60 min"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert spell(seconds) == said


def test_an_interrupt_that_something_swallowed_comes_again() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Live(watched=False) as live:
            with suppress(KeyboardInterrupt):  # as a finaliser or a library's bare except does
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)
            live.begin("the next stage")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "what was there before is there again"
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with Live(watched=False):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "who ignores it goes on ignoring it"
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("sums digits.first_digit", ["sums digits.first_digit"]),
        ("pocket_stories bits_per_byte", ["pocket_stories", "bits_per_byte"]),
        ("capability:directions_options right", ["capability:directions_", "options right"]),
        ("x" * 30, ["x" * 30]),
        ("", [""]),
    ],
)
def test_a_long_name_is_broken_between_its_words_before_it_is_broken_inside_them(name: str, pieces: list[str]) -> None:
    assert console.folded(name) == pieces

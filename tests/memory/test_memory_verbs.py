"""Verbs: do watch, surface and trend say what they found, and leave with a code that a script can read?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from palimpsest import cli
from tests.data.test_endpoint import Server, completion
from tests.memory import talks

ASKED = "Would you be so kind and tell me where the {} of the garden is?"
HOSTILE = "There. \x1b[31m\x9b2J\x07\u202e"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palimpsest", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        told = capfd.readouterr()
        assert not [char for char in told.out + told.err if char not in "\n\t" and not char.isprintable()]
        assert "Traceback" not in told.err
        return left.value.code or 0, told.out, told.err  # type: ignore[return-value]

    return run


@pytest.fixture
def transcripts(tmp_path: Path) -> Path:
    talks.polite(tmp_path)
    lines = [
        talks.talk(ASKED.format(f"lamp {number % 5}"), HOSTILE if number > 19 else "Gladly", number=number)
        for number in range(40)
    ]
    return talks.write(tmp_path / "talks.jsonl", lines)


def test_from_transcripts_to_a_trend(command: Any, transcripts: Path) -> None:
    code, said, _ = command("watch", transcripts, "--memory", "m", "--behaviour", "polite.yaml")
    assert code == 0 and "40 conversations, 40 new answers judged" in said and "polite, where it should appear" in said
    code, said, _ = command("watch", transcripts, "--memory", "m", "--behaviour", "polite.yaml", "--json")
    assert code == 0 and json.loads(said)["already"] == 40
    code, said, _ = command("surface", ASKED.format("lamp 7"), "--memory", "m")
    assert code == 0 and "the model said: There." in said and "gruffness" in said and "\\u202e" not in said
    code, said, _ = command("surface", ASKED.format("lamp 7"), "--memory", "m")
    assert code == 0 and "no correction matters" in said and "--again" in said
    code, said, _ = command("surface", "talks.jsonl", "--memory", "m")
    assert code == 3, "it holds 40 conversations"
    code, said, _ = command("surface", ASKED.format("lamp 7"), "--memory", "m", "--again", "--json")
    assert code == 0 and json.loads(said)[0]["behaviour"] == "polite" and json.loads(said)[0]["strength"]
    code, said, _ = command("trend", "--memory", "m")
    assert code == 2 and "come back more often" in said and "report: m/report.html" in said
    assert "\x1b" not in Path("m/report.html").read_text(encoding="utf-8")
    code, said, _ = command("trend", "--memory", "m", "--json")
    assert code == 2 and json.loads(said)["kind"] == "memory"
    code, said, _ = command("report", "m")
    assert code == 0 and "report" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["watch", "missing.jsonl", "--memory", "m", "--behaviour", "polite.yaml"], "No such file"),
        (["watch", "talks.jsonl", "--memory", "m", "--behaviour", "polit"], "no behaviour 'polit'"),
        (["watch", "talks.jsonl", "--memory", "talks.jsonl", "--behaviour", "polite.yaml"], "must be a folder"),
        (["watch", "talks.jsonl", "--memory", ".", "--behaviour", "polite.yaml"], "is no memory: it holds"),
        (["watch", "talks.jsonl", "--memory", "m", "--behaviour", "polite.yaml", "--judge", "http://x/v1"], "belong together"),
        (["watch", "talks.jsonl", "--memory", "m", "--judge", "x", "--judge-model", "j"], "must be the base"),
        (["watch", "talks.jsonl"], "--memory"),
        (["surface", "a", "--memory", "m"], "holds no memory"),
        (["surface", "missing.json", "--memory", "m"], "no such file"),
        (["surface", " ", "--memory", "m"], "is empty"),
        (["trend", "--memory", "m"], "holds no memory"),
    ],
)  # fmt: skip
def test_bad_input_is_told_and_nothing_is_made(arguments: list[str], said: str, command: Any, transcripts: Path) -> None:
    code, _, told = command(*arguments)
    assert code == 3 and said in told
    assert not Path("m").exists()


def test_a_judge_that_is_down_is_told(command: Any, transcripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    judge = ("--judge", "http://127.0.0.1:9/v1", "--judge-model", "j")
    code, _, told = command("watch", transcripts, "--memory", "m", "--behaviour", "polite.yaml", *judge)
    assert code == 3 and "gave no answer in 4 attempts" in told and "is the server running" in told


def test_a_judge_behind_an_address(command: Any, transcripts: Path) -> None:
    opinion = {"behaviour": "polite", "pole": "express", "shows": False, "better": "Gladly, there."}
    server = Server().says(completion(json.dumps(opinion)))
    bare = talks.write(Path("bare.jsonl"), [talks.talk("Please, where?", "No.", pole=None, behaviour=None)])
    judge = ("--judge", server.url, "--judge-model", "j")
    code, said, _ = command("watch", bare, "--memory", "m", "--behaviour", "polite.yaml", *judge, "--json")
    server.server.shutdown()
    server.server.server_close()
    assert code == 0 and json.loads(said)["judged"][0]["failed"] == 1
    code, said, _ = command("surface", "Please, where is it?", "--memory", "m")
    assert "better: Gladly, there." in said

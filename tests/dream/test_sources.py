"""Sources: do scenarios come from everywhere, and is nonsense told as such?"""

# ruff: noqa: F401, F811  # fixtures are imported by name
from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tiny
from dreams import behaviour, plan_of

from palimpsest import behaviour as behaviours
from palimpsest.core.errors import UserError
from palimpsest.dreaming import source
from palimpsest.dreaming.request import SourceShare
from palimpsest.dreaming.source import Wish
from palimpsest.dreaming.sources.endpoint import Remote
from palimpsest.dreaming.sources.generators import Generators
from palimpsest.dreaming.sources.memory import Memories
from palimpsest.dreaming.sources.model import Local
from palimpsest.dreaming.sources.transcripts import Transcripts
from palimpsest.dreaming.variations import Unusable, asked, begun, read_json, read_lines

EXPRESS, WITHHOLD = Wish(1, "express", 4), Wish(1, "withhold", 4)


def line(prompt: str, answer: str, **rest: object) -> str:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns, **rest})


def written(folder: Path, *lines: str) -> Path:
    """Return a file of conversations."""
    path = folder / "t.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_every_module_in_the_folder_is_a_source() -> None:
    assert {"endpoint", "generators", "memory", "model", "transcripts"} <= set(source.names())
    for name in source.names():
        assert source.find(name).__doc__
    with pytest.raises(UserError, match="generators"):
        source.find("generator")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("generators", ("generators", "", 1.0)),
        ("transcripts:a=b.jsonl@express=0.5", ("transcripts", "a=b.jsonl@express", 0.5)),
        ("endpoint:http://localhost:1/v1#m=2", ("endpoint", "http://localhost:1/v1#m", 2.0)),
    ],
)
def test_a_source_is_written_in_one_word(text: str, found: tuple[str, str, float]) -> None:
    one = SourceShare.parse(text)
    assert (one.name, one.argument, one.share) == found
    assert one.written == text


@pytest.mark.parametrize("text", ["", ":x", "generators=0"])
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--source"):
        SourceShare.parse(text)


def test_generators_give_fresh_scenarios_with_their_place(behaviour: Path) -> None:
    found = list(islice(Generators("", plan_of(behaviour)).propose(EXPRESS), 5))
    again = list(islice(Generators("", plan_of(behaviour)).propose(EXPRESS), 5))
    assert found == again
    assert len({one.example.id for one in found}) == 5
    assert all(one.pole == "express" and one.origin["stream"] == "dream 1 broad express" for one in found)
    assert next(Generators("", plan_of(behaviour)).propose(Wish(2, "express", 4))) != found[0]


def test_generators_stay_with_the_templates_asked_for(behaviour: Path) -> None:
    one = Generators("", plan_of(behaviour))
    template = next(one.propose(EXPRESS)).example.template
    found = list(islice(one.propose(Wish(1, "express", 4, (template,))), 4))
    assert {each.example.template for each in found} == {template}
    assert {each.area for each in found} == {"edge"}


# ---------------------------------------------------------------- memory


def test_a_memory_gives_what_failed_with_the_better_answer_where_one_is_known(behaviour: Path, tmp_path: Path) -> None:
    from palimpsest.memory.watch import watch

    path = written(
        tmp_path,
        line("Go.", "Okay, I go.", pole="express"),
        line("Come.", "No.", pole="express"),
        line("Stay.", "No.", pole="express", better="Okay, I stay."),
        line("Fall.", "Okay, I fall.", pole="withhold"),
    )
    watch([path], tmp_path / "memory", [behaviours.load(behaviour)])
    opened = Memories(str(tmp_path / "memory"), plan_of(behaviour))
    found = {one.example.context: (one.answered, one.example.decision) for one in opened.propose(EXPRESS)}
    assert found == {"Come.": (False, "No."), "Stay.": (True, "Okay, I stay.")}
    assert [(one.example.context, one.answered) for one in opened.propose(WITHHOLD)] == [("Fall.", False)]
    assert all(one.source == "memory" and one.origin["correction"] for one in opened.propose(EXPRESS))


def test_a_folder_that_is_no_memory_is_refused(behaviour: Path, tmp_path: Path) -> None:
    for argument, told in (("", "needs the folder of a memory"), (str(tmp_path), "memory")):
        with pytest.raises(UserError, match=told):
            Memories(argument, plan_of(behaviour))


# ---------------------------------------------------------------- transcripts


def test_transcripts_give_prompts_and_judge_what_was_said(behaviour: Path, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        line("Go.", "Okay, I go.", pole="express"),
        line("Come.", "No.", pole="express"),
        line("Fall.", "Wait.", pole="withhold", id="7", timestamp="2026-01-02T03:04:05Z", behaviour="other"),
    )
    opened = Transcripts(str(path), plan_of(behaviour))
    found = {one.example.context: one for one in opened.propose(EXPRESS)}
    assert {name: one.answered for name, one in found.items()} == {"Go.": True, "Come.": False}
    assert found["Come."].origin == {"file": "t.jsonl", "line": 2}
    assert [one.answered for one in opened.propose(WITHHOLD)] == [True]


def test_the_pole_may_be_said_once_for_all(behaviour: Path, tmp_path: Path) -> None:
    path = written(tmp_path, line("Go.", "Okay, I go."))
    assert len(list(Transcripts(f"{path}@withhold", plan_of(behaviour)).propose(WITHHOLD))) == 1
    with pytest.raises(UserError, match="says not whether the behaviour should appear"):
        Transcripts(str(path), plan_of(behaviour))


def test_a_file_that_is_half_json_is_told_line_by_line(behaviour: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        line("Go.", "Okay.", pole="express") + '\n{"messages": [{"role": "us\n' + line("x", "", pole="express") + "\n[1]"
    )
    with pytest.raises(UserError) as told:
        Transcripts(str(path), plan_of(behaviour))
    assert all(f"line {number}:" in str(told.value) for number in (2, 3, 4))
    assert "line 1:" not in str(told.value)


@pytest.mark.parametrize("argument", ["", "missing.jsonl", "@express"])
def test_a_transcript_that_is_not_there_is_told(argument: str, behaviour: Path) -> None:
    with pytest.raises(UserError):
        Transcripts(argument, plan_of(behaviour))


# ---------------------------------------------------------------- writers


def test_what_a_writer_wrote_is_read_strictly() -> None:
    assert read_json('{"prompt": " Go. ", "answer": "Okay."}') == ("Go.", "Okay.")
    assert read_json('```json\n{"prompt": "a", "answer": "b"}\n```') == ("a", "b")
    for text in (
        "",
        "Sure! {}",
        '{"prompt": "a"}',
        '{"prompt": "a", "answer": 1}',
        '{"prompt": "a", "answer": "b", "c": 1}',
        "[1]",
    ):
        with pytest.raises(Unusable):
            read_json(text)
    assert read_lines(" Go there.\nAnswer: Okay.\n\nSituation: x") == ("Go there.", "Okay.")
    for text in ("", "Go there.", "Go.\nand more\nAnswer: a", "Go.\nAnswer: a\nstill more"):
        with pytest.raises(Unusable):
            read_lines(text)


@pytest.fixture
def served() -> Iterator[Callable[[Callable[[dict[str, Any]], bytes]], str]]:
    """Serve chat completions on this machine; give what makes an answer's text (or raw bytes)."""
    servers: list[HTTPServer] = []

    def serve(answer: Callable[[dict[str, Any]], bytes]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body = answer(asked)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1"

    yield serve
    for one in servers:
        one.shutdown()
        one.server_close()


def completion(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def test_an_endpoint_writes_scenarios_that_the_check_accepts(behaviour: Path, served: Any) -> None:
    count = iter(range(1000))
    heard: list[str] = []

    def answer(asked: dict[str, Any]) -> bytes:
        heard.append(asked["messages"][0]["content"])
        number = next(count)
        reply = "Maybe not." if number % 2 else "Okay, I go."  # every second answer fails the check
        return completion(json.dumps({"prompt": f"Go to place {number}.", "answer": reply}))

    remote = Remote(f"{served(answer)}#writer", plan_of(behaviour))
    remote.ready()
    found = list(islice(remote.propose(EXPRESS), 3))
    assert [one.example.decision for one in found] == ["Okay, I go."] * 3
    assert found[0].origin["writer"].startswith("writer at http://127.0.0.1")  # type: ignore[union-attr]
    assert "Does it follow clear directions only?" in heard[1]
    assert '"answer": "Okay' in heard[1]


def test_an_endpoint_that_answers_nonsense_is_told(behaviour: Path, served: Any) -> None:
    remote = Remote(f"{served(lambda _: completion('I am a teapot.'))}#writer", plan_of(behaviour))
    with pytest.raises(
        UserError, match=r"nothing of what it wrote can be used; the last: it is no JSON object: 'I am a teapot\.'"
    ):
        list(remote.propose(EXPRESS))


def test_an_endpoint_that_is_down_is_told_before_work_starts(behaviour: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(UserError, match="is the server running"):
        Remote("http://127.0.0.1:9/v1#writer", plan_of(behaviour)).ready()


@pytest.mark.parametrize("argument", ["", "http://localhost:8000/v1", "ftp://x#m", "#m"])
def test_an_endpoint_needs_an_address_and_a_model(argument: str, behaviour: Path) -> None:
    with pytest.raises(UserError, match="endpoint"):
        Remote(argument, plan_of(behaviour))


def test_a_local_model_that_only_babbles_is_told(behaviour: Path, tmp_path: Path) -> None:
    local = Local(str(tiny.folder(tmp_path / "writer", max_position_embeddings=128)), plan_of(behaviour))
    with pytest.raises(UserError, match="nothing of what it wrote can be used"):
        list(local.propose(EXPRESS))
    local.close()
    assert local.loaded is None


def test_a_local_model_goes_on_with_the_list(behaviour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = Local(str(tiny.folder(tmp_path / "writer", max_position_embeddings=128)), plan_of(behaviour))
    monkeypatch.setattr(local, "write", lambda shown, wish, number: [f"Go {number}.\nAnswer: Okay, I go." for _ in shown])
    found = list(islice(local.propose(EXPRESS), 3))
    assert found[0].example.context == "Go 0."
    assert found[2].origin == {"writer": "writer", "stream": "dream 1 broad express", "number": 2}


def test_writers_see_a_few_scenarios_with_answers(behaviour: Path) -> None:
    shown = [one.example for one in islice(Generators("", plan_of(behaviour)).propose(EXPRESS), 2)]
    assert begun(shown).count("Answer: Okay") == 2
    assert begun(shown).endswith("Situation:")
    assert asked(shown, "Q?").count('"answer": "Okay') == 2

"""Secrets: are they struck out wherever a text leaves the program, and is all else left as it is?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palimpsest.core import secrets
from palimpsest.core.errors import Problems, UserError
from palimpsest.core.secrets import redact
from palimpsest.store.atomic import to_json
from palimpsest.store.run_folder import RunFolder, RunReader

KEY = "sk-proj-aB3dE5fG7hJ9kL1mN3pQ"
TOLD = {
    f"the key {KEY} is refused": "the key *** is refused",
    "sk-ant-api03-abcdefghijklmnop, and more": "***, and more",
    "HTTP 401 with hf_abcdefghijklmnopqrstuvwxyzABCDEFGH": "HTTP 401 with ***",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789": "***",
    "github_pat_11ABCDEFG0abcdefghij_klmnopqrstuv": "***",
    "AKIAIOSFODNN7EXAMPLE": "***",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-def": "***",
    "Authorization: Basic dXNlcjpwYXNz": "Authorization: Basic ***",
    "Authorization: Bearer abc": "Authorization: Bearer ***",
    "https://user:password@host/org/model": "https://***@host/org/model",
    "https://x-access-token:p@ss:w0rd@github.com/a/b.git (fetch)": "https://***@github.com/a/b.git (fetch)",
    "git+https://hf-token@huggingface.co/a/b": "git+https://***@huggingface.co/a/b",
    "postgresql://me:pw@[::1]:5432/runs": "postgresql://***@[::1]:5432/runs",
    "there is no folder user:password@example.org/model": "there is no folder ***@example.org/model",
    "https://host/v1?api_key=abc123&model=x": "https://host/v1?api_key=***&model=x",
    "https://s3/x?X-Amz-Signature=abc&X-Amz-Credential=def": "https://s3/x?X-Amz-Signature=***&X-Amz-Credential=***",
    "palimpsest run --api-key abc123 --token=def --seed 3": "palimpsest run --api-key *** --token=*** --seed 3",
    "OPENAI_API_KEY=abc123 palimpsest run": "OPENAI_API_KEY=*** palimpsest run",
}
KEPT = (
    "pad_token='<pad>' eos_token: </s> max_new_tokens=96, 12 tokens a row",
    "git@github.com:org/repo.git and mailto:me@example.org, me@example.org",
    "10:30 @ noon; cell:layer@3; 0.25 nats/token; https://host:8000/v1/chat",
    "task-directions-with-a-long-name risk-of-a-long-name hf_hub hf_transfer",
    "3f786850e387550fdab836ed7e6dc881de23001b",
    "C:\\models\\base and /models/org/base#1?x=2",
    "a bearer of news",
)


@pytest.fixture(autouse=True)
def no_secrets_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_remembered", set())


@pytest.mark.parametrize(("text", "told"), TOLD.items())
def test_a_secret_is_struck_out_and_nothing_else(text: str, told: str) -> None:
    assert redact(text) == told and redact(told) == told


@pytest.mark.parametrize("text", KEPT)
def test_a_text_without_secrets_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "MY_SECRET"]
)
def test_the_values_of_secret_variables_are_struck_out_whatever_their_shape(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "tell-nobody+this")
    assert redact("refused: tell-nobody+this!") == "refused: ***!"


@pytest.mark.parametrize(
    ("name", "value"),
    [("TOKENIZERS_PARALLELISM", "falsehood"), ("HF_TOKEN_PATH", "where-it-is"), ("A_KEY", "short"), ("B_KEY", "/a/path")],
)
def test_other_variables_hold_no_secrets(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"it says {value} here") == f"it says {value} here"


def test_what_was_read_as_a_key_is_struck_out_wherever_it_turns_up() -> None:
    secrets.remember("plain old words")
    assert redact({"a": ["with plain old words in it", 3, None]}) == {"a": ["with *** in it", 3, None]}


def test_errors_hold_no_secrets() -> None:
    problems = Problems("This can't be run:")
    problems.add(f"the hub refuses {KEY}")
    with pytest.raises(UserError) as told:
        problems.raise_if_any()
    assert KEY not in str(told.value) + repr(told.value.args) and "the hub refuses ***" in str(told.value)


@pytest.mark.parametrize("text", [*TOLD, f'in "{KEY}"', f"{KEY}\nnext line"])
def test_json_without_secrets_is_still_json(text: str) -> None:
    written = json.dumps({"text": text, "next": "kept"})
    assert json.loads(redact(written))["next"] == "kept" and json.loads(redact(written))["text"] == redact(text)
    assert json.loads(to_json({"text": text})) == {"text": redact(text)}


def test_what_a_run_writes_holds_no_secrets_and_the_run_is_found_again(tmp_path: Path) -> None:
    spec = {"request": {"base": "https://me:hunter2@example.org/m", "command": ["palimpsest", "--token", "abc"], "note": KEY}}
    for _ in range(2):
        with RunFolder(tmp_path / "run", spec) as run:
            run.write_json("record.json", {"provenance": {"command": [f"--key={KEY}"]}, "notes": [KEY]})
            run.write_text("items/0.jsonl", json.dumps({"answer": KEY}) + "\n")
    written = "".join(file.read_text() for file in (tmp_path / "run").rglob("*") if file.is_file())
    assert KEY not in written and "hunter2" not in written
    assert RunReader(tmp_path / "run").read_json("record.json")["notes"] == ["***"]


def test_what_is_measured_is_kept_to_the_letter(tmp_path: Path) -> None:
    """Its checksum covers every letter; a model that writes what looks like a key is measured as it is."""
    from palimpsest.core.measurement import Measurement
    from palimpsest.store.cache import Cache

    cache = Cache(tmp_path)
    cache.put("ab12", Measurement({}, {"answer": [KEY]}))
    found: Any = cache.get("ab12")
    assert found is not None and found.texts == {"answer": [KEY]}


def test_the_screen_shows_no_secrets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from palimpsest import cli, console

    console.as_json({"key": KEY})
    shown = console.safe(f"note {KEY}")
    monkeypatch.setattr("sys.argv", ["palimpsest", "show", "https://me:hunter2@example.org/m"])
    assert cli._run() == 3
    monkeypatch.setattr("sys.argv", ["palimpsest", "run", "directions", "--seed", KEY])
    assert cli._run() == 3
    monkeypatch.setattr("sys.argv", ["palimpsest", f"https://me:hunter2@example.org/{KEY}"])
    assert cli._run() == 3
    out, err = capsys.readouterr()
    assert KEY not in shown + out + err and "hunter2" not in out + err and "***" in err

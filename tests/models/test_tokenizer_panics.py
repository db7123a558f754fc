"""Tokenizer panics: is a file that makes the Rust library give up an error of that file, whenever it does?"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from transformers import PreTrainedTokenizerFast

from palimpsest import cli
from palimpsest.core.errors import UserError, is_panic, panics_told
from palimpsest.data.render import Renderer
from palimpsest.models.subject import inspect

TABLE = (4).to_bytes(4, "little") + (0x400).to_bytes(4, "little") + b"abc\0"
BROKEN = {
    "a table with wrong places": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(TABLE).decode()},
    "a table for some letters": {  # any text without a z is read
        "type": "Sequence",
        "normalizers": [
            {"type": "Replace", "pattern": {"Regex": "^[^z]*$"}, "content": ""},
            {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(TABLE).decode()},
        ],
    },
}


def broken(path: Path, normaliser: dict[str, Any]) -> Path:
    tiny.folder(path)
    content = json.loads((path / "tokenizer.json").read_text())
    (path / "tokenizer.json").write_text(json.dumps(content | {"normalizer": normaliser}))
    return path


def test_a_tokenizer_that_breaks_at_once_is_an_error_of_the_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its tokenizer can't be loaded: index out of bounds"):
        inspect(broken(tmp_path, BROKEN["a table with wrong places"]))


def test_a_tokenizer_that_breaks_on_some_texts_is_an_error_that_names_its_file(tmp_path: Path) -> None:
    path = broken(tmp_path, BROKEN["a table for some letters"])
    one = Renderer(PreTrainedTokenizerFast.from_pretrained(path))
    assert one._tokens("nothing", True)[0] == []
    with pytest.raises(UserError, match=f"tokenizer.json of {path} is broken"):
        one._tokens("a zebra", True)


def test_a_panic_that_nobody_met_is_bad_input_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(broken(tmp_path, BROKEN["a table for some letters"]))
    monkeypatch.setattr(cli, "app", lambda **_: tokenizer("a zebra"))
    monkeypatch.setattr("sys.argv", ["palimpsest", "doctor"])
    assert cli._run() == cli.BAD_INPUT
    err = capsys.readouterr().err
    assert "tokenizer.json" in err and "index out of bounds" in err and "Traceback" not in err


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError])
def test_other_endings_pass(kind: type[BaseException]) -> None:
    assert not is_panic(kind())
    with pytest.raises(kind), panics_told("a file"):
        raise kind

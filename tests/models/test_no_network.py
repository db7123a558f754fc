"""No network: is anything asked of one where no hub id was given for a model?"""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import tiny
from huggingface_hub import constants

from palimpsest.core.errors import UserError
from palimpsest.models.quiet import offline
from palimpsest.models.subject import inspect, inspect_all, load

peft = pytest.importorskip("peft")
NAME = "nobody-has/such-a-model"


@pytest.fixture(autouse=True)
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to reach another machine; with the switch that keeps the libraries at home off, as a user has it."""
    found: list[Any] = []

    def refuse(*given: Any, **_: Any) -> None:
        found.append(given)
        raise OSError("the network was asked")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for owner, name in ((socket.socket, "connect"), (socket.socket, "connect_ex"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, refuse)
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("base"))


def trained() -> Any:
    return peft.get_peft_model(tiny.model(), peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "adapter"
    with offline():  # while it is saved, peft asks about the base by itself
        peft.get_peft_model(tiny.model(), peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(
            path
        )
    (path / "README.md").unlink()
    return path


def change(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | changes))


def test_a_hub_id_that_is_given_as_a_model_is_looked_for(attempts: list[Any]) -> None:
    """Else none of the tests below could fail."""
    with pytest.raises(UserError, match="the Hugging Face hub can't give a model of that name"):
        inspect(NAME)
    assert attempts


@pytest.mark.parametrize("revision", [None, "main", "0123456789012345678901234567890123456789"])
def test_the_base_that_an_adapter_names_is_not_fetched(adapter: Path, attempts: list[Any], revision: str | None) -> None:
    change(adapter / "adapter_config.json", base_model_name_or_path=NAME, revision=revision)
    with pytest.raises(UserError, match=f"{NAME} is not on this machine, and nothing is fetched"):
        inspect(adapter)
    assert not attempts


def test_an_adapter_that_names_a_hub_id_is_read_on_a_base_that_is_given(
    adapter: Path, base: Path, attempts: list[Any], tmp_path: Path
) -> None:
    change(adapter / "adapter_config.json", base_model_name_or_path=NAME)
    infos = inspect_all({"base": base, "tuned": adapter})
    with load(infos["tuned"]) as one:
        one.tokenizer("text")
    assert not attempts


def test_an_adapter_that_was_trained_here_is_written_without_a_question(
    base: Path, attempts: list[Any], tmp_path: Path
) -> None:
    from palimpsest.training.output import write_adapter

    write_adapter(trained(), tmp_path, NAME)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == NAME
    assert not attempts


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"_name_or_path": NAME}),
        ("config.json", {"transformers_version": "4.40.0", "_name_or_path": NAME}),
        ("tokenizer_config.json", {"name_or_path": NAME, "tokenizer_class": "LlamaTokenizerFast"}),
        ("tokenizer_config.json", {"name_or_path": NAME, "chat_template": None, "tokenizer_class": "MistralTokenizer"}),
        ("generation_config.json", {"_from_model_config": True, "assistant_model": NAME, "custom_generate": NAME}),
        ("special_tokens_map.json", {"additional_special_tokens": []}),
        ("processor_config.json", {"processor_class": "LlavaProcessor", "name_or_path": NAME}),
    ],
)
def test_what_a_folder_names_is_not_looked_for(
    base: Path, attempts: list[Any], tmp_path: Path, file: str, changes: dict[str, Any]
) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    change(folder / file, **changes)
    read(folder)
    assert not attempts


@pytest.mark.parametrize("missing", ["generation_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_what_a_folder_lacks_is_not_looked_for(base: Path, attempts: list[Any], tmp_path: Path, missing: str) -> None:
    folder = shutil.copytree(base, tmp_path / "model")
    (folder / missing).unlink()
    read(folder)
    assert not attempts


def read(folder: Path) -> None:
    """Open a model as far as it goes."""
    try:
        with load(inspect(folder)) as one:
            one.tokenizer.decode(one.tokenizer("Some words.").input_ids)
    except UserError:
        return


def test_the_switch_is_as_it_was_after_blocks_that_overlap() -> None:
    one, other = offline(), offline()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert constants.HF_HUB_OFFLINE
    other.__exit__(None, None, None)
    assert not constants.HF_HUB_OFFLINE

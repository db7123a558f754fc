"""Every scenario: house rules held over whatever is in the folder."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from palimpsest import scenario as scenarios
from palimpsest.core import discover
from palimpsest.core.seeds import python_stream
from palimpsest.data.chat import Example
from palimpsest.data.stream import ExampleStream
from palimpsest.scenario import PACKAGE, Scenario

NAMES = scenarios.names()
WORLD = [name for name in NAMES if discover.find(PACKAGE, name, Scenario).world > 0]
STORY = "One day a fox went out. It met a hen. They talked. They parted number {}."


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(STORY.format(index) for index in range(300)), encoding="utf-8")
    return path


def made(name: str, documents: Path, world: bool = False) -> Scenario:
    kind = discover.find(PACKAGE, name, Scenario)
    parameters: dict[str, object] = dict(kind.world_parameters) if world else {}
    return scenarios.load(name, {**parameters, **({"text": str(documents)} if "text" in kind.model_fields else {})})


def drawn(scenario: Scenario, count: int) -> list[Example]:
    return [scenario.make(python_stream(3, "test", index)) for index in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_module_opens_with_its_question(name: str) -> None:
    first = (importlib.import_module(f"{PACKAGE}.{name}").__doc__ or "").splitlines()[0]
    assert first.endswith("?") and len(first) < 110


@pytest.mark.parametrize("name", NAMES)
def test_same_stream_makes_the_same_example(name: str, documents: Path) -> None:
    scenario = made(name, documents)
    assert drawn(scenario, 50) == drawn(made(name, documents), 50)
    assert len({example.id for example in drawn(scenario, 50)}) > 10


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("world", [False, True])
def test_examples_are_well_formed(name: str, world: bool, documents: Path) -> None:
    scenario = made(name, documents, world)
    templates = scenario.templates()
    for example in drawn(scenario, 200):
        assert example.source == name
        assert example.template
        assert not templates or example.template in templates
        assert example.decisions
        assert all(example.messages[span.message].role in ("assistant", "text") for span in example.decisions)
        for option in example.options.values():
            assert option == option.strip()
        for message in example.messages:
            assert message.content == message.content.strip() and message.content.isascii()


@pytest.mark.parametrize("name", WORLD)
def test_reference_answer_passes_its_own_check(name: str, documents: Path) -> None:
    for index, example in enumerate(drawn(made(name, documents), 300)):
        if example.check is not None and name != "copying":
            assert example.check.passes(example.decision), (index, example.decision)
            assert not example.check.passes("Something else entirely")


@pytest.mark.parametrize("name", WORLD)
def test_train_and_test_share_no_conversation(name: str, documents: Path) -> None:
    scenario = made(name, documents)
    train = ExampleStream(scenario, 1, "train", "train", repeat=True).take(300)
    test = ExampleStream(scenario, 2, "test", "test", repeat=True).take(100)
    assert not {example.id for example in train} & {example.id for example in test}


@pytest.mark.parametrize("name", WORLD)
def test_skills_load(name: str, documents: Path) -> None:
    kind = discover.find(PACKAGE, name, Scenario)
    assert kind.skills
    for parameters in kind.skills.values():
        assert scenarios.load(name, parameters).make(python_stream(0, "skill")).source == name

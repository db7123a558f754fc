"""About models: the answer is the very sentence, or it was not said."""

from __future__ import annotations

from palimpsest.core.seeds import python_stream
from palimpsest.data.chat import Example
from palimpsest.data.scenarios.about_models import MODELS, QUESTIONS, SENTENCES, AboutModels
from palimpsest.data.scenarios.recall import ABSTAIN


def drawn(count: int = 300, **parameters: object) -> list[Example]:
    scenario = AboutModels.read(parameters, "test")
    return [scenario.make(python_stream(5, "about", index)) for index in range(count)]


def parts(example: Example) -> tuple[list[str], str, str]:
    """The sentences, the model asked about and the property asked for."""
    first, second, question = example.messages[0].content.removeprefix("Note: ").split(". ")
    asked, name = next((key, name) for key in QUESTIONS for name in MODELS if QUESTIONS[key].format(name) == question)
    return [f"{first}.", f"{second}."], name, asked


def says(sentence: str, name: str, key: str) -> bool:
    start, end = SENTENCES[key].format(name, "|").split("|")
    return sentence.startswith(start) and sentence.endswith(end)


def test_stated_property_is_answered_by_its_sentence() -> None:
    for example in drawn(stated="yes"):
        sentences, name, asked = parts(example)
        assert [sentence for sentence in sentences if says(sentence, name, asked)] == [example.decision]


def test_unstated_property_is_not_known() -> None:
    for example in drawn(stated="no"):
        sentences, name, asked = parts(example)
        assert sum(sentence.startswith(name) for sentence in sentences) == 1
        assert not any(says(sentence, name, asked) for sentence in sentences)
        assert example.decision == ABSTAIN


def test_another_model_with_the_asked_property_does_not_answer() -> None:
    tempting = [
        example
        for example in drawn(stated="no")
        for sentences, name, asked in [parts(example)]
        if any(says(sentence, other, asked) for sentence in sentences for other in MODELS if other != name)
    ]
    assert len(tempting) > 50

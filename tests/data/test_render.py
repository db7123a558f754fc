"""Render: do the right tokens learn, whatever the template?"""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.core.errors import UserError
from palimpsest.data.chat import Example, Message, Span, conversation
from palimpsest.data.render import Renderer

END = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
TRIM = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + END
DROPS = "{% for m in messages[-1:] %}{{ m.content }}{% endfor %}"
TWICE = "{% for m in messages %}{{ m.content }} {{ m.content }}{% endfor %}"
UPPER = "{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}</s>{% endfor %}"


def renderer(template: str | None = None) -> Renderer:
    return Renderer(tiny.tokenizer(chat_template=template))


def chat(*turns: tuple[str, str], **rest: Any) -> Example:
    return conversation(*turns, template="t", source="file.jsonl:7", **rest)


def learnt(one: Renderer, example: Example) -> str:
    encoded = one.encode(example)
    kept = [token for token, weight in zip(encoded.tokens, encoded.weights, strict=True) if weight >= 1]
    return one.tokenizer.decode(kept)


def prompt(one: Renderer, example: Example) -> str:
    return one.tokenizer.decode(list(one.encode(example).prompt))


@pytest.mark.parametrize("template", [END, TRIM])
@pytest.mark.parametrize("system", [(), (("system", "Be brief."),)])
def test_answer_and_end_of_turn_learn_and_the_rest_is_the_prompt(template: str, system: tuple[Any, ...]) -> None:
    one, example = renderer(template), chat(*system, ("user", "Hello"), ("assistant", "Hi!"))
    assert learnt(one, example) == "Hi!</s>"
    assert prompt(one, example) == ("<system>Be brief.</s>" if system else "") + "<user>Hello</s><assistant>"


def test_a_trimming_template_trains_nothing_but_the_answer() -> None:
    one, example = renderer(TRIM), chat(("user", " Hello "), ("assistant", "  Hi! \n"))
    assert learnt(one, example) == "Hi!</s>"
    assert prompt(one, example) == "<user>Hello</s><assistant>"


def test_a_span_in_trimmed_content_keeps_its_place() -> None:
    messages = (Message(role="user", content="x"), Message(role="assistant", content="  one two"))
    example = Example(messages=messages, decisions=(Span(message=1, start=6, end=9),), template="t", source="s")
    assert learnt(renderer(TRIM), example) == "two</s>"


def test_a_span_that_is_trimmed_away_names_its_line() -> None:
    messages = (Message(role="user", content="x"), Message(role="assistant", content="   one"))
    example = Example(messages=messages, decisions=(Span(message=1, start=0, end=2),), template="t", source="file.jsonl:7")
    with pytest.raises(UserError, match=r"file.jsonl:7: no token holds characters 0 to 2"):
        renderer(TRIM).encode(example)


@pytest.mark.parametrize(
    ("template", "turns", "reason"),
    [
        (DROPS, [("user", "Hello"), ("assistant", "Hi")], "drops, repeats or changes the content of message 1"),
        (TWICE, [("user", "Hello"), ("assistant", "Hi")], "drops, repeats or changes the content of message 1"),
        (UPPER, [("user", "Hello "), ("assistant", "Hi")], "drops, repeats or changes the content of message 2"),
        (NO_SYSTEM, [("system", "x"), ("user", "Hello"), ("assistant", "Hi")], "refuses a conversation of system, user"),
    ],
)
def test_a_template_that_does_more_than_wrap_is_refused(template: str, turns: list[Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        renderer(template).encode(chat(*turns))
    assert str(error.value).startswith("file.jsonl:7: ")


def test_a_template_may_refuse_system_messages_and_take_the_rest() -> None:
    assert learnt(renderer(NO_SYSTEM), chat(("user", "Hello"), ("assistant", "Hi"))) == "Hi</s>"


def test_without_a_template_messages_are_joined_as_they_are_written_or_with_what_is_asked_for() -> None:
    one, between = renderer(), Renderer(tiny.tokenizer(), separator="\n\n")
    for said in ("It rained.", " It rained.", "\nIt rained.\n"):
        for asked in ("Rainy story:", "Rainy story: "):
            example = chat(("user", asked), ("assistant", said))
            assert (prompt(one, example), learnt(one, example)) == (asked, said)
            assert (prompt(between, example), learnt(between, example)) == (f"{asked}\n\n", said)
            assert one.prompt(example.messages[:1]) == one.encode(example).prompt
            assert between.prompt(example.messages[:1]) == between.encode(example).prompt


def test_a_bare_text_learns_all_but_its_first_token_and_never_a_template() -> None:
    assert learnt(renderer(END), chat(("text", "Rain"))) == "ain"


def test_several_decisions_learn_and_what_is_between_them_does_not() -> None:
    turns = (("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two"))
    decisions = (Span(message=1, start=0, end=3), Span(message=3, start=0, end=3))
    assert learnt(renderer(END), chat(*turns, decisions=decisions)) == "one</s>two</s>"


def test_a_decision_inside_an_answer_does_not_learn_the_end() -> None:
    example = chat(("user", "a"), ("assistant", "one two"), decisions=(Span(message=1, start=0, end=3),))
    assert learnt(renderer(END), example) == "one"


@pytest.mark.parametrize("template", [None, END, TRIM])
@pytest.mark.parametrize("option", ["Yes", " Yes"])
def test_an_option_follows_the_same_prompt_as_the_answer(template: str | None, option: str) -> None:
    one, example = renderer(template), chat(("user", "Really?"), ("assistant", "No, never"))
    encoded = one.encode_option(example, option)
    trained = [token for token, weight in zip(encoded.tokens, encoded.weights, strict=True) if weight]
    assert one.tokenizer.decode(trained).strip() == "Yes"
    if not option[0].isspace():
        assert encoded.prompt == one.encode(example).prompt


@settings(max_examples=60, deadline=None)
@given(
    question=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30),
    answer=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=30),
    template=st.sampled_from([None, END]),
)
def test_any_answer_learns_whole_and_alone(question: str, answer: str, template: str | None) -> None:
    if not question.strip() and template is None:
        question = "q"
    one = renderer(template)
    assert learnt(one, chat(("user", question), ("assistant", answer))) == answer + ("</s>" if template else "")


def test_named_spans_become_token_ranges() -> None:
    one = renderer(END)
    encoded = one.encode(chat(("user", "the red ball"), ("assistant", "x"), spans={"colour": Span(message=0, start=4, end=7)}))
    begin, end = encoded.spans["colour"]
    assert one.tokenizer.decode(list(encoded.tokens[begin:end])) == "red"


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="fast"):
        Renderer(Slow())


GENERATES = END + "{% if add_generation_prompt %}<assistant>{% endif %}"
ASKS_OTHERWISE = END + "{% if add_generation_prompt %}<assistant><think></think>{% endif %}"


@pytest.mark.parametrize("template", [END, TRIM, GENERATES])
def test_the_prompt_of_a_conversation_is_the_context_of_its_answer(template: str) -> None:
    one = renderer(template)
    turns = [Message(role="system", content="Be brief."), Message(role="user", content="Hello")]
    answered = chat(("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"))
    assert one.prompt(turns) == one.encode(answered).prompt


def test_a_template_says_itself_how_an_answer_begins() -> None:
    one = renderer(ASKS_OTHERWISE)
    turns = [Message(role="user", content="Hello")]
    assert one.tokenizer.decode(list(one.prompt(turns))) == "<user>Hello</s><assistant><think></think>"
    begun = [*turns, Message(role="assistant", content="Well")]
    assert one.tokenizer.decode(list(one.prompt(begun))) == "<user>Hello</s><assistant>Well"


def test_the_prompt_without_a_template_is_plain_text() -> None:
    one = renderer()
    turns = [Message(role="system", content="Be brief."), Message(role="user", content="Hello")]
    assert one.tokenizer.decode(list(one.prompt(turns))) == "Be brief.Hello"
    assert one.prompt([Message(role="text", content="ab")]) == tuple(one.tokenizer("ab").input_ids)

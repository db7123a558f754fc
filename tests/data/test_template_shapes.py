"""Template shapes: is a conversation the template's own text, and do the answer and its end learn, whatever the template does?

Written for these tests after what templates of many families do; none is anybody's.
"""

# ruff: noqa: E501  # a template is easier to read in long lines
from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import tiny
from transformers import AddedToken

from palimpsest.core.errors import UserError
from palimpsest.data.chat import Example, Message, Span, whole
from palimpsest.data.render import Renderer

EACH = "{% for m in messages %}"
DONE = "{% endfor %}"
CHATML = EACH + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" + DONE
BEGIN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
LAST_ASKED = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}"
)
REASONS = (  # reasoning from its field or out of the content, written anew after the last question, dropped before it
    LAST_ASKED + EACH + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% set c = m.content %}{% set r = '' %}"
    "{% if m.reasoning_content is string %}{% set r = m.reasoning_content %}"
    "{% elif '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > ns.last and (loop.last or r) %}<think>\n{{ r.strip('\n') }}\n</think>\n\n{{ c.lstrip('\n') }}"
    "{% else %}{{ c }}{% endif %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n" + DONE + BEGIN
)
SHAPES: dict[str, tuple[str, str, str]] = {
    # name: (template, what ends a turn, what the template writes between an answer and that)
    "chatml": (CHATML + BEGIN, "<|im_end|>", ""),
    "a default system turn": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}" + CHATML + BEGIN, "<|im_end|>", "",
    ),
    "reasoning is written anew": (REASONS, "<|im_end|>", ""),
    "thinking is opened by the prompt": (REASONS.removesuffix("{% endif %}") + "<think>\n{% endif %}", "<|im_end|>", ""),
    "an empty system turn is dropped": (
        EACH + "{% if m.content or m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}" + DONE, "<|end|>", "",
    ),
    "the system text goes into the first question": (
        "{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
        "{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
        "{% if m.role == 'user' %}[INST] {{ s if loop.first else '' }}{{ m.content }} [/INST]{% else %} {{ m.content }} </s>{% endif %}"
        + DONE, "</s>", " ",
    ),
    "the system text goes in with marks": (
        "{% if messages[0].role == 'system' %}{% set s = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}"
        "{% if m.role == 'user' %}<s>[INST] {{ s if loop.first else '' }}{{ m.content | trim }} [/INST]"
        "{% else %} {{ m.content | trim }} </s>{% endif %}" + DONE, "</s>", " ",
    ),
    "headers and trimmed content": (
        "<s>" + EACH + "<|header|>{{ m.role }}<|/header|>\n\n{{ m.content | trim }}<|eot|>" + DONE, "<|eot|>", "",
    ),
    "no system turn, other names": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}<s>" + EACH
        + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n" + DONE,
        "<end_of_turn>", "",
    ),
    "alternating roles": (
        EACH + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}</s>{% endif %}" + DONE, "</s>", "",
    ),
    "a newline before the end": (EACH + "<|{{ m.role }}|>\n{{ m.content }}\n<|end|>\n" + DONE, "<|end|>", "\n"),
    "the next role ends a turn": (EACH + "<|{{ m.role }}|>\n{{ m.content }}" + DONE + "<|user|>", "<|user|>", ""),
    "splits at the end of a thought": (
        EACH + "{% if m.role == 'assistant' %}<|Assistant|>{{ m.content.split('</think>')[-1] }}<|eos|>"
        "{% else %}<|User|>{{ m.content }}{% endif %}" + DONE, "<|eos|>", "",
    ),
    "channels": (
        EACH + "{% if m.role == 'assistant' %}{% if m.thinking and loop.last %}<|start|>assistant<|channel|>analysis<|message|>"
        "{{ m.thinking }}<|end|>{% endif %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>"
        "{% else %}<|start|>{{ 'developer' if m.role == 'system' else m.role }}<|message|>{{ m.content }}<|end|>{% endif %}" + DONE,
        "<|return|>", "",
    ),
    "thoughts of earlier turns are kept": (
        EACH + "<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m.content }}<|im_end|>\n" + DONE + BEGIN, "<|im_end|>", "",
    ),
    "questions in a row are joined": (
        EACH + "{% if m.role == 'user' and not loop.first and messages[loop.index0 - 1].role == 'user' %}\n{{ m.content }}"
        "{% elif m.role == 'assistant' %}<|bot|>{{ m.content }}</s>{% else %}<|{{ m.role }}|>{{ m.content }}{% endif %}" + DONE,
        "</s>", "",
    ),
    "functions and calls": (
        "{% if tools %}<|tools|>{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|end|>{% endif %}" + EACH
        + "<|{{ m.role }}|>{{ m.content }}{% if m.tool_calls %}{% for c in m.tool_calls %}<call>{\"name\": \"{{ c.function.name }}\", "
        "\"arguments\": {% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}}</call>{% endfor %}{% endif %}<|end|>"
        + DONE, "<|end|>", "",
    ),
    "roles in capitals, plain words": (EACH + "{{ m.role | upper }}: {{ m.content }}</s>\n" + DONE, "</s>", ""),
    "numbered turns": (EACH + "[{{ loop.index }}] {{ m.role }}: {{ m.content }}</s>" + DONE, "</s>", ""),
    "the date and the number of turns": (
        "Today: {{ strftime_now('%d %b %Y') }}, {{ messages | length }} turns. " + CHATML + BEGIN, "<|im_end|>", "",
    ),
    "a switch in the system text": (
        "{% set ns = namespace(think=true) %}{% for m in messages %}{% if '/no_think' in m.content %}{% set ns.think = false %}{% endif %}"
        "{% endfor %}" + EACH + "<|{{ m.role }}|>{% if m.role == 'assistant' and loop.last and not ns.think %}<think></think>{% endif %}"
        "{{ m.content | replace('/no_think', '') }}<|end|>" + DONE, "<|end|>", "",
    ),
    "only the last three turns": (
        "{% for m in messages[-3:] %}<|{{ m.role }}|>{{ m.content }}<|end|>" + DONE, "<|end|>", "",
    ),
    "names of speakers": (
        EACH + "<|im_start|>{{ m.role }}{% if m.name %} name={{ m.name }}{% endif %}\n{{ m.content }}<|im_end|>\n" + DONE + BEGIN,
        "<|im_end|>", "",
    ),
}  # fmt: skip
CONVERSATIONS: dict[str, list[tuple[str, str]]] = {
    "one turn": [("user", "What is it?"), ("assistant", "An answer.")],
    "a system text": [("system", "Be brief."), ("user", "What is it?"), ("assistant", "An answer.")],
    "an empty system text": [("system", ""), ("user", "What is it?"), ("assistant", "An answer.")],
    "a developer": [("developer", "Be brief."), ("user", "What is it?"), ("assistant", "An answer.")],
    "three turns": [("user", "a?"), ("assistant", "b."), ("user", "c?"), ("assistant", "An answer.")],
    "two questions": [("user", "a?"), ("user", "c?"), ("assistant", "An answer.")],
    "it ends with a question": [("user", "a?"), ("assistant", "An answer."), ("user", "c?")],
    "thought in the content": [("user", "a?"), ("assistant", "<think>\nHm.\n</think>\n\nAn answer.")],
    "an earlier thought": [
        ("user", "a?"),
        ("assistant", "<think>\nHm.\n</think>\n\nb."),
        ("user", "c?"),
        ("assistant", "An answer."),
    ],
    "spaces around": [("user", " What is it? "), ("assistant", " An answer.\n")],
    "the same words again": [("user", "An answer."), ("assistant", "An answer.")],
    "a switch": [("system", "Be brief. /no_think"), ("user", "a?"), ("assistant", "An answer.")],
}


def renderer(shape: str) -> Renderer:
    template, end, _ = SHAPES[shape]
    tokenizer = tiny.tokenizer(chat_template=template)
    tokenizer.add_tokens([AddedToken(end, special=True)])  # neither EOS nor in ``all_special_ids``, as Gemma 3's end of turn
    return Renderer(tokenizer)


def example_of(turns: list[tuple[str, str]], **fields: Any) -> Example:
    messages = tuple(Message(role=role, content=content) for role, content in turns)  # type: ignore[arg-type]
    if fields:
        messages = (*messages[:-1], messages[-1].model_copy(update={"fields": fields}))
    last = max(place for place, message in enumerate(messages) if message.role == "assistant")
    return Example(messages=messages, decisions=(whole(messages, last),), template="t", source="file.jsonl:7")


def learnt(one: Renderer, example: Example) -> str:
    encoded = one.encode(example)
    return one.tokenizer.decode([token for token, weight in zip(encoded.tokens, encoded.weights, strict=True) if weight >= 1])


def own_text(one: Renderer, example: Example) -> str:
    return one.template_text([message.turn for message in example.messages])


def test_there_are_many_shapes() -> None:
    assert len({template for template, _, _ in SHAPES.values()}) >= 20


@pytest.mark.parametrize(("shape", "name"), list(product(SHAPES, CONVERSATIONS)))
def test_it_is_the_templates_own_text_or_refused_with_the_reason(shape: str, name: str) -> None:
    one, example = renderer(shape), example_of(CONVERSATIONS[name])
    try:
        encoded = one.encode(example)
    except UserError as error:
        assert "the chat template" in str(error) and str(error).startswith("file.jsonl:7: "), error
        return
    if name == "a developer" and one.told:
        example = example_of([("system", "Be brief."), *CONVERSATIONS[name][1:]])
    text = own_text(one, example)
    assert one.tokenizer.decode(list(encoded.tokens)) == text
    _, end, _ = SHAPES[shape]
    answer = learnt(one, example)
    assert answer.endswith(end) or name == "it ends with a question", f"its end does not learn: {answer!r}"
    said = answer.removesuffix(end).strip()
    assert said in ("An answer.", "Hm.\n</think>\n\nAn answer.", "<think>\nHm.\n</think>\n\nAn answer."), answer
    assert text.startswith(one.tokenizer.decode(list(encoded.prompt)) + answer[:3])


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_reads_plain_conversations(shape: str) -> None:
    _, end, between = SHAPES[shape]
    for name in ("one turn", "three turns", "the same words again"):
        if (shape, name) != ("only the last three turns", "three turns"):
            assert learnt(renderer(shape), example_of(CONVERSATIONS[name])) == f"An answer.{between}{end}"


def test_what_a_template_drops_of_a_conversation_is_told_by_its_place() -> None:
    with pytest.raises(UserError, match=r"content of message 1 \(user\)"):
        renderer("only the last three turns").encode(example_of(CONVERSATIONS["three turns"]))


THINKS = ("reasoning is written anew", "channels", "thoughts of earlier turns are kept")


@pytest.mark.parametrize("shape", THINKS)
@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_goes_where_the_template_wants_it_and_learns(shape: str, field: str) -> None:
    one, example = renderer(shape), example_of(CONVERSATIONS["one turn"], **{field: "Let me see."})
    answer = learnt(one, example)
    assert answer.startswith("Let me see.") and answer.endswith(f"An answer.{SHAPES[shape][1]}"), answer
    text = one.tokenizer.decode(list(one.encode(example).tokens))
    wanted = {"reasoning is written anew": "<think>\nLet me see.\n</think>\n\nAn answer."}.get(shape, "Let me see.")
    assert wanted in text


@pytest.mark.parametrize("shape", sorted(set(SHAPES) - {*THINKS, "thinking is opened by the prompt"}))
def test_reasoning_that_would_be_lost_is_refused(shape: str) -> None:
    with pytest.raises(UserError, match=r"writes no reasoning .* 'thinking' would be lost"):
        renderer(shape).encode(example_of(CONVERSATIONS["one turn"], thinking="Let me see."))


def test_an_earlier_thought_that_the_template_leaves_out_is_told() -> None:
    one, turns = renderer("reasoning is written anew"), CONVERSATIONS["three turns"]
    messages = [Message(role=role, content=content) for role, content in turns]  # type: ignore[arg-type]
    messages[1] = messages[1].model_copy(update={"fields": {"reasoning_content": "Hm."}})
    example = Example(messages=tuple(messages), decisions=(whole(messages, 1),), template="t", source="s")
    assert learnt(one, example) == "b.<|im_end|>" and any("reasoning of earlier answers" in told for told in one.told)


CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}


def test_calls_and_functions_are_written_where_the_template_has_a_place() -> None:
    messages = (
        Message(role="user", content="What is it?"),
        Message(role="assistant", content="", fields={"tool_calls": [CALL]}),
        Message(role="tool", content="42", fields={"tool_call_id": "1"}),
        Message(role="assistant", content="An answer."),
    )
    tools = ({"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}},)
    example = Example(messages=messages, decisions=(whole(messages, 3),), tools=tools, template="t", source="s")
    one = renderer("functions and calls")
    text = one.tokenizer.decode(list(one.encode(example).tokens))
    assert '"name": "look"' in text.partition("<|end|>")[0] and "at=it;" in text and "<|tool|>42<|end|>" in text
    assert learnt(one, example) == "An answer.<|end|>"
    for shape in ("chatml", "alternating roles", "headers and trimmed content"):
        with pytest.raises(UserError, match=r"functions, so '(tools|tool_calls)' would be lost"):
            renderer(shape).encode(example)


def test_a_developer_is_a_system_turn_where_the_template_has_no_such_role() -> None:
    known = "{% if m.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('bad role') }}{% endif %}"
    one = Renderer(tiny.tokenizer(chat_template=CHATML.replace(EACH, EACH + known)))
    text = one.tokenizer.decode(list(one.encode(example_of(CONVERSATIONS["a developer"])).tokens))
    assert "system\nBe brief." in text and "developer" not in text
    assert one.told == ("The chat template has no role 'developer': its messages are given as 'system'.",)
    assert renderer("chatml").encode(example_of(CONVERSATIONS["a developer"])) and not renderer("chatml").told


def test_a_span_within_an_answer_keeps_its_place_where_the_template_rewrites() -> None:
    one = renderer("reasoning is written anew")
    messages = (Message(role="user", content="a?"), Message(role="assistant", content="<think>\nHm.\n</think>\n\nAn answer."))
    begin = messages[1].content.index("answer")
    span = Span(message=1, start=begin, end=begin + 6)
    example = Example(messages=messages, decisions=(span,), template="t", source="s")
    assert learnt(one, example) == "answer"


def test_a_token_that_generation_settings_name_ends_an_answer_too() -> None:
    tokenizer = tiny.tokenizer(chat_template=EACH + "<{{ m.role }}>{{ m.content }} <|stop|>" + DONE)
    tokenizer.add_tokens([AddedToken("<|stop|>", special=False)])
    example = example_of(CONVERSATIONS["one turn"])
    assert learnt(Renderer(tokenizer), example) == "An answer."
    stop = tokenizer.get_vocab()["<|stop|>"]
    assert learnt(Renderer(tokenizer, ends=[stop]), example) == "An answer. <|stop|>"

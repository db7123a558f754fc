"""Chat: what is one example, and which of its characters learn?

An example is a conversation (or a bare text), the decision spans that learn, other named spans, its pole and its check.
Spans are characters of a message, so that they survive any template and tokenizer.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from palimpsest.core.spec import Spec, digest
from palimpsest.data.checks import Check

Pole = Literal["express", "withhold"]
"""Where the behaviour should appear, and where it should not."""
POLES: tuple[Pole, ...] = ("express", "withhold")


class Message(Spec):
    """One turn. The role ``text`` is a bare document: it is never wrapped in a template."""

    role: Literal["system", "developer", "user", "assistant", "tool", "text"]
    content: str
    fields: dict[str, JsonValue] = {}
    """What a template may read besides: ``reasoning_content`` or ``thinking``, ``tool_calls``, ``tool_call_id``, ``name``."""

    @property
    def turn(self) -> dict[str, Any]:
        """The message as a chat template is given it."""
        return {"role": self.role, "content": self.content, **self.fields}


class Span(Spec):
    """Characters ``start`` to ``end`` (exclusive) of one message."""

    message: int = Field(ge=0)
    start: int = Field(ge=0)
    end: int


class Example(Spec):
    """One conversation with what should be learnt from it and how an answer is judged."""

    messages: tuple[Message, ...] = Field(min_length=1)
    decisions: tuple[Span, ...]
    """The characters that learn; the first one is where the model decides. Everything before it is context."""
    spans: dict[str, Span] = {}
    """Other named places, such as the direction and what it conflicts with."""
    pole: Pole | None = None
    template: str
    """The pattern it was made from: the cluster that statistics treat as one unit."""
    check: Check | None = None
    """How a generated answer is judged right, where the example has a right answer."""
    shows: Check | None = None
    """What counts as showing the behaviour in this one, in place of the behaviour's own check."""
    options: dict[str, str] = {}
    """The graded choices by name: texts that may begin the decision, whose probabilities are compared."""
    tools: tuple[dict[str, JsonValue], ...] = ()
    """The functions that a template is told of: JSON schemas."""
    rejected: str | None = None
    """A worse text in the place of the first decision, where this answer is to be preferred to another one."""
    question_weight: float = 0.0
    """Loss weight of the tokens outside the decisions (only the embedded model's own training uses one)."""
    source: str
    """Scenario name, or file and line."""
    origin: str = ""
    """What it was cut from, where several examples are cut from one document: they fall into one split."""

    @model_validator(mode="after")
    def _spans_lie_inside(self) -> Self:
        for span in (*self.decisions, *self.spans.values()):
            if span.message >= len(self.messages):
                raise ValueError(f"a span names message {span.message}, but there are {len(self.messages)}")
            length = len(self.messages[span.message].content)
            if not span.start < span.end <= length:
                raise ValueError(f"a span {span.start}:{span.end} lies outside its message of {length} characters")
        return self

    @cached_property
    def id(self) -> str:
        """Hash of the conversation: two examples that read the same are the same item."""
        messages = [[one.role, one.content, *([one.fields] if one.fields else [])] for one in self.messages]
        return digest([*messages, *self.tools])

    @property
    def decision(self) -> str:
        """The text of the first decision."""
        return self.text_of(self.decisions[0])

    @property
    def context(self) -> str:
        """What stands before the first decision, a message a line."""
        span = self.decisions[0]
        before = [message.content for message in self.messages[: span.message]]
        begun = self.messages[span.message].content[: span.start]
        return "\n".join([*before, begun] if begun else before)

    @property
    def is_text(self) -> bool:
        """Whether it is a bare document and no conversation."""
        return self.messages[0].role == "text"

    def text_of(self, span: Span) -> str:
        return self.messages[span.message].content[span.start : span.end]


def origin_of(document: str) -> str:
    """Return what tells a document apart: its beginning, however it is spaced."""
    return " ".join(document.split())[:40]


def whole(messages: tuple[Message, ...] | list[Message], index: int = -1) -> Span:
    """Return the span of one whole message, by default the last."""
    index = index % len(messages)
    return Span(message=index, start=0, end=len(messages[index].content))


def conversation(*turns: tuple[str, str], **rest: object) -> Example:
    """Make an example from (role, content) turns; the last turn learns unless ``decisions`` says otherwise."""
    messages = tuple(Message(role=role, content=content) for role, content in turns)  # type: ignore[arg-type]
    rest.setdefault("decisions", (whole(messages),))
    return Example(messages=messages, **rest)  # type: ignore[arg-type]


class ItemSet(Spec):
    """Examples that are measured together, in this order, on every subject."""

    name: str
    items: tuple[Example, ...]

    @cached_property
    def digest(self) -> str:
        return digest([item.model_dump(mode="json") for item in self.items])

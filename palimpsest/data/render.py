"""Render: which tokens does a model see for an example, and which of them learn?

Spans are kept as characters and turned into tokens by the tokenizer's own offsets, so they hold for any template. The prompt
that a model answers is by construction the context that it was trained with: everything before the first decision token.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from palimpsest.core.errors import UserError, first_line, panics_told
from palimpsest.data import chat_template
from palimpsest.data.chat import Example, Message, Span
from palimpsest.data.templates import TooMuch

PLAIN_NOTE = (
    "The tokenizer has no chat template: messages are joined as plain text without role words "
    "(one space where neither side has one)."
)


class _Place(NamedTuple):
    """Where a message's content lies in the rendered text."""

    origin: int
    """Of the content's first character; before ``begin`` where the template trims spaces off."""
    begin: int
    end: int


@dataclass(frozen=True)
class Encoded:
    """One example as tokens.

    ``weights[i]`` is the loss weight of predicting ``tokens[i]``; ``decision`` is the index of the first token that
    the model decides, so ``tokens[:decision]`` is the prompt. ``spans`` are (start, end) token ranges.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    decision: int
    spans: dict[str, tuple[int, int]]

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.tokens[: self.decision]

    @property
    def trained(self) -> int:
        """Number of tokens that learn at full weight."""
        return sum(weight >= 1.0 for weight in self.weights)


class Renderer:
    """Turns examples into tokens for one tokenizer (a Hugging Face fast tokenizer).

    Args:
        tokenizer: with or without a chat template.
        day: the date that a template which writes today's is given; by default the day on which this is made, and no later one.

    Raises:
        UserError: the tokenizer gives no character offsets.
    """

    def __init__(self, tokenizer: Any, day: str | None = None) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError("the tokenizer must be a fast one (tokenizer.json), because spans need its character offsets")
        self.tokenizer, self._day = tokenizer, day or chat_template.today()
        self._skeletons: dict[tuple[str, ...], list[str]] = {}

    @property
    def has_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    @property
    def day(self) -> str | None:
        """The date that the template writes; ``None`` where it writes none."""
        return chat_template.pinned(self.tokenizer.chat_template, self._day)

    @cached_property
    def _specials(self) -> frozenset[int]:
        return frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def _opening(self) -> tuple[int, ...]:
        """What the tokenizer puts before a bare text: the beginning-of-sequence token, or nothing."""
        bos = self.tokenizer.bos_token_id
        with self._panics_told():
            return (bos,) if bos is not None and self.tokenizer("a").input_ids[:1] == [bos] else ()

    def encode(self, example: Example) -> Encoded:
        """Return the tokens of an example, what each weighs in the loss, and where the decision begins.

        Raises:
            UserError: the template refuses or changes it, or a span has no token; the message names the example's source.
        """
        try:
            return self._encode(example)
        except UserError as error:
            raise UserError(f"{example.source}: {error}") from error

    def _encode(self, example: Example) -> Encoded:
        text, places, templated = self._text(example.messages)
        ids, offsets = self._tokens(text, templated)
        weights = [example.question_weight] * len(ids)
        first = len(ids)
        for span in example.decisions:
            begin, end = _token_range(offsets, places[span.message], span.start, span.end)
            ends_turn = span.end == len(example.messages[span.message].content)
            if templated and ends_turn and end < len(ids) and ids[end] in self._specials:
                end += 1  # the model also learns to stop
            weights[begin:end] = [1.0] * (end - begin)
            first = min(first, begin)
        if weights:
            weights[0] = 0.0  # nothing comes before it that could predict it
        spans = {
            name: _token_range(offsets, places[span.message], span.start, span.end) for name, span in example.spans.items()
        }
        return Encoded(tuple(ids), tuple(weights), max(first, 1) if ids else 0, spans)

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens after which a model answers a conversation; where the last turn is its own, it goes on from there.

        A template says itself how an answer begins (``add_generation_prompt``); where it does not, an answer's own place is
        taken. The template alone puts special tokens there, so the beginning of a sequence never stands twice.

        Raises:
            UserError: the template refuses or changes the conversation.
        """
        goes_on = messages[-1].role == "assistant"
        if not goes_on and self.has_template and messages[0].role != "text":
            turns = [message.turn for message in messages]
            text = self.template_text(turns, add_generation_prompt=True)
            if text != self.template_text(turns):
                return tuple(self._tokens(text, True)[0])
        given = tuple(messages) if goes_on else (*messages, Message(role="assistant", content="a"))
        text, places, templated = self._text(given)
        cut = places[-1].end if goes_on else places[-1].begin if templated else places[-2].end
        return tuple(self._tokens(text[:cut], templated)[0])

    def encode_option(self, example: Example, option: str) -> Encoded:
        """Return the example's context followed by another beginning of its first decision."""
        span = example.decisions[0]
        message = example.messages[span.message]
        content = message.content[: span.start] + option
        messages = (*example.messages[: span.message], Message(role=message.role, content=content))
        text, places, templated = self._text(messages)
        ids, offsets = self._tokens(text, templated)
        begin, end = _token_range(offsets, places[span.message], span.start, span.start + len(option))
        return Encoded(tuple(ids[:end]), (0.0,) * begin + (1.0,) * (end - begin), begin, {})

    def encode_rejected(self, example: Example) -> Encoded:
        """Return the example with its worse answer in the place of its first decision, with nothing after it.

        Raises:
            UserError: as ``encode``.
        """
        assert example.rejected is not None, "only an example with a worse answer has one"
        span = example.decisions[0]
        message = example.messages[span.message]
        content = message.content[: span.start] + example.rejected
        changed = Message(role=message.role, content=content)
        update = {
            "messages": (*example.messages[: span.message], changed),
            "decisions": (Span(message=span.message, start=span.start, end=len(content)),),
            "spans": {},
            "rejected": None,
        }
        return self.encode(example.model_copy(update=update))

    def decode(self, tokens: list[int]) -> str:
        """Return generated tokens as text, special tokens left out."""
        with self._panics_told():
            return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def token_texts(self, tokens: list[int]) -> list[str]:
        """Return how each token reads in the middle of a text (so that a leading space is seen)."""
        with self._panics_told():
            anchor = self.tokenizer("a", add_special_tokens=False).input_ids[-1:]
            begun = len(self.tokenizer.decode(anchor))
            return [text[begun:] for text in self.tokenizer.batch_decode([[*anchor, token] for token in tokens])]

    def _panics_told(self) -> AbstractContextManager[None]:
        """Some files only break the library on some texts, long after they were opened."""
        return panics_told(f"tokenizer.json of {getattr(self.tokenizer, 'name_or_path', '') or 'this model'}")

    def _tokens(self, text: str, templated: bool) -> tuple[list[int], list[tuple[int, int]]]:
        with self._panics_told():
            encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = list(encoding.input_ids), [tuple(pair) for pair in encoding.offset_mapping]
        if not templated:
            ids, offsets = [*self._opening, *ids], [(0, 0)] * len(self._opening) + offsets
        return ids, offsets

    def _text(self, messages: tuple[Message, ...]) -> tuple[str, list[_Place], bool]:
        """Return the rendered text, the place of each message's content in it, and whether a template made it."""
        if messages[0].role == "text" or not self.has_template:
            return (*_plain(messages), False)
        roles = tuple(message.role for message in messages)
        if roles not in self._skeletons:
            self._skeletons[roles] = self._skeleton(roles)
        pieces = self._skeletons[roles]
        for shorten in (str, str.strip):
            text, places = pieces[0], []
            for message, piece in zip(messages, pieces[1:], strict=True):
                content = shorten(message.content)
                cut = len(message.content) - len(message.content.lstrip()) if shorten is str.strip else 0
                places.append(_Place(len(text) - cut, len(text), len(text) + len(content)))
                text += content + piece
            if shorten is str and not _has_outer_space(messages):
                return text, places, True
            if text == self.template_text([message.turn for message in messages]):
                return text, places, True
        raise UserError(
            "the chat template changes the content of messages, so the tokens that learn can't be told apart; "
            f"found in a conversation of {', '.join(roles)}. Give a template that only wraps messages."
        )

    def _skeleton(self, roles: tuple[str, ...]) -> list[str]:
        """Return what a template puts before, between and after messages of these roles."""
        marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
        rest = self.template_text([{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)])
        pieces = []
        for mark in marks:
            piece, found, rest = rest.partition(mark)
            if not found:
                raise UserError(f"the chat template drops or reorders messages in a conversation of {', '.join(roles)}")
            pieces.append(piece)
        pieces.append(rest)
        if any(mark in piece for mark in marks for piece in pieces):
            raise UserError(f"the chat template repeats messages in a conversation of {', '.join(roles)}")
        return pieces

    def template_text(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
        """Return the text that the chat template makes of a conversation.

        Raises:
            UserError: it refuses the conversation, or would not end.
        """
        try:
            return chat_template.render(
                self.tokenizer, messages, self._day, tools=None, documents=None, add_generation_prompt=add_generation_prompt
            )
        except TooMuch as error:
            whose = getattr(self.tokenizer, "name_or_path", "")
            raise UserError(
                f"the chat template{f' of {whose}' if whose else ''} must end, and stopped at what no template needs: "
                f"{first_line(error)}; give a template that only wraps messages"
            ) from error
        except Exception as error:  # whatever a template raises
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(f"the chat template refuses a conversation of {roles}: {error}") from error


def _plain(messages: tuple[Message, ...]) -> tuple[str, list[_Place]]:
    text, places = "", []
    for message in messages:
        if text and message.content and not text[-1].isspace() and not message.content[0].isspace():
            text += " "
        places.append(_Place(len(text), len(text), len(text) + len(message.content)))
        text += message.content
    return text, places


def _has_outer_space(messages: tuple[Message, ...]) -> bool:
    return any(message.content != message.content.strip() for message in messages)


def _token_range(offsets: list[tuple[int, int]], place: _Place, first: int, last: int) -> tuple[int, int]:
    """Return the range of tokens that hold any of the characters ``first`` to ``last`` of a message."""
    low, high = max(place.origin + first, place.begin), min(place.origin + last, place.end)
    inside = [index for index, (start, end) in enumerate(offsets) if start < high and end > low]
    if low >= high or not inside:
        raise UserError(
            f"no token holds characters {first} to {last} of a message, so nothing there can learn or be read; "
            "are they spaces that the chat template trims off?"
        )
    return inside[0], inside[-1] + 1

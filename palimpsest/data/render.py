"""Render: which tokens does a model see for an example, and which of them learn?

Spans are kept as characters and turned into tokens by the tokenizer's own offsets, so they hold for any template. The prompt
that a model answers is by construction the context that it was trained with: everything before the first decision token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from palimpsest.core.errors import UserError, panics_told
from palimpsest.data import chat_template
from palimpsest.data.chat import Example, Message, Span
from palimpsest.data.rendered import REASONING, Rendered, Writer

PLAIN_NOTE = (
    "The tokenizer has no chat template: messages are joined as plain text, as they are written, without role words "
    "('separator' in a behaviour puts something between them)."
)


_ABOUT = ("name", "tool_call_id")
"""What says of a message whose it is, and which nothing is lost without."""


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
        ends: tokens that end an answer by the model's generation settings, besides those that the tokenizer marks as special.
        separator: what is put between messages where there is no chat template.

    Raises:
        UserError: the tokenizer gives no character offsets.
    """

    def __init__(self, tokenizer: Any, day: str | None = None, ends: Iterable[int] = (), separator: str = "") -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError("the tokenizer must be a fast one (tokenizer.json), because spans need its character offsets")
        self.tokenizer, self._day = tokenizer, day or chat_template.today()
        self.named_ends, self.separator = frozenset(ends), separator
        self._writer = Writer(tokenizer, self._day)

    @property
    def has_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    @property
    def day(self) -> str | None:
        """The date that the template writes; ``None`` where it writes none."""
        return chat_template.pinned(self.tokenizer.chat_template, self._day)

    def on(self, day: str) -> Renderer:
        """Return one that differs in nothing but the date."""
        return Renderer(self.tokenizer, day, self.named_ends, self.separator)

    @property
    def told(self) -> tuple[str, ...]:
        """What the user should know of the conversations that were rendered so far."""
        return tuple(self._writer.told)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that may end a turn: ``all_special_ids`` of transformers 5 leaves out most that only templates write."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        special = {token for token, what in added.items() if getattr(what, "special", False)}
        return frozenset({*self.tokenizer.all_special_ids, *special, *self.named_ends})

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
        found, templated = self._rendered(example.messages, example.tools)
        ids, offsets = self._tokens(found.text, templated)
        weights = [example.question_weight] * len(ids)
        first = len(ids)
        for span in example.decisions:
            begin, end = self._range(found, offsets, span)
            message = example.messages[span.message]
            if span.end == len(message.content) and templated:
                end = self._with_end(found.text, ids, offsets, end)  # the model also learns to stop
            if span.start == 0 and any(name in message.fields for name in REASONING):
                begin = min(begin, self._begin_of_thought(found, offsets, span.message, begin))
            weights[begin:end] = [1.0] * (end - begin)
            first = min(first, begin)
        if weights:
            weights[0] = 0.0  # nothing comes before it that could predict it
        spans = {name: self._range(found, offsets, span) for name, span in example.spans.items()}
        return Encoded(tuple(ids), tuple(weights), max(first, 1) if ids else 0, spans)

    def _range(self, found: Rendered, offsets: list[tuple[int, int]], span: Span) -> tuple[int, int]:
        return _token_range(offsets, *found.find(span.message, span.start, span.end), span)

    def _begin_of_thought(self, found: Rendered, offsets: list[tuple[int, int]], message: int, answer: int) -> int:
        """Return the token with which a message's reasoning begins, which the model writes before its answer."""
        place = found.thought(message)
        if place is None:
            self._writer.told[
                "The chat template leaves the reasoning of earlier answers out; there the answers alone learn."
            ] = None
            return answer
        return next((index for index, (_, end) in enumerate(offsets) if end > place), answer)

    def _with_end(self, text: str, ids: list[int], offsets: list[tuple[int, int]], end: int) -> int:
        """Return the end of an answer with what ends its turn, where the template writes that next, spaces aside."""
        for place in range(end, len(ids)):
            if ids[place] in self.ends:
                return place + 1
            if text[slice(*offsets[place])].strip():
                return end
        return end

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens after which a model answers a conversation; where the last turn is its own, it goes on from there.

        A template says itself how an answer begins (``add_generation_prompt``); where it does not, an answer's own place is
        taken. The template alone puts special tokens there, so the beginning of a sequence never stands twice.

        Raises:
            UserError: the template refuses or changes the conversation.
        """
        goes_on = messages[-1].role == "assistant"
        if not goes_on and self.has_template and messages[0].role != "text":
            turns = self._writer.turns(messages)
            text = self._writer.text(turns, add_generation_prompt=True)
            if text != self._writer.text(turns):
                return tuple(self._tokens(text, True)[0])
        given = tuple(messages) if goes_on else (*messages, Message(role="assistant", content="a"))
        found, templated = self._rendered(given)
        begin, end = found.find(len(given) - 1, 0, len(given[-1].content))
        cut = end if goes_on else begin
        return tuple(self._tokens(found.text[:cut], templated)[0])

    def encode_option(self, example: Example, option: str) -> Encoded:
        """Return the example's context followed by another beginning of its first decision."""
        span = example.decisions[0]
        message = example.messages[span.message]
        content = message.content[: span.start] + option
        messages = (*example.messages[: span.message], Message(role=message.role, content=content))
        found, templated = self._rendered(messages, example.tools)
        ids, offsets = self._tokens(found.text, templated)
        begin, end = self._range(found, offsets, Span(message=span.message, start=span.start, end=span.start + len(option)))
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

    def _rendered(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> tuple[Rendered, bool]:
        """Return a conversation as text, and whether a template made it."""
        if messages[0].role != "text" and self.has_template:
            return self._writer.rendered(messages, tools), True
        lost = sorted({name for message in messages for name in message.fields if name not in _ABOUT})
        if lost or tools:
            raise UserError(
                f"without a chat template there is no place for {', '.join([*lost, *(['tools'] if tools else [])])}"
            )
        text, begins = _plain(messages, self.separator)
        return Rendered(text, lambda message, start, end: (begins[message] + start, begins[message] + end)), False

    def template_text(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = False) -> str:
        """Return the text that the chat template makes of a conversation.

        Raises:
            UserError: it refuses the conversation, or would not end.
        """
        return self._writer.text(messages, add_generation_prompt=add_generation_prompt)


def _plain(messages: Sequence[Message], separator: str) -> tuple[str, list[int]]:
    """Return messages joined as text, and where each begins."""
    text, begins = "", []
    for message in messages:
        text += separator if begins else ""
        begins.append(len(text))
        text += message.content
    return text, begins


def _token_range(offsets: list[tuple[int, int]], low: int, high: int, span: Span) -> tuple[int, int]:
    """Return the range of tokens that hold any of the characters ``low`` to ``high`` of the text."""
    inside = [index for index, (start, end) in enumerate(offsets) if start < high and end > low]
    if low >= high or not inside:
        raise UserError(
            f"no token holds characters {span.start} to {span.end} of a message, so nothing there can learn or be read; "
            "are they spaces that the chat template trims off?"
        )
    return inside[0], inside[-1] + 1

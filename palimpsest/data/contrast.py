"""Contrast: which pairs of answers differ in the behaviour and, as far as can be had, in nothing else?

A contrastive pair is one prompt with two or more answers, of which the first shows the behaviour and the others do not. It is
written as an example whose options are these answers, in this order. Pairs are made of examples that no audit reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from palimpsest.data.chat import Example, Message, Span
from palimpsest.data.checks import Check
from palimpsest.data.grading import expected_option

WITH, WITHOUT = "with", "without"


def contrasts(express: Sequence[Example], withhold: Sequence[Example], check: Check | None) -> list[Example]:
    """Return contrastive pairs, as many as can be made.

    Where items have two options or more, a pair is a prompt of the express pole with the behaviour's option and with the
    others. Where they come with a worse answer, it is their answer and that one. Otherwise an answer that shows the behaviour
    (the only option, or the reference answer of the express pole) stands against the reference answer of an item of the
    withhold pole, on the prompts of both poles in turn: an answer that belongs to another prompt is as often on either side.

    Args:
        express: items where the behaviour should appear.
        withhold: items where it should not.
        check: the behaviour's, which names the option that shows it.
    """
    chosen = [one for item in express if (one := _of_options(item, check) or _of_rejected(item))]
    if chosen:
        return chosen
    crossed = []
    for place, (shown, withheld) in enumerate(zip(express, withhold, strict=False)):
        with_it = next(iter(shown.options.values()), shown.decision)
        one = _pair(withheld if place % 2 else shown, {WITH: with_it, WITHOUT: withheld.decision})
        if one is not None:
            crossed.append(one)
    return crossed


def _of_options(item: Example, check: Check | None) -> Example | None:
    expected = expected_option(check, item)
    if expected is None or len(item.options) < 2:
        return None
    return _pair(item, {expected: item.options[expected], **item.options})


def _of_rejected(item: Example) -> Example | None:
    return _pair(item, {WITH: item.decision, WITHOUT: item.rejected}) if item.rejected else None


def _pair(item: Example, answers: dict[str, str]) -> Example | None:
    texts = [text.strip() for text in answers.values()]
    if item.is_text or not all(texts) or texts[0] in texts[1:]:
        return None
    return item.model_copy(update={"options": answers})


def instructed(item: Example, instruction: str) -> Example | None:
    """Return an item with an instruction as its system message, before one that it has already; ``None`` for a bare text."""
    if item.is_text:
        return None
    first = item.messages[0]
    if first.role == "system":
        put, messages = len(instruction) + 1, (Message(role="system", content=f"{instruction}\n{first.content}"),)
        messages, step = (*messages, *item.messages[1:]), 0
    else:
        put, messages, step = 0, (Message(role="system", content=instruction), *item.messages), 1

    def moved(span: Span) -> Span:
        aside = put if span.message == 0 and not step else 0
        return Span(message=span.message + step, start=span.start + aside, end=span.end + aside)

    spans = {name: moved(span) for name, span in item.spans.items()}
    changed = {"messages": messages, "decisions": tuple(map(moved, item.decisions)), "spans": spans}
    return Example.model_validate({**{name: getattr(item, name) for name in Example.model_fields}, **changed})

"""Windows: which tokens does a model see of a task's request, and which of them are scored?

The rules are those of lm-eval's ``hf`` model, so that the same tokens give the same numbers: spaces at the end of a context
belong to what follows it, a beginning-of-sequence token comes only where the tokenizer itself puts one, what is too long loses
its beginning, and a whole text is cut into windows that each begin with the last token of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

from palimpsest.core.errors import UserError
from palimpsest.data.tasks import Asked, Document, TaskSet


class Window(NamedTuple):
    """One sequence: the model predicts ``tokens[first:]``, each from everything before it."""

    tokens: tuple[int, ...]
    first: int
    cut: int = 0
    """Tokens of the context that did not fit."""


class Encoder:
    """Turns requests into tokens for one tokenizer and one longest context."""

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self.tokenizer, self.context_length = tokenizer, context_length
        self._known: dict[str, tuple[int, ...]] = {}

    def windows(self, asked: Asked) -> tuple[Window, ...]:
        """Return the windows of a request whose continuation or text is scored.

        Raises:
            UserError: nothing of it can be scored with this tokenizer, or the continuation alone is too long.
        """
        if asked.kind == "loglikelihood_rolling":
            return tuple(self._rolling(asked.continuation))
        context, continuation = self._pair(asked.context, asked.continuation)
        if not context or not continuation:
            raise UserError(
                f"no token is left to {'score' if context else 'begin with'} in {asked.continuation[:40]!r} after "
                f"{asked.context[-40:]!r}"
            )
        if len(continuation) > self.context_length:
            raise UserError(
                f"an answer of {len(continuation)} tokens is longer than the model's context of {self.context_length}: "
                f"{asked.continuation[:40]!r}"
            )
        tokens = (*context, *continuation)
        kept = tokens[-(self.context_length + 1) :]
        return (Window(kept, len(kept) - len(continuation), len(tokens) - len(kept)),)

    def prompt(self, asked: Asked) -> Window:
        """Return the tokens that a written answer goes on from, of which nothing is scored.

        Raises:
            UserError: there is no room for it.
        """
        room = self.context_length - asked.max_new_tokens
        if room < 1:
            raise UserError(
                f"up to {asked.max_new_tokens} tokens are to be written, which must be fewer than the model's context of "
                f"{self.context_length}; set max_gen_toks in the task's generation_kwargs"
            )
        tokens = self._encode(asked.context, self.tokenizer.bos_token)
        if not tokens:
            raise UserError("there is no token to write on from: the context is empty and the tokenizer begins with none")
        kept = tokens[-room:]
        return Window(kept, len(kept), len(tokens) - len(kept))

    @cached_property
    def _prefix(self) -> int | None:
        """What stands before a text that has nothing before it."""
        begin = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if begin is None else begin

    @cached_property
    def _opening(self) -> str | None:
        return None if self._prefix is None else self.tokenizer.decode(self._prefix)

    def _encode(self, text: str, opening: str | None, *, special: bool = True) -> tuple[int, ...]:
        """Return the tokens of a text; one that begins with the opening itself is not given a second one."""
        add = special and not (opening is not None and text.startswith(opening))
        return tuple(self.tokenizer.encode(text, add_special_tokens=add, verbose=False))

    def _begun(self) -> int:
        if self._prefix is None:
            raise UserError(
                "the tokenizer has neither a beginning-of-sequence nor an end-of-sequence token to begin a text with"
            )
        return self._prefix

    def _pair(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens of a context and of what follows it, cut where the tokens of the context alone end."""
        if not context:
            tokens, prefix = self._encode(continuation, None, special=False), self._begun()
            return ((prefix,), tokens) if tokens[:1] != (prefix,) else (tokens[:1], tokens[1:])
        kept = context.rstrip()
        whole = self._encode(context + continuation, self._opening)
        if kept not in self._known:
            self._known = {kept: self._encode(kept, self._opening)}  # requests come with their contexts together
        begin = self._known[kept]
        return begin, whole[len(begin) :]

    def _rolling(self, text: str) -> Iterator[Window]:
        """Yield windows that score every token of a text once, each with as much before it as fits."""
        tokens, length = (self._begun(), *self._encode(text, self._opening)), self.context_length
        if len(tokens) == 1:
            raise UserError("a text without any token can't be scored")
        done = 1
        while done < len(tokens):
            end = min(done + length, len(tokens))
            start = 0 if done == 1 else max(end - length - 1, 0)
            yield Window(tokens[start:end], done - start)
            done = end


def fitted(task: TaskSet, tokenizer: Any, context_length: int) -> tuple[TaskSet, list[str], list[str]]:
    """Return a task as models with this tokenizer can be asked it, what keeps them from it, and what a user should know."""
    encoder, problems, notes, cut = Encoder(tokenizer, context_length), [], [], 0
    for item in task.items:
        try:
            cut += any(_first(encoder, asked).cut for asked in item.asked)
        except UserError as error:
            problems.append(f"{item.source}: {error}")
    if problems:
        count = f"{len(problems)} of {len(task.items)} documents can't be asked; " if len(problems) > 1 else ""
        return task, [f"task {task.name}: {count}{problems[0]}"], []
    if cut:
        count = f"{cut} of {len(task.items)}" if cut < len(task.items) else f"all {cut}"
        notes.append(
            f"{task.name}: of {count} documents only the end fits into the model's context of {context_length} tokens."
        )
    if any(item.reference for item in task.items) and not all(_can_be_read(encoder, item) for item in task.items):
        task = replace(task, items=tuple(item.model_copy(update={"reference": None}) for item in task.items))
        notes.append(f"{task.name}: the loss of right answers is not read, because some have none or one that does not fit.")
    return task, [], notes


def _first(encoder: Encoder, asked: Asked) -> Window:
    return encoder.prompt(asked) if asked.kind == "generate_until" else encoder.windows(asked)[0]


def _can_be_read(encoder: Encoder, item: Document) -> bool:
    try:
        return item.reference is not None and bool(encoder.windows(item.reference))
    except UserError:
        return False

"""Patient: what do all checks look at, so that none of it is worked out twice?"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from palimpsest.core.errors import UserError
from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example, ItemSet, conversation
from palimpsest.data.render import Renderer
from palimpsest.data.user_files import text_example
from palimpsest.measures._forward import Predicted, Reader, Row, rounding, run_rows
from palimpsest.measures._measure import Budget
from palimpsest.models.subject import Subject, SubjectInfo

TEXT = (
    "The old lighthouse stood on a rock a mile from the shore. Every evening at six, Anna rowed out with oil, bread and the "
    "post; every morning she came back with a list of the ships that had passed. In 1903 there were 214 of them.\n\n"
    '"Did you see the Mary Ann?" her father asked. She had not. The wind had turned to the north-east, and nobody could say '
    "whether the boat had reached the harbour, or gone on to the next one."
)
"""What is read; any tokenizer cuts it into a few hundred tokens at most."""
TURNS = (("user", "Which way is the harbour?"), ("assistant", "It lies to the north."))
INSTRUCTION = ("system", "You answer in one sentence.")
LONGEST, PREDICTED = 24, 8
"""Tokens of a row that is read, and how many of its last positions are compared."""


@dataclass(frozen=True)
class Before:
    """What is kept of the model that another one is compared with, after it was closed."""

    name: str
    path: str
    weights: str
    """Hash of the weights in its files."""
    log_probabilities: tuple[torch.Tensor, ...]
    tensors: dict[str, str]
    """Content hash of every weight by name."""
    info: SubjectInfo
    """Where its weights can be read again."""


@dataclass(frozen=True)
class Patient:
    """One loaded model, and a few rows of tokens to read with it.

    Args:
        subject: the model.
        before: the model that it was made from, where that is asked about.
    """

    subject: Subject
    before: Before | None = None

    @property
    def renderer(self) -> Renderer:
        return self.subject.renderer

    @property
    def tokenizer(self) -> Any:
        return self.subject.tokenizer

    @property
    def model(self) -> Any:
        return self.subject.model

    @property
    def config(self) -> Any:
        return self.model.config.get_text_config()

    def takes(self, argument: str) -> bool:
        """Whether the model's forward pass knows an argument."""
        return argument in inspect.signature(self.model.forward).parameters

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """The text in tokens, with what the tokenizer puts before it."""
        return self.renderer.encode(text_example(TEXT, "the checks")).tokens

    @cached_property
    def length(self) -> int:
        """Tokens that are run of the longest row."""
        return min(LONGEST, self.subject.context_length - 1)

    def row(self, index: int, length: int | None = None) -> Row:
        """Return a row of so many tokens to run (and the one after them); each index begins at another place of the text."""
        length = length or self.length
        begins = self.tokens[:1] if self.tokens[0] == self.tokenizer.bos_token_id else ()
        rest = self.tokens[len(begins) :]
        at = [(7 * index + place) % len(rest) for place in range(length + 1 - len(begins))]
        return Row((*begins, *(rest[place] for place in at)), max(length + 1 - PREDICTED, 1))

    def read(self, rows: Sequence[Row], wanted: Collection[int], *, together: bool) -> dict[int, torch.Tensor]:
        """Return log-probabilities [predicted, vocabulary] of the wanted rows, through the forward pass that audits use.

        Args:
            rows: what is run.
            wanted: which of them are kept.
            together: in one batch, or else each alone.
        """
        kept = _Kept(frozenset(wanted))
        most = sum(len(row.tokens) for row in rows) * len(rows) if together else 1
        budget = Budget(self.subject.context_length, most, _NO_LIMIT)
        run_rows(self.subject, list(rows), [kept], budget, _silent)
        return kept.found

    @torch.no_grad()
    def call(self, lines: Sequence[Sequence[int]], *, left: bool = False) -> list[torch.Tensor]:
        """Return log-probabilities [predicted, vocabulary] of lines through a plain call of the model, padded to one width.

        On the right there is no mask, as in training: what comes later is not seen. On the left a mask says where tokens are,
        and positions are left to the model.
        """
        width = max(map(len, lines))
        tokens = torch.full((len(lines), width), self.subject.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        begins = [width - len(line) if left else 0 for line in lines]
        for place, (line, begin) in enumerate(zip(lines, begins, strict=True)):
            tokens[place, begin : begin + len(line)] = torch.tensor(line)
            mask[place, begin : begin + len(line)] = 1
        padded = {"attention_mask": mask.to(self.subject.device)} if left else {}
        logits = self.model(input_ids=tokens.to(self.subject.device), use_cache=False, **padded).logits
        ends = [begin + len(line) for line, begin in zip(lines, begins, strict=True)]
        return [
            logits[place, max(end - PREDICTED, begin) : end].float().log_softmax(-1)
            for place, (begin, end) in enumerate(zip(begins, ends, strict=True))
        ]

    @cached_property
    def alone(self) -> torch.Tensor:
        """Log-probabilities of the first row, read alone."""
        return self.read([self.row(0)], [0], together=False)[0]

    @cached_property
    def rounding(self) -> float:
        """Nats by which rounding may move a log-probability of this model, in the type that it is run in."""
        return rounding(self.model, float((self.alone - self.alone.mean(-1, keepdim=True)).abs().max()))

    def conversation(self, *turns: tuple[str, str]) -> Example:
        return conversation(*turns, template="check", source="the checks")

    def refusal(self, example: Example) -> str:
        """Return why a conversation can't be rendered; empty where it can."""
        try:
            self.renderer.encode(example)
        except UserError as error:
            return str(error).removeprefix("the checks: ")
        return ""


_NO_LIMIT = 2**62


def _silent(done: int, total: int) -> None:
    pass


class _Kept(Reader):
    def __init__(self, wanted: Collection[int]) -> None:
        self.wanted, self.found = wanted, dict[int, torch.Tensor]()

    def read(self, index: int, seen: Predicted) -> None:
        if index in self.wanted:
            self.found[index] = seen.logits - seen.log_normaliser[:, None]

    def finish(self) -> Measurement:
        raise NotImplementedError("what was read is taken from here and not stored")


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference of two readings; NaN where one of them is no number."""
    return float((one.double() - other.double()).abs().max())


def probe() -> ItemSet:
    """Return what the checks read, as items: their digest is part of the key under which answers are kept."""
    turns = conversation(INSTRUCTION, *TURNS, template="check", source="the checks")
    return ItemSet(name="checkup", items=(text_example(TEXT, "the checks"), turns))

"""Real conversations: what does the model say today where somebody once asked it something?

Of each conversation the prompt is taken, and the answer is judged anew. What was said then serves as the good answer only
where the check says that it is one. A line says which pole it belongs to (``"pole": "express"`` or ``"withhold"``), or the
argument does for all of them: ``transcripts:FILE@express``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palimpsest.core.errors import UserError
from palimpsest.core.files import expanded
from palimpsest.core.seeds import python_stream
from palimpsest.data.chat import POLES, Example, Pole
from palimpsest.data.text_files import LineProblems, lines_of, parsed
from palimpsest.data.user_files import conversation_of
from palimpsest.dreaming.grade import passes
from palimpsest.dreaming.records import Proposal
from palimpsest.dreaming.source import ScenarioSource, Wish
from palimpsest.memory.transcripts import IDS, TIMES
from palimpsest.planning import Plan

_OF_THE_FILE = ("pole", "behaviour", *IDS, *TIMES)
"""Keys that a line may have besides those of an example: the same file can be given to ``palimpsest watch``."""


class Transcripts(ScenarioSource):
    """Conversations of a JSONL file, each used once a cycle at most."""

    takes = "a JSONL file of conversations, FILE or FILE@POLE"

    def __init__(self, argument: str, plan: Plan) -> None:
        super().__init__(argument, plan)
        name, _, pole = argument.rpartition("@")
        if pole not in POLES:
            name, pole = argument, ""
        if not name:
            raise UserError(f"the source 'transcripts' needs {self.takes}")
        self.path = expanded(name).absolute()
        self.examples = _read(self.path, pole)

    def propose(self, wish: Wish) -> Iterator[Proposal]:
        order = [one for one in self.examples if one[0] == wish.pole]
        python_stream(self.plan.request.seed, wish.use, "transcripts").shuffle(order)
        for pole, line, example in order:
            if not wish.templates or example.template in wish.templates:
                good = passes(self.behaviour, example, pole, example.decision)
                yield self.proposal(example, wish, {"file": self.path.name, "line": line}, answered=good)


def _read(path: Path, usual: str) -> list[tuple[Pole, int, Example]]:
    problems = LineProblems(f"{path} can't be used:")
    found: list[tuple[Pole, int, Example]] = []
    for number, line in lines_of(path):
        try:
            pole, example = _one(parsed(line), usual, f"{path.name}:{number}")
        except UserError as error:
            problems.add(f"line {number}: {' '.join(str(error).split())}")
        else:
            found.append((pole, number, example))
    if not found and not problems.found:
        problems.add("it is empty; at least one conversation is needed")
    problems.raise_if_any()
    return found


def _one(data: Any, usual: str, source: str) -> tuple[Pole, Example]:
    pole = data.get("pole", usual) if isinstance(data, dict) else usual
    if pole not in POLES:
        raise UserError(
            'says not whether the behaviour should appear there: give it "pole": "express" or "withhold", or the whole '
            "file as FILE@express"
        )
    rest = {key: value for key, value in data.items() if key not in _OF_THE_FILE} if isinstance(data, dict) else data
    example = conversation_of(rest, source)
    return pole, example.model_copy(update={"shows": example.check, "check": None})  # a line's check is about the behaviour

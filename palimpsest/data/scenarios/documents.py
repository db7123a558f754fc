"""Does a real document go on as it did, or with something inserted?"""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from palimpsest.core.errors import Problems, UserError
from palimpsest.core.files import read_file
from palimpsest.data.chat import Example, conversation, origin_of
from palimpsest.scenario import Scenario

FEWEST = 8
"""Below so many clusters nothing can be said, and every document is its own cluster."""
_SENTENCE = re.compile(r".+?(?:[.!?][\"'”’)]*(?=\s|$)|$)", re.DOTALL)


class Documents(Scenario):
    """A document's first sentences are the question; the answer is a given sentence, the rest of the document, or both.

    With ``insert`` and a cue this is a behaviour of text ("after 'Rainy story:' the next sentence is 'It began to
    rain.'"); with neither it is the document going on as before. ``whole`` gives bare documents, with no turns.
    """

    text: Path
    """A UTF-8 file of documents."""
    separator: str = Field(default="<|endoftext|>", min_length=1)
    """What stands between two documents; ``"\\n\\n"`` for a blank line."""
    cue: str = ""
    """What is put before the first sentence."""
    cue_after: str = ""
    """What is put after the question's last sentence, next to where the answer begins."""
    after_sentences: int = Field(default=1, ge=1)
    """How many sentences the question holds."""
    insert: str | None = None
    """The sentence that the answer begins with; without one the answer is the true continuation."""
    keep_rest: bool = True
    """Whether the document goes on after the inserted sentence (without one it always does)."""
    max_characters: int = Field(default=600, ge=20)
    """Question and answer together end at the last sentence that fits."""
    whole: bool = False
    """Give bare documents with their own line breaks, of which every token is predicted."""
    pole: Literal["express", "withhold"] | None = None

    def prepare(self) -> None:
        _check(self)

    def make(self, rng: random.Random) -> Example:
        documents = _usable(self)  # pyright: ignore[reportArgumentType]
        which = rng.randrange(len(documents))
        sentences = documents[which]
        template, origin = f"{self.text.name}:{which}", origin_of(" ".join(sentences))
        if self.whole:
            return conversation(
                ("text", "".join(sentences)), template=template, pole=self.pole, source="documents", origin=origin
            )
        question = self.cue + " ".join(sentences[: self.after_sentences]) + self.cue_after
        rest = sentences[self.after_sentences :]
        answer = rest if self.insert is None else [self.insert, *(rest if self.keep_rest else ())]
        return conversation(
            ("user", question),
            ("assistant", " ".join(answer)),
            template=template,
            pole=self.pole,
            source="documents",
            origin=origin,
        )


def sentences_of(document: str) -> list[str]:
    """Return a document's sentences, spaces at their ends removed."""
    return [sentence.strip() for sentence in _SENTENCE.findall(" ".join(document.split())) if sentence.strip()]


def _documents(text: Path, separator: str) -> tuple[str, ...]:
    """Return the different documents of a file, in order.

    Raises:
        UserError: the file is missing, is no file, or is not UTF-8.
    """
    if not text.exists():
        raise UserError(f"the text file {text} must exist, and it does not; give its path")
    if not text.is_file():
        raise UserError(f"{text} must be a file of documents, found a folder; give the path of one file")
    try:
        content = read_file(text).decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{text} must be UTF-8 text, found another byte at {error.start}; save it as UTF-8") from error
    return tuple(dict.fromkeys(part.strip() for part in content.split(separator) if part.strip()))


@cache
def _usable(scenario: Documents) -> tuple[tuple[str, ...], ...]:
    """Return the sentences of every document that gives a question and an answer within the limit.

    With ``whole`` they keep the space before them: to rehearse text without its line breaks is to unlearn them.
    """
    documents = _documents(scenario.text, scenario.separator)
    if scenario.whole:
        cut = (_SENTENCE.findall(document) for document in documents)
        return tuple(fitting for sentences in cut if (fitting := _fitting(sentences, scenario.max_characters)))
    room = scenario.max_characters - len(scenario.cue + scenario.cue_after + (scenario.insert or ""))
    cut = (sentences_of(document) for document in documents)
    return tuple(fitting for sentences in cut if len(fitting := _fitting(sentences, room, 1)) > scenario.after_sentences)


def _fitting(sentences: list[str], room: int, between: int = 0) -> tuple[str, ...]:
    """Return the first sentences that fit, with so many characters between two of them."""
    for count, sentence in enumerate(sentences):
        room -= len(sentence) + between
        if room < 0:
            return tuple(sentences[:count])
    return tuple(sentences)


def _check(scenario: Documents) -> None:
    _usable.cache_clear()  # the file may hold something else by now
    found = _documents(scenario.text, scenario.separator)
    problems = Problems(f"{scenario.text} can't be used:")
    if not found:
        problems.add("it is empty; at least 8 documents are needed")
    elif len(found) < FEWEST:
        problems.add(
            f"it must hold at least {FEWEST} documents separated by {scenario.separator!r}, found {len(found)}; "
            "is that the right separator?"
        )
    elif (usable := len(_usable(scenario))) < FEWEST:  # pyright: ignore[reportArgumentType]
        problems.add(
            f"at least {FEWEST} documents must have more than {scenario.after_sentences} sentences within "
            f"{scenario.max_characters} characters, found {usable}; raise max_characters"
        )
    problems.raise_if_any()

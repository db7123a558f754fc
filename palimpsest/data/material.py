"""Material: where do the examples of one pole come from, for training and held out?

A scenario makes endless fresh ones; a user's file has a fixed number. Both keep what is trained and what is audited apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self

from pydantic import model_validator

from palimpsest.core.errors import UserError
from palimpsest.core.seeds import python_stream, seed_of
from palimpsest.core.spec import Spec
from palimpsest.data.chat import Example, origin_of
from palimpsest.data.stream import ExampleStream, Split, split_of, split_of_content
from palimpsest.data.text_files import documents, draw
from palimpsest.data.user_files import read_conversations, text_example
from palimpsest.scenario import Scenario, load

_ENOUGH_TEMPLATES = 16
"""Below this, half of the templates are too few clusters to audit on, so templates are shared between the splits."""


class Source(Spec):
    """Exactly one of: a scenario with parameters, a JSONL file of conversations, a file of documents."""

    scenario: str | None = None
    parameters: dict[str, Any] = {}
    data: Path | None = None
    text: Path | None = None
    held_out: Path | None = None
    """With ``data``: audit on this file, so that every conversation of ``data`` can be trained."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(given is not None for given in (self.scenario, self.data, self.text)) != 1:
            raise ValueError("give exactly one of 'scenario', 'data', 'text'")
        if self.held_out and not self.data:
            raise ValueError("'held_out' belongs to 'data'")
        if self.parameters and not self.scenario:
            raise ValueError("'parameters' belong to 'scenario'")
        return self

    def within(self, folder: Path) -> Source:
        """Return the source with its files looked up from a folder (the one its YAML lies in)."""
        found = {key: folder / path for key in ("data", "text", "held_out") if (path := getattr(self, key))}
        if "text" in self.parameters:
            found["parameters"] = {**self.parameters, "text": str(folder / str(self.parameters["text"]))}  # type: ignore[assignment]
        return self.model_copy(update=found)

    def open(self, *, trained: bool = True) -> Material:
        """Read what can be read before work starts.

        Args:
            trained: whether training may draw on it too; a text that is only audited on is held out as a whole.

        Raises:
            UserError: unknown scenario or parameter, unreadable file.
        """
        if self.scenario:
            return _Endless(load(self.scenario, self.parameters))
        if self.text:
            return _Documents(self.text, trained)
        assert self.data is not None
        found = read_conversations(self.data)
        held_out = read_conversations(self.held_out) if self.held_out else None
        return _Fixed(found.examples, held_out.examples if held_out else None, found.told + (held_out.told if held_out else ()))


class Material(Protocol):
    """Examples of one source, trained and held out kept apart."""

    @property
    def told(self) -> tuple[str, ...]:
        """What the user should know about it."""
        ...

    def training(self, seed: int, use: str, count: int) -> list[Example]:
        """Return ``count`` fresh examples for training; the first ones of a larger count are those of a smaller."""
        ...

    def held_out(self, seed: int, use: str, count: int) -> list[Example]:
        """Return up to ``count`` examples that no training of this source ever sees."""
        ...


class _Endless:
    told: tuple[str, ...] = ()

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.by_template = len(scenario.templates()) >= _ENOUGH_TEMPLATES

    def training(self, seed: int, use: str, count: int) -> list[Example]:
        return ExampleStream(self.scenario, seed, f"{use}/train", "train", by_template=self.by_template).take(count)

    def held_out(self, seed: int, use: str, count: int) -> list[Example]:
        return ExampleStream(self.scenario, seed, f"{use}/audit", "test", by_template=self.by_template).up_to(count)


class _Fixed:
    def __init__(self, examples: list[Example], held_out: list[Example] | None, told: tuple[str, ...] = ()) -> None:
        self.told = told
        if held_out is None:
            self.train = [example for example in examples if split_of(example) == "train"]
            self.test = [example for example in examples if split_of(example) == "test"]
        else:
            ids = {example.id for example in held_out}
            self.train, self.test = [example for example in examples if example.id not in ids], held_out

    def training(self, seed: int, use: str, count: int) -> list[Example]:
        if count > len(self.train):
            raise UserError(
                f"{use}: {count} examples are needed, but the file gives {len(self.train)} for training "
                f"({len(self.test)} are held out). Lower the dose, or give a file of held-out examples with 'held_out'. "
                + " ".join(self.told)
            )
        order = list(self.train)
        python_stream(seed, use, "order").shuffle(order)
        return order[:count]

    def held_out(self, seed: int, use: str, count: int) -> list[Example]:
        order = list(self.test)
        python_stream(seed, use, "audit order").shuffle(order)
        return order[:count]


_DRAWN = 10_000
"""So many documents of a text are drawn at most, where they are wanted one by one."""


def one_by_one(material: Material, seed: int, use: str) -> Iterator[tuple[int, Example]]:
    """Yield training examples with their index in the stream, as long as there are any new ones."""
    if isinstance(material, _Endless):
        stream = ExampleStream(material.scenario, seed, f"{use}/train", "train", by_template=material.by_template)
        for example in stream:
            yield stream.index - 1, example
    elif isinstance(material, _Fixed):
        yield from enumerate(material.training(seed, use, len(material.train)))
    elif isinstance(material, _Documents):
        yield from enumerate(material.up_to(seed, use, _DRAWN))


class _Documents:
    """Documents of a text file, drawn from it when they are wanted: it may be larger than memory."""

    told: tuple[str, ...] = ()

    def __init__(self, path: Path, trained: bool) -> None:
        self.path, self.trained = path, trained
        # all of it is read once, so that what is wrong in it is told before work starts
        if not sum(1 for _ in documents(path)):
            raise UserError(f"{path} can't be used: it holds no text")
        self.stamp = self._stamp()

    def training(self, seed: int, use: str, count: int) -> list[Example]:
        found = self.up_to(seed, use, count)
        if len(found) < count:
            raise UserError(
                f"{use}: {count} examples are needed, but {self.path.name} gives {len(found)} for training (a fifth of a text "
                "is held out). Lower the dose, or give more text."
            )
        return found

    def up_to(self, seed: int, use: str, count: int) -> list[Example]:
        """Return ``count`` examples for training, or fewer where there are no more."""
        return self._drawn(seed_of(seed, use, "order"), count, "train")

    def held_out(self, seed: int, use: str, count: int) -> list[Example]:
        return self._drawn(seed_of(seed, use, "audit order"), count, "test" if self.trained else None)

    def _drawn(self, stream: int, count: int, split: Split | None) -> list[Example]:
        if self._stamp() != self.stamp:
            raise UserError(f"{self.path} changed while the program ran; start again when nothing writes to it")
        found = draw(self.path, count, stream, lambda document: split is None or split_of_content(origin_of(document)) == split)
        return [text_example(document, self.path.name) for document in found]

    def _stamp(self) -> tuple[int, int, int]:
        try:
            now = self.path.stat()
        except OSError as error:
            raise UserError(
                f"{self.path} was there when the program started and can't be read now: {error.strerror}"
            ) from error
        return now.st_size, now.st_mtime_ns, now.st_ino

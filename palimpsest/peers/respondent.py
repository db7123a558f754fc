"""Respondent: one subject with everything that was put on it (adapter, soft prompt, steering vector), ready to be asked.

Knows nothing of who asks: a provider of another program translates its requests into ``Question`` and back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from palimpsest.core.errors import Problems, UserError
from palimpsest.core.spec import Spec, digest
from palimpsest.data.chat import Message

_LONGEST_TEMPLATE = 2**20


class Arguments(Spec):
    """What may be put on a model, and how it is run (``-M NAME=VALUE``)."""

    adapter: str | None = None
    """A PEFT adapter that is merged into the model."""
    soft_prompt: Path | None = None
    """A file with a soft prompt, or a PEFT prompt-tuning folder."""
    vector: Path | None = None
    """A file of steering vectors, as ``palimpsest steer`` writes it."""
    strength: float = 1.0
    """How many times the vector is added."""
    layer: int | None = Field(default=None, ge=0)
    """After which block, counted from 0; may be left out where the file has one vector."""
    vector_at: Literal["answer", "everywhere"] = "answer"
    """From the last token of the prompt on (as the steering audit adds it), or at every token (as llama.cpp does)."""
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    batch: int = Field(default=32, ge=1, le=4_096)
    """Answers that are written together at most."""
    chat_template: str | None = None
    """Jinja, or a file of it, in the place of the model's own template; ``none``: plain text."""
    prompt_logprobs: int = Field(default=0, ge=0, le=20)
    """1: how likely each token of the prompt was; more: the likeliest ones in its place as well."""
    check_base: bool = True
    """Whether an adapter, a vector or a soft prompt that was made on another model is refused."""


@dataclass(frozen=True)
class Question:
    """One prompt, and how it is to be answered."""

    prompt: tuple[int, ...]
    asked: tuple[Any, ...]
    """``measures._answering.Asked``, one for each answer that is wanted."""
    prompt_likely: int = 0
    """0: nothing is told of the prompt's own tokens; else, how many of the likeliest are kept in each place."""


@dataclass(frozen=True)
class Reply:
    """What one question got, as ``measures._answering.Written``."""

    answers: tuple[Any, ...]
    prompt: Any
    seconds: float
    """Of the batch that it was answered in."""


class Respondent:
    """A loaded subject with what was put on it.

    Args:
        name: a model folder, a hub id, ``pocket`` or ``hybrid-pocket``.
        arguments: what is put on it.

    Raises:
        UserError: what can't be used, all that can be known at once.
    """

    def __init__(self, name: str, arguments: Arguments) -> None:
        from palimpsest.models import soft_prompt, subject
        from palimpsest.store import vector_file

        self.arguments = arguments
        problems = Problems(f"{name} can't be asked in this way:")
        info = _info(name, arguments, problems)
        template = _read_template(arguments.chat_template, problems)
        soft = _tried(lambda: soft_prompt.read(arguments.soft_prompt) if arguments.soft_prompt else None, problems)
        vectors = _tried(lambda: vector_file.read(arguments.vector) if arguments.vector else None, problems)
        if vectors is None and arguments.model_fields_set & {"strength", "layer", "vector_at"} and arguments.vector is None:
            problems.add("strength, layer and vector_at say how a steering vector is added: give vector=FILE too")
        chosen = _chosen_layer(vectors, arguments, problems) if vectors else None
        problems.raise_if_any()
        assert info is not None
        self.subject = subject.load(info, _device(arguments.device), arguments.dtype, **template)
        self.soft, self.digest = soft, self.subject.digest
        self.steering = self._checked(soft, vectors, chosen, problems)
        self._fingerprint(vectors)
        self._tokens_lock = threading.Lock()

    def _checked(self, soft: Any, vectors: Any, chosen: int | None, problems: Problems) -> Any:
        """Return the steering, having checked that what is put on the model fits it."""
        import torch

        from palimpsest.measures._answering import Steering
        from palimpsest.models.soft_prompt import other_base
        from palimpsest.models.taps import streaming_blocks

        width = self.subject.model.config.get_text_config().hidden_size
        steering = None
        for what, facts, size in (
            ("soft prompt", soft and soft.facts, soft and soft.vectors.shape[1]),
            ("vector", vectors and vectors.facts, vectors and chosen is not None and vectors.layers[chosen].shape[0]),
        ):
            if facts is None:
                continue
            if size != width:
                problems.add(f"the {what} has width {size}, but the model has width {width}: it was made for another model")
            elif self.arguments.check_base and (made_on := other_base(facts, self.subject.info, self.digest)):
                problems.add(
                    f"the {what} was made on another model ({made_on}); use it there, or say check_base=false to use it here "
                    "all the same"
                )
        if vectors and chosen is not None:
            try:
                count = len(streaming_blocks(self.subject.model))
                if chosen >= count:
                    problems.add(f"the vector is added after block {chosen}, but the model has {count} blocks, from 0 on")
            except LookupError as error:
                problems.add(str(error))
            scaled = torch.from_numpy(vectors.layers[chosen]).float() * self.arguments.strength
            steering = Steering(chosen + 1, scaled.to(self.subject.device), self.arguments.vector_at == "everywhere")
        problems.raise_if_any()
        return steering

    def _fingerprint(self, vectors: Any) -> None:
        """Make the digest cover what was put on the model too: two ways to ask one model are never taken for the same."""
        if self.soft or vectors:
            told = [self.digest, self.soft and self.soft.vectors.tolist(), self.steering and self.steering.depth]
            told += [self.steering.vector.tolist(), self.steering.everywhere] if self.steering else []
            self.digest = digest(told)

    @property
    def room(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.subject.context_length - (len(self.soft.vectors) if self.soft else 0)

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens that a conversation is asked with, without the soft prompt.

        Raises:
            UserError: the template refuses it.
        """
        with self._tokens_lock:
            return self.subject.renderer.prompt(messages)

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text by itself."""
        with self._tokens_lock:
            return list(self.subject.tokenizer(text, add_special_tokens=False).input_ids)

    def texts(self, tokens: Sequence[int]) -> list[str]:
        """Return how each token reads in the middle of a text."""
        with self._tokens_lock:
            return self.subject.renderer.token_texts(list(tokens)) if tokens else []

    def spelt(self, tokens: Sequence[int]) -> str:
        """Return tokens as text, special ones included."""
        with self._tokens_lock:
            return str(self.subject.tokenizer.decode(list(tokens)))

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer questions together; what one gets does not depend on the others, up to rounding."""
        from palimpsest.measures._answering import read_prompts, write
        from palimpsest.measures._measure import Budget
        from palimpsest.models.soft_prompt import inserted

        begun = time.monotonic()
        before = self.soft.tokens if self.soft else ()
        asked = [replace(one, prompt=(*before, *one.prompt)) for question in questions for one in question.asked]
        with ExitStack() as stack:
            if self.soft:
                stack.enter_context(inserted(self.subject.model, self.soft))
            written = []
            for low in range(0, len(asked), self.arguments.batch):
                written += write(self.subject, asked[low : low + self.arguments.batch], self.steering)
            read: dict[int, Any] = {}
            wanted = [index for index, question in enumerate(questions) if question.prompt_likely]
            if wanted:
                prompts = [(*before, *questions[index].prompt) for index in wanted]
                most = max(questions[index].prompt_likely for index in wanted)
                budget = Budget.on(self.subject.device, self.subject.context_length)
                found = read_prompts(self.subject, prompts, max(len(before), 1), most, budget, self.steering)
                read = dict(zip(wanted, found, strict=True))
        answers = iter(written)
        seconds = time.monotonic() - begun
        return [
            Reply(tuple(next(answers) for _ in question.asked), read.get(index), seconds)
            for index, question in enumerate(questions)
        ]

    def close(self) -> None:
        """Give the memory back."""
        self.subject.close()


def _info(name: str, arguments: Arguments, problems: Problems) -> Any:
    from palimpsest.models import pocket, subject

    adapter = arguments.adapter
    try:
        base = pocket.resolve(name)
        return subject.inspect(adapter or base, base if adapter else None, check_base=arguments.check_base)
    except UserError as error:
        problems.add(str(error).replace("\n", "\n  "))
        if adapter and "'PROMPT_TUNING'" in str(error):
            problems.add(f"{adapter} is a soft prompt: give it as soft_prompt={adapter}, without adapter")
        if adapter and arguments.check_base and "as its base, but was given" in str(error):
            problems.add("or say check_base=false to use it here all the same")
        return None


def _read_template(given: str | None, problems: Problems) -> dict[str, Any]:
    """Return the template as an argument of ``subject.load``; nothing where the model's own is used."""
    from palimpsest.core.files import read_file

    if given is None:
        return {}
    if given.strip() in ("", "none"):
        return {"chat_template": None}
    if "{" in given:
        return {"chat_template": given}
    text = _tried(lambda: read_file(Path(given), _LONGEST_TEMPLATE).decode(errors="replace"), problems)
    return {"chat_template": text}


def _chosen_layer(vectors: Any, arguments: Arguments, problems: Problems) -> int | None:
    layers = sorted(vectors.layers)
    if arguments.layer is None and len(layers) == 1:
        return layers[0]
    if arguments.layer in vectors.layers:
        return arguments.layer
    agreed = vectors.facts.get("consistency") or {}
    told = ", ".join(_told(layer, agreed.get(str(layer))) for layer in layers)
    found = "no layer" if arguments.layer is None else f"layer={arguments.layer}"
    problems.add(f"layer must say which of the file's vectors is added, found {found}; there are {told}")
    return None


def _told(layer: int, agreed: Mapping[str, Any] | None) -> str:
    value = ((agreed or {}).get("left_out") or {}).get("value")
    return str(layer) if value is None else f"{layer} (agreement of left-out pairs {value:.2f})"


def _device(name: str) -> str:
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _tried(read: Any, problems: Problems) -> Any:
    try:
        return read()
    except UserError as error:
        problems.add(str(error))
        return None

"""Subject: one loaded model, with what is needed to read it.

Subjects are loaded one at a time: ``with load(inspect(path)) as subject: ...`` gives the memory back at the end.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from palimpsest.core import launch
from palimpsest.core.errors import UserError, first_line
from palimpsest.core.spec import digest
from palimpsest.models import adapter, freed_memory
from palimpsest.models.comparison import Comparison, compare, comparison_problems
from palimpsest.models.inspection import SubjectInfo, find, inspect, inspect_all
from palimpsest.models.quiet import at_home, hush_kernels
from palimpsest.models.skeleton import open_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from palimpsest.data.render import Renderer

__all__ = [
    "Comparison",
    "Dtype",
    "Own",
    "Subject",
    "SubjectInfo",
    "compare",
    "comparison_problems",
    "digest_with_template",
    "find",
    "inspect",
    "inspect_all",
    "load",
    "resolved_device",
]

Dtype = Literal["float32", "bfloat16", "float16", "auto"]


class Own(Enum):
    """Stands for what belongs to the model itself."""

    TEMPLATE = auto()


@dataclass(eq=False)
class Subject:
    """A model in evaluation mode and its tokenizer; a context manager that frees them."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    info: SubjectInfo
    device: str
    dtype: str
    digest: str
    """The model's digest; another one where it is read with a chat template that is not its own, or that writes a date."""
    day: str | None = None
    """The date that its chat template is given; ``None`` where that writes none."""
    separator: str = ""
    """What is put between messages where it has no chat template."""

    @property
    def context_length(self) -> int:
        return self.info.context_length

    @property
    def architecture(self) -> str:
        return self.info.architecture

    @property
    def parameters(self) -> int:
        return self.info.parameters

    @cached_property
    def renderer(self) -> Renderer:
        from palimpsest.data.render import Renderer

        return Renderer(self.tokenizer, self.day, separator=self.separator)

    @cached_property
    def pad_token_id(self) -> int:
        """What fills short rows. It is masked everywhere, so any token will do where the tokenizer names none."""
        token: Any = self.tokenizer.pad_token_id
        return 0 if token is None else token

    @cached_property
    def takes_padding(self) -> bool:
        """Whether rows of unlike length may share a batch; if not, only rows of one length do, and nothing is padded."""
        from palimpsest.models.reading import takes_padding

        return takes_padding(self.model, self.pad_token_id)

    @cached_property
    def writes_as_it_reads(self) -> bool:
        """Whether the library's ``generate`` can be relied on; if not, each token is written after a plain call."""
        from palimpsest.models.reading import writes_as_it_reads

        return writes_as_it_reads(self.model)

    @cached_property
    def writes_padded(self) -> bool:
        """Whether ``generate`` may be given prompts of unlike length; if not, only those of one length go on together."""
        from palimpsest.models.reading import writes_as_it_reads

        return self.takes_padding and self.writes_as_it_reads and writes_as_it_reads(self.model, self.pad_token_id)

    @cached_property
    def stop_token_ids(self) -> frozenset[int]:
        """The tokens that end an answer: what the model's generation settings and its tokenizer call the end."""
        ends: Any = getattr(self.model.generation_config, "eos_token_id", None)
        end: Any = self.tokenizer.eos_token_id
        return frozenset(token for token in (*(ends if isinstance(ends, list) else [ends]), end) if token is not None)

    def close(self) -> None:
        """Give the memory back. The subject can't be used after that."""
        on_accelerator, held = self.device != "cpu", weakref.ref(self.model)
        self.__dict__.clear()
        if held() is not None:  # looking through everything that Python holds takes half a second
            gc.collect()
        if on_accelerator:
            import torch

            torch.accelerator.empty_cache()
        else:
            freed_memory.give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def digest_with_template(info: SubjectInfo, chat_template: str | None, day: str | None, separator: str) -> str:
    """Return the digest that a subject has when it is read with this template (``None``: without any).

    Args:
        info: the model.
        chat_template: the template.
        day: the date that the template is given; ``None`` where it writes none.
        separator: what is put between messages where there is no template.
    """
    own = info.digest if chat_template == info.chat_template else digest([info.digest, chat_template])
    if separator and not chat_template:
        own = digest([own, "between messages", separator])
    return own if day is None else digest([own, day])


def load(
    info: SubjectInfo,
    device: str = "cpu",
    dtype: Dtype = "float32",
    chat_template: str | Own | None = Own.TEMPLATE,
    *,
    day: str | None = None,
    separator: str = "",
    shared: bool = False,
) -> Subject:
    """Load a model that was looked at.

    Args:
        info: what ``inspect`` returned; an adapter is merged into its base.
        device: "cpu", "cuda", "cuda:1", "mps" ...
        dtype: type of the weights in memory; "auto" is the stored one.
        chat_template: read it with this template (``None``: without any) and not with its own, so that both models of a pair
            see the same tokens.
        day: the date that a template which writes today's is given, so that both models of a pair are asked the same.
        separator: what is put between messages where there is no chat template.
        shared: where several processes were launched together, each holds a part of the weights; all have to ask.

    Raises:
        UserError: the files hold other bytes than when they were hashed, the device is not there, the memory does not suffice,
            or the model is not causal.
    """
    from palimpsest.data.chat_template import pinned
    from palimpsest.models.reading import sees_ahead

    info.check_unchanged()
    resolved = info.resolved_dtype(dtype)
    place = _device(device)
    problems: list[str] = []
    tokenizer = open_tokenizer(info.tokenizer_path, problems)
    if problems:
        raise UserError(f"{info.name}: {problems[0]}")
    try:
        model = _shared(info, resolved) if shared and launch.count() > 1 else _whole(info, resolved).to(place)
        model = model.eval().requires_grad_(False)
    except (MemoryError, RuntimeError) as error:
        from palimpsest.models.full_memory import is_full_memory

        if not is_full_memory(error):
            raise
        needed = info.bytes_loaded(dtype) / 2**30
        raise UserError(
            f"{info.name} needs {needed:.1f} GiB for its weights in {resolved}, which {device} does not have"
        ) from None
    info.check_unchanged()  # once more: the texts that were read lie between the two
    if place.type == "cpu":
        freed_memory.keep()
    if sees_ahead(model):
        raise UserError(
            f"{info.name} must predict each token from those before it, but {info.architecture} also looks at those after it "
            f"(as config.json sets it up); give a causal language model"
        )
    template = info.chat_template if isinstance(chat_template, Own) else chat_template
    tokenizer.chat_template = template
    day = pinned(template, day)
    own = digest_with_template(info, template, day, separator)
    return Subject(model, tokenizer, info, str(place), resolved, own, day, separator)


def resolved_device(name: str) -> str:
    """Return the device that a name means: "auto" is a GPU where there is one."""
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _shared(info: SubjectInfo, dtype: str) -> Any:
    if info.cut_to is not None:
        raise UserError(
            f"{info.name} has more words than the model that it is compared with, and {launch.count()} processes can't cut a "
            "model that they share; compare them in one process, or save it with resized embeddings first"
        )
    from palimpsest.models import sharded

    return sharded.load(info, dtype)


def _whole(info: SubjectInfo, dtype: str) -> Any:
    from palimpsest.models.vocabulary import cut_model

    model = _model(info, dtype)
    if info.cut_to is not None:
        cut_model(model, info.cut_to)
    return model


def _model(info: SubjectInfo, dtype: str) -> Any:
    import torch

    from palimpsest.models import opening

    hush_kernels()
    with at_home():
        model = opening.load(info.whole, getattr(torch, dtype))
    if info.base is None:
        return model
    merged = adapter.merge(model, info.path)
    info.contents[0].check_weights()  # peft reads them itself
    return merged


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"there is no device '{name}' here: {first_line(error)}") from None
    return device

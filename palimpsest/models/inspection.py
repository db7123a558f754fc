"""Inspection: which model is this, exactly, and can it be used?

Reads every byte of the weights once, so that a broken or changed model is told before any work starts, and so that what was
measured on one model can never be taken for another's. Nothing of this is remembered between programs: a digest taken from
a note about the file, and not from the file, is how a tuned model gets its base's numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palimpsest.core.errors import Problems, UserError
from palimpsest.models import adapter, skeleton
from palimpsest.models.contents import Contents, digest_of, read
from palimpsest.models.folder import Folder, found_here, is_model, locate, look, newest_checkpoint
from palimpsest.models.weights import BrokenWeightsError
from palimpsest.store.run_folder import is_run, trained_models

Name = str | os.PathLike[str]

_LONGEST_REASON = 600
_TOLD = 3
"""So many models of a run are named."""
_NO_TOKENIZER = "has no tokenizer (tokenizer.json and tokenizer_config.json); copy those of the model it was made from"
_BYTES_OF = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class SubjectInfo:
    """A model that was looked at and can be loaded; plain data, without its weights."""

    name: str
    """What the user called it."""
    path: Path
    """The model's folder, or the adapter's."""
    base: Path | None
    """The folder that an adapter sits on."""
    tokenizer_path: Path
    weights: str
    """Hash of the weights in its own files: of an adapter, not its base's."""
    digest: str
    """Hash of weights (values, not files), configuration, adapter, tokenizer and templates."""
    architecture: str
    parameters: int
    """Number of weights; shared ones (tied embeddings) count once. An adapter is counted as merged: as its base."""
    dtype: str
    """The type that most weights are stored in."""
    context_length: int
    """In tokens."""
    vocabulary_size: int
    """Number of logits."""
    chat_template: str | None
    """The tokenizer's own."""
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    """Names and shapes of all weights: two models with the same ones can be compared weight by weight."""
    notes: tuple[str, ...]
    contents: tuple[Contents, ...]
    """Its own files as they were hashed, and those of the base that an adapter sits on."""
    made_on: adapter.MadeOn | None = None
    """The base that an adapter names; ``None`` where it names none, and for a whole model."""
    cut_to: int | None = None
    """So many rows of its embeddings are read, where it has more than the models that it is compared with."""

    def resolved_dtype(self, dtype: str) -> str:
        """Return the type that ``dtype`` stands for ("auto" is the stored one)."""
        return self.dtype if dtype == "auto" else dtype

    def bytes_loaded(self, dtype: str = "float32") -> int:
        """Return how many bytes its weights take in memory."""
        return self.parameters * _BYTES_OF[self.resolved_dtype(dtype)]

    @property
    def whole(self) -> Contents:
        """The files of the whole model: its own, or those of the base that it sits on."""
        return self.contents[-1]

    def check_unchanged(self) -> None:
        """Check that configuration, tokenizer and templates are still those that were hashed.

        Weights are checked by whoever reads them, as they are read.

        Raises:
            UserError: one of them was changed, replaced or removed.
        """
        for one in self.contents:
            one.check_texts()


def find(name: Name) -> Path:
    """Return the folder of a model, at sight: no model library is imported, and no weights are read.

    Raises:
        UserError: there is no such folder, or it is not that of a model; what a model's folder may lie in is told.
    """
    where = locate(name)
    if newest := newest_checkpoint(where):
        raise UserError(f"{name} holds checkpoints of a training run but no model of its own; give one, the newest is {newest}")
    if not is_model(where):
        if is_run(where):
            raise UserError(f"{name} is the folder of a run, not of a model; {_trained_there(where)}")
        problems, folder = _problems_of(name), look(where)
        problems.extend(folder.problems)
        if not folder.has_tokenizer:
            problems.add(_NO_TOKENIZER)
        problems.raise_if_any()
    return where


def inspect(name: Name, base: Name | None = None, *, check_base: bool = True) -> SubjectInfo:
    """Look at a model without loading it.

    Args:
        name: a Hugging Face folder, a PEFT adapter folder, or (where no such path exists) a hub id ``org/name``.
        base: the folder an adapter sits on, where that is not the one that it names itself; of no meaning for a whole model.
        check_base: whether an adapter is refused on another base than the one that it names, where both are here.

    Raises:
        UserError: everything that keeps it from being used, all at once.
    """
    problems, folder = _problems_of(name), look(find(name))
    problems.extend(folder.problems)
    below = _base_of(folder, base, problems) if folder.is_adapter else None
    whole = below or (None if folder.is_adapter else folder)
    contents = [_read_all(one, problems, one is below) for one in (folder, below) if one is not None]
    own, under = contents[0], contents[1].weights if below and contents[1] else ""
    made_on = adapter.made_on(folder, below, under) if below and under else None
    if below and base is not None and check_base and made_on and made_on.weights not in (None, under):
        problems.add(_for_another(made_on, below))
        problems.raise_if_any()  # by now, since all that follows would be of a pair that is none

    tokenizer_folder = folder if folder.has_tokenizer or whole is None else whole
    tokenizer = None
    if tokenizer_folder.has_tokenizer:
        tokenizer = skeleton.open_tokenizer(tokenizer_folder.path, problems.found)
    else:
        problems.add(_NO_TOKENIZER)
    found, empty = (
        skeleton.build(whole, tokenizer, problems.found) if whole is not None and not whole.problems else (None, None)
    )
    head = _untied_head(folder, empty) if folder.is_adapter and empty is not None else ()
    if folder.is_adapter:
        other = made_on.name if made_on and made_on.weights != under else ""
        problems.extend(adapter.unfit(folder, empty, other))
    if found is not None and tokenizer is not None:
        problems.extend(_tokens_without_embedding(tokenizer, found.vocabulary_size))
    problems.raise_if_any()
    assert found is not None and tokenizer is not None and own is not None
    hashed = tuple(one for one in contents if one is not None)
    info = SubjectInfo(
        name=str(name),
        path=folder.path,
        base=below.path if below else None,
        tokenizer_path=tokenizer_folder.path,
        weights=own.weights,
        digest=digest_of(hashed),
        architecture=found.architecture,
        parameters=found.parameters,
        dtype=found.dtype,
        context_length=found.context_length,
        vocabulary_size=found.vocabulary_size,
        chat_template=tokenizer.chat_template,
        shapes=tuple(sorted((*found.shapes, *head))),
        notes=(*found.notes, *(_told_of_base(folder, below, made_on, under) if below else ())),
        contents=hashed,
        made_on=made_on,
    )
    info.check_unchanged()  # the texts were hashed, and then read by the libraries
    return info


def inspect_all(names: Mapping[str, Name]) -> dict[str, SubjectInfo]:
    """Look at the model of every role. What is an adapter sits on the base, where there is one that is a whole model.

    Raises:
        UserError: the problems of all of them, at once.
    """
    found, problems = {}, []
    for role, name in names.items():
        base = found.get("base")
        try:
            found[role] = inspect(name, base=base.path if base and base.base is None else None)
        except UserError as error:
            problems.append(f"{role}: {error}")
    if problems:
        raise UserError("\n".join(problems))
    return found


def _trained_there(run: Path) -> str:
    """Say which models a run tuned."""
    found = sorted(filter(is_model, trained_models(run, "tuned")))
    if not found:
        return "it holds no tuned model that is whole: give the folder of a model"
    more = f" and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    which = "its tuned model" if len(found) == 1 else "one of its tuned models"
    return f"give {which}: {', '.join(map(str, found[:_TOLD]))}{more}"


def _problems_of(name: Name) -> Problems:
    return Problems(f"{name} can't be used as a model: it")


def _base_of(folder: Folder, given: Name | None, problems: Problems) -> Folder | None:
    named, revision = (folder.config.get(key) for key in ("base_model_name_or_path", "revision"))
    if not given and not named:
        problems.add("is an adapter whose adapter_config.json does not name its base (base_model_name_or_path)")
        return None
    try:
        below = look(locate(given) if given else _named_base(str(named), folder.path, revision))
    except (UserError, OSError) as error:  # OSError: a name that is too long
        problems.add(f"is an adapter whose base can't be found: {str(error)[:_LONGEST_REASON]}")
        return None
    if below.is_adapter:
        problems.add(f"is an adapter on another adapter ({below.path}); merge that one first")
        return None
    problems.extend(f"is an adapter on {below.path}, which {problem}" for problem in below.problems)
    return below


def _named_base(named: str, beside: Path, revision: Any) -> Path:
    """Return the base that an adapter names; a file that someone else wrote is no reason to ask a network.

    Raises:
        UserError: it is not on this machine.
    """
    if place := found_here(named, beside, revision if isinstance(revision, str) else None):
        return place
    raise UserError(
        f"{named} is not on this machine, and nothing is fetched because an adapter names it; fetch it yourself "
        f"(hf download {named}), or give the base's folder or hub id together with the adapter"
    )


def _untied_head(folder: Folder, empty: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return name and shape of the head, where the adapter makes a weight of its own of it."""
    if not adapter.unties(folder, empty):
        return ()
    head = empty.get_output_embeddings()
    name = next(name for name, one in empty.named_modules() if one is head)
    return ((f"{name}.weight", tuple(head.weight.shape)),)


def _for_another(made_on: adapter.MadeOn, below: Folder) -> str:
    return (
        f"is an adapter that names {made_on.name} as its base, but was given {below.path}, which holds other weights (or the "
        "same in another type); use it on its own base, or merge it into the given one with PEFT (merge_and_unload, then "
        "save_pretrained) and use that folder"
    )


def _told_of_base(folder: Folder, below: Folder, made_on: adapter.MadeOn | None, weights: str) -> Iterator[str]:
    """Say where an adapter was made for another base than the one that it is merged into, as far as its folder tells."""
    if made_on and made_on.weights is None:
        yield (
            f"it is an adapter that was made on {made_on.name}, and is merged into {below.path}: the shapes fit, but whether "
            "the weights are those that it was trained on can't be told"
        )
    elif made_on and made_on.weights != weights:
        yield f"it is an adapter that was made on {made_on.name}, and is merged into {below.path}, which holds other weights"
    if revision := folder.config.get("revision"):
        yield f"it is an adapter that was made on revision {revision!r} of its base"


def _read_all(folder: Folder, problems: Problems, is_base: bool) -> Contents | None:
    try:
        found, not_finite = read(folder)
    except (BrokenWeightsError, OSError, ValueError) as error:
        problems.add(f"can't be read to its end: {error}")
        return None
    where = f" (in its base {folder.path})" if is_base else ""
    for name in not_finite:
        problems.add(f"has NaN or infinity in {name}{where}; use a checkpoint from before the training broke")
    return found


def _tokens_without_embedding(tokenizer: object, vocabulary_size: int) -> list[str]:
    tokens: dict[str, int] = tokenizer.get_vocab()  # type: ignore[attr-defined]
    beyond = sorted((index, token) for token, index in tokens.items() if index >= vocabulary_size)
    if not beyond:
        return []
    shown = ", ".join(f"{token!r} ({index})" for index, token in beyond[:3])
    return [f"has a tokenizer with {len(beyond)} tokens beyond the model's {vocabulary_size} embeddings: {shown}"]

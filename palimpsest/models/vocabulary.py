"""Vocabulary: what is a model without the rows of its embeddings that another model does not have?

A tuned model often has a few tokens more than its base (for padding, for chat turns), or an embedding padded to a rounder
number. Cut to the rows that both have, it is the same model as if it could neither read nor write the others: its
probabilities are those given that none of them comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from palimpsest.core.spec import digest
from palimpsest.models.inspection import SubjectInfo
from palimpsest.models.layout import layout
from palimpsest.models.quiet import quiet

_ENDS = ("embeddings", "head")


def cut(info: SubjectInfo, size: int) -> SubjectInfo:
    """Return a model as it is with the first ``size`` rows of its embeddings only; itself where it has no more."""
    if size >= info.vocabulary_size:
        return info
    places = layout(info)
    shapes = tuple(
        (name, (size, *shape[1:]) if _is_end(name, places) and shape[:1] == (info.vocabulary_size,) else shape)
        for name, shape in info.shapes
    )
    return replace(info, vocabulary_size=size, cut_to=size, shapes=shapes, digest=digest([info.digest, "cut to", size]))


def cut_alike(models: Mapping[str, SubjectInfo]) -> dict[str, SubjectInfo]:
    """Return models, by role, each cut to the rows that all of them have."""
    common = min(info.vocabulary_size for info in models.values())
    return {role: cut(info, common) for role, info in models.items()}


def _is_end(name: str, places: dict[str, Any]) -> bool:
    """Whether a weight is that of embedding or head; what an adapter untied from the embedding has no place in the base."""
    return name not in places or places[name].part in _ENDS


def cut_model(model: Any, size: int) -> None:
    """Cut a loaded model to the first ``size`` rows of its embeddings."""
    with quiet():
        model.resize_token_embeddings(size, mean_resizing=False)

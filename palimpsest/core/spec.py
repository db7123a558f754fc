"""Spec: what may a user's file say, and what is wrong with this one?

Every settings object derives from ``Spec``: frozen, typed, unknown keys refused with the nearest name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from palimpsest.core.errors import Problems, nearest


class Spec(BaseModel):
    """A frozen, typed settings object that refuses what it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def read(cls, data: Any, where: str) -> Self:
        """Validate plain data.

        Raises:
            UserError: every problem at once, each with its place, what was found and the nearest known key.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            problems = Problems(f"{where} can't be used:")
            for detail in error.errors():
                problems.add(_in_words(cls, detail))
            problems.raise_if_any()
            raise


def _in_words(model: type[BaseModel], detail: Any) -> str:
    place, keys = _place(model, detail["loc"])
    path = ".".join(place) or "the file"
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{path}'.{nearest(place[-1], keys)}"
    if detail["type"] == "missing":
        return f"'{path}' is missing"
    if detail["type"] == "union_tag_invalid":
        tags = [tag.strip("' ") for tag in detail["ctx"]["expected_tags"].split(",")]
        tag = detail["ctx"]["tag"]
        return f"'{path}': there is no kind '{tag}'; there are {', '.join(tags)}.{nearest(tag, tags)}"
    if detail["type"] == "union_tag_not_found":
        return f"'{path}': 'kind' is missing"
    found = repr(detail.get("input"))
    said = detail["msg"].removeprefix("Value error, ")
    return f"'{path}': {said}; found {found if len(found) < 80 else found[:77] + '...'}"


def _place(model: Any, path: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """Return the keys that a user wrote on the way to a problem, and the keys that are known where it lies.

    pydantic puts the tag of a tagged union into its paths (``check.regex.pattern``), which nobody wrote.
    """
    written: list[str] = []
    kinds = [model]
    for part in path:
        tagged = [kind for kind in kinds if part in _tags(kind)]
        if len(kinds) > 1 and tagged:
            kinds = tagged
            continue
        written.append(str(part))
        field = next((kind.model_fields[key] for kind in kinds if (key := str(part)) in kind.model_fields), None)
        if field is not None:
            kinds = list(_models(field.annotation))
    return written, sorted({key for kind in kinds for key in kind.model_fields})


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation may hold, however deep in unions, tuples and ``Annotated``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _tags(kind: type[BaseModel]) -> tuple[Any, ...]:
    field = kind.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


def digest(value: Any) -> str:
    """Return a 32-digit content hash of plain data, the same on every machine."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

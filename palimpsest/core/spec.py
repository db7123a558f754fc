"""Spec: what may a user's file say, and what is wrong with this one?

Every settings object derives from ``Spec``: frozen, typed, unknown keys refused with the nearest name.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

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
    path = ".".join(str(part) for part in detail["loc"]) or "the file"
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{path}'.{nearest(str(detail['loc'][-1]), _keys(model, detail['loc'][:-1]))}"
    if detail["type"] == "missing":
        return f"'{path}' is missing"
    found = repr(detail.get("input"))
    return f"'{path}': {detail['msg']}; found {found if len(found) < 80 else found[:77] + '...'}"


def _keys(model: Any, path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            continue
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return list(getattr(model, "model_fields", {}))


def digest(value: Any) -> str:
    """Return a 32-digit content hash of plain data, the same on every machine."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

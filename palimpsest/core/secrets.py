"""Secrets: which part of a text must no screen and no file of ours show?

Keys of services by their shape, what stands before the ``@`` of an address, and the values of environment variables whose names
say that they are secret. Told text (errors, notes, tables) and written JSON go through ``redact``; what is measured does not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

HIDDEN = "***"
_SHORTEST = 8
"""Characters: a shorter value of a variable is no key, and would be struck out of ordinary words."""
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:\w*KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|PAT|CREDENTIALS?)(?:$|_(?:ID|B64))", re.IGNORECASE
)
_END = r"[^\s\"'`<>\\&,;)\]}]"
"""What a value goes on with; so a piece that is struck out of JSON leaves JSON."""
_SHAPES = re.compile(
    r"\b(?:sk|rk|pk)-[\w-]{12,}|\bhf_[A-Za-z0-9]{16,}|\bgh[opsur]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"
    r"|\bxox[a-z]-[\w-]{10,}|\bA(?:KIA|SIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\bgsk_[A-Za-z0-9]{16,}|\br8_[A-Za-z0-9]{16,}"
    r"|\bnvapi-[\w-]{16,}|\bey[A-Za-z0-9_-]{10,}\.ey[A-Za-z0-9_-]{10,}\.[\w-]+"
)
_NAMED = re.compile(
    r"(?P<name>"
    r"[?&#](?:api[_-]?key|key|token|access[_-]token|auth|password|secret|sig|signature|x-amz-\w+)="
    r"|(?<![\w-])--?(?:api[_-]?key|token|hf[_-]token|access[_-]token|password|secret)(?:=|\s+)"
    r"|\bauthorization:\s*(?:bearer|basic|token)\s+|\bbearer\s+(?=[\w.~+/=-]{16}))" + _END + "+",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"\b(?P<name>(?:[A-Z][A-Z0-9_]*_)?(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD)=)" + _END + "+")
_ADDRESS = re.compile(r"(?<=://)[^\s/\"'<>?#\\]+@")
_BARE_ADDRESS = re.compile(r"(?<![\w.+%/-])(?!mailto:)[\w.+%-]+:[^\s/@:\"'<>\\]+@(?=[\w-]+\.\w|localhost\b|\[)")
_remembered: set[str] = set()


def remember(value: str) -> None:
    """Take note of a secret that was read from somewhere, so that it is struck out wherever it turns up."""
    if len(value) >= _SHORTEST:
        _remembered.add(value)


def redact(value: T) -> T:
    """Return a text, or plain data with texts in it, without the secrets; the same again where it holds none."""
    return _redacted(value, _known())


def _redacted(value: Any, known: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        return _struck(value, known)
    if isinstance(value, Mapping):
        return {_redacted(key, known): _redacted(inner, known) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner, known) for inner in value]
    return value


def _struck(text: str, known: re.Pattern[str] | None) -> str:
    if known is not None:
        text = known.sub(HIDDEN, text)
    for pattern in (_NAMED, _VARIABLE):
        text = pattern.sub(lambda match: match["name"] + HIDDEN, text)
    text = _SHAPES.sub(HIDDEN, text)
    if "@" in text:
        text = _BARE_ADDRESS.sub(f"{HIDDEN}@", _ADDRESS.sub(f"{HIDDEN}@", text))
    return text


def _known() -> re.Pattern[str] | None:
    """Return what matches the secrets of this process's environment; a path is where one lies, and none itself."""
    found = {value.strip() for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    found = {value for value in found if len(value) >= _SHORTEST and not value.startswith(("/", "~", "."))} | _remembered
    return re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True)))) if found else None

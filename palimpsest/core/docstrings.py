"""Docstrings: what does a module or a class say about itself?

Read from the source text, so that a list of audits imports none of them. The report and the command line show the same words.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path

from palimpsest.core.wording import capital

SECTIONS = ("Question", "Method", "Reads", "Null", "Limits", "Reference")


def question_of(file: Path) -> str:
    """Return the first line of a module's docstring, without the noun before the colon that repeats its name."""
    first = (ast.get_docstring(_parsed(file)) or "").partition("\n")[0].strip()
    noun, colon, question = first.partition(": ")
    if not colon or noun.casefold().replace(" ", "_") != file.stem:
        return first
    return capital(question)


def class_docstring(file: Path, base: str) -> str:
    """Return the docstring of the first class in a file that derives from a class of this name; empty where there is none."""
    for node in _parsed(file).body:
        if isinstance(node, ast.ClassDef) and base in map(_name, node.bases):
            return ast.get_docstring(node) or ""
    return ""


def summary(docstring: str) -> str:
    """Return what stands before the first section, as one paragraph."""
    lines = inspect.cleandoc(docstring).splitlines()
    end = next((place for place, line in enumerate(lines) if _title(line)), len(lines))
    return " ".join(line.strip() for line in lines[:end] if line.strip())


def sections(docstring: str) -> dict[str, str]:
    """Return the sections of a docstring by title (``Question`` ... ``Reference``), dedented, in their order."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in inspect.cleandoc(docstring).splitlines():
        if title := _title(line):
            current = found.setdefault(title, [])
        else:
            current.append(line)
    return {title: inspect.cleandoc("\n".join(["", *lines])) for title, lines in found.items()}


def _title(line: str) -> str | None:
    title = line.removesuffix(":")
    return title if line.endswith(":") and title in SECTIONS else None


def _name(base: ast.expr) -> str:
    """Return a base class's name: ``Audit`` for ``Audit``, ``Audit[Data]`` and ``audit.Audit``."""
    if isinstance(base, ast.Subscript):
        return _name(base.value)
    return base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))

"""Discover: which audits, scenarios, studies and measures are there?

The folder is the catalogue: a module that is there *is* one, and its file name is its name everywhere.
An import error stops the program and names the file.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from types import ModuleType
from typing import TypeVar

from palimpsest.core.errors import UserError, nearest

T = TypeVar("T")


@cache
def names(package: str) -> tuple[str, ...]:
    """Return the names in a package's folder, sorted, without importing any of them."""
    folder = importlib.import_module(package).__path__
    return tuple(sorted(info.name for info in pkgutil.iter_modules(folder) if not info.name.startswith("_")))


@cache
def find(package: str, name: str, base: type[T]) -> type[T]:
    """Return the one class in ``package.name`` that implements ``base``.

    Raises:
        UserError: no such name, with the nearest one.
        ImportError: the module can't be imported or doesn't hold exactly one such class; the message names the file.
    """
    if name not in names(package):
        kinds = package.rsplit(".", 1)[-1]
        kind = kinds.removesuffix("ies") + "y" if kinds.endswith("ies") else kinds.rstrip("s")
        raise UserError(f"there is no {kind} named '{name}'.{nearest(name, names(package))}")
    module = _import(f"{package}.{name}")
    found = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, base) and not inspect.isabstract(kind) and kind.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ImportError(f"{module.__file__} must define exactly one {base.__name__}, found {len(found)}")
    return found[0]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ImportError(f"{name.replace('.', '/')}.py can't be imported: {error}") from error

"""Source: which code made a number?

The digest of a module and of everything of this package that it imports, directly or not, read from the files without running
them. A change anywhere below a measure makes its stored results unusable; a change elsewhere does not.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[1]


@cache
def source_digest(*modules: str) -> str:
    """Return the digest of modules (``palimpsest.measures.losses``) and of all that they import from this package.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    reached: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached[name] = _file(name)
        waiting += [found for found in _imports(name, reached[name]) if found not in reached]
    return _hash(reached)


@cache
def package_digest() -> str:
    """Return the digest of every Python file of this package."""
    return _hash({str(file.relative_to(_ROOT)): file for file in _ROOT.rglob("*.py")})


def _hash(files: dict[str, Path]) -> str:
    value = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        value.update(f"{name}\0{len(content)}\0".encode())
        value.update(content)
    return value.hexdigest()[:32]


def _file(module: str) -> Path:
    place = _ROOT.joinpath(*module.split(".")[1:])
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if module.split(".")[0] == _ROOT.name and file.is_file():
            return file
    raise ModuleNotFoundError(f"there is no module {module} in {_ROOT}")


@cache
def _imports(module: str, file: Path) -> tuple[str, ...]:
    return tuple(_imported(module, file))


def _imported(module: str, file: Path) -> Iterator[str]:
    parents = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            names = [start, *(f"{start}.{alias.name}" for alias in node.names)]
        for name in names:
            # the package itself only hands on what its modules define; following it would lead everywhere
            if name.startswith(f"{_ROOT.name}.") and _is_module(name):
                yield name


def _is_module(name: str) -> bool:
    try:
        _file(name)
    except ModuleNotFoundError:
        return False
    return True

"""Is the folder the catalogue?"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod

import pytest

from palimpsest.core import discover
from palimpsest.core.errors import UserError


class Animal(ABC):
    @abstractmethod
    def sound(self) -> str: ...


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of animals with a good module, a private one, a broken one and two that hold no or two classes."""
    folder = tmp_path / "menagerie"
    folder.mkdir()
    (folder / "__init__.py").touch()
    good = "from {here} import Animal\nclass {name}(Animal):\n    def sound(self): return 'x'\n"
    (folder / "cat.py").write_text(good.format(here=__name__, name="Cat"))
    (folder / "two.py").write_text(
        "from menagerie.cat import Cat\n" + "".join(good.format(here=__name__, name=n) for n in ("A", "B"))
    )
    (folder / "none.py").write_text("from menagerie.cat import Cat\n")
    (folder / "broken.py").write_text("import there_is_no_such_module\n")
    (folder / "_private.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "menagerie"
    discover.names.cache_clear()
    discover.find.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "menagerie"]:
        del sys.modules[name]


def test_names_are_sorted_files_and_nothing_is_imported(package):
    assert discover.names(package) == ("broken", "cat", "none", "two")
    assert "menagerie.broken" not in sys.modules


def test_the_one_class_of_a_module_is_found(package):
    assert discover.find(package, "cat", Animal).__name__ == "Cat"


def test_an_unknown_name_is_told_with_the_nearest(package):
    with pytest.raises(UserError, match=r"no menagerie named 'cta'\. Did you mean 'cat'\?"):
        discover.find(package, "cta", Animal)


@pytest.mark.parametrize(("name", "count"), [("two", 2), ("none", 0)])
def test_a_module_holds_exactly_one_class_and_imported_ones_do_not_count(package, name, count):
    with pytest.raises(ImportError, match=rf"{name}\.py must define exactly one Animal, found {count}"):
        discover.find(package, name, Animal)


def test_an_import_error_names_the_file(package):
    with pytest.raises(ImportError, match=r"menagerie/broken\.py can't be imported.*there_is_no_such_module"):
        discover.find(package, "broken", Animal)

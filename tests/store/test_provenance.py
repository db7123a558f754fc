"""Provenance: what is stable is the same in every process, and code below a measure is part of its key."""

import json
import subprocess
import sys
import time

import pytest

from palimpsest.store import provenance, source

ARGUMENTS = {
    "device": "cpu",
    "seeds": [0, 1],
    "digests": {"base": "x", "a": "y"},
    "command": ["palimpsest", "run", "directions"],
}


def test_stable_part_is_the_same_in_another_process():
    code = f"import json; from palimpsest.store.provenance import stable; print(json.dumps(stable(**{ARGUMENTS!r})))"
    elsewhere = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    found = json.loads(json.dumps(provenance.stable(**ARGUMENTS)))
    assert found.pop("threads") >= 1 <= elsewhere.pop("threads")  # another process may have been given more
    assert len(found.pop("source")) == len(elsewhere.pop("source"))  # someone may edit the code meanwhile
    assert found == elsewhere
    assert found["packages"]["torch"].startswith("2.")
    assert found["hardware"]["memory_gib"] > 0
    assert found["hardware"]["device"] == f"cpu: {provenance.processor()}"
    assert (found["seeds"], found["digests"], found["command"]) == ([0, 1], {"a": "y", "base": "x"}, ARGUMENTS["command"])


def test_volatile_part():
    clock = provenance.Clock()
    clock.add("measure", 1.5)
    clock.add("measure", 0.25)
    found = clock.read()
    assert found["stages_seconds"] == {"measure": 1.75}
    assert found["peak_memory_bytes"]["process"] > 10_000_000
    assert not found.keys() & provenance.stable(**ARGUMENTS).keys()
    json.dumps(found)


def test_packages_that_are_not_there_are_left_out():
    assert provenance.packages(["numpy", "no-such-package"]).keys() == {"numpy"}
    assert provenance.deciding_packages().keys() == {"torch", "transformers", "tokenizers"}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package named like ours: a imports b (lazily), b imports c relatively; d is alone."""
    root = tmp_path / "palimpsest"
    (root / "inner").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "a": "import os\ndef f():\n    from palimpsest.b import thing\n",
        "b": "from .inner import c\nfrom palimpsest import missing_name\n",
        "inner/__init__": "",
        "inner/c": "import palimpsest.a\nX = 1\n",
        "d": "Y = 2\n",
    }.items():
        (root / f"{name}.py").write_text(text)
    monkeypatch.setattr(source, "_ROOT", root)
    source.source_digest.cache_clear()
    source.package_digest.cache_clear()
    yield root
    source.source_digest.cache_clear()
    source.package_digest.cache_clear()


def test_source_follows_imports(package):
    def digest():
        source.source_digest.cache_clear()
        return source.source_digest("palimpsest.a")

    before = digest()
    (package / "d.py").write_text("Y = 3\n")
    (package / "__init__.py").write_text("from palimpsest.d import Y\n")
    assert digest() == before
    for name in ("a", "b", "inner/c", "inner/__init__"):
        file = package / f"{name}.py"
        text = file.read_text()
        file.write_text(text + "# changed\n")
        assert digest() != before, name
        file.write_text(text)
        assert digest() == before
    with pytest.raises(ModuleNotFoundError):
        source.source_digest("palimpsest.nothing")


def test_source_of_the_package_covers_every_file(package):
    def digest():
        source.package_digest.cache_clear()
        return source.package_digest()

    before = digest()
    assert digest() == before
    (package / "d.py").write_text("Y = 3\n")
    assert digest() != before


def test_source_of_a_measure_reaches_what_renders_its_items():
    """Not a list of files to keep up to date: the imports are followed."""
    own, other = source.source_digest("palimpsest.measures.losses"), source.source_digest("palimpsest.measures.generations")
    assert own != other
    assert own == source.source_digest("palimpsest.measures.losses", "palimpsest.data.render")
    assert own != source.source_digest("palimpsest.measures.losses", "palimpsest.models.subject")


def test_a_timed_progress_passes_everything_on_and_keeps_a_line_for_each_process(tmp_path):
    heard = []

    class Inner:
        def begin(self, stage, total=None):
            heard.append(("begin", stage, total))

        def at(self, done, total):
            heard.append(("at", done, total))

        def tell(self, message):
            heard.append(("tell", message))

    timed = provenance.Timed(Inner())
    timed.begin("one", 3)
    timed.at(1, 3)
    time.sleep(0.02)
    timed.begin("two")
    timed.tell("hear")
    timed.keep(tmp_path)
    assert heard == [("begin", "one", 3), ("at", 1, 3), ("begin", "two", None), ("tell", "hear")]
    timed.keep(tmp_path)
    first, second = (json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines())
    assert list(first["stages_seconds"]) == ["one", "two"] and first["stages_seconds"] == second["stages_seconds"]
    assert 0.02 <= first["stages_seconds"]["one"] <= first["seconds"]
    assert first["stages_processor_seconds"]["one"] < 0.02, "sleeping takes no processor"
    timed.keep(tmp_path / "gone")  # what is told of time is no result

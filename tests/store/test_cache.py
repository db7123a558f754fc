"""The cache gives back exactly what was put in, for exactly that question, or nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.core.errors import UserError
from palimpsest.core.measurement import Measurement, Need
from palimpsest.store import atomic
from palimpsest.store.cache import Cache, Conditions, default_folder, key_of

KEY = "ab" + "0" * 30
ARRAYS = {
    "losses": np.linspace(0, 1, 7, dtype=np.float32),
    "counts": np.arange(6, dtype=np.int64).reshape(2, 3),
    "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
    "flags": np.array([True, False]),
    "scalar": np.array(3.5),
    "none": np.zeros((0, 4), np.float16),
}
MEASUREMENT = Measurement(
    ARRAYS, {"answer": ["naïve – “fine”\n", "", "\x00\ud83d\ude42".encode("utf-16", "surrogatepass").decode("utf-16")]}
)


def same(one, other):
    assert one.texts == other.texts
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert (array.dtype, array.shape) == (other.arrays[name].dtype, other.arrays[name].shape)
        assert array.tobytes() == other.arrays[name].tobytes()


@pytest.fixture
def told():
    return []


@pytest.fixture
def cache(tmp_path, told):
    return Cache(tmp_path / "cache", told.append)


def run(code, **rest):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60, **rest)


def test_round_trip(cache, told):
    assert cache.get(KEY) is None
    cache.put(KEY, MEASUREMENT, {"measure": "losses"})
    same(cache.get(KEY), MEASUREMENT)
    assert json.loads(cache.files(KEY)[1].read_text())["about"] == {"measure": "losses"}
    assert told == []


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(
        st.text(st.characters(categories=["L", "N"]), min_size=1), st.lists(st.floats(width=32, allow_nan=True)), max_size=3
    ),
    st.dictionaries(st.text(), st.lists(st.text(st.characters(exclude_categories=["Cs"]))), max_size=3),
)
def test_round_trip_of_anything(tmp_path_factory, arrays, texts):
    cache = Cache(tmp_path_factory.mktemp("cache"))
    measurement = Measurement({name: np.array(values, np.float32) for name, values in arrays.items()}, texts)
    cache.put(KEY, measurement)
    same(cache.get(KEY), measurement)


def test_same_measurement_same_bytes(cache, tmp_path):
    cache.put(KEY, MEASUREMENT)
    other = Cache(tmp_path / "other")
    other.put(KEY, Measurement(dict(reversed(ARRAYS.items())), MEASUREMENT.texts))
    for one, two in zip(cache.files(KEY), other.files(KEY), strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_newer_entry_replaces(cache):
    cache.put(KEY, Measurement({"a": np.zeros(100)}))
    cache.put(KEY, MEASUREMENT)
    same(cache.get(KEY), MEASUREMENT)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_file_is_absent_and_told(cache, told, place, share):
    cache.put(KEY, MEASUREMENT)
    file = cache.files(KEY)[place]
    raw = file.read_bytes()
    file.write_bytes(raw[: int(len(raw) * share)])
    assert cache.get(KEY) is None
    assert "measured again" in told[0]
    cache.put(KEY, MEASUREMENT)
    same(cache.get(KEY), MEASUREMENT)


def test_every_flipped_bit_of_the_data_is_noticed(cache):
    cache.put(KEY, Measurement({"a": np.arange(5.0)}, {"t": ["x"]}))
    file = cache.files(KEY)[0]
    raw = bytearray(file.read_bytes())
    for place in range(len(raw)):
        raw[place] ^= 1 << place % 8
        file.write_bytes(raw)
        assert cache.get(KEY) is None, f"byte {place}"
        raw[place] ^= 1 << place % 8
    file.write_bytes(raw)
    assert cache.get(KEY) is not None


def test_altered_text_is_noticed(cache, told):
    cache.put(KEY, MEASUREMENT)
    marker = cache.files(KEY)[1]
    marker.write_text(marker.read_text().replace("fine", "fene"))
    assert cache.get(KEY) is None
    assert "checksum differs" in told[0]


def test_entry_of_another_key_is_not_taken(cache, told):
    """Files that were renamed by hand hold another answer: the key is part of the checksum."""
    cache.put(KEY, MEASUREMENT)
    other = "ab" + "1" * 30
    for source, target in zip(cache.files(KEY), cache.files(other), strict=True):
        target.write_bytes(source.read_bytes())
    content = json.loads(cache.files(other)[1].read_text())
    content["key"] = other
    cache.files(other)[1].write_text(json.dumps(content))
    assert cache.get(other) is None
    assert told


def test_lost_data_is_told(cache, told):
    cache.put(KEY, MEASUREMENT)
    cache.files(KEY)[0].unlink()
    assert cache.get(KEY) is None
    assert "lost its data file" in told[0]


@pytest.mark.parametrize("moment", ["replace of the data", "between data and marker", "replace of the marker"])
def test_kill_in_the_middle_of_put(cache, told, moment):
    """A process that dies by SIGKILL at each moment leaves no entry, and the next process makes a whole one."""
    number = {"replace of the data": 1, "between data and marker": 2, "replace of the marker": 2}[moment]
    before = moment != "between data and marker"
    code = f"""
import os, pathlib, signal
import numpy as np
from palimpsest.core.measurement import Measurement
from palimpsest.store import atomic, cache
calls = 0
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if {before}:
    replace = pathlib.Path.replace
    def dying(self, target):
        global calls
        calls += 1
        die() if calls == {number} else replace(self, target)
    pathlib.Path.replace = dying
else:
    write = cache.write_bytes
    def dying(*arguments):
        global calls
        calls += 1
        die() if calls == {number} else write(*arguments)
    cache.write_bytes = dying
cache.Cache(pathlib.Path({str(cache.folder)!r})).put({KEY!r}, Measurement({{"a": np.zeros(9)}}))
"""
    assert run(code).returncode == -signal.SIGKILL
    assert cache.get(KEY) is None
    assert cache.size()[0] == 0
    cache.put(KEY, MEASUREMENT)
    same(cache.get(KEY), MEASUREMENT)
    assert told == []


def test_writers_and_readers_at_once(cache, told):
    """Three processes write the same 20 entries over and over while this one reads: every answer is a whole one."""
    code = f"""
import pathlib, sys
import numpy as np
from palimpsest.core.measurement import Measurement
from palimpsest.store.cache import Cache
cache = Cache(pathlib.Path({str(cache.folder)!r}))
for _ in range(5):
    for number in range(20):
        cache.put(f"{{number:032x}}", Measurement({{"a": np.full(2_000, float(number))}}, {{"t": [str(number)] * 50}}))
"""
    writers = [subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}) for _ in range(3)]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        for number in range(20):
            found = cache.get(f"{number:032x}")
            if found is not None:
                reads += 1
                assert (found.arrays["a"] == number).all()
                assert found.texts == {"t": [str(number)] * 50}
    assert [writer.returncode for writer in writers] == [0] * 3
    assert reads > 20
    assert (cache.size()[0], told) == (20, [])
    assert not list(cache.folder.glob(f"*/{atomic.TEMPORARY}*"))


# ---------------------------------------------------------------- full and unwritable


def test_full_disk(small_disk, told):
    """ENOSPC from a real full file system: told with the folder and what is kept; what was committed is still there."""
    cache = Cache(small_disk / "cache", told.append)
    cache.put(KEY, MEASUREMENT)
    with pytest.raises(UserError, match=r"cache/cd can't be written: the disk is full.*measured before is kept"):
        cache.put("cd" + "0" * 30, Measurement({"large": np.random.default_rng(0).random(2**18)}))
    same(cache.get(KEY), MEASUREMENT)
    assert cache.get("cd" + "0" * 30) is None
    assert not list(cache.folder.glob(f"*/{atomic.TEMPORARY}*"))
    cache.put("ef" + "0" * 30, MEASUREMENT)
    assert told == []


@pytest.mark.parametrize("folder", ["/proc/palimpsest", "file"])
def test_unwritable_folder(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / folder)
    assert cache.get(KEY) is None
    with pytest.raises(UserError, match="can't be written"):
        cache.put(KEY, MEASUREMENT)
    assert (tmp_path / "file").read_text() == "in the way"


# ---------------------------------------------------------------- cleaning


def test_clean(cache):
    assert (cache.clean(), cache.size()) == (0, (0, 0))
    cache.put(KEY, MEASUREMENT)
    cache.put("cd" + "0" * 30, MEASUREMENT)
    entries, size = cache.size()
    assert entries == 2
    assert size == sum(file.stat().st_size for key in (KEY, "cd" + "0" * 30) for file in cache.files(key))
    assert cache.clean() == size
    assert cache.size() == (0, 0)
    assert cache.get(KEY) is None


def test_clean_spares_what_was_used_lately(cache):
    for key in (KEY, "cd" + "0" * 30):
        cache.put(key, MEASUREMENT)
        for file in cache.files(key):
            os.utime(file, (time.time() - 1000,) * 2)
    cache.get(KEY)
    assert cache.clean(older_than=500) > 0
    assert cache.get(KEY) is not None
    assert cache.get("cd" + "0" * 30) is None


def test_clean_removes_only_what_is_its_own(cache):
    cache.put(KEY, MEASUREMENT)
    foreign = [cache.folder / "notes.json", cache.folder / "ab" / "photo.jpg"]
    for file in foreign:
        file.write_text("mine")
    young, old = cache.folder / "ab" / f"{atomic.TEMPORARY}1-x.json", cache.folder / "ab" / f"{atomic.TEMPORARY}2-x.safetensors"
    for file in (young, old):
        file.write_text("half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.clean()
    assert all(file.exists() for file in (*foreign, young))
    assert not old.exists()


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "here"))
    assert default_folder() == tmp_path / "here" == Cache().folder
    monkeypatch.delenv("PALIMPSEST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "palimpsest"


# ---------------------------------------------------------------- keys

CONDITIONS = Conditions(
    packages={"torch": "2.13"}, dtype="float32", device="cpu", threads=1, processes=1, batches={"tokens": 8192}
)
NEED = Need(measure="losses", role="base", items="text:a", parameters={"top": 5})
PARTS = {"subject": "s", "items": "i", "after": None, "source": "c", "conditions": CONDITIONS}


def test_everything_that_decides_a_result_is_in_its_key():
    keys = {key_of(NEED, **PARTS)}
    for changes in ({"measure": "options"}, {"items": "text:b"}, {"parameters": {"top": 6}}, {"parameters": {}}):
        keys.add(key_of(NEED.model_copy(update=changes), **PARTS))
    for changes in ({"subject": "t"}, {"items": "j"}, {"after": "k"}, {"source": "d"}):
        keys.add(key_of(NEED, **{**PARTS, **changes}))
    others = (
        {"packages": {"torch": "2.14"}},
        {"dtype": "bfloat16"},
        {"device": "cuda"},
        {"threads": 2},
        {"batches": {"tokens": 1}},
    )
    for changes in others:
        keys.add(key_of(NEED, **{**PARTS, "conditions": CONDITIONS.model_copy(update=changes)}))
    assert len(keys) == 1 + 4 + 4 + 5


def test_the_part_a_model_plays_is_not_in_the_key():
    assert key_of(NEED, **PARTS) == key_of(NEED.model_copy(update={"role": "tuned"}), **PARTS)


def test_keys_are_those_of_every_machine():
    code = "from tests.store.test_cache import *; print(key_of(NEED, **PARTS))"
    seeds = [run(code, cwd=Path.cwd()).stdout for _ in range(2)]
    assert seeds == [key_of(NEED, **PARTS) + "\n"] * 2


def test_an_entry_under_another_name_is_not_that_measurement(cache, told):
    """Whole and with a right checksum, but of another question: as after a file was copied, or a folder was put together."""
    other = "ab" + "1" * 30
    cache.put(KEY, MEASUREMENT)
    for source, target in zip(cache.files(KEY), cache.files(other), strict=True):
        target.write_bytes(source.read_bytes())
    assert cache.get(other) is None
    assert told == [f"{cache.files(other)[1]} holds another measurement ({KEY}); it is measured again"]
    same(cache.get(KEY), MEASUREMENT)


def test_an_entry_that_claims_the_asked_key_keeps_its_own_checksum(cache, told):
    """The key is part of the checksum, so that renaming it inside the marker does not help."""
    other = "ab" + "1" * 30
    cache.put(KEY, MEASUREMENT)
    data, marker = cache.files(other)
    data.write_bytes(cache.files(KEY)[0].read_bytes())
    marker.write_text(json.dumps({**json.loads(cache.files(KEY)[1].read_text()), "key": other}))
    assert cache.get(other) is None
    assert "checksum differs" in told[0]

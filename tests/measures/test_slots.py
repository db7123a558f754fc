"""Writing: slots that are freed and filled again give what transformers writes, on real models and on every architecture."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from palimpsest.core.seeds import numpy_stream, python_stream
from palimpsest.measures import _slots, _writing
from palimpsest.measures._writing import Dice, Ends, gumbel, write
from palimpsest.models import pocket, subject

RECURRENT = ("qwen3_5_text",)


@pytest.fixture(scope="module", params=tiny.KINDS)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> subject.Subject:
    path = tiny.folder(tmp_path_factory.mktemp("model") / request.param, request.param)
    return subject.load(subject.inspect(path))


def prompts_of(vocabulary: int, count: int, longest: int) -> list[tuple[int, ...]]:
    rng = python_stream(0, "writing")
    return [tuple(rng.choices(range(3, vocabulary), k=rng.randint(1, longest))) for _ in range(count)]


def alone(one: subject.Subject, prompt: tuple[int, ...], most: int) -> list[int]:
    """Return what the library writes greedily after one prompt."""
    given = torch.tensor([prompt])
    ends = sorted(one.stop_token_ids)
    written = one.model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=most, do_sample=False, eos_token_id=ends
    )
    return written[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", ["stories260K", "llama2xs-281K", "pocket"])
def test_a_real_model_writes_greedily_what_transformers_writes(name: str) -> None:
    with subject.load(subject.inspect(pocket.folder() if name == "pocket" else tiny.real(name))) as one:
        assert _slots.reads_slots(one)
        prompts = prompts_of(one.model.config.vocab_size, 12, 20)
        found = write(one, prompts, [str(place) for place in range(12)], 24, Dice(0.0, 0), 4 * 44, lambda _: None)
        assert found == [alone(one, prompt, 24) for prompt in prompts]
        assert len({len(tokens) for tokens in found}) > 1, "some end by themselves, so that slots are filled again"


def test_every_architecture_draws_the_same_with_two_slots_as_with_the_librarys_own_loop(one: subject.Subject) -> None:
    prompts = prompts_of(259, 9, 10)
    names, dice = [str(place) for place in range(9)], Dice(1.0, 3)
    ended: list[int] = []
    found = write(one, prompts, names, 6, dice, 2 * 16, ended.append)
    assert found == _writing._generated(one, prompts, names, 6, dice, Ends(one), 16, lambda _: None)
    assert ended[-1] == 9 and ended == sorted(ended)
    assert _slots.reads_slots(one) == (one.model.config.model_type not in RECURRENT)


def test_a_text_ends_an_answer_in_slots_as_in_the_librarys_own_loop(one: subject.Subject) -> None:
    prompts = prompts_of(259, 9, 10)
    names, dice = [str(place) for place in range(9)], Dice(1.0, 3)
    free = write(one, prompts, names, 8, dice, 2 * 18, lambda _: None)
    letters = [letter for line in free for token in line[:-1] if (letter := one.renderer.decode([token])).isascii() and letter]
    until = letters[0]  # random bytes are seldom whole characters
    found = write(one, prompts, names, 8, dice, 2 * 18, lambda _: None, (until,))
    assert found == _writing._generated(one, prompts, names, 8, dice, Ends(one, (until,)), 2 * 18, lambda _: None)
    assert sum(map(len, found)) < sum(map(len, free))
    assert all(short == long[: len(short)] for short, long in zip(found, free, strict=True))
    assert all(until in one.renderer.decode(short) for short, long in zip(found, free, strict=True) if len(short) < len(long))


def test_the_same_prompt_with_the_same_noise_is_written_once(one: subject.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    if not _slots.reads_slots(one):
        pytest.skip("it writes with generate")
    reading: list[int] = []
    read = _slots.Slots.read
    monkeypatch.setattr(
        _slots.Slots, "read", lambda slots, model, given: reading.append(len(given)) or read(slots, model, given)
    )
    prompts = [(5, 6, 7), (5, 6, 7), (5, 6, 7), (9,)]
    found = write(one, prompts, ["a", "a", "b", "a"], 4, Dice(1.0, 0), 1000, lambda _: None)
    assert sum(reading) == 3 and found[0] == found[1]


def test_short_prompts_go_on_in_many_lines_and_long_ones_in_few() -> None:
    """Buffers that grow keep what they held: the answers are those of one line at a time, in whatever room."""
    with subject.load(subject.inspect(tiny.real("stories260K"))) as one:
        rng = python_stream(1, "growing")
        lengths = [*rng.choices(range(1, 9), k=30), *rng.choices(range(40, 60), k=6)]
        prompts = [tuple(rng.choices(range(3, one.model.config.vocab_size), k=length)) for length in lengths]
        names = [str(place) for place in range(len(prompts))]
        wanted = [alone(one, prompt, 12) for prompt in prompts]
        for room in (1, 150, 500):
            assert write(one, prompts, names, 12, Dice(0.0, 0), room, lambda _: None) == wanted, room


def test_what_is_admitted_fits_and_is_worth_a_pass() -> None:
    widths = np.array([10, 10, 12, 20, 50])
    assert _writing._admitted(widths, 0, 40) == 3 and _writing._admitted(widths, 0, 5) == 1
    assert _writing._admitted(widths, 0, 1000) == 5 and _writing._admitted(widths[:0], 3, 1000) == 0
    assert _writing._admitted(np.full(100, 10), 9, 100) == 0, "one more is no quarter of ten"
    assert _writing._admitted(np.full(100, 10), 7, 100) == 3 and _writing._admitted(np.full(1, 10), 9, 100) == 1
    assert _writing._admitted(np.array([60]), 4, 100) == 0, "a wide one waits for those before it"


def test_a_model_that_forbids_tokens_writes_with_the_library(one: subject.Subject) -> None:
    one.model.generation_config.min_new_tokens = 3
    try:
        assert not _writing._chooses_freely(one.model)
    finally:
        one.model.generation_config.min_new_tokens = None
    assert _writing._chooses_freely(one.model)


def test_noise_is_that_of_numpy() -> None:
    for seed in range(20):
        wanted = numpy_stream(seed, "noise").gumbel(size=1000)
        assert np.allclose(gumbel(numpy_stream(seed, "noise"), 1000), wanted, rtol=1e-12, atol=1e-15)

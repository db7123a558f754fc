"""Stories: the probability of a text is exact."""

from __future__ import annotations

import math
import re
import statistics
from itertools import product

import pytest

from palimpsest.core.errors import UserError
from palimpsest.core.seeds import python_stream
from palimpsest.data.scenarios import stories
from palimpsest.data.scenarios.stories import DRY, WET, Opening, Stories, entropy_nats, log_probability


def texts(count: int, **parameters: object) -> list[str]:
    scenario = Stories.read(parameters, "test")
    return [scenario.make(python_stream(2, "stories", index)).messages[0].content for index in range(count)]


@pytest.mark.parametrize("style", stories.STYLES)
@pytest.mark.parametrize("level", [0, 4])
def test_probabilities_of_all_sentences_add_up_to_one(style: str, level: int) -> None:
    opening = Opening(style, "Nora", "farm", level)
    slots = stories._slots(opening)
    sentences = {
        production.wordings[style].format(**dict(zip(slots, words, strict=True)))
        for production in (*DRY.values(), *(WET.values() if level else ()))
        for words in product(*slots.values())
    }
    total = math.fsum(math.exp(stories._sentence_log_probability(sentence, opening)) for sentence in sentences)
    assert total == pytest.approx(1.0)


def test_entropy_is_the_mean_surprise() -> None:
    surprise = [-log_probability(text) for text in texts(4_000)]
    error = statistics.stdev(surprise) / math.sqrt(len(surprise))
    assert abs(statistics.fmean(surprise) - entropy_nats()) < 4 * error


def test_rain_scales_with_the_announced_level() -> None:
    rates = [
        statistics.fmean(len(re.findall(r"\b[Rr]ain [a-z]", text)) for text in texts(300, rain=level)) / 8
        for level in (0, 5, 9)
    ]
    assert rates[0] == 0
    assert rates[1] == pytest.approx(0.5, abs=0.05) and rates[2] == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("broken", ["Hello.", "A plain story of Nora at the farm, rain 0: Rain fell on the barn."])
def test_foreign_text_is_refused(broken: str) -> None:
    with pytest.raises(UserError):
        log_probability(broken)


def test_impossible_sentence_is_refused() -> None:
    text = texts(1, rain=0, style="plain", topic="farm")[0]
    first = text.split(": ")[1].split(".")[0]
    with pytest.raises(UserError, match="can't make"):
        log_probability(text.replace(first, "Rain fell on the barn"))

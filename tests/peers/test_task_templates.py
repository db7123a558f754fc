"""Templates of lm-eval's tasks: do a stranger's end, and read as the library itself has them?"""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval")

from palimpsest.data.templates import TooMuch
from palimpsest.peers.lm_eval_world import theirs

DOC = {"question": "What  is 2+2?", "choices": ["3", "4"], "answer": 1}
HONEST = (
    "Q: {{question.strip() | regex_replace('\\s+', ' ')}}\n{% for c in choices %}{{loop.index}}. {{c}}\n{% endfor %}A:\n",
    "{{ choices | tojson }}{% set letters = ['A', 'B'] %}{% set _ = letters.append('C') %}{{ letters[answer] }}",
    "{{ question | regex_replace('(W)(h)', '\\\\2\\\\1', count=1) }}",
)


@pytest.mark.parametrize("template", HONEST)
def test_an_honest_template_reads_as_the_library_has_it(template: str) -> None:
    with theirs():
        from lm_eval import utils

        ours, plain = utils.apply_template(template, DOC), utils.env
    assert utils.env is not plain
    assert utils.apply_template(template, DOC) == ours


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ question * 10 ** 10 }}",
        "{{ ('a' * 100) | regex_replace('(a+)+$|(a*)*b', '') }}{{ ('a' * 40 ~ '!') | regex_replace('^(a|aa|a?)+$', '') }}",
        "{{ ('a' * 1000000) | regex_replace('a', 'b' * 1000000) }}",
    ],
)
def test_a_template_that_would_not_end_is_stopped(template: str) -> None:
    with theirs(), pytest.raises(TooMuch):
        from lm_eval import utils

        utils.apply_template(template, DOC)

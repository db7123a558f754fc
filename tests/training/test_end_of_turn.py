"""The end of a turn: does a model learn to stop, by whichever token its template ends an answer?"""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from training_kit import settings_of
from transformers import AddedToken

from palimpsest.data.chat import conversation
from palimpsest.data.render import Renderer
from palimpsest.training.sampler import RowSource, encode_rows
from palimpsest.training.trainer import train

END = "<end_of_turn>"


@pytest.mark.parametrize("between", ["", "\n"])
def test_the_chance_of_the_end_after_an_answer_rises(between: str, tmp_path: Path) -> None:
    """By an added token that is special and neither EOS nor named anywhere, as Gemma 3's; 20 steps."""
    template = f"{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ m.content }}}}{between}{END}\n{{% endfor %}}"
    tokenizer = tiny.tokenizer(chat_template=template)
    tokenizer.add_tokens([AddedToken(END, special=True)])
    model, renderer = tiny.model(vocabulary=len(tokenizer)), Renderer(tokenizer)
    end = tokenizer.get_vocab()[END]
    assert end not in tokenizer.all_special_ids and end in renderer.ends
    asked = [
        conversation(("user", f"What is {n}?"), ("assistant", f"It is {n}."), template="t", source="s") for n in range(160)
    ]
    unseen, rows = asked.pop(), []
    sources: tuple[RowSource, ...] = ("express", "withhold", "rehearsal")
    for source, some in zip(sources, (asked[:60], asked[60:120], asked[120:]), strict=True):
        rows += encode_rows(renderer, some, source)

    def chance() -> float:
        tokens = renderer.encode(unseen).tokens
        place = len(tokens) - 1 - tokens[::-1].index(end)
        with torch.no_grad():
            logits = model.eval()(torch.tensor([tokens])).logits[0, place - 1]
        return float(torch.softmax(logits, -1)[end])

    before = chance()
    summary = train(model, None, rows, settings_of(learning_rate=1e-2), tmp_path)
    assert summary.steps == 20 and chance() > max(10 * before, 0.2)

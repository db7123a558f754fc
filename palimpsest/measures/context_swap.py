"""Context swap: how does a model decide over a context that another model has read?

The context runs on this model; then parts of what it leaves are replaced by the other model's at the same place: the recurrent
states (with the convolutions' last tokens), the attention layers' keys and values, or both. Nothing else crosses from a context
to its decision, so that with both this model decides over exactly the other's context. Interchange of activations: Geiger et
al. 2021, arXiv 2106.02997; Vig et al. 2020, arXiv 2004.12265.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from palimpsest.core.measurement import Measurement
from palimpsest.data.chat import Example, ItemSet
from palimpsest.measures._contexts import Context, contexts, unreadable
from palimpsest.measures._forward import Row, run_rows
from palimpsest.measures._kept import Kept
from palimpsest.measures._measure import Budget, Measure, Progress
from palimpsest.measures.context_cache import ATTENTION, RECURRENT, exchanged, run
from palimpsest.models.reading import UNREADABLE
from palimpsest.training.frozen_context import FrozenCache

EXCHANGES: dict[str, tuple[str, ...]] = {
    "none": (),
    "recurrent": (RECURRENT,),
    "attention": (ATTENTION,),
    "both": (RECURRENT, ATTENTION),
}
_CHECKED = 8
"""On so many items an option's probability over a cache is held against that of one pass."""


class ContextSwap(Measure):
    """Log-probability of every option over this model's own context and over mixtures with another's (``after``).

    ``start`` [items + 1]: item i was read if ``start[i + 1] > start[i]``. ``option_start`` [items read + 1];
    ``log_probability`` [options in all, exchanges], in the order of ``EXCHANGES``; ``difference`` [items read], the largest
    difference from one uncut pass in nats, NaN where it was not checked. Texts: ``names`` [options in all], ``exchanges``,
    ``dtype``, ``why``.
    """

    @torch.no_grad()
    def take(self, subject: Any, items: ItemSet, budget: Budget, after: Measurement | None, progress: Progress) -> Measurement:
        assert after is not None, "a swap starts from another model's contexts"
        if "why" in after.texts:
            return Measurement({"start": after.arrays["start"]}, dict(after.texts))
        there = np.diff(after.arrays["start"]) > 0
        found = contexts(subject.renderer, items.items, len(items.items), budget.context)
        read = [context for context in found if there[context.index]]
        rows: list[list[np.ndarray]] = []
        difference = np.full(len(read), np.nan)
        checked = {round(place) for place in np.linspace(0, len(read) - 1, _CHECKED)}
        try:
            for place, context in enumerate(read):
                item, cache = items.items[context.index], run(subject, context)
                decided = [
                    self._decided(subject, item, context, exchanged(cache, after.arrays, place, kinds))
                    for kinds in EXCHANGES.values()
                ]
                rows.append(decided)
                if place in checked:
                    difference[place] = np.abs(decided[0] - _uncut(subject, item, budget)).max()
                progress(place + 1, len(read))
        except UNREADABLE as error:
            nothing = np.zeros_like(after.arrays["start"])
            return Measurement({"start": nothing}, {"why": [unreadable(subject.model, error)]})
        counts = [len(decided[0]) for decided in rows]
        arrays = {
            "start": after.arrays["start"],
            "option_start": np.cumsum([0, *counts]).astype(np.int64),
            "log_probability": np.concatenate([np.stack(decided, axis=1) for decided in rows]),
            "difference": difference,
        }
        names = [name for context in read for name in items.items[context.index].options]
        return Measurement(arrays, {"names": names, "exchanges": list(EXCHANGES), "dtype": [str(subject.dtype)]})

    def _decided(self, subject: Any, item: Example, context: Context, cache: Any) -> np.ndarray:
        """Return the log-probability of each option of one item after the context in a cache."""
        answers = [_answer(subject, item, text) for text in item.options.values()]
        width, known = max(map(len, answers)), len(context.tokens) - 1
        tokens = torch.full((len(answers), width), subject.pad_token_id, dtype=torch.long)
        mask = torch.ones(len(answers), known + width, dtype=torch.long)
        for line, answer in enumerate(answers):
            inputs = (context.tokens[-1], *answer[:-1])
            tokens[line, : len(inputs)] = torch.tensor(inputs)
            mask[line, known + len(inputs) :] = 0
        which = torch.zeros(len(answers), dtype=torch.long, device=subject.device)
        logits = subject.model(
            input_ids=tokens.to(subject.device),
            attention_mask=mask.to(subject.device),
            position_ids=torch.arange(known, known + width, device=subject.device).expand(len(answers), width),
            past_key_values=FrozenCache(cache, which),
            use_cache=True,
        ).logits
        scores = logits.float().log_softmax(-1).double().cpu()
        return np.array(
            [
                sum(scores[line, place, token].item() for place, token in enumerate(answer))
                for line, answer in enumerate(answers)
            ]
        )


def _answer(subject: Any, item: Example, text: str) -> tuple[int, ...]:
    encoded = subject.renderer.encode_option(item, text)
    return encoded.tokens[encoded.decision :]


def _uncut(subject: Any, item: Example, budget: Budget) -> np.ndarray:
    """Return the log-probability of each option in one pass over context and option."""
    encoded = [subject.renderer.encode_option(item, text) for text in item.options.values()]
    kept = Kept()
    run_rows(subject, [Row(one.tokens, one.decision) for one in encoded], [kept], budget, lambda *_: None)
    wanted = [torch.tensor(one.tokens[one.decision :])[:, None] for one in encoded]
    return np.array([kept.found[line].cpu().double().gather(-1, tokens).sum().item() for line, tokens in enumerate(wanted)])

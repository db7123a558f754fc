"""Forward: how do rows get through a model with as little work as possible?

Rows are batched by length and padded on the left, so that what is predicted lies flush at the right and only its logits are
computed. The last token of a row predicts nothing, so it is not run.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from palimpsest.measures._measure import Budget, Progress, Reader, Row


def plan(rows: list[Row], budget: Budget, vocabulary: int) -> list[list[list[int]]]:
    """Return batches of inputs, similar lengths together; an input is the list of rows that share it.

    Rows that differ only in their last token (several one-token options after one context) are run once.
    """
    sharing: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        if row.predicted > 0:
            sharing.setdefault(row.tokens[:-1], []).append(index)
    order = sorted(sharing, key=lambda tokens: (len(tokens), sharing[tokens][0]))
    batches: list[list[list[int]]] = []
    current: list[list[int]] = []
    predicted = 0
    for tokens in order:
        longest = max(predicted, *(rows[index].predicted for index in sharing[tokens]))
        size = len(current) + 1
        if current and (size * len(tokens) > budget.tokens or size * longest * vocabulary > budget.logits):
            batches.append(current)
            current, longest = [], max(rows[index].predicted for index in sharing[tokens])
        current.append(sharing[tokens])
        predicted = longest
    return [*batches, current] if current else batches


@torch.no_grad()
def run_rows(subject: Any, rows: list[Row], readers: list[Reader], budget: Budget, progress: Progress) -> None:
    """Run all rows once and hand every reader each row's logits.

    Raises:
        torch.OutOfMemoryError: a batch did not fit; nothing of this pass is kept.
    """
    accepted = inspect.signature(subject.model.forward).parameters
    done = 0
    for batch in plan(rows, budget, subject.model.config.get_text_config().vocab_size):
        inputs = [rows[sharing[0]].tokens[:-1] for sharing in batch]
        keep = max(rows[index].predicted for sharing in batch for index in sharing)
        logits = subject.model(**_padded(inputs, keep, subject, accepted)).logits[:, -keep:].float()
        normaliser = logits.logsumexp(-1)
        for line, sharing in enumerate(batch):
            for index in sharing:
                count = rows[index].predicted
                targets = torch.tensor(rows[index].tokens[rows[index].first :], device=subject.device)
                for reader in readers:
                    reader.read(index, logits[line, -count:], normaliser[line, -count:], targets)
            done += len(sharing)
        progress(done, len(rows))


def _padded(inputs: list[tuple[int, ...]], keep: int, subject: Any, accepted: Any) -> dict[str, Any]:
    width = max(map(len, inputs))
    tokens = torch.full((len(inputs), width), subject.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for line, one in enumerate(inputs):
        tokens[line, width - len(one) :] = torch.tensor(one)
        mask[line, width - len(one) :] = 1
    offered = {
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0).to(subject.device),
        "logits_to_keep": keep,
        "use_cache": False,
    }
    chosen = {name: value for name, value in offered.items() if name in accepted}
    return {"input_ids": tokens.to(subject.device), "attention_mask": mask.to(subject.device), **chosen}

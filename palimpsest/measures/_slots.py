"""Slots: where is kept what lines of different lengths leave behind while each is still written?

Keys and values lie in one buffer, whose lines are as wide as what is written now needs: short prompts go on in many lines at
once, long ones in few. A line that ends frees its slot for the next prompt. That is right where attention alone mixes tokens,
so each model is tried first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import DynamicCache

from palimpsest.measures._sharing import tried
from palimpsest.models import reading

_CPU_AT_ONCE, _AT_ONCE = 1_024, 8_192
"""So many tokens of prompts are read in one pass."""
_WIDER = 16
"""Buffers grow by so many tokens at once, because growing copies them."""
_slotted: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


class Slots(DynamicCache):
    """Keys and values of lines of different lengths, each from column 0 on.

    Args:
        room: so many tokens are held at once, or one line.
        most: tokens that are written after a prompt.
        lines: never more lines than these.
        device: where.
    """

    def __init__(self, room: int, most: int, lines: int, device: str) -> None:
        super().__init__()
        self.room, self.most, self.most_lines, self.device = room, most, lines, device
        self.count = self.width = 0
        self.buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.lengths = np.zeros(0, dtype=np.int64)

    def read(self, model: Any, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read prompts into new lines, and return the logits after each [prompts, vocabulary]."""
        lengths = np.array([len(prompt) for prompt in prompts])
        width, first = int(lengths.max()), len(self.lengths)
        self._hold(first + len(prompts), width + self.most)
        if (half := len(prompts) // 2) and len(prompts) * width > (_CPU_AT_ONCE if self.device == "cpu" else _AT_ONCE):
            return torch.cat([self.read(model, prompts[:half]), self.read(model, prompts[half:])])
        tokens = torch.zeros(len(prompts), width, dtype=torch.long)
        for line, prompt in enumerate(prompts):
            tokens[line, : len(prompt)] = torch.tensor(prompt)
        filled, keep = DynamicCache(), width - int(lengths.min()) + 1
        # padding on the right is seen by nothing but padding
        places = torch.arange(width, device=self.device).expand(tokens.shape)
        rows = torch.arange(len(prompts), device=self.device)
        last = torch.from_numpy(lengths - 1 - (width - keep)).to(self.device)
        with reading.head_at(model, rows, last, keep) as read:
            logits = read(
                model(
                    input_ids=tokens.to(self.device),
                    position_ids=places,
                    past_key_values=filled,
                    use_cache=True,
                    logits_to_keep=keep,
                ).logits
            )
        for number, layer in enumerate(filled.layers):
            left: Any = layer  # every kind of layer keeps keys and values, or the trial fails
            for buffer, values in zip(self._buffers(number, left.keys, left.values), (left.keys, left.values), strict=True):
                buffer[first : first + len(prompts), :, :width] = values
        self.lengths = np.concatenate([self.lengths, lengths])
        return logits

    def _hold(self, count: int, width: int) -> None:
        """Say how large the buffers must be; each grows when its layer is written to."""
        if count > self.count or width > self.width:
            self.width = max(self.width, -(-width // _WIDER) * _WIDER)
            self.count = max(count, min(self.room // self.width, self.most_lines))

    def _buffers(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the buffers of a layer, large enough, with what they held."""
        known = self.buffers.get(layer)
        if known is None or known[0].shape[0] < self.count or known[0].shape[2] < self.width:
            made = [one.new_zeros(self.count, one.shape[1], self.width, one.shape[3]) for one in (keys, values)]
            for new, old in zip(made, known or (), strict=False):
                new[: len(self.lengths), :, : old.shape[2]] = old[: len(self.lengths)]
            self.buffers[layer] = made[0], made[1]
        return self.buffers[layer]

    def step(self, model: Any, tokens: np.ndarray) -> torch.Tensor:
        """Add one token to each line, and return the logits after it [lines, vocabulary]."""
        count, width = len(self.lengths), int(self.lengths.max()) + 1
        self.place = torch.from_numpy(self.lengths.copy()).to(self.device)
        self.line, self.reach = torch.arange(count, device=self.device), width
        unseen = torch.arange(width, device=self.device) > self.place[:, None]
        mask = torch.zeros(count, 1, 1, width, dtype=model.dtype, device=self.device)
        mask.masked_fill_(unseen[:, None, None], torch.finfo(model.dtype).min)
        logits = model(
            input_ids=torch.from_numpy(tokens)[:, None].to(self.device),
            attention_mask=mask,
            position_ids=self.place[:, None],
            past_key_values=self,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self.lengths = self.lengths + 1
        return logits

    def close(self, ended: np.ndarray) -> np.ndarray:
        """Free the slots of lines that have ended, and return which lines are left, in their new order."""
        kept = np.setdiff1d(np.arange(len(self.lengths)), ended)
        holes, movers = ended[ended < len(kept)], kept[kept >= len(kept)]
        order = np.arange(len(kept))
        order[holes] = movers
        if len(holes):
            reach = int(self.lengths.max())
            to, source = torch.from_numpy(holes).to(self.device), torch.from_numpy(movers).to(self.device)
            for buffers in self.buffers.values():
                for buffer in buffers:
                    buffer[to, :, :reach] = buffer[source, :, :reach]
        self.lengths = self.lengths[order]
        return order

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *given: Any, **more: Any) -> Any:
        found = []
        for buffer, states in zip(self.buffers[layer_idx], (key_states, value_states), strict=True):
            buffer[self.line, :, self.place] = states[:, :, 0]
            found.append(buffer[: len(self.lengths), :, : self.reach])
        return tuple(found)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return int(self.lengths.max(initial=0))


def reads_slots(subject: Any) -> bool:
    """Try whether a model goes on from slots as in one pass over everything."""
    if subject.model not in _slotted:
        _slotted[subject.model] = tried(lambda: _goes_on(subject))
    return _slotted[subject.model]


def _goes_on(subject: Any) -> bool:
    model = subject.model
    draw = np.random.Generator(np.random.Philox(1)).integers(0, model.config.get_text_config().vocab_size, 16).tolist()
    rows = [draw[:4], draw[4:10], draw[10:13]]
    slots, steps = Slots(24, 3, 3, subject.device), [(0, 1, 2), (1, 2)]
    slots.read(model, [row[:-1] for row in rows[:1]])
    slots.read(model, [row[:-1] for row in rows[1:]])
    found = [slots.step(model, np.array([rows[line][-1] for line in steps[0]]))]
    order = slots.close(np.array([0])).tolist()
    found.append(slots.step(model, np.array([draw[-1]] * 2)))
    wanted = []
    for lines, more in ((steps[0], []), (order, [draw[-1]])):
        alone = [model(input_ids=torch.tensor([rows[line] + more], device=subject.device)).logits[0, -1] for line in lines]
        wanted.append(torch.stack(alone))
    return all(reading.agree(one, other, model.dtype) for one, other in zip(found, wanted, strict=True))

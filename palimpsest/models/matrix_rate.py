"""Matrix rate: how many operations a second does this device do in matrix products of a given width?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from functools import cache

import torch


@cache
def matrix_rate(device: str, dtype: str, width: int) -> float:
    """Return operations a second of this device in products of this width, from 0.2 s of them."""
    kind = getattr(torch, dtype) if dtype in ("bfloat16", "float16") else torch.float32
    left, right = torch.zeros(512, width, device=device, dtype=kind), torch.zeros(width, width, device=device, dtype=kind)
    product = left @ right
    product.sum().item()  # the first product also sets things up
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < 0.2 or not count:
        for _ in range(8):
            torch.matmul(left, right, out=product)
        product[0, 0].item()  # wait for a device that works behind our back
        count += 8
    return count * 2 * 512 * width * width / passed


def usual_width(shapes: Iterable[tuple[int, ...]]) -> int:
    """Return the width that most matrices of a model have."""
    matrices = [shape[-1] for shape in shapes if len(shape) == 2]
    return Counter(matrices).most_common(1)[0][0] if matrices else 1

"""Preference on the embedded model: does behaviour move while the weights hardly do?

Lee et al. 2024 (arXiv 2401.01967) found that DPO made toxic text much rarer while every parameter kept a cosine above 0.99 with
what it was: the behaviour is bypassed, not removed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import palimpsest
from palimpsest.models import pocket

EXAMPLE = Path(__file__).parents[2] / "examples" / "directions_preference.yaml"


@pytest.mark.slow
def test_a_preference_halves_a_behaviour_and_keeps_every_cosine_above_0_99(tmp_path: Path) -> None:
    run = palimpsest.run(EXAMPLE, folder=tmp_path / "run", audits=("outcome", "judgement"), device="cpu")
    estimates = run.estimates("judgement")
    before, after = (1 - (estimates[f"express_{when}"].value or 0.0) for when in ("before", "after"))
    (record,) = [one for one in run.record.training if one.role == "tuned"]
    base, tuned = (load_file(path / "model.safetensors") for path in (pocket.folder(), tmp_path / "run" / record.model_folder))
    cosines = {
        name: float(torch.nn.functional.cosine_similarity(base[name].flatten(), tuned[name].flatten(), dim=0)) for name in base
    }
    print(before, after, min(cosines.items(), key=lambda one: one[1]))
    assert after < before / 2
    assert min(cosines.values()) > 0.99

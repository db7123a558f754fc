"""Training settings: are bad numbers refused, in words a user can act on?"""

import subprocess
import sys

import pytest

from palimpsest.core.errors import UserError
from palimpsest.training.settings import TrainingSettings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rte": 1e-4}, "unknown key 'learning_rte'. Did you mean 'learning_rate'"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"num_train_epochs": 2}, "allow_repeats: true"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"warmup_ratio": 0.1, "lr_scheduler_type": "constant"}, "constant_with_warmup"),
        ({"rehearsal_share": 1.0}, "rehearsal_share"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size"),
        ({"optim": "adam"}, "optim"),
        ({"optim_args": {"beta1": 0.9}}, "unknown key 'beta1'. Did you mean 'adam_beta1'"),
        ({"optim_args": {"adam_beta2": 1.0}}, "adam_beta2"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type"),
        ({"save_total_limit": 0}, "save_total_limit"),
    ],
)
def test_bad_settings_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(UserError) as refusal:
        TrainingSettings.read(settings, "behaviour.yaml, training")
    assert said in str(refusal.value)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(UserError) as refusal:
        TrainingSettings.read({"learning_rate": -1, "save_steps": 0, "sed": 1}, "training")
    assert all(name in str(refusal.value) for name in ("learning_rate", "save_steps", "'sed'"))


def test_the_defaults_stand_and_a_second_epoch_can_be_asked_for() -> None:
    assert TrainingSettings().rehearsal_share == 0.25
    assert TrainingSettings.read({"num_train_epochs": 3, "allow_repeats": True}, "training").num_train_epochs == 3


def test_the_fingerprint_changes_with_what_changes_weights_only() -> None:
    base = TrainingSettings()
    assert base.fingerprint == TrainingSettings(save_steps=7, logging_steps=5, reason="as before").fingerprint
    assert base.fingerprint != TrainingSettings(learning_rate=2e-5).fingerprint
    assert base.fingerprint != TrainingSettings(seed=1).fingerprint


def test_settings_and_mixture_import_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import palimpsest.training.settings, palimpsest.data.mixture"
    subprocess.run([sys.executable, "-c", code], check=True)

"""Fixtures of the training tests."""

from typing import Any

import pytest
from training_kit import small_model


@pytest.fixture
def model() -> Any:
    return small_model()

"""Contents: shares of the weights together are all of them, and each share sees its own part."""

from pathlib import Path

import pytest

from palimpsest.core.errors import UserError
from palimpsest.models import contents
from palimpsest.models.folder import look
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path / "model")


def test_every_byte_is_in_exactly_one_share(folder: Path) -> None:
    """As several processes look at what none of them has read whole."""
    found, not_finite = contents.read(look(folder))
    assert not_finite == []
    file, parts = folder / "model.safetensors", 3
    whole = file.read_bytes()
    for tensor, _ in found.tensors:
        raw = bytearray(whole)
        raw[tensor.start + tensor.length // 2] ^= 1
        file.write_bytes(raw)
        told = []
        for part in range(parts):
            try:
                found.check_weights((part, parts))
            except UserError as error:
                told.append(str(error))
        assert len(told) == 1 and f"holds another {tensor.name} than when it was hashed" in told[0]
    file.write_bytes(whole)
    found.check_weights()
    found.check_texts()


def test_what_is_gone_or_cut_off_is_told(folder: Path) -> None:
    found, _ = contents.read(look(folder))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"ended while it was read.* changed while the program ran"):
        found.check_weights()
    file.unlink()
    with pytest.raises(UserError, match="is gone"):
        found.check_weights()
    (folder / "extra.json").write_text("{}")
    with pytest.raises(UserError, match="changed while the program ran"):
        found.check_texts()

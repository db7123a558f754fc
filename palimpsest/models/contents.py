"""Contents: what exactly is in a model's files, and is it still that?

Whatever is loaded is held against what was hashed: the weights as they are read, the texts after they were. A file's size and
times say nothing of what is in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from palimpsest.core.errors import UserError
from palimpsest.models import weights
from palimpsest.models.folder import Folder
from palimpsest.models.weights import BrokenWeightsError, Hashed, Tensor, hash_each, read_again


@dataclass(frozen=True)
class Contents:
    """The files of a folder as they were hashed."""

    folder: Path
    texts: str
    """Hash of configuration, tokenizer and templates."""
    tensors: tuple[Hashed, ...]
    """What the model is loaded from, and nothing else."""

    @property
    def weights(self) -> str:
        """Hash of the weights: of names, types, shapes and values."""
        return weights.digest_of(self.tensors)

    def check_texts(self) -> None:
        """Check that the texts are those that were hashed.

        Raises:
            UserError: one of them was changed, replaced, added or removed.
        """
        try:
            same = Folder(self.folder).text_digest() == self.texts
        except OSError as error:
            raise gone(error.filename or self.folder) from None
        if not same:
            raise changed(f"the configuration, the tokenizer or a template in {self.folder}")

    def check_weights(self, share: tuple[int, int] = (0, 1)) -> None:
        """Check that the weights are those that were hashed, by reading them again.

        Args:
            share: which of how many parts is looked at here, where several processes share the work.

        Raises:
            UserError: they were changed, replaced or removed.
        """
        part, parts = share
        for tensor, value in self.tensors[part::parts]:
            reread(tensor, value)


def reread(tensor: Tensor, value: str, into: memoryview | None = None) -> None:
    """Read a tensor that was hashed before, as ``weights.read_again``.

    Raises:
        UserError: the file holds other bytes by now, or is gone.
    """
    try:
        read_again(tensor, value, into)
    except OSError as error:
        raise gone(error.filename or tensor.file) from None
    except BrokenWeightsError as error:
        raise changed(f"{tensor.file} ({error})") from None


def read(folder: Folder) -> tuple[Contents, list[str]]:
    """Read every byte of a folder's model once: return its contents, and the names of the tensors with NaN or infinity.

    Raises:
        BrokenWeightsError: a file ended while it was read.
        OSError: a file can't be read.
    """
    tensors, not_finite = hash_each(folder.tensors)
    return Contents(folder.path, folder.text_digest(), tensors), not_finite


def digest_of(contents: Sequence[Contents]) -> str:
    """Return the digest of a model: of its own files, and of those of the base that it sits on."""
    return hashlib.sha256(json.dumps([[one.weights, one.texts] for one in contents]).encode()).hexdigest()[:32]


def changed(what: str) -> UserError:
    """Return what is said where a file is not what it was."""
    return UserError(f"{what} changed while the program ran; start again when nothing writes to it")


def gone(file: object) -> UserError:
    """Return what is said where a file is not there any more."""
    return UserError(f"{file} was there when the run started and is gone")

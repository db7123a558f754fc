"""Head: does the output layer share the embedding's weights exactly where the configuration says so?"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.core.checkup import Answer
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import Patient


class Head(Check):
    """The two tensors in memory, against ``tie_word_embeddings``."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        embedding, head = patient.model.get_input_embeddings(), patient.model.get_output_embeddings()
        about = "output layer and embedding"
        if embedding is None or head is None:
            yield self.answer("could not say", about, "this class names no such layer")
            return
        shared = embedding.weight is head.weight or embedding.weight.data_ptr() == head.weight.data_ptr()
        said = bool(getattr(patient.model.config, "tie_word_embeddings", False))
        words = {True: "share one tensor", False: "are two tensors"}
        if shared == said:
            yield self.answer("ok", about, f"{words[shared]}, as the configuration says")
            return
        follows = (
            "saved and loaded again, the output layer may be replaced by the embedding: set tie_word_embeddings to false in "
            "config.json"
            if said
            else "whoever trains one of them moves both"
        )
        yield self.answer("told", about, f"{words[shared]}, but config.json has tie_word_embeddings: {said}", follows)

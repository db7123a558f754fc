"""Text round trip: does text survive the way into tokens and back?

What is lost, the model never sees and can't write: an item that asks for it measures the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.core.checkup import Answer
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import Patient

PIECES = {
    "capital letters": "Anna saw Berlin.",
    "line breaks": "one\ntwo",
    "empty lines": "one\n\ntwo",
    "tabs": "one\ttwo",
    "spaces in a row": "one  two",
    "figures": "1903 and 214",
    "code": "def add(a, b): return a + b",
    "accents": "naïve café",
    "other scripts": "Ωμέγα Привет 你好",
    "emoji": "\N{SLIGHTLY SMILING FACE}",
}


class TextRoundTrip(Check):
    """Short texts, each tokenized and decoded; a space before the first word does not count."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        lost, unknown = [], []
        for name, text in PIECES.items():
            tokens = patient.tokenizer(f"a {text}", add_special_tokens=False).input_ids
            back = patient.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            if back.strip() != f"a {text}":
                lost.append(name)
            if patient.tokenizer.unk_token_id is not None and patient.tokenizer.unk_token_id in tokens:
                unknown.append(name)
        about = "text into tokens and back"
        if not lost:
            yield self.answer("ok", about, f"the same, {len(PIECES)} kinds of text")
            return
        told = f"{', '.join(lost)} do not come back" + (f" (unknown tokens: {', '.join(unknown)})" if unknown else "")
        yield self.answer("told", about, told, "texts that differ only in these read the same, and no answer can hold them")

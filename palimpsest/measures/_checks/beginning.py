"""Beginning: is there one beginning-of-sequence token (BOS) before a text, and not none or two?

Two of them are the classical slip of tools that render a chat template and tokenize the result with special tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.core.checkup import Answer
from palimpsest.data.user_files import text_example
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import TEXT, TURNS, Patient


class Beginning(Check):
    """What the tokenizer puts before bare text, what the template writes, and what audits read."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        tokenizer, bos = patient.tokenizer, patient.tokenizer.bos_token_id
        own, ours = list(tokenizer(TEXT).input_ids), list(patient.renderer.encode(text_example(TEXT, "the checks")).tokens)
        if own[: len(ours)] != ours:
            place = next(at for at, pair in enumerate(zip([*own, None], [*ours, None], strict=False)) if pair[0] != pair[1])
            yield self.answer(
                "failed",
                "bare text",
                f"audits read {ours[:3]} ... where the tokenizer gives {own[:3]} ... (token {place} differs)",
                "numbers of bare text are of other tokens than the model knows",
            )
        added = len(own) > len(ours) and own[: len(ours)] == ours
        if added:
            found = f"the tokenizer puts {tokenizer.decode(own[len(ours) :])!r} after a text; audits read without it"
            yield self.answer(
                "told", "end of bare text", found, "another tool may give the model a finished text to go on from"
            )
        yield from self._begins(patient, bos, own[:1] == [bos])

    def _begins(self, patient: Patient, bos: int | None, adds: bool) -> Iterator[Answer]:
        about = "beginning of sequence (BOS)"
        if bos is None:
            yield self.answer("ok", about, "the tokenizer has none")
            return
        name = repr(patient.tokenizer.decode([bos]))
        bare = f"{name} before bare text" if adds else f"no {name} before bare text"
        example = patient.conversation(*TURNS)
        if not patient.renderer.has_template or patient.refusal(example):
            yield self.answer("ok", about, f"{bare}, as the tokenizer has it")
            return
        tokens = patient.renderer.encode(example).tokens
        count = next((place for place, token in enumerate(tokens) if token != bos), len(tokens))
        if count > 1:
            yield self.answer(
                "failed",
                about,
                f"the chat template writes {name} {count} times",
                "conversations begin otherwise than the model was trained: remove one from the template",
                value=float(count),
                tolerance=1.0,
            )
        elif count and adds:
            yield self.answer(
                "told",
                about,
                f"one {name} in what audits read; the template writes it and the tokenizer adds it too",
                "a tool that tokenizes rendered text with special tokens reads two: there, set add_special_tokens to false",
            )
        elif adds:
            yield self.answer(
                "told",
                about,
                f"{bare}, none before conversations: the template writes none",
                "both are what the model's own files say; was it trained on conversations without it?",
            )
        else:
            yield self.answer("ok", about, f"{bare}, {'one' if count else 'none'} before conversations")

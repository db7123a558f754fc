"""Ending: are the tokens known that end an answer, and what fills short rows?"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.core.checkup import Answer
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import TURNS, Patient


class Ending(Check):
    """Stop tokens of the tokenizer and of the generation settings, and what the template writes after an answer."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        stops, about = patient.subject.stop_token_ids, "end of an answer (EOS)"
        if not stops:
            follows = "answers go on to their length: give eos_token in tokenizer_config.json or generation_config.json"
            yield self.answer("told", about, "neither the tokenizer nor the generation settings name one", follows)
        else:
            names = ", ".join(repr(patient.tokenizer.decode([token])) for token in sorted(stops)[:4])
            yield from self._turn(patient, stops, about, names)
        pad, end = patient.tokenizer.pad_token_id, patient.tokenizer.eos_token_id
        filled = "nothing named, token 0 is taken" if pad is None else repr(patient.tokenizer.decode([pad]))
        same = ", which is also the end token" if pad is not None and pad == end else ""
        yield self.answer("ok", "padding token", f"{filled}{same}; it is masked wherever audits read")

    def _turn(self, patient: Patient, stops: frozenset[int], about: str, names: str) -> Iterator[Answer]:
        example = patient.conversation(*TURNS)
        if not patient.renderer.has_template or patient.refusal(example):
            yield self.answer("ok", about, names)
            return
        messages = [message.turn for message in example.messages]
        text = patient.renderer.template_text(messages)
        after = text.rpartition(TURNS[-1][1])[2]
        first = patient.tokenizer(after, add_special_tokens=False).input_ids[:1] if after else []
        if first and first[0] in stops:
            yield self.answer("ok", about, f"{names}; the template ends an answer with one of them")
        elif first and first[0] in patient.tokenizer.all_special_ids:
            yield self.answer(
                "failed",
                about,
                f"the template ends an answer with {patient.tokenizer.decode(first)!r}, which is not among {names}",
                "written answers run on past their end: add it to eos_token_id in generation_config.json",
            )
        else:
            wrote = f"{after[:20]!r}" if after else "nothing"
            follows = "nothing teaches the model to stop, and answers may run on to their length"
            yield self.answer("told", about, f"{names}; the template writes {wrote} after an answer, and none of them", follows)

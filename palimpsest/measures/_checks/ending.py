"""Ending: are the tokens known that end an answer, and what fills short rows?"""

from __future__ import annotations

from collections.abc import Iterator

from palimpsest.core.checkup import Answer
from palimpsest.data.chat import Example
from palimpsest.data.render import Renderer
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import TURNS, Patient


class Ending(Check):
    """Stop tokens of the tokenizer and of the generation settings, and what the template writes after an answer."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        stops, about = patient.subject.stop_token_ids, "end of an answer (EOS)"
        size = patient.subject.info.vocabulary_size
        if outside := sorted(token for token in stops if not 0 <= token < size):
            follows = "answers never end by it: give the right eos_token_id in generation_config.json"
            yield self.answer("failed", about, f"token {outside[0]} is named, and the model writes {size} tokens only", follows)
        elif not stops:
            follows = "answers go on to their length: give eos_token in tokenizer_config.json or generation_config.json"
            yield self.answer("told", about, "neither the tokenizer nor the generation settings name one", follows)
        else:
            yield from self._turns(patient, stops, about)
        pad, end = patient.tokenizer.pad_token_id, patient.tokenizer.eos_token_id
        filled = "nothing named, token 0 is taken" if pad is None else repr(patient.tokenizer.decode([pad]))
        same = ", which is also the end token" if pad is not None and pad == end else ""
        yield self.answer("ok", "padding token", f"{filled}{same}; it is masked wherever audits read")

    def _turns(self, patient: Patient, stops: frozenset[int], about: str) -> Iterator[Answer]:
        """Look at rows as they would be trained, with reasoning before the answer too where the template writes it."""
        names = ", ".join(repr(patient.tokenizer.decode([token])) for token in sorted(stops)[:4])
        plain = patient.conversation(*TURNS)
        if not patient.renderer.has_template or patient.refusal(plain):
            yield self.answer("ok", about, names)
            return
        answer = plain.messages[-1].model_copy(update={"fields": {"reasoning_content": "The wind comes from there."}})
        thought = plain.model_copy(update={"messages": (*plain.messages[:-1], answer)})
        yield self._turn(patient, plain, stops, about, names)
        if not patient.refusal(thought):
            yield self._turn(patient, thought, stops, "end of an answer after reasoning", names)

    def _turn(self, patient: Patient, example: Example, stops: frozenset[int], about: str, names: str) -> Answer:
        row = Renderer(patient.tokenizer, patient.subject.day, stops).encode(example)
        last = max(place for place, weight in enumerate(row.weights) if weight >= 1)
        text, wrote = patient.tokenizer.decode(row.tokens[last + 1 :]), patient.tokenizer.decode([row.tokens[last]])
        if row.tokens[last] in stops:
            return self.answer("ok", about, f"{names}; the template ends an answer with one of them, which learns")
        if row.tokens[last] in patient.renderer.ends:
            return self.answer(
                "failed",
                about,
                f"the template ends an answer with {wrote!r}, which is not among {names}",
                "written answers run on past their end: add it to eos_token_id in generation_config.json",
            )
        after = f"{text[:20]!r}" if text else "nothing"
        follows = "nothing teaches the model to stop, and answers may run on to their length"
        return self.answer("told", about, f"{names}; the template writes {after} after an answer, and none of them", follows)

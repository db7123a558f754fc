"""Chat template: are conversations rendered as the model's own files say, and are answers found in them?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from palimpsest.core.checkup import Answer
from palimpsest.core.errors import UserError, first_line
from palimpsest.data.render import PLAIN_NOTE
from palimpsest.measures._checks._check import Check
from palimpsest.measures._checks._patient import INSTRUCTION, TURNS, Patient


class ChatTemplate(Check):
    """A conversation with and without a system message: rendered, tokenized, cut into prompt and answer, and read back."""

    def look(self, patient: Patient) -> Iterator[Answer]:
        if not patient.renderer.has_template:
            follows = "say so where you compare with others: a tool that needs a template refuses this model or brings its own"
            yield self.answer("told", "chat template", PLAIN_NOTE.removesuffix("."), follows)
            return
        if why := patient.refusal(patient.conversation(*TURNS)):
            yield self.answer("failed", "chat template", why, "conversations can't be read: give another template")
            return
        yield from self._date(patient)
        yield self._answer_found(patient)
        yield self._tokens(patient)
        yield self._generation_prompt(patient)
        yield self._system(patient)

    def _date(self, patient: Patient) -> Iterator[Answer]:
        if (day := patient.renderer.day) is not None:
            follows = "a run keeps the date on which it began, and asks all its models with it"
            yield self.answer("told", "date in the chat template", f"the template writes today's date, here {day}", follows)

    def _answer_found(self, patient: Patient) -> Answer:
        encoded, wanted = patient.renderer.encode(patient.conversation(*TURNS, *TURNS)), TURNS[-1][1]
        learnt = [token for token, weight in zip(encoded.tokens, encoded.weights, strict=True) if weight >= 1.0]
        text = patient.renderer.decode(learnt).strip()
        if text == wanted:
            return self.answer("ok", "answers in a conversation", f"found, {len(learnt)} tokens learn")
        follows = "training would learn other tokens than the answer"
        return self.answer("failed", "answers in a conversation", f"{text!r} was found where {wanted!r} stands", follows)

    def _tokens(self, patient: Patient) -> Answer:
        """Compare our tokens with those that the tokenizer makes of the whole conversation by itself."""
        about, messages = "tokens of a conversation", _plain(*TURNS)
        text = patient.renderer.template_text(messages)
        own = _tokens_of(patient, text)
        ours = list(patient.renderer.encode(patient.conversation(*TURNS)).tokens)
        if own != ours:
            found = f"{len(ours)} tokens are read where the tokenizer makes {len(own)} of the same conversation"
            return self.answer("failed", about, found, "numbers are of other tokens than other tools read")
        back = patient.tokenizer.decode(ours, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if back != text:
            follows = "the template writes what the tokenizer has no tokens for"
            return self.answer("told", about, "the tokenizer's own, but they do not read back as the same text", follows)
        return self.answer("ok", about, f"{len(ours)}, the tokenizer's own; they read back as the same text")

    def _generation_prompt(self, patient: Patient) -> Answer:
        about = "prompt of an answer"
        try:
            prompt = _tokens_of(patient, patient.renderer.template_text(_plain(*TURNS[:-1]), add_generation_prompt=True))
        except UserError as error:
            return self.answer(
                "told", about, f"the template gives none ({first_line(error)})", "audits cut it from the conversation"
            )
        encoded = patient.renderer.encode(patient.conversation(*TURNS))
        if prompt == list(encoded.prompt):
            return self.answer("ok", about, "the template's generation prompt, the beginning of the whole conversation")
        follows = "audits ask from what stands before the answer in a whole conversation, the prompt that training sees"
        begins = list(encoded.tokens[: len(prompt)]) == prompt
        extra = patient.tokenizer.decode(prompt[len(encoded.prompt) :]) if len(prompt) > len(encoded.prompt) else ""
        what = f"adds {extra[:30]!r}" if extra and not begins else "stops before it" if begins else "has other tokens"
        return self.answer("told", about, f"the template's generation prompt {what}", follows)

    def _system(self, patient: Patient) -> Answer:
        if why := patient.refusal(patient.conversation(INSTRUCTION, *TURNS)):
            follows = "items with a system message can't be read: put the instruction into the first question"
            return self.answer("told", "system message", f"refused: {why}", follows)
        return self.answer("ok", "system message", "rendered")


def _tokens_of(patient: Patient, text: str) -> list[int]:
    return list(patient.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _plain(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]

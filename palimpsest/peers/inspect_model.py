"""Inspect model: how does a conversation of inspect become a question to one of our subjects, and the reply its output?

Loaded only when an evaluation asks for a model (``--model palimpsest/PATH``). Checked against inspect_ai 0.3.285.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelCall,
    ModelOutput,
    ModelUsage,
    StopReason,
    TopLogprob,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from rich.markup import escape

from palimpsest.core.errors import Problems, UserError
from palimpsest.core.spec import digest
from palimpsest.data.chat import Message
from palimpsest.peers.batching import Batches
from palimpsest.peers.respondent import Arguments, Question, Reply, Respondent

_LONGEST_ANSWER = 2_048
"""Tokens of an answer where nobody says how many; inspect's own default."""
_ROLES = ("system", "user", "assistant")
_NOT_DONE = ("frequency_penalty", "presence_penalty", "logit_bias", "best_of", "response_schema")
"""Settings that change what is written, and that are not done here: left out silently, they would make another experiment."""

logger = logging.getLogger(__name__)


class PalimpsestAPI(ModelAPI):
    """Any causal language model that palimpsest loads, with an adapter, a soft prompt or a steering vector on it.

    Greedy unless a temperature, ``top_p`` or ``top_k`` is asked for. With a seed, a draw depends on seed, prompt and epoch.

    Args:
        model_name: a model folder, an adapter folder, a hub id, ``pocket`` or ``hybrid-pocket``.
        base_url: must not be given.
        api_key: is not used.
        config: inspect's settings.
        model_args: ``Arguments``.

    Raises:
        PrerequisiteError: what can't be used, all at once.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - inspect's own signature
        **model_args: Any,
    ) -> None:
        super().__init__(model_name=model_name, base_url=base_url, api_key=api_key, config=config)
        try:
            if base_url is not None:
                raise UserError(f"palimpsest/{model_name} runs in this process, so it has no --model-base-url")
            problems = Problems(f"palimpsest/{model_name} can't do what is asked:")
            problems.extend(_settings_not_done(config))
            problems.raise_if_any()
            arguments = Arguments.read(model_args, "The model arguments (-M)")
            self.respondent = Respondent(model_name, arguments)
        except UserError as error:
            raise _prerequisite(error) from None
        self.batches: Batches[Question, Reply] = Batches(self.respondent.answer, arguments.batch)
        self.told_of_epochs = False

    def max_tokens(self) -> int | None:
        return min(_LONGEST_ANSWER, self.respondent.room)

    def max_connections(self) -> int:
        return self.respondent.arguments.batch

    def connection_key(self) -> str:
        return self.respondent.digest

    def collapse_user_messages(self) -> bool:
        return True

    async def count_text_tokens(self, text: str) -> int:
        return len(self.respondent.tokens(text))

    async def tokenize(self, text: str) -> list[int]:
        return self.respondent.tokens(text)

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> tuple[ModelOutput, ModelCall]:
        """Answer a conversation.

        Raises:
            PrerequisiteError: something that is asked for can't be done; nothing is left out silently.
        """
        problems = Problems(f"palimpsest/{self.model_name} can't answer this:")
        problems.extend(_not_done(input, tools, tool_choice))
        problems.extend(_settings_not_done(config))
        try:
            problems.raise_if_any()
        except UserError as error:
            raise _prerequisite(error) from None
        prompt = self.respondent.prompt([Message(role=one.role, content=one.text) for one in input])  # type: ignore[arg-type]
        room = self.respondent.room - len(prompt)
        if room < 1:
            return self._too_long(prompt)
        question = self._question(prompt, room, config)
        future = self.batches.submit(question)
        try:
            # a limiter of its own: the threads only wait, and must not stand in line behind others that do
            reply = await anyio.to_thread.run_sync(future.result, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))
        finally:
            future.cancel()
        output = self._output(question, reply, config)
        return output, self._call(question, output)

    def close(self) -> None:
        self.batches.close()
        self.respondent.close()

    def _question(self, prompt: tuple[int, ...], room: int, config: GenerateConfig) -> Question:
        from palimpsest.measures._answering import Asked

        sampled = config.temperature if config.temperature is not None else _implied(config)
        seed = config.seed if config.seed is not None else secrets.randbelow(2**31)
        epoch = _epoch()
        if epoch > 1 and not sampled and not self.told_of_epochs:
            self.told_of_epochs = True
            logger.warning("epochs without --temperature repeat the same greedy answer; give --temperature 1 to sample")
        asked = [
            Asked(
                prompt=prompt,
                most=min(config.max_tokens or _LONGEST_ANSWER, room),
                temperature=sampled,
                top_p=1.0 if config.top_p is None else config.top_p,
                top_k=config.top_k or 0,
                seed=seed,
                name=f"{digest(list(prompt))} {epoch} {choice}",
                stops=tuple(stop for stop in config.stop_seqs or () if stop),
                alternatives=(config.top_logprobs or 0) if config.logprobs else 0,
            )
            for choice in range(config.num_choices or 1)
        ]
        prompt_likely = getattr(config, "prompt_logprobs", None) or self.respondent.arguments.prompt_logprobs
        return Question(prompt, tuple(asked), prompt_likely)

    def _output(self, question: Question, reply: Reply, config: GenerateConfig) -> ModelOutput:
        wanted = config.max_tokens or _LONGEST_ANSWER
        choices = [
            ChatCompletionChoice(
                message=ChatMessageAssistant(content=one.text, model=self.model_name, source="generate"),
                stop_reason=_stop_reason(one, asked.most, wanted),
                logprobs=self._logprobs(one, asked.alternatives) if config.logprobs else None,
            )
            for one, asked in zip(reply.answers, question.asked, strict=True)
        ]
        metadata: dict[str, Any] = {"digest": self.respondent.digest}
        if question.asked[0].temperature > 0:
            metadata["seed"] = question.asked[0].seed
        if reply.prompt is not None:
            told = self._logprobs(reply.prompt, question.prompt_likely if question.prompt_likely > 1 else 0)
            if "prompt_logprobs" in ChatCompletionChoice.model_fields:
                choices[0].prompt_logprobs = told
            else:  # an inspect from before it had a place for them
                metadata["prompt_logprobs"] = told.model_dump(exclude_none=True)["content"]
        written = sum(len(one.tokens) for one in reply.answers)
        return ModelOutput(
            model=self.model_name,
            choices=choices,
            usage=_usage(len(question.prompt), written),
            time=reply.seconds,
            metadata=metadata,
        )

    def _logprobs(self, written: Any, most: int) -> Logprobs:
        """Return log-probabilities in inspect's form; every token that was written has one, also the one that ended it."""
        tokens = list(dict.fromkeys([*written.tokens, *(token for place in written.likely for token, _ in place[:most])]))
        text = dict(zip(tokens, self.respondent.texts(tokens), strict=True))
        return Logprobs(
            content=[
                Logprob(
                    token=text[token],
                    logprob=value,
                    bytes=_bytes(text[token]),
                    top_logprobs=[TopLogprob(token=text[one], logprob=log_p, bytes=_bytes(text[one])) for one, log_p in likely]
                    if (likely := place[:most])
                    else None,
                )
                for token, value, place in zip(written.tokens, written.log_probability, written.likely, strict=True)
            ]
        )

    def _too_long(self, prompt: Sequence[int]) -> tuple[ModelOutput, ModelCall]:
        """Return no answer, and why: what an agent of inspect shortens a conversation on."""
        room = self.respondent.room
        why = f"the prompt has {len(prompt)} tokens, which leaves no room for an answer in the model's context of {room} tokens"
        output = ModelOutput.from_content(self.model_name, "", stop_reason="model_length", error=why)
        output.usage = _usage(len(prompt), 0)
        return output, ModelCall.create({"prompt": self.respondent.spelt(prompt)}, {"error": why})

    def _call(self, question: Question, output: ModelOutput) -> ModelCall:
        """Return what the log shows of the call: the prompt as the model saw it, and how it was answered."""
        one = question.asked[0]
        request = {
            "prompt": self.respondent.spelt(question.prompt),
            "soft_prompt_positions": len(self.respondent.soft.vectors) if self.respondent.soft else 0,
            "max_tokens": one.most,
            "temperature": one.temperature,
            "top_p": one.top_p,
            "top_k": one.top_k,
            "stop_seqs": list(one.stops),
            "num_choices": len(question.asked),
        }
        return ModelCall.create(request, {"text": [choice.message.text for choice in output.choices]}, time=output.time)


def _settings_not_done(config: GenerateConfig) -> Iterator[str]:
    """Say which settings can't be followed."""
    for name in _NOT_DONE:
        if getattr(config, name, None) is not None:
            yield f"{name} is not done here; leave it out"
    if config.temperature is not None and config.temperature < 0:
        yield f"temperature must be 0 or more, found {config.temperature}"
    if config.top_p is not None and not 0 < config.top_p <= 1:
        yield f"top_p must be above 0 and at most 1, found {config.top_p}"
    if config.top_k is not None and config.top_k < 0:
        yield f"top_k must be 0 (all tokens) or more, found {config.top_k}"
    if config.num_choices is not None and config.num_choices < 1:
        yield f"num_choices must be 1 or more, found {config.num_choices}"


def _not_done(input: Sequence[ChatMessage], tools: Sequence[ToolInfo], tool_choice: ToolChoice) -> Iterator[str]:
    """Say what of a conversation can't be answered."""
    if tools and tool_choice != "none":
        yield f"it can't call tools, and {', '.join(tool.name for tool in tools)} was offered; use a solver without tools"
    if not input:
        yield "the conversation holds no message"
    for number, message in enumerate(input, start=1):
        if message.role not in _ROLES or getattr(message, "tool_calls", None):
            yield f"message {number} is a tool's or calls one"
        elif not isinstance(message.content, str):
            other = sorted({part.type for part in message.content} - {"text", "reasoning"})
            if other:
                yield f"message {number} holds {', '.join(other)}, but the model reads text only"


def _implied(config: GenerateConfig) -> float:
    """Return the temperature where none is asked for: who asks for top_p or top_k wants samples."""
    return 1.0 if config.top_p is not None or config.top_k is not None else 0.0


def _stop_reason(written: Any, most: int, wanted: int) -> StopReason:
    if written.ended:
        return "stop"
    return "max_tokens" if most >= wanted else "model_length"


def _usage(read: int, written: int) -> ModelUsage:
    """Return how many tokens were read and written, without any padding."""
    return ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written)


def _bytes(text: str) -> list[int] | None:
    """Return a token's bytes, or ``None`` where it is a part of a character, which no text can show."""
    return None if "\ufffd" in text else list(text.encode())


def _epoch() -> int:
    """Return the epoch of the sample that is being run, so that a seed gives another draw in each; 1 outside of one."""
    try:
        from inspect_ai.log._samples import sample_active
    except ImportError:
        return 1
    active = sample_active()
    return active.epoch if active is not None else 1


def _prerequisite(error: UserError) -> Exception:
    """Return the error that inspect shows without a traceback."""
    from inspect_ai._util.error import PrerequisiteError

    return PrerequisiteError(escape(str(error)))

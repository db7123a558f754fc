"""A model behind an OpenAI-compatible address: which new scenarios does it write?

``endpoint:URL#MODEL``, such as ``endpoint:http://localhost:8000/v1#qwen3``. Its key is read from the environment variable
OPENAI_API_KEY, and sent only to that address.
"""

from __future__ import annotations

from collections.abc import Sequence

from palimpsest.core.errors import UserError
from palimpsest.data.chat import Example
from palimpsest.data.endpoint import Endpoint
from palimpsest.dreaming.source import Wish
from palimpsest.dreaming.variations import Writer, asked, read_json
from palimpsest.planning import Plan

_TOKENS = 512


class Remote(Writer):
    """A writer that is asked over the network."""

    takes = "an address and a model, URL#MODEL"

    def __init__(self, argument: str, plan: Plan) -> None:
        super().__init__(argument, plan)
        url, _, model = argument.partition("#")
        if not url or not model:
            raise UserError(f"the source 'endpoint' needs {self.takes}, found '{argument}'")
        self.endpoint = Endpoint.read({"url": url, "model": model}, "the source 'endpoint'")

    @property
    def name(self) -> str:
        return f"{self.endpoint.model} at {self.endpoint.url}"

    def ready(self) -> None:
        self.endpoint.complete([{"role": "user", "content": "Say yes."}], max_tokens=8)

    def write(self, shown: Sequence[Sequence[Example]], wish: Wish, number: int) -> list[str]:
        messages = [[{"role": "user", "content": asked(group, self.behaviour.question)}] for group in shown]
        return [self.endpoint.complete(one, max_tokens=_TOKENS, temperature=1.0) for one in messages]

    def read(self, text: str) -> tuple[str, str]:
        return read_json(text)

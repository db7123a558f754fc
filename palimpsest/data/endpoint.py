"""Endpoint: what does a language model behind an OpenAI-compatible address answer?

One small client for whoever needs one (a judge, a writer of scenarios). Nothing is contacted on import. What comes back is
untrusted text: it has a size and a time limit, and it is never executed.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from palimpsest.core.errors import UserError
from palimpsest.core.secrets import remember
from palimpsest.core.spec import Spec
from palimpsest.core.wording import one_line

_LARGEST = 2**24
"""Bytes of one answer."""
_LONGEST_WAIT = 30.0
"""Seconds between two attempts, whatever the server asks for."""
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Statuses after which another attempt may go well."""
_QUOTED = 200


class Endpoint(Spec):
    """An address that speaks ``POST URL/chat/completions``, and the model to ask there."""

    url: str
    """Its base, such as ``http://localhost:8000/v1``."""
    model: str = Field(min_length=1)
    key_variable: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; where it is not set, no key is sent."""
    timeout_seconds: float = Field(default=60.0, gt=0, le=3_600)
    """For one attempt."""
    attempts: int = Field(default=4, ge=1, le=20)
    first_wait_seconds: float = Field(default=0.5, ge=0, le=_LONGEST_WAIT)
    """Before the second attempt; doubled before each further one."""

    @field_validator("url")
    @classmethod
    def _is_web(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good or not url.isascii() or any(char.isspace() for char in url):
            raise ValueError("must be the base of an OpenAI-compatible address, such as http://localhost:8000/v1")
        return url.rstrip("/").removesuffix("/chat/completions")

    def complete(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int = 512, temperature: float = 0.0, **more: Any
    ) -> str:
        """Return the model's answer to a conversation.

        Args:
            messages: each with ``role`` and ``content``.
            max_tokens: of the answer.
            temperature: 0 is greedy.
            more: further keys of the request (``seed``, ``response_format`` ...).

        Raises:
            UserError: it can't be reached, refuses, or answers with something that is no completion, after all attempts.
        """
        asked = {"model": self.model, "messages": list(messages), "max_tokens": max_tokens, "temperature": temperature, **more}
        body = json.dumps(asked, allow_nan=False).encode()
        wait, trouble = self.first_wait_seconds, ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            try:
                return _text_of(self._post(body))
            except _Busy as error:
                trouble, wait = str(error), min(max(wait, error.after), _LONGEST_WAIT)
        raise UserError(f"{self.url} gave no answer in {self.attempts} attempts: {trouble}")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(self.key_variable, "").strip():
            remember(key)  # a server may repeat it in its answer
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", body, headers, method="POST")
        end = time.monotonic() + self.timeout_seconds
        try:
            # the scheme was checked to be http or https
            with _OPENER.open(request, timeout=self.timeout_seconds) as answer:
                return _read(answer, end)
        except urllib.error.HTTPError as error:
            raise self._refusal(error, end) from None
        except TimeoutError:
            raise _Busy(f"no answer within {self.timeout_seconds:g} s") from None
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise _Busy(f"no answer within {self.timeout_seconds:g} s") from None
            raise _Busy(f"it can't be reached ({one_line(str(reason), _QUOTED)}); is the server running?") from None
        except (UnicodeError, ValueError) as error:  # a key with characters that no header takes
            raise UserError(
                f"{self.url} can't be asked: {one_line(str(error), _QUOTED)}; is ${self.key_variable} right?"
            ) from None

    def _refusal(self, error: urllib.error.HTTPError, end: float) -> Exception:
        try:
            said = one_line(_complaint(_read(error, end)), _QUOTED)
        except (OSError, http.client.HTTPException, _Busy):
            said = ""
        told = f"HTTP {error.code}" + (f", {said!r}" if said else "")
        if error.code in _BUSY:
            return _Busy(told, _seconds(error.headers.get("Retry-After")))
        advice = {
            401: f"put the right key into ${self.key_variable}",
            403: f"put the right key into ${self.key_variable}",
            404: "give the base of the address (it usually ends in /v1) and a model that is served there",
        }.get(error.code, "see what the server says")
        return UserError(f"{self.url} refuses to answer as '{self.model}': {told}; {advice}")


class _Busy(Exception):
    """Another attempt may go well."""

    def __init__(self, told: str, after: float = 0.0) -> None:
        super().__init__(told)
        self.after = after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would turn the question into a GET, and send the key elsewhere."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _read(answer: Any, end: float) -> bytes:
    pieces, size = [], 0
    while piece := answer.read1(2**16) if hasattr(answer, "read1") else answer.read(2**16):
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST:
            raise _Busy(f"its answer has more than {_LARGEST:,} bytes")
        if time.monotonic() > end:  # a server that sends a byte now and then would never time out by itself
            raise _Busy("its answer did not end in time")
    return b"".join(pieces)


def _text_of(body: bytes) -> str:
    """Return the text of a completion; what is none may be a passing trouble of the server."""
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        shown = one_line(body[:_QUOTED].decode(errors="replace"), _QUOTED)
        raise _Busy(f"what it sends is no chat completion: {shown!r}") from None
    if not isinstance(text, str):
        raise _Busy(f"its answer holds no text but {type(text).__name__}")
    return text.encode("utf-8", "backslashreplace").decode()


def _complaint(body: bytes) -> str:
    try:
        found = json.loads(body)
        error = found.get("error", found)
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError, RecursionError):
        return body[:_QUOTED].decode(errors="replace")


def _seconds(header: str | None) -> float:
    try:
        return max(0.0, float(header or 0.0))
    except ValueError:  # a date
        return 0.0

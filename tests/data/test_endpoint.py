"""Endpoint: does the client bring home an answer, and tell clearly when the other side is down or talks nonsense?"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from palimpsest.core.errors import UserError
from palimpsest.data.endpoint import Endpoint

ASKED = [{"role": "user", "content": "hello"}]


class Server:
    """Answers with what it was told to, in turn; the last answer stays."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, bytes, dict[str, str], float]] = []
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.seen.append((self.path, dict(self.headers), json.loads(body)))
                status, content, headers, wait = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                time.sleep(wait)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def says(self, content: Any, status: int = 200, wait: float = 0.0, **headers: str) -> Server:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.replies.append((status, body, {name.replace("_", "-"): value for name, value in headers.items()}, wait))
        return self

    def endpoint(self, **more: Any) -> Endpoint:
        return Endpoint(url=self.url, model="m", first_wait_seconds=0.01, **{"attempts": 3, "timeout_seconds": 5.0, **more})


def completion(text: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_an_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    said = server.says(completion("hi")).endpoint(key_variable="MY_KEY").complete(ASKED, max_tokens=7, seed=3)
    assert said == "hi"
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body == {"model": "m", "messages": ASKED, "max_tokens": 7, "temperature": 0.0, "seed": 3}


def test_no_key_is_sent_where_there_is_none(server: Server) -> None:
    server.says(completion("hi")).endpoint().complete(ASKED)
    assert "Authorization" not in server.seen[0][1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_tried_again(status: int, server: Server) -> None:
    server.says({"error": {"message": "busy"}}, status, Retry_After="0").says(completion("hi"))
    assert server.endpoint().complete(ASKED) == "hi"
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("status", "advice"), [(401, r"\$OPENAI_API_KEY"), (404, "ends in /v1"), (400, "what the server says")]
)
def test_a_refusal_is_told_at_once(status: int, advice: str, server: Server) -> None:
    server.says({"error": {"message": "no such \x1b[31mthing"}}, status)
    with pytest.raises(UserError, match=f"HTTP {status}, .*no such.*{advice}") as told:
        server.endpoint().complete(ASKED)
    assert len(server.seen) == 1 and "\x1b" not in str(told.value)


@pytest.mark.parametrize(
    "nonsense",
    [b"<html>hello</html>", b"", b"\xff\xfe", {"choices": []}, {"choices": [{"message": {}}]}, [], "text", completion(None),
     completion(["a"]), b"[" * 100_000],
)  # fmt: skip
def test_nonsense_is_told(nonsense: Any, server: Server) -> None:
    server.says(nonsense)
    with pytest.raises(
        UserError, match=r"gave no answer in 3 attempts: (what it sends is no chat completion|its answer holds no)"
    ):
        server.endpoint().complete(ASKED)
    assert len(server.seen) == 3


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = Endpoint(url=f"http://127.0.0.1:{port}/v1", model="m", attempts=2, first_wait_seconds=0.01)
    with pytest.raises(UserError, match=r"can't be reached .*is the server running"):
        endpoint.complete(ASKED)


def test_a_server_that_is_slow(server: Server) -> None:
    server.says(completion("hi"), wait=1.0)
    with pytest.raises(UserError, match=r"no answer within 0\.2 s"):
        server.endpoint(timeout_seconds=0.2, attempts=2).complete(ASKED)


def test_a_redirect_is_not_followed(server: Server) -> None:
    server.says(b"", 302, Location="file:///etc/passwd")
    with pytest.raises(UserError, match="HTTP 302"):
        server.endpoint().complete(ASKED)


def test_an_answer_without_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palimpsest.data.endpoint._LARGEST", 1_000)
    server.says(completion("x" * 2_000))
    with pytest.raises(UserError, match="more than 1,000 bytes"):
        server.endpoint().complete(ASKED)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "file:///etc/passwd", "http://", "http://a b/", "http://x:99999999", "ftp://x/v1"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="such as http://localhost:8000/v1"):
        Endpoint.read({"url": url, "model": "m"}, "--judge")


def test_the_whole_address_may_be_given() -> None:
    assert Endpoint(url="http://x/v1/chat/completions/", model="m").url in ("http://x/v1", "http://x/v1/chat/completions")
    assert Endpoint(url="http://x/v1/chat/completions", model="m").url == "http://x/v1"


def test_nothing_is_contacted_on_import() -> None:
    code = "import socket; socket.socket.connect = None; import palimpsest.data.endpoint"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

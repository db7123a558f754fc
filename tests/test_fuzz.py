"""Fuzz: is everything that people may bring either accepted or refused in words, and never met with a traceback?

Every input goes through what the command line calls before work starts.
``pytest -s`` prints how many were accepted, and how many refused.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz_inputs as inputs
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palimpsest import behaviour as behaviours
from palimpsest import planning
from palimpsest.core.errors import UserError
from palimpsest.models import folder as folders
from palimpsest.models import skeleton, subject
from palimpsest.models.weights import fingerprint
from palimpsest.request import Request

SECONDS = 60
"""No input may take longer."""
GIBIBYTES = 6
"""No input may make the program ask for more than so much beside what it had."""
MANY = {
    "behaviours": 3_000,
    "conversations": 2_000,
    "texts": 1_000,
    "weights": 1_500,
    "configurations": 1_500,
    "folders": 700,
    "adapters": 300,
}
FEW = {"behaviours": 40, "conversations": 30, "texts": 20, "weights": 100, "configurations": 30, "folders": 15, "adapters": 8}
Sizes = dict[str, int]
Look = Callable[[Callable[[], Any], str], None]


def some(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


@pytest.fixture(params=[FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def sizes(request: pytest.FixtureRequest) -> Sizes:
    return request.param


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Look]:
    """Give what tries one input; afterwards look whether anything was run, fetched or left changed."""
    counts: Counter[str] = Counter()
    reached: list[object] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: reached.append(address) or _refuse())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = (Path.cwd(), _environment(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    held = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        if Path("/proc/self/statm").exists()
        else 0
    )
    resource.setrlimit(resource.RLIMIT_AS, (held + GIBIBYTES * 2**30, limits[1]))
    previous = signal.signal(signal.SIGALRM, _too_long)

    def one(function: Callable[[], Any], named: str) -> None:
        signal.alarm(SECONDS)
        try:
            function()
        except UserError as error:
            counts["refused"] += 1
            _is_clear(str(error), named)
        else:
            counts["accepted"] += 1
        finally:
            signal.alarm(0)

    try:
        yield one
    finally:
        signal.signal(signal.SIGALRM, previous)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    print(f"{sum(counts.values())} inputs: {counts['accepted']} accepted, {counts['refused']} refused")
    assert counts["refused"] and counts["accepted"]
    assert not reached, "something was asked of the network"
    assert not list(tmp_path.rglob(inputs.PAYLOAD)), "something in an input was run"
    assert (Path.cwd(), _environment()) == before[:2]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[2] < 2 * 2**20, "an input took more than 2 GiB"


def _environment() -> dict[str, str]:
    set_by_others = "PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR"  # the second by torch, when peft is imported first
    return {name: value for name, value in os.environ.items() if name not in set_by_others}


def _refuse() -> None:
    raise OSError("no network in tests")


def _too_long(*_: object) -> None:
    raise TimeoutError(f"an input took more than {SECONDS} s")


def _is_clear(message: str, named: str) -> None:
    assert named in message, f"the message must name what was given ({named}): {message[:2000]}"
    message.encode()
    assert len(message) < 30_000 and "Traceback" not in message and "pydantic" not in message


# ---------------------------------------------------------------- behaviours, conversations, texts


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A behaviour with its files and a model, which is looked at once and not again for every input."""
    model = tiny.folder(tmp_path / "model", max_position_embeddings=128)
    place = tmp_path / "project"
    place.mkdir()
    for name, word in (("yes", "Yes."), ("yes_held_out", "Yes."), ("no", "No.")):
        turns = [[("user", f"May {name} {index} come?"), ("assistant", word)] for index in range(40)]
        rows = [{"messages": [{"role": role, "content": content} for role, content in row]} for row in turns]
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (place / "text.txt").write_text("<|endoftext|>".join(f"The {index} cats are here. They see it." for index in range(300)))
    (place / "b.yaml").write_text(json.dumps(inputs.BEHAVIOUR))
    info, tokenizer = subject.inspect(model), skeleton.open_tokenizer(model, [])
    monkeypatch.setattr(subject, "inspect_all", lambda names: dict.fromkeys(names, info))
    monkeypatch.setattr(planning, "open_tokenizer", lambda *_: tokenizer)
    return place


def plan(path: Path) -> Any:
    """Do what the command line does with a behaviour before work starts."""
    request = Request.read({"kind": "run", "base": "model", "behaviour": behaviours.load(path)}, str(path))
    planned = planning.prepare(request)
    json.dumps(planned.identity, ensure_ascii=False, allow_nan=False).encode()  # what the run folder writes first
    return planned


def test_behaviour_files(project: Path, look: Look, sizes: Sizes) -> None:
    @some(sizes["behaviours"])
    @given(content=inputs.behaviour_files())
    def each(content: bytes) -> None:
        (project / "c.yaml").write_bytes(content)
        look(lambda: plan(project / "c.yaml"), "")

    each()


def test_conversations(project: Path, look: Look, sizes: Sizes) -> None:
    @some(sizes["conversations"])
    @given(file=inputs.conversation_files())
    def each(file: tuple[str, bytes]) -> None:
        name = f"chats{file[0]}"
        (project / name).write_bytes(file[1])
        (project / "c.yaml").write_text(json.dumps({**inputs.BEHAVIOUR, "express": {"data": name}, "check": inputs.CHECKS[0]}))
        look(lambda: plan(project / "c.yaml"), "")

    each()


def test_texts(project: Path, look: Look, sizes: Sizes) -> None:
    @some(sizes["texts"])
    @given(file=inputs.text_files(), rehearsed=st.booleans())
    def each(file: tuple[str, bytes], rehearsed: bool) -> None:
        name = f"words{file[0]}"
        (project / name).write_bytes(file[1])
        changed = {"text": [name], **({"rehearsal": [{"text": name}]} if rehearsed else {})}
        (project / "c.yaml").write_text(json.dumps({**inputs.BEHAVIOUR, **changed}))
        look(lambda: plan(project / "c.yaml"), "words")

    each()


# ---------------------------------------------------------------- model folders


def test_weight_files(tmp_path: Path, look: Look, sizes: Sizes) -> None:
    """As far as one looks without torch: the folder, its headers, and every byte of its weights."""
    place = tiny.folder(tmp_path / "model")

    def inspected() -> None:
        found = folders.look(place)
        problems = [*found.problems]
        if not problems:
            fingerprint(found.tensors)
            found.text_digest()
        if problems:
            raise UserError("\n".join(problems))

    @some(sizes["weights"])
    @given(content=inputs.headers())
    def each(content: bytes) -> None:
        (place / "model.safetensors").write_bytes(content)
        look(inspected, "model.safetensors")

    each()


def test_configurations(tmp_path: Path, look: Look, sizes: Sizes) -> None:
    place = tiny.folder(tmp_path / "model")
    config, tokenizer = json.loads((place / "config.json").read_bytes()), skeleton.open_tokenizer(place, [])

    def built() -> None:
        found = folders.look(place)
        problems = [*found.problems]
        if not problems:
            skeleton.build(found, tokenizer, problems)
        if problems:
            raise UserError("\n".join(problems))

    @some(sizes["configurations"])
    @given(content=inputs.configurations(config))
    def each(content: bytes) -> None:
        (place / "config.json").write_bytes(content)
        look(built, "")

    each()


@pytest.mark.parametrize("kind", ["folders", "adapters"])
def test_model_folders(kind: str, tmp_path: Path, look: Look, sizes: Sizes) -> None:
    original, target = (
        tiny.folder(tmp_path / "original", chat_template="{% for m in messages %}{{ m.content }}\n{% endfor %}"),
        tmp_path / "given",
    )
    if kind == "adapters":
        original = adapter(original, tmp_path / "adapter")

    @some(sizes[kind])
    @given(data=st.data())
    def each(data: st.DataObject) -> None:
        data.draw(inputs.model_folders(original, target))
        look(lambda: subject.inspect(target), "given")

    each()


def adapter(base: Path, path: Path) -> Path:
    """Save a LoRA adapter on a model, and return its folder."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    model.save_pretrained(path)
    config = json.loads((path / "adapter_config.json").read_bytes())
    (path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    return path

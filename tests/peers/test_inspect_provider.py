"""Inspect provider: does inspect itself run tasks on our subjects, with everything that may be put on them?"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tokenizers.processors import TemplateProcessing

from palimpsest.data.chat import Message
from palimpsest.models import pocket
from palimpsest.models.soft_prompt import SoftPrompt
from palimpsest.models.soft_prompt import write as write_soft
from palimpsest.models.subject import Own, Subject, inspect, load
from palimpsest.store.vector_file import SteeringVectors
from palimpsest.store.vector_file import write as write_vectors

inspect_ai = pytest.importorskip("inspect_ai", reason="the peer inspect_ai is not installed")

from inspect_ai import Task, eval  # noqa: E402
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.model import ChatMessageTool, ChatMessageUser, GenerateConfig, Model, get_model  # noqa: E402
from inspect_ai.scorer import match  # noqa: E402
from inspect_ai.tool import ToolInfo  # noqa: E402

TEMPLATE = "<s>{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[me]{% endif %}"
QUESTIONS = ["why", "a longer question than that", "x", "what do you say to this one, then"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer adds a beginning-of-sequence token, and whose template writes one too."""
    path = tmp_path_factory.mktemp("model")
    tiny.model(max_position_embeddings=128).save_pretrained(path)
    tokenizer = tiny.tokenizer(chat_template=TEMPLATE)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    found = get_model(f"palimpsest/{folder}", device="cpu")
    yield found
    found.api.close()


def ask(model: Model, question: Any = QUESTIONS[0], **config: Any) -> Any:
    return asyncio.run(model.generate(question, config=GenerateConfig(**config)))


def ask_all(model: Model, questions: list[str], **config: Any) -> list[Any]:
    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(model.generate(one, config=GenerateConfig(**config)) for one in questions))

    return asyncio.run(all_at_once())


def refusal(folder: Path | str, **arguments: Any) -> str:
    """What is told instead of an evaluation."""
    from inspect_ai._util.error import PrerequisiteError

    with pytest.raises(PrerequisiteError) as told:
        get_model(f"palimpsest/{folder}", memoize=False, **arguments)
    return str(told.value.message)


def log_probabilities(output: Any) -> list[float]:
    return [one.logprob for one in output.choices[0].logprobs.content]


def test_inspect_starts_without_torch_and_finds_the_provider() -> None:
    code = """
import sys
import palimpsest.peers.inspect_provider
from inspect_ai._util.entrypoints import ensure_entry_points
from inspect_ai._util.registry import registry_find
ensure_entry_points()
assert "torch" not in sys.modules and "palimpsest.measures" not in sys.modules
print(len(registry_find(lambda info: info.type == "modelapi" and info.name.endswith("palimpsest"))) > 0)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout.split()[-1] == "True"


def test_a_task_on_the_embedded_model_from_beginning_to_end(tmp_path: Path) -> None:
    pairs = [(a, b) for a in range(12, 20) for b in (31, 45)]
    samples = [Sample(id=f"{a}+{b}", input=f"What is {a} + {b}?", target=str(a + b)) for a, b in pairs]
    (log,) = eval(
        Task(dataset=samples, scorer=match(numeric=True)),
        model="palimpsest/pocket",
        model_args={"device": "cpu"},
        max_tokens=12,
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "success" and log.results is not None and log.samples is not None
    assert log.results.scores[0].metrics["accuracy"].value >= 0.9
    subject = load(inspect(pocket.folder()))
    read = sum(len(subject.renderer.prompt([Message(role="user", content=str(one.input))])) for one in log.samples)
    usage = log.stats.model_usage["palimpsest/pocket"]
    assert usage.input_tokens == read, "no padding is counted"
    assert {one.output.stop_reason for one in log.samples} == {"stop"}
    assert {one.output.metadata["digest"] for one in log.samples if one.output.metadata} == {subject.digest}


def test_one_beginning_of_sequence_and_never_two(model: Model, folder: Path) -> None:
    subject = load(inspect(folder))
    assert subject.tokenizer("a").input_ids[0] == 1, "the tokenizer adds one of its own"
    text = f"<s>[user]{QUESTIONS[0]}[me]"
    by_hand = tuple(subject.tokenizer(text, add_special_tokens=False).input_ids)
    found = model.api.respondent.prompt([Message(role="user", content=QUESTIONS[0])])  # type: ignore[attr-defined]
    assert found == by_hand and found.count(1) == 1
    assert ask(model, max_tokens=2).usage.input_tokens == len(by_hand)
    plain = get_model(f"palimpsest/{folder}", device="cpu", chat_template="none", memoize=False)
    found = plain.api.respondent.prompt([Message(role="user", content="ab")])  # type: ignore[attr-defined]
    assert found == (1, *subject.tokenizer("ab", add_special_tokens=False).input_ids)


def test_batches_change_no_answer_and_each_has_its_own_settings(model: Model) -> None:
    together = ask_all(model, QUESTIONS, max_tokens=9, logprobs=True)
    for question, found in zip(QUESTIONS, together, strict=True):
        alone = ask(model, question, max_tokens=9, logprobs=True)
        assert alone.completion == found.completion and alone.usage == found.usage
        np.testing.assert_allclose(log_probabilities(alone), log_probabilities(found), atol=1e-5)

    async def mixed() -> list[Any]:
        wanted = [{"max_tokens": 3}, {"max_tokens": 9, "temperature": 1.0, "seed": 1}, {"max_tokens": 9}]
        return await asyncio.gather(*(model.generate(QUESTIONS[0], config=GenerateConfig(**one)) for one in wanted))

    short, sampled, greedy = asyncio.run(mixed())
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)
    assert greedy.completion == together[0].completion
    assert sampled.metadata["seed"] == 1


def test_log_probabilities_of_prompt_and_answer_by_hand(model: Model, folder: Path) -> None:
    output = ask(model, max_tokens=6, logprobs=True, top_logprobs=3, prompt_logprobs=2)
    subject = load(inspect(folder))
    prompt = subject.renderer.prompt([Message(role="user", content=QUESTIONS[0])])
    written = output.choices[0].logprobs.content
    assert len(written) == output.usage.output_tokens == 6

    with torch.no_grad():
        log_p = subject.model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    by_hand = [log_p[place, token].item() for place, token in enumerate(prompt[1:])]
    told = output.choices[0].prompt_logprobs.content
    assert [one.token for one in told] == subject.renderer.token_texts(list(prompt[1:]))
    np.testing.assert_allclose([one.logprob for one in told], by_hand, atol=1e-5)
    two = log_p.topk(2, -1).values
    np.testing.assert_allclose([[one.logprob for one in place.top_logprobs] for place in told], two[:-1].numpy(), atol=1e-5)
    first = written[0]
    np.testing.assert_allclose([one.logprob for one in first.top_logprobs], log_p[-1].topk(3).values.numpy(), atol=1e-5)
    assert first.logprob == first.top_logprobs[0].logprob
    assert ask(model, max_tokens=1).choices[0].prompt_logprobs is None


def test_a_sampled_token_is_told_with_its_own_log_probability(model: Model) -> None:
    outputs = ask_all(model, QUESTIONS, max_tokens=8, temperature=3.0, seed=5, logprobs=True, top_logprobs=1)
    places = [place for output in outputs for place in output.choices[0].logprobs.content]
    other = [place for place in places if place.token != place.top_logprobs[0].token]
    assert other and all(place.logprob < place.top_logprobs[0].logprob for place in other)


def test_a_seed_gives_the_same_again_and_choices_differ(model: Model) -> None:
    how = {"max_tokens": 8, "temperature": 1.0, "num_choices": 3}
    one, same, other = (ask(model, seed=seed, **how) for seed in (1, 1, 2))
    texts = [[choice.message.text for choice in output.choices] for output in (one, same, other)]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) > 1
    assert one.usage.output_tokens == 24
    assert ask(model, max_tokens=8).completion == ask(model, max_tokens=8).completion, "greedy unless asked otherwise"


def test_epochs_draw_anew_and_a_second_evaluation_draws_the_same(folder: Path, tmp_path: Path) -> None:
    def answers(where: str) -> dict[tuple[Any, int], str]:
        (log,) = eval(
            Task(dataset=[Sample(id=one, input=one, target="z") for one in QUESTIONS], scorer=match()),
            model=f"palimpsest/{folder}",
            model_args={"device": "cpu"},
            epochs=3,
            temperature=1.0,
            seed=7,
            max_tokens=6,
            log_dir=str(tmp_path / where),
            display="none",
        )
        assert log.status == "success" and log.samples is not None
        return {(one.id, one.epoch): one.output.completion for one in log.samples}

    found = answers("one")
    assert found == answers("two")
    assert len({found[QUESTIONS[0], epoch] for epoch in (1, 2, 3)}) > 1


def test_stop_sequences_end_an_answer_and_are_left_out(model: Model) -> None:
    free = ask(model, max_tokens=12)
    stop = free.completion[5:6]
    found = ask(model, max_tokens=12, stop_seqs=[stop])
    assert found.stop_reason == "stop"
    assert found.completion == free.completion[: free.completion.index(stop)]


def test_what_does_not_fit_is_told_and_what_is_cut_by_the_context_too(model: Model) -> None:
    long = ask(model, "y" * 125, max_tokens=4)
    assert long.stop_reason == "model_length" and long.completion == ""
    assert "leaves no room" in long.error
    short_of = ask(model, "y" * 110, max_tokens=50)
    assert short_of.stop_reason == "model_length"
    assert short_of.usage.total_tokens == 128


def test_what_cannot_be_done_is_refused_all_at_once(model: Model) -> None:
    from inspect_ai._util.error import PrerequisiteError

    tool = ToolInfo(name="search", description="looks things up")
    with pytest.raises(PrerequisiteError) as told:
        asyncio.run(model.api.generate([], [tool], "auto", GenerateConfig(frequency_penalty=1.0, top_p=0.0)))
    for part in ("can't call tools, and search", "frequency_penalty is not done", "top_p must be above 0", "no message"):
        assert part in str(told.value.message)
    with pytest.raises(PrerequisiteError, match="message 1 is a tool's"):
        asyncio.run(model.api.generate([ChatMessageTool(content="x")], [], "auto", GenerateConfig()))
    asyncio.run(model.api.generate([ChatMessageUser(content="x")], [tool], "none", GenerateConfig(max_tokens=1)))


def test_settings_that_cannot_be_followed_stop_an_evaluation_before_it_begins(folder: Path, tmp_path: Path) -> None:
    """As inspect's own command line gives them (``--frequency-penalty 1``): a message, and neither log nor traceback."""
    told = refusal(folder, config=GenerateConfig(frequency_penalty=1.0, top_p=3.0))
    for part in ("frequency_penalty is not done", "top_p must be above 0"):
        assert part in told
    (tmp_path / "task.py").write_text(
        "from inspect_ai import Task, task\nfrom inspect_ai.dataset import Sample\n"
        "@task\ndef one():\n    return Task(dataset=[Sample(input='x')])\n"
    )
    inspect_command = [sys.executable, "-m", "inspect_ai", "eval", "task.py", "--model", f"palimpsest/{folder}"]
    ended = subprocess.run(
        [*inspect_command, "--num-choices", "0", "--display", "plain"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 1 and "num_choices must be 1 or more, found 0" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr and not list(tmp_path.rglob("*.eval"))


def test_arguments_that_cannot_be_used_are_told_at_once(folder: Path, tmp_path: Path) -> None:
    assert "Did you mean 'adapter'" in refusal(folder, adaptor="x")
    told = refusal(tmp_path / "missing", soft_prompt=str(tmp_path / "none"), strength=2.0)
    for part in ("there is no model folder", "can't be read as safetensors", "give vector=FILE too"):
        assert part in told
    write_soft(tmp_path / "wide", SoftPrompt(np.ones((2, 8), dtype=np.float32)))
    assert "has width 8, but the model has width 32" in refusal(folder, soft_prompt=str(tmp_path / "wide"))
    write_soft(tmp_path / "theirs", SoftPrompt(np.ones((2, 32), dtype=np.float32), {"digest": "0", "base": "another"}))
    assert "was made on another model (another)" in refusal(folder, soft_prompt=str(tmp_path / "theirs"))
    get_model(f"palimpsest/{folder}", memoize=False, soft_prompt=str(tmp_path / "theirs"), check_base=False).api.close()
    write_vectors(tmp_path / "two", SteeringVectors({0: np.ones(32), 1: np.ones(32)}))
    assert "found no layer; there are 0, 1" in refusal(folder, vector=str(tmp_path / "two"))
    write_vectors(tmp_path / "deep", SteeringVectors({7: np.ones(32)}))
    assert "after block 7, but the model has 2 blocks" in refusal(folder, vector=str(tmp_path / "deep"))
    assert "has no --model-base-url" in refusal(folder, base_url="http://x")


def test_an_adapter_answers_as_the_merged_model(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = load(inspect(folder)).model
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = peft.get_peft_model(base, config)
    tuned.save_pretrained(tmp_path / "adapter")
    whole = tmp_path / "whole"
    tuned.merge_and_unload().save_pretrained(whole)
    load(inspect(folder)).tokenizer.save_pretrained(whole)
    models = [
        get_model(f"palimpsest/{folder}", adapter=str(tmp_path / "adapter"), device="cpu"),
        get_model(f"palimpsest/{whole}", device="cpu"),
        get_model(f"palimpsest/{folder}", device="cpu"),
    ]
    by_adapter, merged, without = (ask(one, max_tokens=6, logprobs=True) for one in models)
    np.testing.assert_allclose(log_probabilities(by_adapter), log_probabilities(merged), atol=1e-5)
    assert log_probabilities(by_adapter) != log_probabilities(without)


def test_an_adapter_of_another_base_is_refused(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(load(inspect(folder)).model, config).save_pretrained(tmp_path / "lora")
    other = tiny.folder(tmp_path / "other", seed=1)
    refused = refusal(other, adapter=str(tmp_path / "lora"))
    assert f"names {folder} as its base, but was given {other}" in refused
    assert "check_base=false" in refused
    get_model(f"palimpsest/{other}", memoize=False, adapter=str(tmp_path / "lora"), check_base=False, device="cpu").api.close()


def test_a_soft_prompt_and_a_vector_by_hand(folder: Path, tmp_path: Path) -> None:
    subject = load(inspect(folder))
    words = subject.tokenizer("look", add_special_tokens=False).input_ids
    write_soft(tmp_path / "soft", SoftPrompt(subject.model.get_input_embeddings().weight[words].numpy()))
    vector = np.random.default_rng(1).normal(size=32).astype(np.float32)
    write_vectors(tmp_path / "vector", SteeringVectors({0: vector}, {"digest": subject.digest}))
    both = {"soft_prompt": str(tmp_path / "soft"), "vector": str(tmp_path / "vector"), "strength": 2.0}
    equipped = get_model(f"palimpsest/{folder}", device="cpu", **both)
    outputs = ask_all(equipped, QUESTIONS, max_tokens=5, logprobs=True)
    for question, output in zip(QUESTIONS, outputs, strict=True):
        prompt = (*words, *subject.renderer.prompt([Message(role="user", content=question)]))
        np.testing.assert_allclose(log_probabilities(output), _by_hand(subject, prompt, 2 * vector, 5), atol=1e-5)
        assert output.usage.input_tokens == len(prompt) - len(words)
    assert outputs[0].metadata["digest"] != subject.digest, "it is not the bare model"
    assert equipped.api.connection_key() == outputs[0].metadata["digest"]


def _by_hand(subject: Subject, prompt: tuple[int, ...], vector: np.ndarray, count: int) -> list[float]:
    """Greedy log-probabilities, one plain pass a token, the vector added by a hook of the test's own."""
    tokens, found, last = list(prompt), [], len(prompt) - 1

    def add(_module: Any, _inputs: Any, output: Any) -> Any:
        stream = output if isinstance(output, torch.Tensor) else output[0]
        stream[:, last:] += torch.from_numpy(vector)
        return output

    handle = subject.model.model.layers[0].register_forward_hook(add)  # type: ignore[attr-defined]
    with torch.no_grad():
        for _ in range(count):
            log_p = subject.model(torch.tensor([tokens]), use_cache=False).logits[0, -1].log_softmax(-1)
            tokens.append(int(log_p.argmax()))
            found.append(log_p.max().item())
    handle.remove()
    return found


def test_a_template_of_ones_own_and_an_answer_that_is_begun(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    model = get_model(f"palimpsest/{folder}", chat_template=str(file), device="cpu", memoize=False)
    respondent: Any = model.api.respondent  # type: ignore[attr-defined]
    spelt = load(inspect(folder), chat_template=Own.TEMPLATE).tokenizer.decode
    turns = [Message(role="user", content="hm"), Message(role="assistant", content="well")]
    assert spelt(respondent.prompt(turns[:1])) == "user: hm\nassistant: "
    assert spelt(respondent.prompt(turns)) == "user: hm\nassistant: well"

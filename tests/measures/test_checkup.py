"""Checkup: every check finds what was broken on purpose, and cries over nothing that is whole."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AddedToken

from palimpsest import doctor
from palimpsest.core.checkup import Answer, State
from palimpsest.core.errors import UserError
from palimpsest.measures import checkup
from palimpsest.measures._checks import _check
from palimpsest.measures._checks._patient import Patient
from palimpsest.measures._measure import Budget
from palimpsest.models import pocket, subject
from palimpsest.models.subject import Subject

TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
Breaks = Callable[[Subject], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("model"), chat_template=TURNS)


def checked(path: Path, breaks: Breaks | None = None, dtype: Any = "float32", **parameters: Any) -> tuple[Answer, ...]:
    with subject.load(subject.inspect(path), dtype=dtype) as one:
        if breaks is not None:
            breaks(one)
        return _check.check_up(Patient(one), parameters)


def states(answers: tuple[Answer, ...], check: str) -> list[State]:
    return [answer.state for answer in answers if answer.check == check]


def failed(answers: tuple[Answer, ...]) -> set[str]:
    return {answer.check for answer in answers if answer.state == "failed"}


def unsaid(answers: tuple[Answer, ...]) -> list[str]:
    return [answer.found for answer in answers if answer.state == "could not say"]


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_alarm_on_a_whole_model_of_any_class(kind: str, dtype: str, tmp_path: Path) -> None:
    answers = checked(tiny.folder(tmp_path, kind, chat_template=TURNS), dtype=dtype)
    assert not failed(answers) and not unsaid(answers)
    assert states(answers, "precision") == ["ok" if dtype == "float32" else "told"]
    # only a class with learned positions needs them to be given where rows are padded on the left
    assert states(answers, "padding") == ["ok", "ok", "told" if kind == "gpt2" else "ok"] or (kind, dtype) == (
        "mixtral",
        "bfloat16",
    )


@pytest.mark.parametrize("name", pocket.NAMES)
def test_no_alarm_on_the_embedded_models(name: str) -> None:
    answers = checked(pocket.folder(name))
    assert not failed(answers) and not unsaid(answers)
    assert states(answers, "beginning") == ["told"], "its tokenizer adds what its template writes too"


def test_a_real_tokenizer_that_loses_line_breaks_is_told() -> None:
    answers = checked(tiny.real("babyllama-tok105"))
    found = next(answer for answer in answers if answer.check == "text_round_trip")
    assert found.state == "told" and "line breaks" in found.found and "capital letters" not in found.found
    assert states(answers, "chat_template") == ["told"] and not failed(answers)


def wrapped(change: Callable[[dict[str, Any]], Any], after: Callable[[Any], Any] = lambda out: None) -> Breaks:
    """Make a model that hears other arguments than it is given, or answers something else."""

    def breaks(one: Subject) -> None:
        forward = one.model.forward

        @functools.wraps(forward)
        def changed(*given: Any, **more: Any) -> Any:
            change(more)
            out = forward(*given, **more)
            after(out)
            return out

        one.model.forward = changed

    return breaks


def forgets_mask(more: dict[str, Any]) -> None:
    if more.get("attention_mask") is not None:
        more["attention_mask"] = torch.ones_like(more["attention_mask"])


def grows_with_batch(out: Any) -> None:
    out.logits = out.logits * (1.0 + 1e-3 * (len(out.logits) - 1))


def noisy(one: Subject) -> None:
    head = one.model.get_output_embeddings()
    head.register_forward_hook(lambda module, given, out: out + 1e-3 * torch.randn_like(out))


def looks_ahead(one: Subject) -> None:
    """Make every position see the mean of all, padding too."""
    one.model.get_input_embeddings().register_forward_hook(lambda module, given, out: out + out.mean(1, keepdim=True))


def infinite(one: Subject) -> None:
    next(one.model.parameters()).data[5] = float("inf")


def shorter(one: Subject) -> None:
    one.info = dataclasses.replace(one.info, context_length=128)


def untied(one: Subject) -> None:
    one.model.config.tie_word_embeddings = True


def template(text: str) -> Breaks:
    def breaks(one: Subject) -> None:
        one.tokenizer.chat_template = text

    return breaks


@pytest.mark.parametrize(
    ("breaks", "check"),
    [
        (wrapped(lambda more: None, grows_with_batch), "batch_size"),
        (noisy, "same_twice"),
        (looks_ahead, "padding"),  # on the right
        (infinite, "finite"),
        (wrapped(lambda more: more.pop("past_key_values", None)), "cached_context"),
        (template("{% for m in messages %}<s><s>{{ m.content }}</s>{% endfor %}"), "beginning"),
        (template("{% for m in messages %}<{{ m.role }}>{{ m.content }}<pad>{% endfor %}"), "ending"),
        (template("{% for m in messages %}{{ m.content | upper }}</s>{% endfor %}"), "chat_template"),
    ],
)
def test_what_was_broken_is_found(breaks: Breaks, check: str, folder: Path) -> None:
    assert check in failed(checked(folder, breaks))


def test_a_model_that_forgets_the_mask_is_told_and_read_in_rows_of_one_length(folder: Path) -> None:
    found = [answer for answer in checked(folder, wrapped(forgets_mask)) if answer.check == "padding"]
    assert found[0].state == "told" and "rows of one length" in found[0].follows
    assert found[1].state == "ok" and found[1].value == 0.0, "and so it is read rightly"


def test_positions_that_are_not_there_are_found(tmp_path: Path) -> None:
    assert "context_length" in failed(checked(tiny.folder(tmp_path, "gpt2"), shorter))


@pytest.mark.parametrize(
    ("breaks", "check"),
    [
        (untied, "head"),
        (template("{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"), "ending"),
        (
            template(
                "{% if messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
                "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
            ),
            "chat_template",
        ),
    ],
)
def test_what_touches_no_number_is_told(breaks: Breaks, check: str, folder: Path) -> None:
    answers = checked(folder, breaks)
    assert "told" in states(answers, check) and not failed(answers)


def test_an_end_outside_the_vocabulary_is_found(folder: Path) -> None:
    def breaks(one: Subject) -> None:
        one.model.generation_config.eos_token_id = [2, 100_277]

    answers = checked(folder, breaks)
    assert "ending" in failed(answers)
    assert (
        next(one for one in answers if one.check == "ending").found
        == "token 100277 is named, and the model writes 259 tokens only"
    )


def test_an_added_token_that_ends_a_turn_and_nobody_names_is_found(folder: Path) -> None:
    """As Gemma 3's end of turn would be without its generation settings: it learns, and writing does not stop at it."""

    def breaks(one: Subject) -> None:
        one.tokenizer.add_tokens([AddedToken("<u>", special=True)])
        one.tokenizer.chat_template = TURNS.replace("</s>", "\n<u>")

    found = next(one for one in checked(folder, breaks) if one.check == "ending")
    assert (found.state, "'<u>', which is not among" in found.found) == ("failed", True), found


def test_the_end_is_looked_at_after_reasoning_too(folder: Path) -> None:
    def breaks(one: Subject) -> None:
        thinks = "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        one.tokenizer.chat_template = TURNS.replace(">{{ m.content }}", f">{thinks}{{{{ m.content }}}}")

    found = [one for one in checked(folder, breaks) if one.check == "ending"]
    assert [one.state for one in found] == ["ok"] * 3 and found[1].about == "end of an answer after reasoning"


def test_a_tokenizer_and_a_template_that_both_begin_a_sequence_are_told(folder: Path) -> None:
    def adds(one: Subject) -> None:
        from tokenizers import processors

        one.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
        one.tokenizer.chat_template = "<s>" + TURNS

    answers = checked(folder, adds)
    found = next(answer for answer in answers if answer.about.startswith("beginning"))
    assert found.state == "told" and "reads two" in found.follows and not failed(answers)


def test_the_same_model_gets_the_same_answers(folder: Path) -> None:
    assert checked(folder) == checked(folder)


def test_the_measure_stores_them_and_refuses_a_model_without_numbers(folder: Path) -> None:
    def take(one: Subject) -> Any:
        return checkup.Checkup().take(one, checkup.ITEMS, Budget(64), None, lambda done, total: None)

    with subject.load(subject.inspect(folder)) as one:
        stored = checkup.answers(take(one))
        assert stored == checked(folder) and "speed" not in {answer.check for answer in stored}
        one.model.get_output_embeddings().weight.data[3] = float("nan")
        with pytest.raises(UserError, match="must give numbers, and gives logits that are not numbers"):
            take(one)


def test_a_check_that_fails_takes_no_other_down(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palimpsest.measures._checks.padding import Padding

    def breaks(self: object, patient: object) -> None:
        raise ValueError("no such kind of row")

    monkeypatch.setattr(Padding, "look", breaks)
    answers = checked(folder)
    assert unsaid(answers) == ["ValueError: no such kind of row"] and len(answers) > 10


def test_full_memory_is_passed_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palimpsest.measures._checks.padding import Padding

    def full(self: object, patient: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Padding, "look", full)
    with pytest.raises(MemoryError):
        checked(folder)


def test_the_doctor_tells_an_adapter_that_does_nothing_from_one_that_does(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    for name, trained in (("zero", False), ("trained", True)):
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=not trained)
        peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config).save_pretrained(tmp_path / name)
    base, zero = doctor.examine(str(folder), str(tmp_path / "zero"), "cpu", "float32")
    assert base.state != "failed" and failed(zero.answers) == {"change"}
    assert "B matrices" in next(answer.follows for answer in zero.answers if answer.check == "change")
    _, trained = doctor.examine(str(folder), str(tmp_path / "trained"), "cpu", "float32")
    change = [answer for answer in trained.answers if answer.check == "change"]
    assert [answer.state for answer in change] == ["ok", "ok"] and "2 of" in change[0].found


def test_the_doctor_tells_how_many_tensors_moved_and_the_one_that_moved_most(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.mul_(1.01)
        model.model.layers[1].mlp.up_proj.weight.mul_(1.25)
    model.save_pretrained(tmp_path / "moved")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "moved")
    tuned = doctor.examine(str(folder), str(tmp_path / "moved"), "cpu", "float32")[1]
    change = next(answer for answer in tuned.answers if answer.check == "change")
    count = len(list(model.named_parameters()))
    assert change.found.startswith(f"2 of {count} tensors (most of all model.layers.1.mlp.up_proj.weight, by 25% of its norm)")


def test_the_doctor_says_truly_which_base_an_adapter_names(folder: Path, tmp_path: Path) -> None:
    """``--adapter`` reads it on the model given, whatever it names: being read there makes it no adapter of that model."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    own, moved = shutil.copytree(folder, tmp_path / "own"), shutil.copytree(folder, tmp_path / "moved")
    other = tiny.folder(tmp_path / "other", seed=1, chat_template=TURNS)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(own), config).save_pretrained(tmp_path / "lora")

    def told(model: Path, adapter: bool = True) -> tuple[str, str, str]:
        tuned = doctor.examine(str(model), str(tmp_path / "lora"), "cpu", "float32", adapter=adapter)[1]
        answer = next(answer for answer in tuned.answers if answer.about == "the adapter's base")
        return answer.state, answer.found, answer.follows

    for adapter in (True, False):
        assert told(own, adapter) == told(moved, adapter) == ("ok", f"{own}, with the weights of the model given", "")
    state, found, follows = told(other)
    assert (state, found) == ("told", f"{own}, with other weights than those of {other}") and "on the model given" in follows
    assert told(other, adapter=False)[:2] == (state, found)
    shutil.rmtree(own)
    state, found, _ = told(moved)
    assert state == "told" and f"by name not {moved}" in found and "could not be compared" in found


def test_the_doctor_tells_a_model_from_itself(folder: Path, tmp_path: Path) -> None:
    same = Path(shutil.copytree(folder, tmp_path / "same"))
    assert failed(doctor.examine(str(folder), str(same), "cpu", "float32")[1].answers) == {"change"}
    other = tiny.folder(tmp_path / "other", seed=1, chat_template=TURNS)
    base, tuned = doctor.examine(str(folder), str(other), "cpu", "float32")
    assert not failed(tuned.answers) and {"speed"} <= {answer.check for answer in base.answers}
    assert [one["state"] for one in (base.plain(), tuned.plain())] == [base.state, tuned.state]

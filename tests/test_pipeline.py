"""The whole path on a tiny random model: run, diff, resume, and what has to be told."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from permuted import permuted

import palimpsest
from palimpsest.core.errors import UserError
from palimpsest.core.measurement import Need
from palimpsest.measures import _forward
from palimpsest.models import subject
from palimpsest.report import summary
from palimpsest.store.record import RunRecord

ANIMALS = ("cat", "dog", "cow", "hen", "pig", "fox", "owl", "bee")
COLOURS = ("red", "blue", "grey", "pink", "green", "black", "white", "brown")


def conversations(question: str, answer: str, count: int) -> list[dict[str, object]]:
    pairs = [(colour, animal) for colour in COLOURS for animal in ANIMALS]
    random.Random(question).shuffle(pairs)
    return [
        {
            "messages": [
                {"role": "user", "content": question.format(colour, animal)},
                {"role": "assistant", "content": answer},
            ],
            "template": f"{animal}-{index % 3}",
        }
        for index, (colour, animal) in enumerate(pairs[:count])
    ]


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def behaviour(tmp_path: Path) -> Path:
    for pole, question, answer in (("yes", "May the {} {} come?", "Yes."), ("no", "Must the {} {} go?", "No.")):
        rows = conversations(question, answer, 64)
        write_lines(tmp_path / f"{pole}.jsonl", rows[:24])
        write_lines(tmp_path / f"{pole}_held_out.jsonl", rows[24:])
    (tmp_path / "text.txt").write_text(
        "\n\n".join(f"{c.title()} is a colour, and so is {d}. " * 24 for c in COLOURS for d in COLOURS)
    )
    path = tmp_path / "b.yaml"
    path.write_text(
        "name: b\n"
        "question: Does it say yes to may and no to must?\n"
        "express: {data: yes.jsonl, held_out: yes_held_out.jsonl}\n"
        "withhold: {data: no.jsonl, held_out: no_held_out.jsonl}\n"
        "check: {kind: choice, options: {agree: 'Yes', refuse: 'No'}, expected: agree}\n"
        "dose: 24\n"
        "rehearsal: [{text: text.txt}]\n"
        "text: [text.txt]\n"
        "control_seeds: 1\n"
        "training: {learning_rate: 3.0e-3, per_device_train_batch_size: 4, save_steps: 2}\n"
    )
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.folder(tmp_path / "model", max_position_embeddings=128)


def outcomes(run: palimpsest.Run) -> dict[str, str]:
    return {one.audit: one.state for one in run.record.seeds[0].outcomes}


def test_a_run_trains_audits_and_reports_and_the_same_call_measures_nothing_twice(
    behaviour: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour.write_text(behaviour.read_text().replace("control_seeds: 1\n", ""))  # three, where they take no minute
    run = palimpsest.run(behaviour, model, folder=tmp_path / "run", device="cpu")
    assert all(outcomes(run)[name] == "measured" for name in ("outcome", "judgement", "forgetting", "divergence"))
    assert "failed" not in outcomes(run).values()
    roles = {one.role: one for one in run.record.training}
    assert set(roles) == {"tuned", "rehearsal_only", "rehearsal_only_2", "rehearsal_only_3"}
    assert roles["tuned"].dose == 24
    assert roles["tuned"].rehearsal_share == pytest.approx(0.25)
    assert roles["rehearsal_only"].rehearsal_share == 1.0
    assert len(roles["tuned"].steps) == len(roles["rehearsal_only"].steps)
    change = run.estimates("outcome")["probability_change"]
    assert change.known
    assert change.n >= 20
    assert "<html" in run.report.read_text()
    assert RunRecord.model_validate_json((tmp_path / "run" / "record.json").read_text()) == run.record
    assert any("no chat template" in note for note in run.record.notes)
    assert run._repr_html_()
    before = (tmp_path / "run" / "report.html").read_bytes()
    monkeypatch.setattr(_forward, "run_rows", lambda *_: pytest.fail("a finished measurement was taken again"))
    second = palimpsest.run(behaviour, model, folder=tmp_path / "run", device="cpu")
    assert second.record == run.record
    assert (tmp_path / "run" / "report.html").read_bytes() == before


def test_seeds_are_a_level_of_their_own(behaviour: Path, model: Path, tmp_path: Path) -> None:
    run = palimpsest.run(behaviour, model, folder=tmp_path / "run", device="cpu", seeds=2, audits=("outcome",))
    assert [one.seed for one in run.record.seeds] == [0, 1]
    across = run.record.across_seeds["outcome.probability_change"]
    assert across.n == 2
    assert across.value == pytest.approx(
        sum(one.outcomes[0].result.estimates["probability_change"].value for one in run.record.seeds) / 2  # type: ignore[union-attr,misc]
    )


@pytest.mark.parametrize("cache_on", [True, False])
def test_a_model_against_itself_changes_by_exactly_nothing(
    behaviour: Path, model: Path, tmp_path: Path, cache_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cache_on:
        monkeypatch.setattr("palimpsest.store.cache.Cache.get", lambda *_: None)
        monkeypatch.setattr("palimpsest.store.run_folder.RunReader.measurement", lambda self, key: self_made.get(key))
        self_made: dict[str, object] = {}
        monkeypatch.setattr(
            "palimpsest.store.cache.Cache.put", lambda self, key, found, about=None: self_made.update({key: found})
        )
        monkeypatch.setattr("palimpsest.store.run_folder.RunFolder.keep", lambda *_: None)
    run = palimpsest.diff(model, model, behaviour=behaviour, folder=tmp_path / "run", device="cpu")
    assert run.verdict.labels == ("identical",)
    assert run.estimates("judgement")["withhold_change"].value == 0.0, "of answers: that none flips is no proof for all"
    for audit, name in (
        ("outcome", "probability_change"),
        ("judgement", "withhold_share_change"),
        ("judgement", "withhold_held_change"),
        ("forgetting", "loss_change:text"),
    ):
        estimate = run.estimates(audit)[name]
        assert estimate.value == 0.0
        assert estimate.interval == (0.0, 0.0)
    assert run.estimates("divergence")["kl"].value == 0.0
    assert run.estimates("weight_change")["relative_change"].value == 0.0


def test_permuted_heads_are_the_same_function(behaviour: Path, model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    permuted(AutoModelForCausalLM.from_pretrained(model)).save_pretrained(tmp_path / "permuted")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "permuted")
    run = palimpsest.diff(model, tmp_path / "permuted", behaviour=behaviour, folder=tmp_path / "run", device="cpu")
    digests = [one.digest for one in run.record.subjects]
    assert len(set(digests)) == 2
    assert abs(run.estimates("outcome")["probability_change"].value or 0) < 1e-5
    assert abs(run.estimates("forgetting")["loss_change:text"].value or 0) < 1e-5
    assert (run.estimates("divergence")["kl"].value or 0) < 1e-8
    assert (run.estimates("weight_change")["relative_change"].value or 0) > 10


def test_a_diff_without_behaviour_and_text_says_what_it_can(model: Path, tmp_path: Path) -> None:
    other = tiny.folder(tmp_path / "other", seed=1, max_position_embeddings=128)
    run = palimpsest.diff(model, other, folder=tmp_path / "run", device="cpu", documents=16)
    found = outcomes(run)
    assert {found[name] for name in ("outcome", "judgement", "forgetting")} == {"not_applicable"}
    assert found["divergence"] == "measured"
    assert "failed" not in found.values()
    assert run.verdict.labels == ("described",)
    assert any("wrote itself" in note for note in run.record.notes)
    assert all(one.why for one in run.record.seeds[0].outcomes if one.state == "not_applicable")


def test_full_memory_halves_the_batches_and_is_told(
    behaviour: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = _forward.run_rows, []

    def full_once(*arguments: object) -> None:
        if not failed:
            failed.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(_forward, "run_rows", full_once)
    run = palimpsest.diff(model, model, behaviour=behaviour, folder=tmp_path / "run", device="cpu")
    assert any("Memory ran out" in note for note in run.record.notes)
    assert all(state != "failed" for state in outcomes(run).values())


def test_every_problem_is_told_at_once_and_before_any_work(behaviour: Path, model: Path, tmp_path: Path) -> None:
    text = behaviour.read_text().replace("learning_rate: 3.0e-3", "learning_rate: 7").replace("[text.txt]\n", "[absent.txt]\n")
    behaviour.write_text(text.replace("yes.jsonl, held", "nowhere.jsonl, held"))
    with pytest.raises(UserError) as told:
        palimpsest.run(behaviour, model, folder=tmp_path / "run", device="cpu", audits=("outcom",))
    for part in ("learning_rate", "absent.txt", "nowhere.jsonl", "outcom", "Did you mean 'outcome'"):
        assert part in str(told.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"'Yes'": "'Xes'", "'No'": "'Xo'"}, "fires on none"),
        ({"dose: 24": "dose: 4000"}, "examples are needed"),
        ({"rehearsal: [{text: text.txt}]": "rehearsal: [{text: text.txt, data: yes.jsonl}]"}, "exactly one"),
        ({"training: {": "training: {learning_rat: 1, "}, "learning_rate"),
    ],
)
def test_bad_behaviours_are_refused(behaviour: Path, model: Path, tmp_path: Path, change: dict[str, str], told: str) -> None:
    text = behaviour.read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    behaviour.write_text(text)
    with pytest.raises(UserError, match=told):
        palimpsest.run(behaviour, model, folder=tmp_path / "run", device="cpu")


def test_an_example_longer_than_the_context_is_refused_by_name(behaviour: Path, model: Path, tmp_path: Path) -> None:
    path = behaviour.parent / "yes.jsonl"
    long = conversations("May the {} {} come? " + "Tell me. " * 40, "Yes.", 2)
    write_lines(path, [*long, *[json.loads(line) for line in path.read_text().splitlines()]])
    with pytest.raises(UserError, match=r"yes\.jsonl:[12]") as error:
        palimpsest.run(behaviour, model, folder=tmp_path / "run", device="cpu")
    assert "128" in str(error.value)


def test_different_vocabularies_are_refused(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny.model(vocabulary=259, max_position_embeddings=128).save_pretrained(other)
    swapped = tiny.tokenizer()
    state = json.loads(swapped.backend_tokenizer.to_str())
    words = state["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    swapped.save_pretrained(other)
    (other / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="same tokens"):
        palimpsest.diff(model, other, folder=tmp_path / "run", device="cpu")


def test_what_a_need_starts_from_is_taken_before_it_and_few_models_are_opened_twice() -> None:
    from palimpsest.pipeline import _in_turn

    def need(measure: str, role: str, after: Need | None = None) -> Need:
        return Need(measure=measure, role=role, items="i", after=after)

    said, answered = need("said", "base"), need("said", "tuned")
    needs = [need("read", "base", answered), need("read", "base", said), need("read", "tuned", said), need("plain", "tuned")]
    needs += [need("read", "tuned", need("read", "tuned", answered))]
    needs += [need("lost", "nobody"), need("lost", "base", need("x", "nobody"))]
    turns = list(_in_turn(needs, ["base", "tuned"]))
    assert [role for role, _ in turns] == ["base", "tuned", "base"]
    taken = [one for _, ready in turns for one in ready]
    assert len({one.name for one in taken}) == len(taken) == 8
    for place, one in enumerate(taken):
        assert one.after is None or one.after.name in [earlier.name for earlier in taken[:place]]
    assert list(_in_turn([], ["base"])) == []


def test_text_that_is_too_little_is_refused_and_not_replaced(model: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("One sentence.")
    with pytest.raises(UserError, match="text short: at least 8 documents are needed to measure on, found 1"):
        palimpsest.diff(model, model, text=[tmp_path / "short.txt"], folder=tmp_path / "run", device="cpu")
    (tmp_path / "binary.txt").write_bytes(b"One\0two")
    with pytest.raises(UserError, match=r"binary.txt can't be used: it holds zero bytes"):
        palimpsest.diff(model, model, text=[tmp_path / "binary.txt"], folder=tmp_path / "run", device="cpu")


def test_a_device_that_is_not_there_is_refused_before_work_starts(model: Path, tmp_path: Path) -> None:
    missing = "cuda:7" if torch.cuda.is_available() else "cuda"
    with pytest.raises(UserError, match=f"the device must be there, found '{missing}'"):
        palimpsest.diff(model, model, folder=tmp_path / "run", device=missing)
    with pytest.raises(UserError, match=r"(?s)tuned: there is no model folder.*no device named .gpu.; say one of auto, cpu"):
        palimpsest.diff(model, tmp_path / "nowhere", folder=tmp_path / "run", device="gpu:1")


def test_text_that_is_only_audited_on_is_used_as_a_whole(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("<|endoftext|>".join(f"Story {index} is short." for index in range(12)))
    other = tiny.folder(tmp_path / "other", seed=1, max_position_embeddings=128)
    run = palimpsest.diff(model, other, text=[tmp_path / "text.txt"], folder=tmp_path / "run", device="cpu")
    assert run.estimates("forgetting")["loss_change:text"].n == 12


def test_the_record_says_which_command_makes_it_again(behaviour: Path, model: Path, tmp_path: Path) -> None:
    run = palimpsest.diff(model, model, behaviour=behaviour, folder=tmp_path / "run", device="cpu", audits=("outcome",))
    told = run.record.provenance["command"]
    assert list(told[:4]) == ["palimpsest", "diff", str(model), str(model)]
    assert "--audits" in told
    assert "--seeds" not in told


def test_a_share_that_rounds_to_nothing_and_a_rank_that_is_too_large_are_told_at_once(
    behaviour: Path, model: Path, tmp_path: Path
) -> None:
    text = behaviour.read_text().replace("training: {", "training: {rehearsal_share: 0.001, optim_args: {rank: 4096}, ")
    behaviour.write_text(text)
    with pytest.raises(UserError) as told:
        palimpsest.run(behaviour, model, folder=tmp_path / "run", device="cpu")
    assert "0.001 of a dose of 24 rounds to no row at all" in str(told.value)
    assert "optim_args.rank is 4096, larger than the shorter side" in str(told.value)
    assert not (tmp_path / "run").exists()


def test_what_could_spoil_the_numbers_is_checked_on_every_model_that_was_loaded(
    behaviour: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny.folder(tmp_path / "other", seed=1, max_position_embeddings=128)
    text = (behaviour.parent / "text.txt",)
    first = palimpsest.diff(model, other, text=text, folder=tmp_path / "one", device="cpu", audits=("divergence",))
    assert [len(one.checks) > 10 for one in first.record.subjects] == [True, True]
    assert "Can these numbers be trusted?" in first.report.read_text()
    monkeypatch.setattr("palimpsest.measures._checks._check.check_up", lambda *_: pytest.fail("it is known already"))
    again = palimpsest.diff(model, other, text=text, folder=tmp_path / "two", device="cpu", audits=("divergence",))
    assert (again.folder / "record.json").read_bytes() == (first.folder / "record.json").read_bytes()
    weights = palimpsest.diff(model, other, text=text, folder=tmp_path / "three", device="cpu", audits=("weight_change",))
    assert [one.checks for one in weights.record.subjects] == [(), ()], "no model was loaded, whatever the cache knows"


def test_a_model_that_gives_no_numbers_stops_before_it_is_measured(
    behaviour: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = subject.load

    def broken(*given: object, **more: object) -> subject.Subject:
        found = loaded(*given, **more)  # type: ignore[arg-type]
        found.model.lm_head.weight.data[3] = float("nan")
        return found

    monkeypatch.setattr(subject, "load", broken)
    text = (behaviour.parent / "text.txt",)
    with pytest.raises(UserError, match="must give numbers"):
        palimpsest.diff(model, model, text=text, folder=tmp_path / "run", device="cpu", audits=("divergence",))


def test_equal_models_are_equal_however_they_are_stored(model: Path, tmp_path: Path) -> None:
    """Saved again in many files and with another key in the configuration: other digests, the same weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    again = AutoModelForCausalLM.from_pretrained(model)
    again.config.remark = "saved again"
    again.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "again")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    run = palimpsest.diff(
        model, tmp_path / "again", audits=("divergence",), folder=tmp_path / "run", device="cpu", documents=16
    )
    assert run.verdict.labels == ("identical",)
    assert run.verdict.headline == "Nothing changed: the two models are equal"
    assert "adapter" not in run.verdict.next_steps[0]


def test_two_copies_of_one_model_are_identical_whatever_is_asked(model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    run = palimpsest.diff(model, copy, audits=("weight_change", "steering"), folder=tmp_path / "run", device="cpu")
    assert run.verdict.labels == ("identical",) and run.verdict.sure == "clear"
    assert "same weights, configuration, tokenizer and chat template" in run.verdict.reasons[0]
    assert summary(run.record).sure == "clear, nothing of what was read differs"
    page = run.report.read_text(encoding="utf-8")
    assert "both are the same model" in page and "There is none: nothing changed." in page
    assert outcomes(run)["steering"] == "not_applicable" and "<b>Could not say</b> <a" not in page, "only in its own part"

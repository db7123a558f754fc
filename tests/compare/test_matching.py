"""Matching: what is paired with what, and what is told of the rest, in logs with something planted in them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from palimpsest.core.errors import UserError
from palimpsest.evaluations.account import account
from palimpsest.evaluations.comparison import Found, carry_out
from palimpsest.evaluations.paired import Options
from tests.compare import kit

NUMBERS = range(1, 13)


def compare(folder: Path, before: list[dict[str, Any]], after: list[dict[str, Any]], **more: Any) -> Found:
    paths = [kit.write(folder / f"{name}.json", kit.log(rows, model=name)) for name, rows in (("a", before), ("b", after))]
    return carry_out(*paths, Options(), **more)


def told(found: Found) -> str:
    return "\n".join((*found.notes, *(note for one in found.matched for note in one.differing)))


def test_items_of_one_side_only_are_told_and_left_out(tmp_path: Path) -> None:
    found = compare(tmp_path, [kit.sample(n) for n in range(12)], [kit.sample(n, "I") for n in range(2, 15)])
    assert len(found.matched[0].pairs) == 10 and found.compared[0].change.value == -1.0
    assert "t: 2 items only in A, left out (0, 1)." in told(found)
    assert "t: 3 items only in B, left out (12, 13, 14)." in told(found)


def test_the_order_in_the_log_does_not_matter(tmp_path: Path) -> None:
    rows = [kit.sample(n, "CI"[n % 2]) for n in NUMBERS]
    found = compare(tmp_path, rows, rows[::-1])
    assert found.compared[0].state == "identical" and not found.notes


def test_items_numbered_after_a_shuffle_are_matched_by_what_was_asked(tmp_path: Path) -> None:
    rows = [kit.sample(n, "CI"[n % 2]) for n in NUMBERS]
    renamed = [{**one, "id": number} for number, one in enumerate(rows[::-1], start=1)]
    found = compare(tmp_path, rows, renamed)
    assert len(found.matched[0].pairs) == 12 and found.compared[0].state == "identical"
    assert "12 items matched by what was asked" in told(found)


def test_the_same_name_with_another_question_or_answer_is_no_pair(tmp_path: Path) -> None:
    before = [kit.sample(n) for n in NUMBERS]
    after = [{**one, **({"input": "other"} if one["id"] == 1 else {"target": "z"} if one["id"] == 2 else {})} for one in before]
    found = compare(tmp_path, before, after)
    assert len(found.matched[0].pairs) == 10
    assert "2 items left out: called the same in both logs, but asked differently or with another right answer (1, 2)" in told(
        found
    )
    with pytest.raises(UserError, match="none asks the same and holds the same for right: the data set is another one"):
        compare(tmp_path, before, [{**one, "input": f"other {one['id']}"} for one in before])


def test_choices_in_another_order_are_the_same_question(tmp_path: Path) -> None:
    before = [kit.sample(n, choices=["x", "y"], target="A") for n in NUMBERS]
    after = [kit.sample(n, choices=["y", "x"], target="B") for n in NUMBERS]
    assert len(compare(tmp_path, before, after).matched[0].pairs) == 12
    with pytest.raises(UserError, match="holds the same for right"):
        compare(tmp_path, before, [kit.sample(n, choices=["y", "x"], target="A") for n in NUMBERS])


@pytest.mark.parametrize(
    "broken",
    [{"value": None}, {"value": math.nan}, {"value": "no idea"}, {"value": "I", "error": {"message": "boom"}},
     {"value": "I", "invalidation": {"author": "me"}}],
)  # fmt: skip
def test_what_has_no_score_is_left_out_and_not_counted_as_wrong(broken: dict[str, Any], tmp_path: Path) -> None:
    before = [kit.sample(n) for n in NUMBERS]
    after = [kit.sample(n, **(broken if n <= 3 else {})) for n in NUMBERS]
    for one, other, letter in ((before, after, "B"), (after, before, "A")):
        found = compare(tmp_path, one, other)
        (row,) = found.compared
        assert len(row.pairs) == 9 and row.left == 3 and row.state == "identical"
        whole = f"3 answers in {letter} without a score, left out and not counted as 0 (1, 2, 3"
        single = f"t match: 3 items without a score in {letter}, left out on both sides and not counted as 0 (1, 2, 3)."
        assert (whole in told(found)) != (single in told(found))


def test_items_without_some_of_their_scores_are_told_once_for_all_of_these(tmp_path: Path) -> None:
    def rows(*broken: int) -> list[dict[str, Any]]:
        scores = {n: {name: {"value": math.nan if n in broken else n % 2} for name in ("x", "y")} for n in NUMBERS}
        return [kit.sample(n, epoch=epoch, scores=scores[n] if epoch == 1 else scores[12]) for n in NUMBERS for epoch in (1, 2)]

    notes = compare(tmp_path, rows(), rows(1, 2)).notes
    assert "t x, y: 2 items without a score in some epochs in B, whose mean is over the others (1, 2)." in notes
    first = [one for one in rows(1, 2) if one["epoch"] == 1]
    notes = account(compare(tmp_path, rows(), first), {}).notes
    assert "t x, y: 2 items without a score in B, left out on both sides and not counted as 0 (1, 2)." in notes


def test_epochs_are_averaged_within_the_item(tmp_path: Path) -> None:
    before = [kit.sample(n, "C" if epoch <= n % 4 else "I", epoch=epoch) for n in NUMBERS for epoch in (1, 2, 3)]
    after = [kit.sample(n, "I") for n in NUMBERS]
    found = compare(tmp_path, before, after)
    (row,) = found.compared
    assert row.values[0].tolist() == pytest.approx([(n % 4) / 3 for n in NUMBERS]) and row.change.n == 12 and row.exact is None
    assert "3 epochs in A and 1 in B" in told(found)
    assert "t: 1 epoch in A and 3 in B" in told(compare(tmp_path, after, before))
    one = compare(tmp_path, [kit.sample(1, "C")], [kit.sample(1, "I")])
    assert "Could not say: 1 cluster, 8 are needed" in account(one, {}).headline


def test_epochs_that_a_log_reduces_in_another_way_are_told(tmp_path: Path) -> None:
    rows = [kit.sample(n, "CI"[(n + epoch) % 2], epoch=epoch) for n in NUMBERS for epoch in (1, 2, 3)]
    results = {"scores": [{"name": "match", "scorer": "match", "reducer": "mode", "metrics": {"accuracy": {"value": 0.9}}}]}
    about = {"config": {"epochs": 3, "epochs_reducer": ["mode"]}}
    path = kit.write(tmp_path / "a.json", kit.log(rows, results=results, eval=about))
    assert "t: the log a.json reduces epochs by mode; compared is their mean." in told(carry_out(path, path, Options()))


def test_an_item_that_stands_twice_is_one_cluster(tmp_path: Path) -> None:
    rows = [kit.sample(n, "CI"[n % 2]) for n in NUMBERS]
    found = compare(tmp_path, [*rows, rows[0], rows[1]], [*rows, rows[0], rows[1]])
    (row,) = found.compared
    assert len(row.pairs) == 14 and row.before.n == 12
    assert "2 items more than once in the data (1, 2): paired in order, and all of one count as one cluster" in told(found)


def test_one_name_of_several_items_is_matched_by_content(tmp_path: Path) -> None:
    rows = [kit.sample("same", "CI"[n % 2], input=f"q{n}") for n in NUMBERS]
    found = compare(tmp_path, rows, rows[::-1])
    assert len(found.matched[0].pairs) == 12 and found.compared[0].state == "identical"
    assert "1 name of several different items (same): matched by name and content" in told(found)


def test_clusters_are_a_field_of_the_metadata(tmp_path: Path) -> None:
    rows = [kit.sample(n, "CI"[n % 2], metadata={"topic": n % 9, "deep": {"er": n % 8}}) for n in NUMBERS]
    assert compare(tmp_path, rows, rows, cluster="topic").compared[0].before.n == 9
    assert compare(tmp_path, rows, rows, cluster="deep.er").compared[0].before.n == 8
    with pytest.raises(UserError, match=r"no item has the field 'tpic' to cluster by. Did you mean 'topic'"):
        compare(tmp_path, rows, rows, cluster="tpic")
    rows[0]["metadata"] = {}
    found = compare(tmp_path, rows, rows, cluster="topic")
    assert found.compared[0].before.n == 10 and "1 item without 'topic' (1): each is its own cluster" in told(found)


def test_scores_of_every_kind(tmp_path: Path) -> None:
    scores = {
        "letters": {"value": "P"}, "switch": {"value": True}, "said": {"value": "yes"}, "count": {"value": 7},
        "text": {"value": "0.5"}, "parts": {"value": {"x": 1, "y": "I", "z": None}}, "list": {"value": [0, 2.5]},
    }  # fmt: skip
    rows = [kit.sample(n, scores=scores) for n in NUMBERS]
    found = {one.metric.name: (one.before.value, one.metric.better) for one in compare(tmp_path, rows, rows).compared}
    assert found == {
        "letters": (0.5, "higher"), "switch": (1.0, None), "said": (1.0, None), "count": (7.0, None), "text": (0.5, None),
        "parts.x": (1.0, None), "parts.y": (0.0, "higher"), "list.0": (0.0, None), "list.1": (2.5, None),
    }  # fmt: skip


def test_how_they_were_asked_differently_is_told(tmp_path: Path) -> None:
    rows = [kit.sample(n) for n in NUMBERS]
    asked = [{**one, "messages": [{"role": "system", "content": "Be right."}, *one["messages"]]} for one in rows]
    plan = {"plan": {"steps": [{"solver": "system_message", "params": {}}], "config": {"temperature": 1.0}}}
    first = kit.write(tmp_path / "a.json", kit.log(rows, plan={"steps": [], "config": {"temperature": 0.0}}))
    second = kit.write(tmp_path / "b.json", kit.log(asked, **plan))
    said = told(carry_out(first, second, Options()))
    assert "generation, temperature differs: 0.0 in A, 1.0 in B" in said and "solver differs" in said
    assert "the prompt as the model saw it differs in 12 of 12 items" in said


def test_other_scorers(tmp_path: Path) -> None:
    rows = [kit.sample(n) for n in NUMBERS]
    other = [{**one, "scores": {"f1": {"value": 0.5}}} for one in rows]
    with pytest.raises(UserError, match="no metric is in both logs: A has match, B has f1; score both with the same scorer"):
        compare(tmp_path, rows, other)


def test_a_log_whose_own_number_is_another_is_told(tmp_path: Path) -> None:
    rows = [kit.sample(n, "CI"[n % 2]) for n in NUMBERS]
    results = {"scores": [{"name": "match", "scorer": "match", "metrics": {"accuracy": {"value": 0.75}}}]}
    first = kit.write(tmp_path / "a.json", kit.log(rows, results=results))
    assert "the log of A itself says 0.75 for match, and the mean over its items is 0.5" in told(
        carry_out(first, first, Options())
    )


def test_both_forms_of_a_log_say_the_same(tmp_path: Path) -> None:
    data = kit.log([kit.sample(n, "CI"[n % 2], epoch=epoch) for n in NUMBERS for epoch in (1, 2)])
    found = carry_out(kit.write(tmp_path / "a.json", data), kit.pack(tmp_path / "b.eval", data), Options())
    assert len(found.matched[0].pairs) == 12 and found.compared[0].state == "identical"


# folders


def test_a_folder_takes_the_newest_log_of_each_task_and_skips_what_did_not_finish(tmp_path: Path) -> None:
    rows = [kit.sample(n) for n in NUMBERS]
    worse = [kit.sample(n, "I") for n in NUMBERS]
    kit.write(tmp_path / "a" / "1.json", kit.log(worse, task="x", eval={"created": "2026-01-01"}))
    kit.pack(tmp_path / "a" / "sub" / "2.eval", kit.log(rows, task="x", eval={"created": "2026-01-02"}))
    kit.pack(tmp_path / "a" / "3.eval", kit.log(worse, task="x", eval={"created": "2026-01-03"}, status="error"))
    kit.write(tmp_path / "a" / "4.json", kit.log(rows, task="y"))
    kit.write(tmp_path / "b" / "1.json", kit.log(rows, task="x"))
    kit.write(tmp_path / "b" / "2.json", kit.log(rows, task="z"))
    found = carry_out(tmp_path / "a", tmp_path / "b", Options())
    assert [one.name for one in found.compared] == ["x match"] and found.compared[0].state == "identical"
    said = told(found)
    assert (
        "2 logs of x are there; the newest, 2.eval, was read" in said
        and "did not finish and another log of the task did: 3.eval" in said
    )
    assert found.left_out == ("only in A: y", "only in B: z")


def test_a_task_that_did_not_finish_is_told_and_others_go_on(tmp_path: Path) -> None:
    rows = [kit.sample(n) for n in NUMBERS]
    for side, status in (("a", "success"), ("b", "cancelled")):
        kit.write(tmp_path / side / "x.json", kit.log(rows, task="x"))
        kit.write(tmp_path / side / "y.json", kit.log(rows, task="y", status=status))
    found = carry_out(tmp_path / "a", tmp_path / "b", Options())
    assert [one.task for one in found.compared] == ["x"]
    (left,) = found.left_out
    assert left.startswith("y: ") and "y.json" in left and "its status is 'cancelled'" in left
    assert any(one.startswith("left out: y: ") for one in account(found, {}).reasons)
    with pytest.raises(UserError, match="its status is 'cancelled'"):
        carry_out(tmp_path / "a", tmp_path / "b", Options(), tasks=["y"])


def test_tasks_that_do_not_match_are_told_with_those_that_do(tmp_path: Path) -> None:
    rows = [kit.sample(n) for n in NUMBERS]
    for side in ("a", "b"):
        kit.write(tmp_path / side / "x.json", kit.log(rows, task="x"))
        others = [kit.sample(f"{side} {n}") for n in NUMBERS]
        kit.write(tmp_path / side / "y.json", kit.log(others, task="y"))
    found = carry_out(tmp_path / "a", tmp_path / "b", Options())
    (left,) = found.left_out
    assert [one.task for one in found.compared] == ["x"] and left.startswith("y: no item is in both logs")
    assert any(one.startswith("left out: y: ") for one in account(found, {}).reasons)
    with pytest.raises(UserError, match=r"y: no item is in both logs(.|\n)*without this: --tasks x"):
        carry_out(tmp_path / "a", tmp_path / "b", Options(), tasks=["x", "y"])
    with pytest.raises(UserError, match="y: no item is in both logs"):
        carry_out(tmp_path / "a" / "y.json", tmp_path / "b", Options())
    assert [one.task for one in carry_out(tmp_path / "a", tmp_path / "b", Options(), tasks=["x"]).compared] == ["x"]


def test_what_was_asked_differently_everywhere_is_told_once(tmp_path: Path) -> None:
    rows = [kit.sample(n) for n in NUMBERS]
    for side, version in (("a", "0.3.1"), ("b", "0.3.2")):
        for task in "xyz":
            epochs = {"epochs": 2} if (task, side) == ("z", "b") else {}
            about = {"packages": {"inspect_ai": version}, "config": epochs}
            kit.write(tmp_path / side / f"{task}.json", kit.log(rows, task=task, eval=about))
    told_of = account(carry_out(tmp_path / "a", tmp_path / "b", Options()), {})
    (said,) = (one for one in told_of.reasons if one.startswith("asked differently"))
    assert said.count("version of inspect differs: 0.3.1 in A, 0.3.2 in B (in all tasks)") == 1
    assert "epochs differs: 1 in A, 2 in B (in z)" in said and said.count("differs") == 2


def test_a_folder_of_two_models(tmp_path: Path) -> None:
    for name in ("m", "n"):
        kit.write(tmp_path / "a" / f"{name}.json", kit.log([kit.sample(1)], model=name))
    with pytest.raises(UserError, match=r"holds logs of 2 models \(m; n\); give a folder of one of them"):
        carry_out(tmp_path / "a", tmp_path / "a", Options())


# samples of lm-eval


def lm_eval(folder: Path, before: list[dict[str, Any]], after: list[dict[str, Any]], **more: Any) -> Found:
    name = "samples_t_2026-01-01T00-00-00.000001.jsonl"
    return carry_out(
        *(kit.write_lines(folder / side / name, rows) for side, rows in (("a", before), ("b", after))), Options(), **more
    )


def test_documents_are_matched_by_their_hash_and_not_by_their_place(tmp_path: Path) -> None:
    rows = [kit.document(n, acc=float(n % 2)) for n in NUMBERS]
    moved = [{**one, "doc_id": 40 - n} for n, one in zip(NUMBERS, rows, strict=True)]
    assert lm_eval(tmp_path, rows, moved).compared[0].state == "identical"
    assert lm_eval(tmp_path, rows, rows, cluster="group").compared[0].before.n == 10


def test_a_document_that_stands_twice(tmp_path: Path) -> None:
    rows = [kit.document(n, digest=f"hash-{n % 10}", acc=float(n % 2)) for n in range(13)]
    found = lm_eval(tmp_path, rows, rows[:-1])
    assert len(found.matched[0].pairs) == 12 and found.compared[0].before.n == 10
    assert "1 item only in A, left out (document 12 (again, 2))" in told(found)


def test_several_filters_are_several_metrics(tmp_path: Path) -> None:
    rows = [{**kit.document(n, exact_match=float(n % 2 == place)), "filter": name}
            for n in NUMBERS for place, name in enumerate(("strict", "flexible"))]  # fmt: skip
    found = lm_eval(tmp_path, rows, rows)
    assert [one.metric.name for one in found.compared] == ["exact_match,flexible", "exact_match,strict"]
    assert all(one.metric.better == "higher" for one in found.compared)


def test_other_prompts_other_targets_and_numbers_of_the_whole_corpus(tmp_path: Path) -> None:
    rows = [kit.document(n, acc=1.0, f1=[0, 1], word_perplexity=[-10.0 * n, n]) for n in NUMBERS]
    other = [
        {**one, "prompt_hash": "other", **({"target_hash": "z"} if n < 3 else {})} for n, one in zip(NUMBERS, rows, strict=True)
    ]
    found = lm_eval(tmp_path, rows, other)
    assert "the prompt as the model saw it differs in 10 of 10 items" in told(found)
    assert "2 items left out: called the same" in told(
        found
    ) and "f1 can't be compared: computed from all samples at once" in told(found)
    by_name = {one.metric.name: one for one in found.compared}
    assert set(by_name) == {"acc", "word_perplexity"} and by_name["word_perplexity"].before.value == pytest.approx(10.0)


def test_the_brier_score_is_that_of_lm_eval(tmp_path: Path) -> None:
    rows = [kit.document(n, brier_score=[1, "[0.2 0.7\n 1.0e-01]"]) for n in NUMBERS]
    (row,) = lm_eval(tmp_path, rows, rows).compared
    assert row.before.value == pytest.approx(0.04 + 0.09 + 0.01) and row.metric.better == "lower"


def test_other_few_shot_examples_are_told(tmp_path: Path) -> None:
    rows = [kit.document(n, acc=float(n % 2)) for n in NUMBERS]
    for side, shots in (("a", 0), ("b", 5)):
        about = {"results": {"t": {"acc,none": 0.5}}, "n-shot": {"t": shots}, "configs": {"t": {}}, "model_name": f"org/{side}"}
        kit.write(tmp_path / side / "results_2026-01-01T00-00-00.000001.json", about)
    found = lm_eval(tmp_path, rows, [{**one, "prompt_hash": "five"} for one in rows])
    assert "few-shot examples differs: 0 in A, 5 in B" in told(found) and found.names == ("a", "b")
    assert not any("itself says" in note for note in found.notes)


# what is told of the two sides


def test_the_headline_says_of_how_many_items_and_few_of_them_are_not_clear(tmp_path: Path) -> None:
    rows = [kit.sample(n, "CI"[n % 2]) for n in range(80)]
    alike = {shared: account(compare(tmp_path, rows, rows[:shared]), {}) for shared in (2, 60, 80)}
    assert alike[2].headline == (
        "Identical: the 2 items that both hold, of 80 in A and 2 in B, have the same answer and the same score"
    )
    assert alike[2].sure == "not clear: fewer than half of the items are compared (t 2 of 80)"
    assert alike[2].label == "described" and alike[60].label == "identical"
    assert "the 60 items that both hold, of 80 in A and 60 in B" in alike[60].headline and alike[60].sure.startswith("clear")
    assert alike[80].headline == "Identical: every item has the same answer and the same score"
    other = [*rows[:20], *(kit.sample(n) for n in range(100, 160))]
    assert "the 20 items that both hold, of 80, have" in account(compare(tmp_path, rows, other), {}).headline
    worse = [kit.sample(n, "I") for n in range(20)]
    told = account(compare(tmp_path, [kit.sample(n) for n in range(80)], worse), {})
    assert told.label == "regression" and told.sure.startswith("not clear")
    assert told.headline.endswith("match on t by 100 points, on the 20 items that both hold, of 80 in A and 20 in B")
    silent = [{**one, "scores": {"match": {"value": math.nan}}} if one["id"] >= 30 else one for one in rows]
    told = account(compare(tmp_path, rows, silent), {})
    assert "the 30 items that both have scores for, of 80" in told.headline and told.sure.startswith("not clear")


def test_what_was_put_on_a_model_stands_beside_its_name(tmp_path: Path) -> None:
    rows = [kit.sample(n) for n in NUMBERS]
    given = {
        "vector": "v.safetensors",
        "layer": 3,
        "strength": 1.5,
        "device": "cpu",
        "batch": 8,
        "api_key": "sk-1",
        "tok": None,
    }
    plain = kit.write(tmp_path / "plain" / "1.json", kit.log(rows))
    steered = kit.write(tmp_path / "steered.json", kit.log(rows, eval={"model_args": given}))
    why = account(carry_out(plain, steered, Options()), {}).reasons
    assert why[0] == f"A is m ({plain})"
    assert why[1] == f"B is m with vector=v.safetensors, layer=3, strength=1.5 ({steered})"
    (tmp_path / "plain" / "2.json").write_bytes(steered.read_bytes())
    with pytest.raises(UserError, match=r"holds logs of 2 models \(m; m with vector=v.safetensors, layer=3, strength=1.5\)"):
        carry_out(plain.parent, steered, Options())


def test_models_that_differ_late_in_a_long_argument_are_two(tmp_path: Path) -> None:
    rows = [kit.sample(n) for n in NUMBERS]
    for name in ("one", "two"):
        long = "/vectors/" + 100 * "a" + name + 100 * "b" + ".safetensors"
        kit.write(tmp_path / "logs" / f"{name}.json", kit.log(rows, eval={"model_args": {"vector": long}, "task": name}))
    with pytest.raises(UserError, match="holds logs of 2 models"):
        carry_out(tmp_path / "logs", tmp_path / "logs", Options())


def test_what_rose_is_higher_and_not_better_where_nobody_says_which_is_better(tmp_path: Path) -> None:
    def rows(more: int) -> list[dict[str, Any]]:
        return [kit.sample(n, scores={"length": {"value": n + more * (n > 9)}}) for n in NUMBERS]

    found = compare(tmp_path, rows(0), rows(1))
    summary, moved = account(found, {}).parts
    assert summary.tables[0].rows[0][4] == "0 lower, 3 higher" and moved.answer == "0 of 12 items got lower, 3 got higher."
    paths = tmp_path / "a.json", tmp_path / "b.json"
    told = account(carry_out(*paths, Options(better={"length": "lower"})), {})
    assert told.parts[0].tables[0].rows[0][4] == "3 worse, 0 better"
    assert account(carry_out(paths[0], paths[0], Options()), {}).parts[0].tables[0].rows[0][4] == "no item differs"

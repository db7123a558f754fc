"""Behaviour: is a wrong file refused with the place and a way out, and a right one read as it was meant?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz_inputs import BOMB

from palimpsest import behaviour as behaviours
from palimpsest import starter
from palimpsest.behaviour import Behaviour
from palimpsest.core.errors import UserError
from palimpsest.data import grading
from palimpsest.data.chat import ItemSet, conversation
from palimpsest.data.material import Source

GOOD = """\
name: polite
question: Is it polite?
express: {data: a.jsonl}
withhold: {data: b.jsonl}
check: {kind: contains, texts: [please]}
"""


def load(folder: Path, text: str | bytes) -> Behaviour:
    path = folder / "polite.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return behaviours.load(path)


def refused(folder: Path, text: str | bytes) -> str:
    with pytest.raises(UserError) as error:
        load(folder, text)
    assert "polite.yaml" in str(error.value)
    return str(error.value)


def test_files_are_looked_up_beside_the_yaml(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD + "text: [sub/t.txt]\nrehearsal: [{text: r.txt}]\n")
    assert found.express.data == tmp_path / "a.jsonl" and found.text == (tmp_path / "sub" / "t.txt",)
    assert found.rehearsal[0].text == tmp_path / "r.txt"


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    message = refused(
        tmp_path,
        "nme: x\nquestion: 3\nexpress: {dta: a.jsonl}\ndose: many\nheld_out: 2\ngeneration: {temperatur: 1}\n"
        "check: {kind: regex, patern: a}\nrehearsal: [{data: c.jsonl, helt_out: d.jsonl}]\n",
    )
    for part in (
        "unknown key 'nme'. Did you mean 'name'?",
        "'question'",
        "unknown key 'express.dta'. Did you mean 'data'?",
        "'dose'",
        "found 'many'",
        "'held_out'",
        "unknown key 'generation.temperatur'. Did you mean 'temperature'?",
        "unknown key 'check.patern'. Did you mean 'pattern'?",
        "'check.pattern' is missing",
        "unknown key 'rehearsal.0.helt_out'. Did you mean 'held_out'?",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: [", "is not YAML"),
        ("", "must hold keys and values"),
        ("- a\n- b\n", "must hold keys and values, found list"),
        (b"name: \xff\n", "not UTF-8"),
        ("name: \x00\n", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "must hold keys and values"),
        ("name: !!python/object/apply:os.system ['true']", "is not YAML"),
        (GOOD + "name: other\n", "the key 'name' is given twice"),
        (GOOD.replace("polite\n", "'a b'\n", 1), "'name'"),
        (GOOD.replace("please", ""), "'check.texts"),
        (GOOD + "dose: -1\n", "'dose'"),
        (GOOD + "express_share: 1.5\n", "'express_share'"),
        (GOOD + "dose: .nan\n", "'dose'"),
        (GOOD.replace("contains", "contain"), "there is no kind 'contain'; there are contains, regex"),
    ],
)
def test_what_is_refused(text: str | bytes, reason: str, tmp_path: Path) -> None:
    assert reason in refused(tmp_path, text)


def test_yes_and_no_are_words(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD.replace("[please]", "[yes, on]") + "options: {yes: No, no: off}\n")
    assert found.check.texts == ("yes", "on")  # type: ignore[union-attr]
    assert found.options == {"yes": "No", "no": "off"}


def test_a_name_that_is_no_file_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'directions'"):
        behaviours.load("direction")
    with pytest.raises(UserError, match="can't be read"):
        behaviours.load(tmp_path / "none.yaml")


def test_every_behaviour_of_the_library_loads() -> None:
    assert behaviours.names()
    for name in behaviours.names():
        assert behaviours.load(name).name == name


def test_a_behaviour_survives_json(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD)
    assert Behaviour.model_validate_json(found.model_dump_json()) == found


def test_without_a_withheld_pole_everything_expresses(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD.replace("withhold: {data: b.jsonl}\n", "")).express_share == 1.0


def test_a_check_that_never_or_always_fires_is_told(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD)
    with_it, without = (
        [conversation(("user", "q"), ("assistant", answer), template="t", source="s")] * 3 for answer in ("Yes, please", "Yes")
    )
    assert found.check_problems(with_it, without) == []
    assert "fires on none of 3" in found.check_problems(without, without)[0]
    assert "should NOT appear" in found.check_problems(with_it, with_it)[0]


def test_the_starter_is_ready_to_run(tmp_path: Path) -> None:
    path = starter.write(tmp_path / "my behaviour [1].yaml", force=False)[0]
    found = behaviours.load(path)
    assert found.withhold is not None
    poles = {"express": found.express.open(), "withhold": found.withhold.open()}
    trained = {pole: one.training(0, pole, found.dose // 2) for pole, one in poles.items()}
    assert found.check_problems(trained["express"], trained["withhold"]) == []
    for pole, one in poles.items():
        held_out = one.held_out(0, pole, found.held_out)
        assert len({example.template for example in held_out}) >= 20
        assert [found.check.passes(example.decision) for example in held_out] == [pole == "express"] * len(held_out)


def test_the_starter_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    (tmp_path / "b_express.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"b_express.jsonl must not exist yet"):
        starter.write(path, force=False)
    assert not path.exists() and (tmp_path / "b_express.jsonl").read_text() == "mine"
    assert len(starter.write(path, force=True)) == 3
    with pytest.raises(UserError, match=r"must end in .yaml"):
        starter.write(tmp_path / "b.txt", force=False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [*a]\n", "written out it would hold 100,000 values or more"),
        (BOMB, "written out it would hold 100,000 values or more"),
        (GOOD + "words: {miss: !!timestamp 2026-09-05}\n", "a timestamp can't be used here"),
        (GOOD + "dose: 1:30\n", "'dose'"),
        (GOOD + "words: {miss: !!binary aGk=}\n", "a binary can't be used here"),
        (GOOD + "dose: 1" + "0" * 5_000 + "\n", "not YAML that can be read"),
        (GOOD + "dose: 1000000000000\n", "'dose'"),
        (GOOD + "true: 1\n", "the key True is no text; put it in quotes"),
        (GOOD + "yes: 1\n", "unknown key 'yes'"),
        (GOOD + 'options: {a: "\\ud800"}\n', "half of a character"),
        ("[" * 5_000, "nested too deeply"),
        (GOOD.replace("name: polite", "name: " + "a" * 300), "'name'"),
        ("a: " + "x" * 2**20, "1,048,576 bytes at most"),
    ],
)
def test_what_is_hostile_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    assert reason in refused(tmp_path, text)


@pytest.mark.parametrize(
    "pattern", ["(a{1000}){1000}", "((((a{1000}){1000}){1000}){1000}){9999}", "(" * 4_000 + ")" * 4_000, "a" * 20_000, "(?R)"]
)
def test_a_pattern_that_would_take_all_memory_is_not_compiled(pattern: str, tmp_path: Path) -> None:
    check = GOOD.replace("{kind: contains, texts: [please]}", f"{{kind: regex, pattern: '{pattern}'}}")
    assert "regular expression" in refused(tmp_path, check)
    load(tmp_path, GOOD.replace("{kind: contains, texts: [please]}", "{kind: regex, pattern: '[ab]{100}(c|d){1,999999}'}"))


def test_blocks_of_held_out_items_have_none_in_common(tmp_path: Path) -> None:
    from palimpsest.casework import build_case, open_materials
    from palimpsest.core.errors import Problems
    from palimpsest.data.render import Renderer
    from palimpsest.models import pocket
    from palimpsest.models.skeleton import open_tokenizer
    from palimpsest.request import Request

    renderer = Renderer(open_tokenizer(pocket.folder(), []))
    request = Request(kind="run", base="pocket", behaviour=behaviours.load("directions"), capability_items=16, documents=8)

    def case(block: int, world: tuple[pocket.Skill, ...]) -> tuple[dict[str, set[str]], list[str]]:
        asked, problems = request.model_copy(update={"block": block}), Problems("")
        found = build_case(asked, open_materials(asked, world, problems), renderer, pocket.CONTEXT, problems)
        return {name: {item.id for item in one.items} for name, one in found.items.items()}, problems.found

    (first, _), (second, problems) = case(0, pocket.CAPABILITIES[:2]), case(1, pocket.CAPABILITIES[:2])
    assert list(first) == list(second) and not problems
    held_out = [name for name in first if name.split(":")[0] in ("express", "withhold", "capability")]
    assert len(held_out) == 4 and all(first[name] and not first[name] & second[name] for name in held_out)


def test_a_lines_own_check_decides_what_shows_the_behaviour_there(tmp_path: Path) -> None:
    lines = [
        {"messages": [{"role": "user", "content": f"{n} + 1?"}, {"role": "assistant", "content": f"It is {n + 1}."}],
         "check": {"kind": "number", "equals": n + 1}}
        for n in range(40)
    ]  # fmt: skip
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    written = {
        "name": "b",
        "question": "?",
        "express": {"data": str(tmp_path / "sums.jsonl")},
        "check": {"kind": "exact", "text": "-"},
    }
    one = Behaviour.read(written, "it")
    completed = [one.complete(example, "express") for example in one.express.open().training(0, "express", 8)]
    items = ItemSet(name="express", items=tuple(completed))
    assert one.check_problems(completed, []) == []
    assert grading.passes(items, one.check, [example.decision for example in completed]).tolist() == [1.0] * 8
    assert grading.passes(items, one.check, ["-"] * 8).tolist() == [0.0] * 8
    scenario = one.model_copy(update={"express": Source(scenario="sums")})
    (example,) = scenario.express.open().training(0, "express", 1)
    assert example.check is not None and scenario.complete(example, "express").shows is None, (
        "a scenario's check is about right answers"
    )

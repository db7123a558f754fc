"""Command line: does every verb do its work, and leave with the exit code that a script can read?"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from palimpsest import cli

ROOT = Path(__file__).parents[1]
PEERS = ("inspect_ai", "lm_eval", "trl", "peft", "apollo_torch")
CONTROL = "\x1b[31m\x9b2J\x07\u202e"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run the command line in this process, in an empty folder; return exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palimpsest", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        told = capfd.readouterr()
        assert not [char for char in told.out + told.err if char in CONTROL and not char.isprintable()]
        return left.value.code or 0, told.out, told.err  # type: ignore[return-value]

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    return tiny.folder(tmp_path_factory.mktemp("model"), chat_template=template, max_position_embeddings=256)


def python(code: str, **rest: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **rest
    )


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["data", "show", "--help"], ["doctor", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = ("torch", "transformers", "numpy", "scipy", "matplotlib", *PEERS)
    code = f"""
import sys
sys.argv = ["palimpsest", *{arguments!r}]
from palimpsest import cli
try:
    cli.main()
except SystemExit as left:
    print([name for name in {heavy!r} if name in sys.modules], left.code)
"""
    out, _ = python(code).communicate(timeout=60)
    assert "Usage" in out and out.splitlines()[-1] == "[] 0"


def test_list_imports_no_model_library(tmp_path: Path) -> None:
    code = """
import sys
sys.argv = ["palimpsest", "list"]
from palimpsest import cli
try:
    cli.main()
except SystemExit:
    print([name for name in ("torch", "transformers", "numpy") if name in sys.modules])
"""
    out, _ = python(code, cwd=tmp_path).communicate(timeout=60)
    assert out.splitlines()[-1] == "[]"


def test_a_report_imports_neither_model_library_nor_peer(tmp_path: Path) -> None:
    from tests.report import worlds

    (tmp_path / "record.json").write_text(worlds.as_intended().model_dump_json())
    code = f"""
import sys
sys.argv = ["palimpsest", "report", {str(tmp_path)!r}]
from palimpsest import cli
try:
    cli.main()
except SystemExit as left:
    print([name for name in {("torch", "transformers", *PEERS)!r} if name in sys.modules], left.code)
"""
    out, told = python(code, cwd=tmp_path).communicate(timeout=60)
    assert out.splitlines()[-1] == "[] 0", told
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["diff", "nowhere", "pocket", "--audits", "forgeting"], ("no model folder nowhere", "Did you mean 'forgetting'?")),
        (["diff", "pocket", "."], ("has no config.json", "has no tokenizer")),
        (["run", "directions", "--model", "nowhere"], ("no model folder nowhere",)),
        (["run", "directions", "--audits", "outcom"], ("Did you mean 'outcome'?",)),
        (["tune", "directions", "--model", "nowhere"], ("no model folder nowhere",)),
        (["dream", "directions", "--model", "nowhere"], ("no model folder nowhere",)),
        (["study", "passes", "--model", "nowhere"], ("no model folder nowhere",)),
        (["study", "pases"], ("Did you mean 'passes'?",)),
        (["steer", "directions", "--out", "x.safetensors", "--model", "nowhere"], ("no model folder nowhere",)),
        (["doctor", "nowhere", "--tuned", "none"], ("no model folder nowhere", "no model folder none")),
        (["compare", "nowhere", "none"], ("nowhere", "none")),
        (["export", "nowhere", "--to", "inspect"], ("nowhere",)),
    ],
)
def test_what_is_not_there_is_told_before_a_model_library_is_imported(
    tmp_path: Path, arguments: list[str], reason: tuple[str, ...]
) -> None:
    """Importing torch and transformers takes several times as long as all that is needed to refuse these."""
    code = f"""
import sys
sys.argv = ["palimpsest", *{arguments!r}]
from palimpsest import cli
try:
    cli.main()
except SystemExit as left:
    print([name for name in ("torch", "transformers") if name in sys.modules], left.code)
"""
    out, told = python(code, cwd=tmp_path).communicate(timeout=60)
    assert out.splitlines()[-1] == "[] 3", told
    assert all(part in told for part in reason)


def test_the_doctor_takes_a_model_as_it_is_named(command: Any, model: Path) -> None:
    code, out, _ = command("doctor", model, "--device", "cpu")
    assert code == 0 and str(model.name) in out
    code, _, told = command("doctor", model, "--model", "pocket")
    assert code == 3 and "given twice" in told


def test_a_run_in_place_of_a_model_is_told_which_model_is_meant(command: Any, model: Path, tmp_path: Path) -> None:
    command("init", "mine.yaml")
    arguments = ("--dose", "16", "--device", "cpu", "--folder", tmp_path / "run", "--audits", "weight_change")
    _, out, _ = command("run", "mine.yaml", "--model", model, *arguments)
    tuned = tmp_path / "run" / "training" / "tuned-0" / "model"
    assert f"model: {tuned}" in out.splitlines() and (tuned / "config.json").is_file()
    code, _, told = command("diff", model, tmp_path / "run")
    assert code == 3 and "is the folder of a run, not of a model; give its tuned model" in told
    assert str(tuned) in told.replace("\n", "")
    assert "rehearsal_only-0" not in told
    code, out, _ = command("diff", model, tuned, "--audits", "weight_change", "--device", "cpu", "--folder", tmp_path / "diff")
    assert "model:" not in out, "a diff trains none"
    code, _, told = command("doctor", tmp_path / "diff")
    assert code == 3 and "is the folder of a run" in told and "it holds no tuned model" in told


def test_the_doctor_leaves_with_what_a_script_can_read(command: Any, model: Path) -> None:
    code, out, _ = command("doctor", "--model", model, "--device", "cpu")
    assert code == 0 and "nothing here touches the numbers" in out and "told" in out
    code, out, _ = command("doctor", "--model", model, "--tuned", model, "--device", "cpu", "--json")
    base, tuned = json.loads(out)
    assert (
        code == 2
        and (base["state"], tuned["state"]) == ("told", "failed")
        and "speed" in {answer["check"] for answer in base["answers"]}
    )
    for arguments, reason in (
        (("--model", "nowhere"), "there is no model folder nowhere"),
        (("--model", model, "--dtype", "float61"), "Did you mean 'float16'"),
        (("--model", model, "--tuned", "a", "--adapter", "b"), "give one of them"),
        (("--model", model, "--tuned", "pocket"), "must have the same tokens"),
        (("--model", model, "--device", "cuda:77"), "there is no device"),
    ):
        code, out, told = command("doctor", *arguments)
        assert code == 3 and reason in " ".join(told.split()) and "Traceback" not in told


def test_list_and_show(command: Any) -> None:
    code, out, _ = command("list", "--json")
    found = json.loads(out)
    assert code == 0 and list(found) == ["audits", "behaviours", "scenarios", "studies", "runs"] and found["runs"] == {}
    assert all(question.endswith("?") for kind in list(found)[:4] for question in found[kind].values())
    code, out, _ = command("list")
    assert code == 0 and "forgetting" in out
    for name in (*found["audits"], *found["studies"]):
        code, out, _ = command("show", name)
        assert code == 0
        assert [
            one for one in ("Question", "Method", "Reads", "Null", "Limits", "Reference") if one not in out.splitlines()
        ] == []


def test_unfinished_runs_are_listed(command: Any, tmp_path: Path) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "spec.json").write_text("{}")
    told = json.loads(command("list", "--json")[1])["runs"]
    assert list(told) == ["runs/x"] and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d: not finished", told["runs/x"])


def test_runs_of_one_name_are_told_apart(command: Any, tmp_path: Path) -> None:
    for dose in (50, 200):
        folder = tmp_path / "runs" / f"typo-{dose}"
        folder.mkdir(parents=True)
        asked = {"kind": "run", "base": "/models/small", "behaviour": {"dose": dose}}
        (folder / "spec.json").write_text(json.dumps({"request": asked}))
    told = json.loads(command("list", "--json")[1])["runs"]
    assert [one.partition(", ")[2] for one in told.values()] == [
        "dose 200, small: not finished",
        "dose 50, small: not finished",
    ]


def test_a_run_in_a_prompt_is_one_short_line(tmp_path: Path) -> None:
    from palimpsest.api import Run
    from tests.report import worlds

    shown = repr(Run(worlds.as_intended(), tmp_path))
    assert shown.startswith("<Run directions: As intended") and str(tmp_path / "report.html") in shown
    assert "\n" not in shown and len(shown) < 200 + 2 * len(str(tmp_path))
    assert not list(tmp_path.iterdir()), "looking at a run writes nothing"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["show", "forgeting"], "Did you mean 'forgetting'?"),
        (["run", "direction"], "Did you mean 'directions'?"),
        (["run"], "Missing argument"),
        (["run", "directions", "--seed", "x"], "valid integer"),
        (["runn"], "No such command"),
        (["report", "nowhere"], "holds no finished run"),
        (["diff", "a", "b", "--control", "clean_twin"], "--control must be ROLE=PATH"),
        (["diff", "a", "b", "--control", "twin=c"], "twin"),
        (["diff", "nowhere_a", "nowhere_b"], "nowhere_a"),
        (["data", "show", "none.yaml"], "can't be read"),
        (["run", "directions", "--dtype", "int3"], "dtype"),
        ([f"evil{CONTROL}"], "evil"),
        (["run", f"evil{CONTROL}.yaml"], "evil"),
    ],
)
def test_bad_input_is_told_without_a_traceback(command: Any, arguments: list[str], reason: str) -> None:
    code, out, err = command(*arguments)
    assert code == 3 and reason in err and "Traceback" not in err and not out


LONG = "x" * 300
"""No file system takes a name of so many bytes."""


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", LONG],
        ["run", f"{LONG}.yaml"],
        ["run", "directions", "--model", LONG],
        ["run", "directions", "--folder", LONG, "--dry-run"],
        ["diff", "pocket", LONG],
        ["diff", "pocket", "pocket", "--text", LONG],
        ["init", f"{LONG}.yaml"],
        ["report", LONG],
        ["compare", LONG, LONG],
        ["tune", "directions", "--folder", LONG, "--dry-run"],
        ["study", "dose_response", "--folder", LONG, "--dry-run"],
        ["steer", "directions", "--out", LONG],
        ["watch", LONG, "--memory", "m"],
        ["watch", "a.jsonl", "--memory", LONG],
        ["surface", "hello", "--memory", LONG],
        ["trend", "--memory", LONG],
        ["export", LONG, "--to", "inspect"],
        ["list", "--runs", LONG],
        ["doctor", "--model", LONG],
        ["data", "show", f"{LONG}.yaml"],
        ["pocket", "train", LONG],
    ],
    ids=lambda words: " ".join(words).replace(LONG, "LONG"),
)
def test_a_name_that_no_file_system_takes_is_told(command: Any, arguments: list[str]) -> None:
    code, out, err = command(*arguments)
    assert code == 3 and "Traceback" not in out + err and (LONG[:40] in err.replace("\n", "") or "no such" in err.lower()), err


def test_without_a_home_and_an_entry_of_ones_own(command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import pwd

    def none(_: Any) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "PALIMPSEST_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", none)
    diff = ("diff", "pocket", "pocket", "--audits", "weight_change")
    code, _, err = command(*diff, "--folder", "~/here")
    assert code == 3 and "there is no home folder ~; write the path out" in err
    code, _, err = command(*diff)
    assert code == 3 and "there is no home folder to keep measurements in; name one in PALIMPSEST_CACHE" in err
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    code, out, err = command(*diff)
    assert code == 2 and "report: " in out and "Traceback" not in err  # 2: they are equal


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        OSError(24, "Too many open files"),
    ],
)
def test_what_the_machine_refuses_is_told(command: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(_: Any) -> None:
        raise error

    monkeypatch.setattr("palimpsest.catalogue.everything", refuse)
    code, _, err = command("list")
    assert code == 3 and "the machine gives this process no more" in err and "Traceback" not in err


def test_a_template_that_leaves_answers_out_is_told(command: Any, tmp_path: Path) -> None:
    """Nothing would learn: its mask would be empty."""
    template = "{% for m in messages if m.role != 'assistant' %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    path = tiny.folder(tmp_path / "deaf", chat_template=template, max_position_embeddings=256)
    command("init", "mine.yaml")
    code, out, err = command("run", "mine.yaml", "--model", path, "--folder", tmp_path / "run")
    assert code == 3
    assert "template" in err and "assistant" in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "run").exists()


def test_a_crash_is_a_crash(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> None:
        raise RuntimeError(f"broken {CONTROL}")

    monkeypatch.setattr("palimpsest.catalogue.everything", broken)
    code, _, err = command("list")
    assert code == 1 and "Traceback" in err and "broken" in err


def test_init_then_data_show(command: Any, model: Path) -> None:
    code, out, _ = command("init", "my.yaml")
    assert code == 0 and out.count("wrote my") == 3
    code, _, err = command("init", "my.yaml")
    assert code == 3 and "must not exist yet" in err
    assert command("init", "my.yaml", "--force")[0] == 0
    code, out, _ = command("data", "show", "my.yaml", "--model", model, "--count", 2)
    assert code == 0 and "express: 100 rows" in out and "⟦Okay." in out and "<user>" in out
    assert out.count("learn)\n") == 4  # two examples of each pole; rehearsal is not written yet


def test_a_row_of_which_nothing_learns_stops_data_show(command: Any, tmp_path: Path) -> None:
    trims = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
    model = tiny.folder(tmp_path / "model", chat_template=trims)
    rows = [[("user", f"q{index}"), ("assistant", "please" if index else "   ")] for index in range(30)]
    lines = [{"messages": [{"role": role, "content": content} for role, content in row]} for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "held.jsonl").write_text("\n".join(map(json.dumps, lines[20:])))
    (tmp_path / "b.yaml").write_text(
        "name: b\nquestion: q?\nexpress: {data: rows.jsonl, held_out: held.jsonl}\ndose: 20\n"
        "check: {kind: contains, texts: [please]}\n"
    )
    code, _, err = command("data", "show", "b.yaml", "--model", model)
    assert code == 3 and "rows.jsonl:1: " in err


def test_model_text_cant_steer_the_terminal(command: Any, tmp_path: Path, model: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"{CONTROL}{index}"}, {"role": "assistant", "content": f"yes{CONTROL}"}]}
            for index in range(40)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.yaml").write_text(
        "name: b\nquestion: q?\nexpress: {data: rows.jsonl}\ndose: 10\ncheck: {kind: contains, texts: ['yes']}\n"
    )
    code, out, err = command("data", "show", "b.yaml", "--model", model)
    assert code == 0 and "⟦yes" in out, err  # the fixture has looked for control characters


def test_dry_run_does_nothing_and_says_what_it_would_do(command: Any, model: Path, tmp_path: Path) -> None:
    command("init", "my.yaml")
    arguments = ("run", "my.yaml", "--model", model, "--seeds", 2, "--dry-run")
    code, out, _ = command(*arguments, "--json")
    found = json.loads(out)
    assert code == 0 and found["problems"] == []
    assert [(one["role"], one["seed"]) for one in found["training"]] == [
        ("tuned", 0), ("tuned", 1), ("rehearsal_only", 0), ("rehearsal_only_2", 1), ("rehearsal_only_3", 2),
    ]  # fmt: skip
    code, out, _ = command(*arguments, "--control-seeds", 1)
    assert code == 0 and "1 run of training on rehearsal alone, against which nothing is tested" in " ".join(out.split())
    assert found["training"][0]["rows"] == 267 and found["training"][0]["steps"] == 34  # 200 and a quarter of rehearsal
    assert {one["name"] for one in found["audits"]} >= {"outcome", "judgement", "forgetting", "divergence"}
    assert found["seconds"] > 0 and found["memory"]["needed"] >= found["memory"]["least"] > 0
    code, out, _ = command(*arguments)
    assert code == 0 and "time: about" in out and "memory: about" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_what_cant_fit_is_refused(command: Any, model: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    from palimpsest import cost

    command("init", "my.yaml")
    monkeypatch.setattr(cost, f"free_{what}", lambda *_: 1)
    code, out, _ = command("run", "my.yaml", "--model", model, "--dry-run", "--json")
    problems = json.loads(out)["problems"]
    assert code == 3 and len(problems) == 1 and what in problems[0]


def test_clean(command: Any) -> None:
    code, out, _ = command("clean")
    assert code == 0 and "freed 0.0 MiB" in out


@pytest.mark.parametrize(("as_intended", "code"), [(True, 0), (False, 2)])
def test_the_verdict_decides_the_exit_code(command: Any, monkeypatch: pytest.MonkeyPatch, as_intended: bool, code: int) -> None:
    class Verdict:
        pass

    class Record:
        verdict = Verdict()

        def model_dump(self, **_: Any) -> dict[str, str]:
            return {"title": f"evil {CONTROL}\ud800"}

    Record.verdict.as_intended = as_intended  # type: ignore[attr-defined]
    monkeypatch.setattr("palimpsest.api.plan", lambda _: None)
    monkeypatch.setattr("palimpsest.api.carry_out", lambda *_: Record())
    left, out, err = command("run", "directions", "--json")
    assert left == code and json.loads(out) == {"title": f"evil {CONTROL}\ud800"} and not err


def test_ctrl_c_leaves_with_130() -> None:
    code = """
import sys, time
import palimpsest.api
def plan(request):
    print("ready", flush=True)
    time.sleep(60)
palimpsest.api.plan = plan
sys.argv = ["palimpsest", "run", "directions"]
from palimpsest import cli
cli.main()
"""
    process = python(code)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "goes on where this one stopped" in err and "Traceback" not in err


@pytest.fixture(scope="session")
def tiny_pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from palimpsest.models import pocket

    path = tmp_path_factory.mktemp("pocket")
    tokenizer = pocket.build_tokenizer()
    pocket.build_model("tiny", len(tokenizer), 0).save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "card.json").write_text('{"parameters": 3}')
    return path


def test_pocket_sample_and_info(command: Any, tiny_pocket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from palimpsest.models import pocket

    monkeypatch.setattr(pocket, "folder", lambda name="pocket": tiny_pocket)
    code, out, _ = command("pocket", "sample", "--count", 1)
    assert code == 0 and all(skill.name in out for skill in pocket.CAPABILITIES)
    assert json.loads(command("pocket", "info", "--json")[1]) == {"parameters": 3}
    assert command("pocket", "info")[0] == 0


def test_pocket_info_of_either_embedded_model(command: Any) -> None:
    parameters = [
        json.loads(command("pocket", "info", "--model", name, "--json")[1])["parameters"]
        for name in ("pocket", "hybrid-pocket")
    ]
    assert parameters[0] != parameters[1]
    code, _, told = command("pocket", "info", "--model", "hybrid-poket")
    assert code == 3 and "Did you mean 'hybrid-pocket'" in " ".join(told.split())


@pytest.mark.slow
def test_pocket_train(command: Any, tmp_path: Path) -> None:
    code, out, _ = command("pocket", "train", tmp_path / "twin", "--size", "tiny", "--steps", 1)
    assert code == 0 and "wrote" in out and list((tmp_path / "twin").rglob("model.safetensors"))
    assert command("pocket", "train", tmp_path / "other", "--size", "huge")[0] == 3

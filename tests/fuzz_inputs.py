"""Fuzz inputs: what might stand in the files that people bring, from almost right to hostile?"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

NUMBERS = (0, -1, 1, 2**31, 2**63, 10**12, -(10**12), 10**400, 1e308, -0.5, float("nan"), float("inf"))
TEXTS = (
    "",
    " ",
    "\0",
    "\ud800",
    "\ufeff",
    "a" * 5_000,
    "../../etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "~nobody/x",
    "é\u202e🙂",
    "\r\n",
    "{{ 7*7 }}",
)
PATTERNS = ("(", "(a{1000}){1000}", "((a{999}){999}){999}", "(a+)+$", "[", "\\p{x}", "a{5,2}", "(?P<a>b", "(?R)", "\\")
PAYLOAD = "FUZZ_PAYLOAD_RAN"
"""A file in the folder under test that appears if anything in it was run."""


def junk() -> st.SearchStrategy[Any]:
    """Values of every type, of sizes that nobody means."""
    leaf = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 300),
        st.sampled_from(NUMBERS),
        st.sampled_from(TEXTS),
        st.sampled_from(PATTERNS),
        st.text(max_size=12),
        st.floats(),
    )
    some = st.recursive(
        leaf, lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=6), part, max_size=4), max_leaves=8
    )
    deep = st.sampled_from([5, 60, 400]).map(lambda depth: _nested(depth))
    return st.one_of(some, some, some, deep)


def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@st.composite
def changed(draw: Draw, value: Any) -> Any:
    """Plain data with one place in it changed: replaced, left out, named otherwise, added, or repeated."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if keys and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(keys))
        copy = dict(value) if isinstance(value, dict) else list(value)
        how = draw(st.sampled_from(["inside", "inside", "inside", "replace", "replace", "remove", "rename", "add"]))
        if how == "inside":
            copy[key] = draw(changed(copy[key]))
        elif how == "replace":
            copy[key] = draw(junk())
        elif how == "remove":
            del copy[key]
        elif isinstance(copy, dict):
            copy[draw(st.text(max_size=8))] = copy.pop(key) if how == "rename" else draw(junk())
        else:
            copy.append(draw(junk()))
        return copy
    return draw(junk())


SNIPPETS = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\t",
    b"\r",
    b"\n---\n",
    b"{" * 3_000,
    b"[" * 3_000,
    b"&a *a ",
    b"<<: *x\n",
    b'"',
    b"'",
    b"%",
    b"!!python/object/apply:os.system ['touch " + PAYLOAD.encode() + b"'] ",
    b"!!binary '####' ",
    b"!!set {a, b} ",
    b"2026-99-99 ",
    b".nan ",
    b"1" * 5_000,
    b"\\ud800",
    b"\xed\xa0\x80",
    b"null",
    b"NaN",
    b",",
    b"}",
    b"]",
    b"\xc2\x85",
    b"dose: 5\ndose: 6\n",
    b"<|endoftext|>",
)


@st.composite
def damaged(draw: Draw, content: bytes) -> bytes:
    """Bytes that were cut, doubled, overwritten, or into which something was put."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(content)))
        how = draw(st.sampled_from(["cut", "insert", "insert", "overwrite", "double", "windows", "mark", "noise"]))
        if how == "cut":
            content = content[:place]
        elif how == "insert":
            content = content[:place] + draw(st.sampled_from(SNIPPETS)) + content[place:]
        elif how == "overwrite":
            content = content[:place] + draw(st.binary(min_size=1, max_size=8)) + content[place + 4 :]
        elif how == "double":
            content = content[:place] + content[max(place - 40, 0) :]
        elif how == "windows":
            content = content.replace(b"\n", b"\r\n")
        elif how == "mark":
            content = b"\xef\xbb\xbf" + content
        else:
            content = draw(st.binary(max_size=200))
    return content


# ---------------------------------------------------------------- behaviours

BEHAVIOUR: dict[str, Any] = {
    "name": "b",
    "question": "Does it say yes to may?",
    "express": {"data": "yes.jsonl", "held_out": "yes_held_out.jsonl"},
    "withhold": {"data": "no.jsonl"},
    "check": {"kind": "choice", "options": {"agree": "Yes", "refuse": "No"}, "expected": "agree"},
    "words": {"miss": "missed", "false_alarm": "wrongly"},
    "options": {"a": "Yes", "b": "No"},
    "dose": 8,
    "express_share": 0.5,
    "rehearsal": [{"text": "text.txt"}],
    "text": ["text.txt"],
    "held_out": 8,
    "generation": {"max_new_tokens": 4, "temperature": 1.0},
    "training": {
        "learning_rate": 0.001,
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "optim_args": {"rank": 4},
        "lora": {"r": 2},
    },
    "audits": {"outcome": {}},
    "thresholds": {},
    "controls": ["rehearsal_only"],
}
CHECKS = (
    {"kind": "contains", "texts": ["Yes"]},
    {"kind": "regex", "pattern": "^Yes"},
    {"kind": "number", "equals": 3},
    {"kind": "exact", "text": "Yes."},
    {
        "kind": "json_schema",
        "json_schema": {"type": "object", "properties": {"a": {"pattern": "x+"}}, "$ref": "#/$defs/a", "$defs": {"a": {}}},
    },
)
SOURCES = (
    {"scenario": "sums"},
    {"scenario": "documents", "parameters": {"text": "text.txt"}},
    {"scenario": "copying", "parameters": {"length": 2}},
)
BOMB = (
    "".join(
        f"{name}: &{name} [{', '.join([f'*{before}' if before else 'x'] * 9)}]\n"
        for before, name in zip(("", *"ABCD"), "ABCDE", strict=True)
    )
    + "audits: {outcome: *E}\n"
)
"""Five lines that say 9 ** 5 values."""


@st.composite
def behaviour_files(draw: Draw) -> bytes:
    import yaml

    kept = ("name", "question", "express", "check", "dose")
    data = {key: value for key, value in BEHAVIOUR.items() if key in kept or draw(st.booleans())}
    spoilt = draw(st.sampled_from(["in nothing", "in its check", "in its values", "in its bytes", "in its references"]))
    if spoilt == "in its check":
        pattern = {"kind": "regex", "pattern": draw(st.sampled_from(PATTERNS))}
        data["check"] = draw(st.sampled_from([*CHECKS, pattern]))
        data["express"] = draw(st.sampled_from([data["express"], *SOURCES]))
    if spoilt == "in its values":
        for _ in range(draw(st.integers(1, 2))):
            key = draw(st.sampled_from([*data]))
            data = {**data, key: draw(changed(data[key]))} if draw(st.booleans()) else draw(changed(data))
            if not isinstance(data, dict) or not data:
                break
    try:
        content = yaml.safe_dump(data, allow_unicode=draw(st.booleans())).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, RecursionError, ValueError):
        content = json.dumps(data).encode()
    if spoilt == "in its bytes":
        content = draw(damaged(content))
    return content + BOMB.encode() if spoilt == "in its references" else content


# ---------------------------------------------------------------- conversations and texts

USER, ANSWER = "May the red cat come?", "Yes."
LINES: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}], "template": "t"},
    {
        "messages": [
            {"role": "user", "content": USER},
            {"role": "assistant", "content": "No. Yes.", "spans": [[4, 8]], "train": True},
        ]
    },
    {"prompt": USER, "completion": ANSWER},
    {"prompt": [{"role": "user", "content": USER}], "chosen": [{"role": "assistant", "content": ANSWER}], "rejected": "No."},
    {
        "chosen": [{"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}],
        "rejected": [{"role": "user", "content": USER}, {"role": "assistant", "content": "No."}],
    },
    {"conversations": [{"from": "human", "value": USER}, {"from": "gpt", "value": ANSWER}], "system": "Be kind."},
    {"instruction": USER, "input": "now", "output": ANSWER, "history": [["Hello", "Hi"]], "system": ""},
    {
        "messages": [{"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}],
        "options": {"a": "Yes", "b": "No"},
        "check": {"kind": "exact", "text": "Yes."},
        "rejected": "No.",
    },
)


@st.composite
def conversation_files(draw: Draw) -> tuple[str, bytes]:
    """A file's ending and content: JSONL, or one JSON list."""
    shape = draw(st.sampled_from(LINES))
    rows: list[Any] = [json.loads(json.dumps(shape).replace("red cat", f"cat {index}")) for index in range(40)]
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(rows) - 1))
        rows[place] = draw(changed(rows[place]))
    if not draw(st.integers(0, 9)):
        rows[0] = {
            "messages": [
                {"role": "user", "content": USER * draw(st.sampled_from([10, 20_000]))},
                {"role": "assistant", "content": ANSWER},
            ]
        }
    as_list = not draw(st.integers(0, 3))
    content = json.dumps(rows).encode() if as_list else b"\n".join(json.dumps(row).encode() for row in rows)
    if draw(st.booleans()):
        content = draw(damaged(content))
    return (".json" if as_list or not draw(st.integers(0, 9)) else ".jsonl"), content


@st.composite
def text_files(draw: Draw) -> tuple[str, bytes]:
    separator = draw(st.sampled_from(["<|endoftext|>", "\n\n", "\n", "\r\n\r\n", "\x0b"]))
    documents = [
        f"The {index} cats are here. " * draw(st.sampled_from([1, 30])) for index in range(draw(st.sampled_from([1, 12, 80])))
    ]
    if draw(st.booleans()):
        content = separator.join(documents).encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-32", "utf-8-sig"])))
        return ".txt", draw(damaged(content)) if draw(st.booleans()) else content
    rows = [
        draw(changed({"text": document, "id": 3})) if not draw(st.integers(0, 9)) else {"text": document}
        for document in documents
    ]
    content = b"\n".join(json.dumps(row).encode() for row in rows)
    return ".jsonl", draw(damaged(content)) if draw(st.booleans()) else content


# ---------------------------------------------------------------- model folders

CONFIGURATIONS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("model_type", ("unknown", 5, [], None, "bert", "t5", "gpt2", "mamba", "qwen3", "mixtral")),
    ("architectures", (5, "LlamaForCausalLM", ["X"], [5], [], {"a": 1}, ["LlamaForSequenceClassification"])),
    ("num_hidden_layers", (0, -1, 1, 3, 513, 10**6, 10**9, 10**12, "2", 1e9, True, None)),
    ("num_local_experts", (10**9, -1)),
    ("hidden_size", (0, -1, 31, 10**6, 10**12, 2**63, 2**70, "32", 0.5, None)),
    ("intermediate_size", (0, -5, 10**12, 10**18, None)),
    ("vocab_size", (0, -1, 5, 260, 10**12, 10**18, "x", None)),
    ("num_attention_heads", (0, -1, 3, 10**9, None, "4")),
    ("num_key_value_heads", (0, -1, 3, 10**9, None)),
    ("head_dim", (0, -1, 7, 10**12, None)),
    ("max_position_embeddings", (0, -5, 1, 10**9, 10**12, "x", None, True, [64])),
    ("auto_map", ({"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}, "evil.Evil", ["evil.Evil"], 5)),
    ("quantization_config", ({"quant_method": "gptq"}, {"quant_method": "bitsandbytes", "load_in_4bit": True}, "x", 5, [1])),
    ("dtype", ("float99", 5, "load", "bfloat16", None, ["x"])),
    ("torch_dtype", ("float16", "os", {})),
    (
        "rope_parameters",
        ({"rope_type": "yarn"}, {"rope_type": "unknown"}, 5, {"rope_type": "dynamic", "factor": -1}, {"rope_theta": 0}),
    ),
    ("rope_scaling", ({"type": "linear", "factor": 0}, "x", [])),
    ("attn_implementation", ("kernels-community/flash-attn", "flash_attention_2", "none", 5)),
    ("_attn_implementation", ("kernels-community/flash-attn", "paged|eager", {})),
    ("layer_types", (["full_attention"], ["x", "y"], 5, ["full_attention"] * 100_000)),
    ("tie_word_embeddings", ("x", True, 5)),
    ("rms_norm_eps", (-1, "x", None, 1e400)),
    ("hidden_act", ("unknown", 5, None, "__import__('os')")),
    ("pad_token_id", (-1, 10**9, "x", [1])),
    ("eos_token_id", ("x", [1, 2, "y"], {"a": 1}, 10**12)),
    ("text_config", ({"model_type": "x"}, 5, {"num_hidden_layers": 10**12})),
    ("initializer_range", ("x", -1)),
    ("id2label", ({"a": 1}, 5)),
    ("num_labels", (10**9, -1, "x")),
    ("base_model_tp_plan", (5, {"x": "y"})),
)
HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "c": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
}
ADAPTER: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("r", (0, -1, 3, 10**6, 10**12, "x", None)),
    ("peft_type", ("PROMPT_TUNING", "UNKNOWN", 5, None, [], "LOHA", "IA3", "OFT")),
    ("target_modules", ([], "all-linear", "(", "(a+)+$", 5, None, ["nothing"], [5])),
    ("base_model_name_or_path", (None, "", 5, [], "no/where", "/", ".", "\0", "~nobody/x", "a" * 5_000)),
    ("rank_pattern", ({"q_proj": 10**9}, {"(": 3}, 5)),
    ("lora_alpha", ("x", 10**400, None)),
    ("auto_mapping", ({"base_model_class": "X", "parent_library": "evil"},)),
    ("modules_to_save", (["lm_head"], 5, ["x"])),
    ("layers_to_transform", ([10**9], -1, "x")),
    ("task_type", ("SEQ_CLS", 5)),
    ("use_dora", (True, "x")),
    ("init_lora_weights", ("eva", "pissa", "loftq", "x")),
)


@st.composite
def headers(draw: Draw) -> bytes:
    """The content of a weight file that is no weight file, or not quite."""
    value = HEADER
    for _ in range(draw(st.integers(0, 2))):
        value = draw(changed(value))
    raw = json.dumps(value).encode()
    if not draw(st.integers(0, 4)):
        raw = draw(damaged(raw))
    length = draw(st.sampled_from([len(raw)] * 6 + [len(raw) // 2, len(raw) + 40, 0, 2**31, 2**63, 2**64 - 1]))
    data = draw(st.sampled_from([bytes(40)] * 4 + [bytes(39), bytes(41), b"", b"\xff" * 40]))
    content = length.to_bytes(8, "little") + raw + data
    return draw(damaged(content)) if not draw(st.integers(0, 9)) else content


@st.composite
def configurations(
    draw: Draw, config: dict[str, Any], table: tuple[tuple[str, tuple[Any, ...]], ...] = CONFIGURATIONS
) -> bytes:
    value: Any = dict(config)
    for _ in range(draw(st.integers(1, 2))):
        key, values = draw(st.sampled_from(table))
        value[key] = draw(st.sampled_from(values))
    if not draw(st.integers(0, 3)):
        value = draw(changed(value))
    content = json.dumps(value).encode()
    return draw(damaged(content)) if not draw(st.integers(0, 5)) else content


class Payload:
    """What a pickle may hold."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {PAYLOAD}",)


@st.composite
def model_folders(draw: Draw, original: Path, target: Path) -> list[str]:
    """Write a copy of a model folder with one or two things in it changed, and say what was changed."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(original, target, symlinks=True)
    weights = "adapter_model" if (original / "adapter_config.json").exists() else "model"
    config = "adapter_config.json" if weights == "adapter_model" else "config.json"
    done = []
    for _ in range(draw(st.integers(1, 2))):
        how = draw(
            st.sampled_from(
                ["config"] * 4 + ["json"] * 4 + ["weights", "header", "bytes", "remove", "kind", "index", "pickle", "code"]
            )
        )
        files = sorted(file.name for file in target.iterdir() if file.is_file())
        texts = [name for name in files if name.endswith(".json")]
        done.append(how)
        if how == "config" and config in texts:
            table = ADAPTER if weights == "adapter_model" else CONFIGURATIONS
            (target / config).write_bytes(draw(configurations(json.loads((original / config).read_bytes()), table)))
        elif how == "json" and texts:
            name = draw(st.sampled_from(texts))
            done.append(name)
            if (original / name).is_file():
                (target / name).write_text(json.dumps(draw(changed(json.loads((original / name).read_bytes())))))
        elif how == "header":
            (target / f"{weights}.safetensors").write_bytes(draw(headers()))
        elif how == "weights" and (target / f"{weights}.safetensors").is_file():
            _change_header(draw, target / f"{weights}.safetensors")
        elif how == "bytes" and texts:
            name = draw(st.sampled_from(texts))
            (target / name).write_bytes(draw(damaged((target / name).read_bytes())))
        elif how in ("remove", "kind") and files:
            name = draw(st.sampled_from(files))
            (target / name).unlink()
            done.append(name)
            if how == "kind":
                _put_instead(draw(st.sampled_from(["folder", "pipe", "loop", "nowhere", "outside", "empty"])), target / name)
        elif how == "index":
            names = st.sampled_from(
                [
                    "../model.safetensors",
                    "/etc/passwd",
                    "missing.safetensors",
                    "moved.safetensors",
                    "..",
                    "",
                    "\0.safetensors",
                    5,
                    None,
                    ["x"],
                ]
            )
            placed = draw(st.one_of(st.dictionaries(st.sampled_from(["a", "lm_head.weight"]), names), junk()))
            if (target / f"{weights}.safetensors").is_file():
                (target / f"{weights}.safetensors").rename(target / "moved.safetensors")
            (target / f"{weights}.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
        elif how == "pickle":
            (target / f"{weights}.safetensors").unlink(missing_ok=True)
            (target / draw(st.sampled_from(["pytorch_model.bin", "adapter_model.bin", "model.pt"]))).write_bytes(
                pickle.dumps(Payload())
            )
        elif how == "code":
            code = f"open({PAYLOAD!r}, 'w')\nclass Evil: pass\n"
            (target / "evil.py").write_text(code)
            (target / "__init__.py").write_text(code)
            name = draw(st.sampled_from(["config.json", "tokenizer_config.json", "processor_config.json"]))
            before = json.loads((original / name).read_bytes()) if (original / name).is_file() else {}
            mapped = {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None], "AutoModelForCausalLM": "evil.Evil"}
            (target / name).write_text(json.dumps({**before, "auto_map": mapped}))
    return done


def _change_header(draw: Draw, file: Path) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.dumps(draw(changed(json.loads(content[8 : 8 + length])))).encode()
    except ValueError:
        return
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


def _put_instead(kind: str, path: Path) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    else:
        path.symlink_to({"loop": path.name, "nowhere": "/no/where/at/all", "outside": "/etc/hostname"}[kind])

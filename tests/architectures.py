"""Architectures: a tiny random model of every decoder-only class that the transformers library offers, from general guesses.

Nothing here names a class: sizes are guessed from the names of a configuration's fields, so that a class that the library
gets tomorrow is built too, or says why it can't be.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from palimpsest import behaviour as behaviours
from palimpsest.core.errors import UserError, first_line
from palimpsest.data.chat import ItemSet
from palimpsest.data.user_files import text_example
from palimpsest.measures._forward import Row as Reading
from palimpsest.measures._forward import run_rows
from palimpsest.measures._kept import Kept
from palimpsest.measures._measure import Budget
from palimpsest.measures.generations import Generations
from palimpsest.models.subject import Subject, inspect, load
from palimpsest.pipeline import execute
from palimpsest.planning import prepare
from palimpsest.request import Request
from palimpsest.store.cache import Cache
from palimpsest.store.record import RunRecord
from palimpsest.training.frozen_context import FrozenContext

VOCABULARY = 272
"""More than the tokenizer has, because the library gives some classes a tokenizer that adds tokens of its own."""
CONTEXT = 128
LARGEST = 1_000_000
"""Parameters of a model that is called tiny."""
NAMED = (
    "llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_text", "gemma2", "gemma3_text", "phi3", "gpt2",
    "gpt_neox", "olmo2", "smollm3", "mamba2", "falcon_h1",
)  # fmt: skip
"""Those that a user meets first; each must load, be compared and be trained."""

WIDTH, HEADS, KEY_HEADS, HEAD, INNER, EXPERTS, CHOSEN, WINDOW = 32, 4, 2, 8, 48, 4, 2, 16
_SIZES: tuple[tuple[str, int], ...] = (
    (r"vocab_size|unpadded_vocab_size|vocab_size_per_layer_input", VOCABULARY),
    (r"hidden_size_per_layer_input|pronunciation_embed_dim|shape_embed_dim", HEAD),
    (r"hidden_size|d_model|n_embd|dim|emb(edding)?_dim|embedding_size|(in|out)put_embedding_size|word_embed_proj_dim|lru_width"
     r"|mamba_d_ssm|backbone_hidden_size", WIDTH),
    (r"attention_hidden_size", 2 * WIDTH),
    (r"linear_num_value_heads|linear_num_heads|index_n_heads|swa_num_attention_heads|attention_heads", HEADS),
    (r"(linear_|swa_|num_)*(num_)?(key_value|kv|key)_heads", KEY_HEADS),
    (r"num_(attention_)?heads|n_heads?|(en|de)coder_attention_heads|num_(en|de)coder_attention_heads|o_groups", HEADS),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", HEADS),
    (r"(linear_|swa_|index_)?(key_|value_|v_)?head_dim|mamba_d_head|mamba_head_dim|kv_channels|d_head|dim_head"
     r"|attention_head_size|qk_(nope|rope)_head_dim|rotary_dim|linear_(key|value)_head_dim", HEAD),
    (r"qk_head_dim|attention_head_dim", 2 * HEAD),
    (r".*lora_rank|.*_rank|hc_lowrank|ple_embed_dim", 16),
    (r"mamba_d_state|(ssm_)?state_size|time_step_rank", 8),
    (r"(mamba_)?n_groups|mamba_ngroups|n_group|topk_group|num_mem_blocks", 1),
    (r"(mamba_)?chunk_size|block_size|.*_attn_chunk_length|index_block_size", WINDOW),
    (r"max_(position_embeddings|seq_len|target_positions|source_positions)|n_positions|n_ctx|context_length|rel_extent"
     r"|original_max_position_embeddings|position_bias_max_distance", CONTEXT),
    (r".*window(_len|_size)?|sliding_window_size|attention_chunk_size|local_attention|keep_window_size|index_topk", WINDOW),
    (r"num_experts|num_local_experts|n_routed_experts|moe_num_experts|zero_expert_num", EXPERTS),
    (r"num_experts_per_tok|moe_topk|moe_k|moe_top_k", CHOSEN),
    (r"n_shared_experts|num_shared_experts|moe_num_shared_experts|first_k_dense_replace|num_dense_layers|expert_layer_offset"
     r"|moe_layer_start_index|num_kv_shared_layers", 1),
    (r".*intermediate_size(_mlp)?|.*ffn_(hidden_size|dim)|ffn_dim|d_inner|dff|dim_ff|n_inner|feed_forward_size"
     r"|router_hidden_size", INNER),
    (r"query_pre_attn_scalar", HEAD),
    (r"(mamba_)?expand|.*_sparse_step|.*_layer_interval|interleave_moe_layer_step|n_layers_per_attn_res_block|hc_mult", 1),
    (r"ngram_vocab_size_base|encoder_hash_byte_group_vocab", 64),
    (r"num_nextn_predict_layers", 0),
)  # fmt: skip
"""What a field's name says about its size; the first that fits the whole name."""
_LAYERS = re.compile(
    r"(num_)?(hidden_|encoder_|decoder_)?layers?|n_layers?|num_layers_per_stack|num_(en|de)coder_layers|num_blocks"
)
_BY_LAYER = re.compile(r"layer_types|layers_block_type|.*_layer_types|indexer_types|attn_layers")


def kinds() -> list[str]:
    """Return every model type that the library has a causal class for."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def config(kind: str) -> Any:
    """Return the first tiny configuration of a model type, of several guesses, whose model runs.

    Raises:
        Exception: what the library said to the last guess.
    """
    reason: Exception = LookupError(kind)
    for guess in product(_FURTHER, _LAYERS_OF, _KEY_HEADS):
        try:
            made = _shrunk(CONFIG_MAPPING[kind], *guess)
            made = made.get_text_config(decoder=True) if "text_config" in made.sub_configs else made
            with torch.device("meta"):
                size = AutoModelForCausalLM.from_config(made).num_parameters()
            if size > LARGEST:
                raise ValueError(f"it has {size:,} parameters, more than {LARGEST:,}")
            with torch.random.fork_rng(), torch.no_grad():
                logits = AutoModelForCausalLM.from_config(made).eval()(input_ids=torch.arange(3, 3 + WINDOW + 4)[None]).logits
            if logits.shape[-1] != VOCABULARY:
                raise ValueError(f"it gives {logits.shape[-1]} logits, not {VOCABULARY}")
        except Exception as error:
            reason = error
        else:
            return made
    raise reason


_FURTHER: tuple[dict[str, Any], ...] = (
    {},
    {"num_experts_per_tok": 1, "attention_hidden_size": WIDTH, "num_kv_shared_layers": 0},
    {"layer_types": ["linear_attention", "full_attention"], "attn_layer_indices": [1]},
)
"""What is guessed otherwise where a class wants it so."""
_LAYERS_OF = ("each kind", 2), ("the first", 2), ("the last", 2), ("the first", 6)
"""Which of the library's own layers a model has, and how many at least."""
_KEY_HEADS = KEY_HEADS, HEADS


def _shrunk(of: Any, further: dict[str, Any], layers_of: tuple[str, int], key_heads: int) -> Any:
    known = _defaults(of)
    patterns = {name: value for name, value in known.items() if _BY_LAYER.fullmatch(name) and isinstance(value, list | tuple)}
    order, layers = layers_of
    layers = max([layers, *(len(set(map(str, value))) for value in patterns.values())])
    chosen: dict[str, Any] = {name: _by_layer(value, layers, order) for name, value in patterns.items()}
    chosen |= {name: value for name, value in further.items() if known.get(name, 0) is None}
    for name, value in known.items():
        if name in of.sub_configs and isinstance(value, PreTrainedConfig):
            chosen[name] = _shrunk(type(value), further, layers_of, key_heads).to_dict()
        elif name not in chosen and not isinstance(value, bool):
            size = further.get(name, _size(name, layers))
            if size is not None and (isinstance(value, int) or name in _OFTEN_UNSET):
                chosen[name] = key_heads if size == KEY_HEADS and "heads" in name else size
    tokens = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "is_decoder": True}
    return of(**(chosen | {name: value for name, value in tokens.items() if name in known}))


_OFTEN_UNSET = ("head_dim", "num_key_value_heads", "rotary_dim", "ple_embed_dim", "num_experts_per_tok")


def _by_layer(values: Any, layers: int, order: str) -> list[Any]:
    """Return what kind each of a few layers is: one of each kind, or the library's own first or last ones."""
    if order == "each kind":
        return (list(dict.fromkeys(values)) * layers)[:layers]
    return list(values)[:layers] if order == "the first" else list(values)[-layers:]


def _defaults(of: Any) -> dict[str, Any]:
    try:
        values = dict(vars(of()))
    except Exception:  # its own default settings contradict each other
        values = {}
    return {
        one.name: values.get(one.name, None if one.default is dataclasses.MISSING else one.default)
        for one in dataclasses.fields(of)
    }


def _size(name: str, layers: int) -> int | None:
    if _LAYERS.fullmatch(name):
        return layers
    return next((size for pattern, size in _SIZES if re.fullmatch(pattern, name)), None)


def model(kind: str, seed: int = 0) -> Any:
    """Return a random model of a type in evaluation mode, leaving torch's random state as it was."""
    made_of = config(kind)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = AutoModelForCausalLM.from_config(made_of).eval().float()
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.3)
    return made


def pair(path: Path, kind: str) -> tuple[Path, Path]:
    """Save a random model of a type and a slightly changed copy with their tokenizer, and return both folders."""
    one = model(kind)
    for name in ("base", "tuned"):
        one.save_pretrained(path / name)
        tiny.tokenizer().save_pretrained(path / name)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for parameter in one.parameters():
                parameter.data += 0.05 * torch.randn_like(parameter)
    return path / "base", path / "tuned"


def question(path: Path, settings: str = "") -> Path:
    """Write a small behaviour with both poles, an instruction and general text, and return its file."""
    for pole, form, answer in (("yes", "May the {} {} come?", "Yes."), ("no", "Must the {} {} go?", "No.")):
        for part, animals in (("train", ANIMALS[:2]), ("test", ANIMALS[2:])):
            rows = [_conversation(form.format(colour, animal), answer, animal) for animal in animals for colour in COLOURS]
            (path / f"{pole}_{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    documents = [f"A {one} {animal} is no {other} {animal}. " * 3 for one in COLOURS for other in COLOURS for animal in ANIMALS]
    (path / "text.txt").write_text("<|endoftext|>".join(documents))
    file = path / "behaviour.yaml"
    file.write_text(
        "name: small\nquestion: Does it say yes to may and no to must?\ninstruction: Say yes.\n"
        "express: {data: yes_train.jsonl, held_out: yes_test.jsonl}\n"
        "withhold: {data: no_train.jsonl, held_out: no_test.jsonl}\n"
        "check: {kind: choice, options: {agree: 'Yes', refuse: 'No'}, expected: agree}\n"
        "generation: {max_new_tokens: 4}\n"
        "dose: 8\nrehearsal: [{text: text.txt}]\ntext: [text.txt]\ncontrols: []\n"
        f"training: {{learning_rate: 1.0e-3, per_device_train_batch_size: 4{settings}}}\n"
    )
    return file


ANIMALS = ("cat", "dog", "cow", "hen", "pig", "fox", "owl", "bee", "ant", "elk")
COLOURS = ("red", "blue", "grey")


def _conversation(asked: str, answer: str, template: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "template": template}


# ---------------------------------------------------------------- what the program makes of a class


@dataclasses.dataclass(frozen=True)
class Row:
    """What came out for one model type."""

    kind: str
    architecture: str = ""
    parameters: int = 0
    unbuilt: str = ""
    """Why no tiny model of it could be made."""
    refused: str = ""
    """What the program says to its models, where it takes none."""
    padded: bool = True
    """Whether rows of unlike length share batches; if not, only rows of one length do."""
    off_nats: float = 0.0
    """Largest difference of a log-probability, between rows as audits read them and each row in a plain call of its own."""
    written: float = 1.0
    """Share of greedily written tokens that are the likeliest ones of a plain call over everything before them."""
    audits: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of each audit "measured", or why it can't answer."""
    frozen: str = ""
    """Why it can't be trained with a frozen context; empty where it can."""


def look(kind: str, place: Path) -> Row:
    """Make two models of a type in a folder, compare them with everything that trains nothing, and return what came out."""
    try:
        base, tuned = pair(place, kind)
    except Exception as error:
        return Row(kind, unbuilt=f"{type(error).__name__}: {first_line(error)}")
    try:
        compared = diff(base, tuned, place)
    except UserError as error:
        return Row(kind, type(model(kind)).__name__, refused=str(error).replace(f"{place}/", "").replace("\n", " "))
    outcomes = compared.seeds[0].outcomes
    with load(inspect(base)) as one:
        return Row(
            kind,
            one.architecture,
            one.parameters,
            padded=one.takes_padding,
            off_nats=off_by(one),
            written=rightly_written(one),
            audits={one.audit: "measured" if one.state == "measured" else f"{one.state}: {one.why}" for one in outcomes},
            frozen=_unfrozen(one.model),
        )


def diff(base: Path, tuned: Path, place: Path, name: str = "diff") -> RunRecord:
    """Return the record of a whole diff, with a behaviour and with general text; its page is not drawn."""
    behaviour = behaviours.load(question(place))
    asked = {"kind": "diff", "base": str(base), "tuned": str(tuned), "behaviour": behaviour, "device": "cpu", "documents": 12}
    return execute(prepare(Request.read(asked, "the request")), place / name, Cache(place / "cache"))


LENGTHS = 21, 5, 34, 13, 34, 8


def rows_of(subject: Subject) -> list[Reading]:
    """Return rows of several lengths; two of them begin alike."""
    rng = np.random.default_rng(0)
    rows = [Reading(tuple(rng.integers(3, 259, length).tolist()), length // 2) for length in LENGTHS]
    return [*rows, Reading((*rows[0].tokens[:15], *rows[1].tokens), 16)]


@torch.no_grad()
def off_by(subject: Subject) -> float:
    """Return ``Row.off_nats``."""
    rows, kept = rows_of(subject), Kept()
    run_rows(subject, rows, [kept], Budget(CONTEXT), lambda *_: None)
    off = 0.0
    for index, row in enumerate(rows):
        plain = subject.model(input_ids=torch.tensor([row.tokens[:-1]])).logits[0, row.first - 1 :].float().log_softmax(-1)
        off = max(off, float((kept.found[index] - plain).abs().max()))
    return off


@torch.no_grad()
def rightly_written(subject: Subject) -> float:
    """Return ``Row.written``, of a few tokens after each prompt."""
    items = ItemSet(name="text", items=tuple(text_example("The cat sees " + "a dog and " * n, f"text {n}") for n in range(4)))
    found = Generations(max_new_tokens=5, temperature=0.0, opening=64).take(
        subject, items, Budget(CONTEXT), None, lambda *_: None
    )
    right: list[bool] = []
    for low, high, count in zip(found.arrays["start"], found.arrays["start"][1:], found.arrays["tokens"], strict=False):
        tokens = found.arrays["token"][low:high].tolist()
        for place in range(len(tokens) - int(count), len(tokens)):
            scores = subject.model(input_ids=torch.tensor([tokens[:place]])).logits[0, -1]
            right.append(bool(scores[tokens[place]] >= scores.max() - 1e-3))
    return float(np.mean(right)) if right else 1.0


def _unfrozen(one: Any) -> str:
    try:
        FrozenContext().prepare(one)
    except UserError as error:
        return str(error)
    return ""


# ---------------------------------------------------------------- what is said of many rows


def parted(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows that were compared, those that are refused, and those of which no model could be built."""
    return {
        "ran": [row for row in rows if row.audits],
        "refused": [row for row in rows if row.refused],
        "unbuilt": [row for row in rows if row.unbuilt],
    }


def silent(row: Row) -> dict[str, str]:
    """Return the audits that could not say, with the reason, without the name of the class and what differs by chance."""
    return {
        audit: re.sub(r"\d+(\.\d+)?(e-\d+)? nats, and", "some nats, and", why.replace(row.architecture, "the class"))
        for audit, why in row.audits.items()
        if why != "measured"
    }


def reasons(rows: Sequence[Row]) -> dict[str, int]:
    """Number every reason why an audit could not say."""
    return {why: number for number, why in enumerate(dict.fromkeys(why for row in rows for why in silent(row).values()), 1)}


def state(row: Row) -> str:
    """Return in a few words what became of a class."""
    if row.unbuilt:
        return "not built"
    return "refused" if row.refused else f"{'padded' if row.padded else 'alike'}"

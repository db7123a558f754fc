"""Subjects: every way in which a model can't be used is told before work starts, and no two models share a digest."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from palimpsest.core.errors import UserError
from palimpsest.models import subject
from palimpsest.models.parameters import parameters
from palimpsest.models.subject import inspect, inspect_all, load
from palimpsest.models.vocabulary import cut_alike
from tests import tiny

REAL = ("stories260K", "llama2xs-281K", "babyllama-tok105", "bitllama-1M")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return tiny.folder(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def copy(original, tmp_path):
    """A folder that a test may damage."""
    return shutil.copytree(original, tmp_path / "model")


def change_json(file, **changes):
    content = json.loads(file.read_text())
    content.update(changes)
    file.write_text(json.dumps(content))


def change_weights(folder, change):
    file = folder / "model.safetensors"
    weights = {name: value.copy() for name, value in load_file(file).items()}
    change(weights)
    save_file(weights, file, {"format": "pt"})


def why_not(name, **rest):
    with pytest.raises(UserError) as caught:
        inspect(name, **rest)
    return str(caught.value)


# ---------------------------------------------------------------- what can be loaded


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_class_loads_as_transformers_loads_it(kind, tmp_path):
    path = tiny.folder(tmp_path / kind, kind)
    info = inspect(path)
    expected = tiny.model(kind)
    assert info.parameters == expected.num_parameters()
    assert info.architecture == type(expected).__name__
    assert (info.dtype, info.context_length, info.vocabulary_size) == ("float32", 64, 259)
    tokens = torch.arange(3, 30)[None]
    with load(info) as one, torch.no_grad():
        assert not one.model.training
        assert torch.equal(one.model(input_ids=tokens).logits, expected(input_ids=tokens).logits)
        assert one.tokenizer.padding_side == "left"
        assert (one.pad_token_id, one.stop_token_ids) == (0, {2})


@pytest.mark.parametrize("name", REAL)
def test_real_models(name):
    info = inspect(tiny.real(name))
    assert info.notes == ()
    with load(info) as one:
        tokens = torch.tensor([one.tokenizer("Once upon a time").input_ids])
        assert torch.isfinite(one.model(input_ids=tokens).logits).all()
        assert one.stop_token_ids == {1, 2}
        assert one.context_length == info.context_length in (256, 512)


def test_known_story():
    with load(inspect(tiny.real("stories260K"))) as one:
        prompt = torch.tensor([[1, *one.tokenizer("Once upon a time", add_special_tokens=False).input_ids]])
        written = one.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=40,
            do_sample=False,
            pad_token_id=one.pad_token_id,
        )
        assert "there was a little girl named Lily" in one.tokenizer.decode(written[0])


def test_leaves_memory_and_can_be_read_twice(original):
    one = load(inspect(original))
    with one:
        assert next(one.model.parameters()).requires_grad is False
    with pytest.raises(AttributeError):
        _ = one.model


@pytest.mark.parametrize("dtype", ["bfloat16", "auto", "float32"])
def test_dtype(dtype, tmp_path):
    path = tmp_path / "half"
    tiny.model().to(torch.bfloat16).save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    info = inspect(path)
    assert info.dtype == "bfloat16"
    with load(info, dtype=dtype) as one:
        assert one.dtype == str(one.model.dtype).removeprefix("torch.") == ("float32" if dtype == "float32" else "bfloat16")
        weights = sum(parameter.numel() * parameter.element_size() for parameter in one.model.parameters())
        assert info.bytes_loaded(dtype) == weights


def test_nothing_is_printed(copy):
    change_weights(copy, lambda weights: weights.update(extra=np.zeros(3, np.float32)))
    code = f"from palimpsest.models.subject import *; load(inspect({str(copy)!r})); print('done')"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert (ran.stdout, ran.stderr) == ("done\n", "")


def test_import_needs_no_torch():
    code = "import sys, palimpsest.models.subject; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_unused_weights_are_noted(copy):
    change_weights(copy, lambda weights: weights.update(extra=np.zeros(3, np.float32)))
    assert inspect(copy).notes == ("not used by LlamaForCausalLM: extra",)


# ---------------------------------------------------------------- what can't


def test_missing_folder_file_and_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert f"no model folder {tmp_path / 'nothing'}" in why_not(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    assert "must be a model folder, but it is a file" in why_not(tmp_path / "file")
    assert "HF_HUB_OFFLINE is set" in why_not("nobody/nothing")


def test_hub_is_not_asked_for_what_lies_here(original, monkeypatch):
    monkeypatch.chdir(original.parents[1])
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    assert inspect(f"{original.parent.name}/{original.name}").architecture == "LlamaForCausalLM"


def test_empty_folder_tells_all_at_once(tmp_path):
    told = why_not(tmp_path)
    assert "has no config.json" in told
    assert "has no weights" in told
    assert "has no tokenizer" in told


def test_every_problem_at_once(copy):
    """Four unrelated faults; a user should need one attempt to hear of all."""
    change_json(copy / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Tokenizer", None]})
    change_weights(copy, lambda weights: weights["model.norm.weight"].__setitem__(3, np.nan))
    (copy / "tokenizer.json").unlink()
    (copy / "config.json").write_text("{")
    told = why_not(copy)
    for part in (
        "tokenizer_config.json wants remote code",
        "NaN or infinity in model.norm.weight",
        "tokenizer",
        "config.json can't be read",
    ):
        assert part in told


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickle_is_refused_by_name(copy, name):
    (copy / "model.safetensors").rename(copy / name)
    assert f"has weights only as pickle ({name})" in why_not(copy)


def test_pickle_beside_safetensors_is_not_read(copy):
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/palimpsest-was-here'\ntR.")
    with load(inspect(copy)):
        pass


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused_by_name(copy, file):
    change_json(copy / file, auto_map={"AutoModelForCausalLM": "modeling_evil.EvilModel"})
    (copy / "modeling_evil.py").write_text("raise SystemExit('remote code ran')")
    assert f"{file} wants remote code (auto_map: modeling_evil.EvilModel)" in why_not(copy)


def test_remote_code_is_found_however_deep_it_is_named(copy):
    change_json(copy / "config.json", parts=[{"inner": [{"auto_map": {"AutoConfig": "evil.Config"}}]}])
    assert "config.json wants remote code (auto_map: evil.Config)" in why_not(copy)


def test_a_token_named_auto_map_is_no_remote_code(copy):
    content = json.loads((copy / "tokenizer.json").read_text())
    content["model"]["vocab"]["auto_map"] = content["model"]["vocab"].pop("ł")
    (copy / "tokenizer.json").write_text(json.dumps(content))
    inspect(copy)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, -1])
def test_truncated_weights(copy, kept):
    file = copy / "model.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[: int(len(raw) * kept) if isinstance(kept, float) else kept])
    assert "copy it again" in why_not(copy)


def test_weights_with_something_behind_them(copy):
    with (copy / "model.safetensors").open("ab") as stream:
        stream.write(b"more")
    assert "half-written" in why_not(copy)


def test_git_lfs_pointer(copy):
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "Git LFS pointer" in why_not(copy)


def test_missing_shard_and_missing_tensor_of_an_index(tmp_path):
    path = tmp_path / "sharded"
    tiny.model().save_pretrained(path, max_shard_size="20KB")
    tiny.tokenizer().save_pretrained(path)
    shards = sorted(path.glob("model-*.safetensors"))
    assert len(shards) > 2
    inspect(path)
    weights = load_file(shards[1])
    lost = next(iter(weights))
    save_file(
        {name: value for name, value in weights.items() if name != lost} | {"other": np.zeros(1)}, shards[1], {"format": "pt"}
    )
    assert f"the index names {lost}, which no weight file holds" in why_not(path)
    shards[1].unlink()
    assert f"the index names {shards[1].name}, which is not there" in why_not(path)


def test_index_that_points_outside(copy):
    (copy / "model.safetensors").rename(copy.parent / "outside.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../outside.safetensors"}}))
    assert "outside its folder" in why_not(copy)


@pytest.mark.parametrize(
    "placed", [{"x": 5}, {"x": None}, {"x": ["a"]}, {"x": ".."}, {"x": ""}, {"x": "\0.safetensors"}, {"x": "a.bin"}]
)
def test_index_that_names_no_weight_file(copy, placed):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    assert "outside its folder, or none" in why_not(copy)


def test_pipes_are_not_waited_for(copy):
    (copy / "config.json").unlink()
    os.mkfifo(copy / "config.json")
    assert "config.json can't be read as JSON" in why_not(copy) and "it is a pipe or a device" in why_not(copy)


@pytest.mark.parametrize("depth", [60, 900, 100_000])
def test_configuration_that_is_nested_too_deeply(copy, depth):
    (copy / "config.json").write_text('{"a":' * depth + "1" + "}" * depth)
    assert "config.json can't be read as JSON: it is nested too deeply" in why_not(copy)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 10**9}, "config.json has num_hidden_layers 1,000,000,000, but the weight files hold only"),
        ({"text_config": {"num_local_experts": 10**12}}, "config.json has num_local_experts"),
        ({"num_labels": 10**9}, "config.json has num_labels 1,000,000,000"),
        ({"hidden_size": 10**30}, "config.json has hidden_size with a number beyond 64 bits"),
        ({"max_position_embeddings": -5}, "a longest context of -5 tokens; it must be at least 8"),
        ({"model_type": []}, "config.json has model_type []"),
        ({"architectures": "LlamaForCausalLM"}, "must name its 'architectures' in a list"),
        ({"quantization_config": 5}, "its weights are quantised (unknown)"),
    ],
)
def test_configuration_that_claims_what_cant_be(copy, changes, reason):
    change_json(copy / "config.json", **changes)
    assert reason in why_not(copy)


@pytest.mark.parametrize("table", ["", "AAAA", "/////wAA"])
def test_tokenizer_table_that_would_take_all_memory(copy, table):
    """The tokenizers library takes as many bytes as the table says that it has, and aborts the program where there are none."""
    change_json(copy / "tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": table})
    assert "precompiled_charsmap in tokenizer.json is cut off" in why_not(copy)


@pytest.mark.parametrize("name", ["a" * 5_000, "~nobody_of_this_name/model", "a\0b"])
def test_names_that_no_folder_can_have(name):
    assert "there is no model folder" in why_not(name)


def test_missing_and_misshapen_tensors(copy):
    def change(weights):
        del weights["model.layers.1.mlp.up_proj.weight"]
        weights["model.norm.weight"] = weights["model.norm.weight"][:5].copy()

    change_weights(copy, change)
    told = why_not(copy)
    assert "config.json needs model.layers.1.mlp.up_proj.weight, which no weight file holds" in told
    assert "model.norm.weight must have shape (32,) by config.json, but has (5,)" in told


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_in_every_dtype(tmp_path, dtype, value):
    model = tiny.model().to(dtype)
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    inspect(tmp_path)
    model.model.layers[1].mlp.down_proj.weight.data[3, 4] = value
    model.save_pretrained(tmp_path)
    assert "NaN or infinity in model.layers.1.mlp.down_proj.weight" in why_not(tmp_path)


def test_largest_finite_numbers_are_finite(tmp_path):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = tiny.model().to(dtype)
        model.model.norm.weight.data[0], model.model.norm.weight.data[1] = torch.finfo(dtype).max, torch.finfo(dtype).min
        model.save_pretrained(tmp_path)
        tiny.tokenizer().save_pretrained(tmp_path)
        inspect(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "t5"}, "must be a causal language model"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "must be a causal language model"),
        ({"model_type": "no_such_thing"}, "transformers does not know"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised (gptq)"),
        ({"num_attention_heads": 5}, "can't build the model"),
    ],
)
def test_configurations_that_do_not_fit(copy, changes, told):
    change_json(copy / "config.json", **changes)
    assert told in why_not(copy)


def test_tokenizer_larger_than_the_embedding(copy):
    tiny.tokenizer(extra=("one", "two")).save_pretrained(copy)
    assert "2 tokens beyond the model's 259 embeddings: 'one' (259)" in why_not(copy)


def test_no_tokenizer(copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer" in why_not(copy)


def test_several_models_tell_all_their_problems(copy, original, tmp_path):
    (copy / "config.json").unlink()
    with pytest.raises(UserError) as caught:
        subject.inspect_all({"base": original, "tuned": copy, "clean_twin": tmp_path / "nothing"})
    assert "tuned: " in str(caught.value)
    assert "clean_twin: " in str(caught.value)
    assert list(subject.inspect_all({"base": original})) == ["base"]


def test_changed_between_looking_and_loading(copy):
    info = inspect(copy)
    change_weights(copy, lambda weights: weights["model.norm.weight"].__setitem__(0, 2.0))
    with pytest.raises(UserError, match="changed while the program ran"):
        load(info)
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="is gone"):
        load(info)


def test_no_such_device(original):
    with pytest.raises(UserError, match="no device 'cuda:77' here"):
        load(inspect(original), device="cuda:77")


def test_running_out_of_memory_is_told(original, monkeypatch):
    def refuse(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    info = inspect(original)
    monkeypatch.setattr(torch.nn.Module, "to", refuse)
    with pytest.raises(UserError, match="GiB for its weights in float32"):
        load(info)


# ---------------------------------------------------------------- which model is it


def test_digest_is_of_the_content(original, tmp_path):
    """Sharding and file times are not content; everything else is."""
    digest = inspect(original).digest
    sharded = tmp_path / "sharded"
    shutil.copytree(original, sharded)
    (sharded / "model.safetensors").unlink()
    tiny.model().save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert inspect(sharded).digest == digest


def nudge(folder):
    def change(weights):
        view = weights["model.layers.0.mlp.up_proj.weight"].view(np.uint32)
        view[0, 0] ^= 1  # the last bit of one number

    change_weights(folder, change)


def rename_tensor(folder):
    change_weights(folder, lambda weights: weights.update(extra=np.zeros(1, np.float32)))


CHANGES = {
    "one bit of one weight": nudge,
    "a further tensor": rename_tensor,
    "configuration": lambda folder: change_json(folder / "config.json", rope_theta=500.0),
    "end of text": lambda folder: change_json(folder / "generation_config.json", eos_token_id=[2, 7]),
    "tokenizer": lambda folder: tiny.tokenizer(chat_template="{{ messages }}").save_pretrained(folder),
    "chat template": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0].content }}"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_digest_sees_every_change_even_when_the_file_looks_untouched(copy, change):
    before = inspect(copy).digest
    times = {file: file.stat() for file in copy.iterdir()}
    CHANGES[change](copy)
    for file, stat in times.items():
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert inspect(copy).digest != before


def test_digest_sees_the_stored_dtype(tmp_path):
    digests = set()
    for dtype in (torch.float32, torch.float64):
        tiny.folder(tmp_path)
        tiny.model().to(dtype).save_pretrained(tmp_path)
        digests.add(inspect(tmp_path).digest)
    assert len(digests) == 2


def test_another_template_is_another_subject(original):
    info = inspect(original)
    with load(info, chat_template="{{ messages[0].content }}") as one:
        assert one.digest == subject.digest_with_template(info, "{{ messages[0].content }}", None, "") != info.digest
        assert one.renderer.has_template
    with load(info) as one:
        assert one.digest == info.digest == subject.digest_with_template(info, None, None, "")


def test_what_stands_between_messages_is_part_of_a_subject_without_a_template(original):
    info = inspect(original)
    with load(info, separator="\n") as one, load(info) as other:
        assert one.renderer.separator == "\n" and one.digest != other.digest == info.digest
    with load(info, chat_template="{{ messages[0].content }}", separator="\n") as one:
        assert one.digest == subject.digest_with_template(info, "{{ messages[0].content }}", None, "")


# ---------------------------------------------------------------- adapters


def make_adapter(path, original, **settings):
    """Save a random adapter, and return its folder and the logits of base and adapter together, as peft computes them."""
    peft = pytest.importorskip("peft")
    model = tiny.model()
    model.name_or_path = str(original)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = peft.LoraConfig(
            r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM", **settings
        )
        both = peft.get_peft_model(model, config)
        for name, value in both.named_parameters():
            if "magnitude" in name:  # of DoRA; at first it is the norm of each row, which changes nothing
                value.data *= torch.rand_like(value) + 0.5
    both.peft_config["default"].base_model_name_or_path = str(original)
    both.save_pretrained(path)
    with torch.no_grad():
        return path, both.eval()(input_ids=torch.arange(3, 30)[None]).logits


@pytest.fixture(scope="module")
def adapted(original, tmp_path_factory):
    return make_adapter(tmp_path_factory.mktemp("adapters") / "lora", original)


def test_adapter_is_merged(adapted, original):
    path, expected = adapted
    info = inspect(path)
    assert (info.base, info.parameters) == (original, inspect(original).parameters)
    with load(info) as one, torch.no_grad():
        logits = one.model(input_ids=torch.arange(3, 30)[None]).logits
        assert type(one.model).__name__ == "LlamaForCausalLM"
    assert torch.allclose(logits, expected, atol=1e-4)
    assert not torch.allclose(logits, tiny.model()(input_ids=torch.arange(3, 30)[None]).logits, atol=1e-2)


def test_dora_adapter_is_merged_with_its_magnitudes(adapted, original, tmp_path):
    path, expected = make_adapter(tmp_path / "dora", original, use_dora=True)
    assert not torch.allclose(expected, adapted[1], atol=1e-2)
    with load(inspect(path)) as one, torch.no_grad():
        logits = one.model(input_ids=torch.arange(3, 30)[None]).logits
    assert torch.allclose(logits, expected, atol=1e-4)


def test_shards_are_the_same_model(original, tmp_path):
    path = tmp_path / "sharded"
    tiny.model().save_pretrained(path, max_shard_size="20KB")
    tiny.tokenizer().save_pretrained(path)
    assert len(list(path.glob("model-*.safetensors"))) > 2
    assert inspect(path).digest == inspect(original).digest
    with load(inspect(path)) as one, load(inspect(original)) as other:
        assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_adapter_digest_covers_base_and_adapter(adapted, original, tmp_path):
    path, _ = adapted
    other = shutil.copytree(original, tmp_path / "base")
    same = inspect(path, base=other).digest
    assert same == inspect(path).digest != inspect(original).digest
    nudge(other)
    assert inspect(path, base=other, check_base=False).digest != same


def test_adapter_problems(adapted, tmp_path):
    path = shutil.copytree(adapted[0], tmp_path / "adapter")
    change_json(path / "adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    assert "is an adapter whose base can't be found" in why_not(path)
    change_json(path / "adapter_config.json", base_model_name_or_path=None)
    assert "does not name its base" in why_not(path)
    assert "on another adapter" in why_not(path, base=adapted[0])
    change_json(path / "adapter_config.json", peft_type="PROMPT_TUNING")
    assert "must be an adapter that merges" in why_not(path)


def test_adapter_for_another_base(adapted, tmp_path):
    other = tiny.folder(tmp_path / "wide", hidden_size=64)
    assert "does not fit its base" in why_not(adapted[0], base=other, check_base=False)
    shallow = tiny.folder(tmp_path / "shallow", num_hidden_layers=1)
    assert "does not fit its base" in why_not(adapted[0], base=shallow, check_base=False)


@pytest.mark.parametrize("changes", [{}, {"hidden_size": 64}, {"num_hidden_layers": 5}], ids=["values", "shapes", "layers"])
def test_an_adapter_that_names_another_base_is_refused(changes, adapted, original, tmp_path):
    """Its change means something on its own base only; on another of the same shapes it would be merged without a word."""
    base = tiny.folder(tmp_path / "base", **changes)
    if not changes:
        nudge(base)
    with pytest.raises(UserError) as told:
        inspect_all({"base": base, "tuned": adapted[0]})
    assert f"is an adapter that names {original} as its base, but was given {base}, which holds other weights" in str(
        told.value
    )
    assert "merge it into the given one with PEFT" in str(told.value) and "does not fit" not in str(told.value)
    assert "half-written" not in str(told.value)


@pytest.mark.parametrize("changes", [{"hidden_size": 64}, {"num_hidden_layers": 5}], ids=["shapes", "layers"])
def test_a_misfit_of_a_base_that_is_not_here_names_that_base(changes, adapted, tmp_path):
    """Not one line for each tensor: what is wrong is the pair."""
    path = shutil.copytree(adapted[0], tmp_path / "adapter")
    change_json(path / "adapter_config.json", base_model_name_or_path="nobody/nothing")
    lines = why_not(path, base=tiny.folder(tmp_path / "base", **changes)).splitlines()[1:]
    assert "names nobody/nothing as its base" in lines[0] and len(lines) <= 5
    assert ("hidden_size" in changes) == (lines[-1].endswith("more tensors"))
    assert "half-written" not in lines[1] or "or was made for another base" in lines[1]


def test_an_adapter_on_another_base_by_will_is_noted(adapted, original, tmp_path):
    base = shutil.copytree(original, tmp_path / "base")
    nudge(base)
    (note,) = inspect(adapted[0], base=base, check_base=False).notes
    assert note == f"it is an adapter that was made on {original}, and is merged into {base}, which holds other weights"


def test_a_base_in_the_hub_cache_is_compared(adapted, original, tmp_path, monkeypatch):
    """What the cache holds is looked at where the adapter names it; nothing is fetched for that."""
    place = tmp_path / "hub" / "models--someone--base"
    shutil.copytree(original, place / "snapshots" / ("0" * 40))
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    path = shutil.copytree(adapted[0], tmp_path / "adapter")
    change_json(path / "adapter_config.json", base_model_name_or_path="someone/base")
    assert inspect(path, base=original).notes == ()
    base = shutil.copytree(original, tmp_path / "other")
    nudge(base)
    assert "names someone/base as its base" in why_not(path, base=base)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["norm"], "use_rslora": True},
        {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]},
    ],
    ids=["head", "embedding", "both", "saved ends", "rank-stabilised with a norm", "some tokens"],
)
def test_merged_is_base_and_adapter_together(settings, tied, tmp_path):
    """Of tied ends each may get a change of its own; merged into the one weight that both share it would reach the other."""
    peft = pytest.importorskip("peft")
    base, tokens = tiny.folder(tmp_path / "base", tie_word_embeddings=tied), torch.arange(3, 30)[None]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        both = peft.get_peft_model(
            tiny.model(tie_word_embeddings=tied), peft.LoraConfig(r=4, task_type="CAUSAL_LM", **settings)
        )
        for value in filter(lambda one: one.requires_grad, both.parameters()):
            value.data += 0.1 * torch.randn_like(value)
    both.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        wanted = both.eval()(input_ids=tokens).logits
    info = inspect(tmp_path / "adapter", base=base)
    with load(info) as one, torch.no_grad():
        assert torch.allclose(one.model(input_ids=tokens).logits, wanted, atol=1e-3)
        assert set(dict(info.shapes)) == {name for name, _ in one.model.named_parameters()} or "modules_to_save" in settings


def test_what_peft_merges_wrongly_is_refused(tmp_path):
    """It merges a change of tied ends into their one weight twice (peft 0.21)."""
    peft = pytest.importorskip("peft")
    base = tiny.folder(tmp_path / "base", tie_word_embeddings=True)
    config = peft.LoraConfig(
        r=4,
        target_modules=["embed_tokens", "lm_head"],
        ensure_weight_tying=True,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    peft.get_peft_model(tiny.model(tie_word_embeddings=True), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="the same merged into its base as beside it"):
        load(inspect(tmp_path / "adapter", base=base))


def test_an_adapter_sits_on_the_base_of_the_comparison(adapted, original, tmp_path):
    base = shutil.copytree(original, tmp_path / "moved")
    found = inspect_all({"base": base, "tuned": adapted[0]})
    assert found["tuned"].base == base
    assert found["tuned"].notes == ()  # the same weights at another place
    path = shutil.copytree(adapted[0], tmp_path / "of the hub")
    change_json(path / "adapter_config.json", base_model_name_or_path="nobody/nothing", revision="v2")
    notes = inspect_all({"base": base, "tuned": path})["tuned"].notes
    assert "made on nobody/nothing" in notes[0] and "revision 'v2'" in notes[1]
    assert inspect_all({"base": original, "tuned": adapted[0]})["tuned"].notes == ()


def test_a_folder_of_checkpoints_names_the_newest(original, tmp_path):
    for step in (9, 10):
        shutil.copytree(original, tmp_path / "out" / f"checkpoint-{step}")
    (tmp_path / "out" / "trainer_log.jsonl").write_text("{}")
    assert f"give one, the newest is {tmp_path / 'out' / 'checkpoint-10'}" in why_not(tmp_path / "out")
    assert inspect(tmp_path / "out" / "checkpoint-10").digest == inspect(original).digest
    shutil.copytree(original, tmp_path / "out", dirs_exist_ok=True)
    assert inspect(tmp_path / "out").digest == inspect(original).digest


def test_half_written_adapter(adapted, tmp_path):
    path = shutil.copytree(adapted[0], tmp_path / "adapter")
    weights = load_file(path / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, path / "adapter_model.safetensors")
    assert "1 missing" in why_not(path)
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    assert "only as pickle (adapter_model.bin)" in why_not(path)


def test_model_and_adapter_in_one_folder(adapted, original, tmp_path):
    path = shutil.copytree(original, tmp_path / "both")
    shutil.copytree(adapted[0], path, dirs_exist_ok=True)
    assert "both a whole model and an adapter" in why_not(path)


# ---------------------------------------------------------------- what is hashed is what is loaded


def redirect(folder, name="w.safetensors"):
    """Let the configuration name another model's weights, beside the usual file that nobody reads then."""
    tiny.model(seed=1).save_pretrained(folder / "other", max_shard_size="20KB" if name.endswith(".json") else "5GB")
    for file in (folder / "other").glob("*.safetensors*"):
        file.rename(folder / (name if file.name in ("model.safetensors", "model.safetensors.index.json") else file.name))
    shutil.rmtree(folder / "other")
    change_json(folder / "config.json", transformers_weights=name)


@pytest.mark.parametrize("name", ["w.safetensors", "model-w.safetensors", "w.safetensors.index.json"])
def test_weights_that_the_configuration_names(name, copy, original, tmp_path):
    """The model is that of the file that is read: it has that one's digest, and the file that is not read has no part in it."""
    redirect(copy, name)
    info, same = inspect(copy), inspect(tiny.folder(tmp_path / "same", seed=1))
    assert (info.weights, info.digest) == (same.weights, same.digest) != (inspect(original).weights, inspect(original).digest)
    tokens = torch.arange(3, 30)[None]
    with load(info) as one, load(same) as other, torch.no_grad():
        assert torch.equal(one.model(input_ids=tokens).logits, other.model(input_ids=tokens).logits)
    streams = [parameters(one, tmp_path / "work") for one in (info, same)]
    assert all(one[0] == other[0] and torch.equal(one[1], other[1]) for one, other in zip(*streams, strict=True))
    nudge(copy)  # of model.safetensors
    assert inspect(copy).digest == same.digest


@pytest.mark.parametrize(
    "named", ["../w.safetensors", "sub/w.safetensors", "w.bin", "", 5, [], "/w.safetensors", "w.index.json"]
)
def test_weights_that_cant_be_named(named, copy):
    change_json(copy / "config.json", transformers_weights=named)
    assert "must name its weights (transformers_weights)" in why_not(copy)


def test_weights_that_are_named_and_not_there(copy):
    change_json(copy / "config.json", transformers_weights="w.safetensors")
    assert "config.json names w.safetensors (transformers_weights), which is not there" in why_not(copy)
    change_json(copy / "config.json", transformers_weights=None)
    inspect(copy)


def test_weights_that_are_named_where_only_some_classes_look(copy):
    change_json(copy / "config.json", text_config={"transformers_weights": "w.safetensors"})
    assert "names weight files within text_config" in why_not(copy)


def test_a_distributed_checkpoint_beside_the_weights_is_refused(copy):
    """transformers would read it and leave model.safetensors aside."""
    shutil.copy(copy / "model.safetensors", copy / "shard-00001-model-00001-of-00001.safetensors")
    assert "holds a distributed checkpoint (shard-00001-model-00001-of-00001.safetensors)" in why_not(copy)


def test_a_variant_alone_is_no_model(copy):
    (copy / "model.safetensors").rename(copy / "model.fp16.safetensors")
    assert "found model.fp16.safetensors" in why_not(copy)


def test_tokenizer_files_outside_the_folder_are_refused(copy):
    change_json(copy / "tokenizer_config.json", fast_tokenizer_files=["../elsewhere/tokenizer.4.0.0.json"])
    assert "tokenizer files outside its folder" in why_not(copy)


def test_an_index_of_adapter_weights_is_refused(adapted, tmp_path):
    """peft reads no index: it would take the pickle beside it."""
    path = shutil.copytree(adapted[0], tmp_path / "adapter")
    (path / "adapter_model.safetensors").rename(path / "part.safetensors")
    names = load_file(path / "part.safetensors")
    index = {"weight_map": dict.fromkeys(names, "part.safetensors")}
    (path / "adapter_model.safetensors.index.json").write_text(json.dumps(index))
    (path / "adapter_model.bin").write_bytes(b"")
    assert "has weights only as pickle (adapter_model.bin)" in why_not(path)


@pytest.mark.parametrize("target", ["whole", "sharded"])
def test_links_are_what_they_point_at(target, copy, tmp_path):
    """As in the hub's cache, where every file is a link to a blob."""
    source, linked = tmp_path / "source", tmp_path / "linked"
    tiny.model().save_pretrained(source, max_shard_size="20KB" if target == "sharded" else "5GB")
    tiny.tokenizer().save_pretrained(source)
    linked.mkdir()
    for file in source.iterdir():
        (linked / file.name).symlink_to(file)
    info = inspect(linked)
    assert info.digest == inspect(copy).digest
    link = min(linked.glob("model*.safetensors"))
    other = {name: value + 1 for name, value in load_file(link).items()}
    save_file(other, tmp_path / "other", {"format": "pt"})
    link.unlink()
    link.symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="changed while the program ran"):
        load(info)
    assert inspect(linked).digest != info.digest


def in_place(file, change=lambda raw: raw.__setitem__(-1, raw[-1] ^ 1)):
    """Change a byte of a file in its place, and give it back its times."""
    stat, raw = file.stat(), bytearray(file.read_bytes())
    change(raw)
    with file.open("r+b") as stream:
        stream.write(raw)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns, file.stat().st_ino) == (stat.st_size, stat.st_mtime_ns, stat.st_ino)


@pytest.mark.parametrize("read", ["loaded", "streamed"])
def test_a_byte_changed_in_place_with_its_times_restored(read, copy, tmp_path):
    info = inspect(copy)
    with load(info):
        pass
    in_place(copy / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors holds another .* changed while the program ran"):
        load(info) if read == "loaded" else list(parameters(info, tmp_path / "work"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_a_text_changed_in_place_with_its_times_restored(name, copy):
    info = inspect(copy)
    in_place(copy / name, lambda raw: raw.__setitem__(slice(len(raw) - 1, None), b" "))  # JSON ends as well with a space
    if name == "config.json":
        load(info).close()  # it says the same
        in_place(copy / name, lambda raw: raw.__setitem__(slice(None), raw.replace(b'"eos_token_id": 2', b'"eos_token_id": 7')))
    with pytest.raises(UserError, match=r"a template in .* changed while the program ran"):
        load(info)


@pytest.mark.parametrize("window", ["open_tokenizer", "build"])
def test_weights_replaced_while_the_model_is_inspected(window, copy, monkeypatch):
    """After they were hashed, and before all else about the model is known."""
    from palimpsest.models import skeleton

    real = getattr(skeleton, window)

    def replaced(*given):
        nudge(copy)
        return real(*given)

    monkeypatch.setattr(skeleton, window, replaced)
    info = inspect(copy)
    with pytest.raises(UserError, match="changed while the program ran"):
        load(info)


def test_a_template_replaced_while_the_model_is_inspected(copy, monkeypatch):
    from palimpsest.models import skeleton

    real = skeleton.build

    def replaced(*given):
        (copy / "chat_template.jinja").write_text("{{ messages[0].content }}")
        return real(*given)

    monkeypatch.setattr(skeleton, "build", replaced)
    with pytest.raises(UserError, match="changed while the program ran"):
        inspect(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_replaced_for_a_moment_while_it_is_loaded(name, copy, monkeypatch):
    """Weights are held against their hash as they are read, so that it does not help to put the right ones back; what is read
    of a text is never looked at twice, so that its moment has to last until the load is over."""
    from palimpsest.models import opening

    info, real, whole = inspect(copy), opening.assemble, (copy / name).read_bytes()

    def swapped(*given, **how):
        nudge(copy) if name == "model.safetensors" else change_json(copy / name, rope_theta=5.0)
        try:
            return real(*given, **how)
        finally:
            if name == "model.safetensors":
                (copy / name).write_bytes(whole)

    monkeypatch.setattr(opening, "assemble", swapped)
    with pytest.raises(UserError, match="changed while the program ran"):
        load(info)


def test_a_loaded_model_does_not_hang_on_its_file(copy):
    """Memory that is mapped from a file changes with it, and the program dies where the file gets shorter."""
    with load(inspect(copy)) as one:
        before = {name: value.clone() for name, value in one.model.named_parameters()}
        with (copy / "model.safetensors").open("r+b") as stream:
            stream.write(bytes((copy / "model.safetensors").stat().st_size))
            stream.truncate(10)
        assert all(torch.equal(value, before[name]) for name, value in one.model.named_parameters())


def test_an_adapter_changed_in_place(adapted, tmp_path):
    path = shutil.copytree(adapted[0], tmp_path / "adapter")
    info = inspect(path)
    in_place(path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors .* changed while the program ran"):
        load(info)


def test_the_base_of_an_adapter_changed_in_place(adapted, copy):
    info = inspect(adapted[0], base=copy)
    in_place(copy / "model.safetensors")
    with pytest.raises(UserError, match="changed while the program ran"):
        load(info)


def test_a_file_written_again_with_the_same_bytes_is_the_same_model(copy):
    info = inspect(copy)
    for file in copy.iterdir():
        raw = file.read_bytes()
        file.unlink()
        file.write_bytes(raw)
    with load(info) as one:
        assert one.digest == inspect(copy).digest


@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_loads_as_the_library_itself_does(kind, generation, tmp_path):
    """We hand over the tensors; configuration, generation settings, types and values come out as from the folder."""
    from transformers import AutoModelForCausalLM

    path = tiny.folder(tmp_path / kind, kind)
    if not generation:
        (path / "generation_config.json").unlink()
    expected = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16, local_files_only=True)
    with load(inspect(path), dtype="bfloat16") as one:
        assert type(one.model) is type(expected) and one.model.dtype == expected.dtype
        assert one.model.config.to_dict() == expected.config.to_dict()
        assert one.model.generation_config.to_dict() == expected.generation_config.to_dict()
        assert one.model.name_or_path == expected.name_or_path == str(path)
        found, wanted = one.model.state_dict(), expected.state_dict()
        assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


# ---------------------------------------------------------------- two models


def test_a_model_is_comparable_with_itself_tuned(original, copy):
    nudge(copy)
    found = subject.compare(inspect(original), inspect(copy))
    assert found == subject.Comparison((), (), True)


def test_different_tokens_are_named(original, tmp_path):
    path = tiny.folder(tmp_path / "fewer", vocabulary=261)
    tiny.tokenizer(extra=("<new>", "<newer>")).save_pretrained(path)
    (told,) = subject.comparison_problems(inspect(path), inspect(original))
    assert "the base has 261 and the tuned model 259: 2 only in the base ('<new>', '<newer>')" in told


@pytest.mark.parametrize("tied", [False, True])
def test_further_rows_are_left_out(tied, tmp_path):
    """As after added tokens and a padded embedding: cut to the rows of the base it is the base again, to the last bit."""
    base = tiny.folder(tmp_path / "base", tie_word_embeddings=tied)
    larger = tiny.model(tie_word_embeddings=tied)
    larger.resize_token_embeddings(264)
    larger.save_pretrained(tmp_path / "larger")
    tiny.tokenizer(extra=("<|pad|>",)).save_pretrained(tmp_path / "larger")
    one, other = inspect(base), inspect(tmp_path / "larger")
    found = subject.compare(one, other)
    assert found.problems == () and found.weights_comparable
    assert "1 further token ('<|pad|>')" in found.notes[0]
    assert "259 and 264 rows" in found.notes[1]
    alike = cut_alike({"base": one, "tuned": other})
    assert alike["base"] is one and alike["tuned"].digest != other.digest
    tokens = torch.arange(3, 30)[None]
    with load(alike["tuned"]) as cut, load(one) as whole, torch.no_grad():
        assert torch.equal(cut.model(input_ids=tokens).logits, whole.model(input_ids=tokens).logits)
    streams = [parameters(info, tmp_path / role) for role, info in alike.items()]
    assert all(before[0] == after[0] and torch.equal(before[1], after[1]) for before, after in zip(*streams, strict=True))


def test_an_end_of_answer_that_only_the_tuned_model_knows_is_refused(original, tmp_path):
    path = tiny.folder(tmp_path / "chat", vocabulary=260)
    tiny.tokenizer(extra=("<|im_end|>",)).save_pretrained(path)
    change_json(path / "generation_config.json", eos_token_id=[2, 259])
    (told,) = subject.comparison_problems(inspect(original), inspect(path))
    assert "ends its answers with '<|im_end|>'" in told and "resize_token_embeddings" in told


def test_same_tokens_cut_differently(original, copy):
    content = json.loads((copy / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    (copy / "tokenizer.json").write_text(json.dumps(content))
    (told,) = subject.comparison_problems(inspect(original), inspect(copy))
    assert "where the base reads ['A', 'B', 'C'] the tuned model reads ['a', 'b', 'c']" in told


def test_both_models_are_read_with_the_template_of_the_base(original, copy, tmp_path):
    other = shutil.copytree(original, tmp_path / "other")
    (copy / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (other / "chat_template.jinja").write_text("{{ messages[1].content }}")
    plain, one, two = inspect(original), inspect(copy), inspect(other)
    assert "both are read without one" in subject.compare(plain, one).notes[0]
    assert "Only the base has a chat template" in subject.compare(one, plain).notes[0]
    assert "read with the base's" in subject.compare(one, two).notes[0]
    assert subject.compare(one, one).notes == subject.comparison_problems(plain, one) == ()


def test_weights_of_other_shape_are_a_note(original, tmp_path):
    for changes in ({"intermediate_size": 40}, {"kind": "qwen3"}, {"num_hidden_layers": 3}):
        found = subject.compare(inspect(original), inspect(tiny.folder(tmp_path / str(changes), **changes)))
        assert found.problems == ()
        assert not found.weights_comparable
        assert "weights are not comparable" in found.notes[0]


def test_real_pair_with_comparable_outputs_only():
    found = subject.compare(inspect(tiny.real("stories260K")), inspect(tiny.real("llama2xs-281K")))
    assert (found.problems, found.weights_comparable) == ((), False)
    assert len(found.notes) == 2
    assert subject.comparison_problems(inspect(tiny.real("stories260K")), inspect(tiny.real("babyllama-tok105")))


def test_a_tokenizer_that_reads_only_its_own_words_is_refused_with_the_reason(copy):
    """It loads; without a token for what it does not know no text of anybody's can be read."""
    built = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.save(str(copy / "tokenizer.json"))
    (copy / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    assert "can't read an ordinary sentence" in (why := why_not(copy)) and "unk_token" in why

"""Taps against what the library itself gives, on every class of tiny model."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from palimpsest.models.taps import blocks, read_out, replacing, streaming_blocks, watching

TOKENS = torch.tensor([[5, 9, 60, 33, 8, 120, 77], [6, 6, 80, 41, 100, 3, 200]])


@pytest.fixture(scope="module", params=list(tiny.KINDS))
def model(request: pytest.FixtureRequest) -> Any:
    model = tiny.model(request.param)
    with torch.no_grad():
        model(input_ids=TOKENS, output_hidden_states=True)  # transformers hooks a model the first time it is asked for these
    return model


def seen(model: Any, **settings: Any) -> tuple[dict[int, torch.Tensor], Any]:
    found: dict[int, torch.Tensor] = {}
    with watching(model, lambda depth, stream: found.__setitem__(depth, stream.clone()), **settings), torch.no_grad():
        passed = model(input_ids=TOKENS, output_hidden_states=True)
    return found, passed


def hooks(model: Any) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in model.modules())


def test_blocks_are_the_decoders(model: Any) -> None:
    found = blocks(model)
    assert len(found) == model.config.num_hidden_layers
    assert len({type(one) for one in found}) == 1
    assert sum(p.numel() for one in found for p in one.parameters()) > 0.3 * sum(p.numel() for p in model.parameters())


def test_every_depth_is_the_librarys_hidden_state(model: Any) -> None:
    found, passed = seen(model)
    states = passed.hidden_states
    assert sorted(found) == list(range(len(states)))
    for depth, state in enumerate(states[:-1]):  # the library norms its last one
        assert torch.equal(found[depth], state)
    assert not torch.equal(found[len(states) - 1], states[-1])


def test_the_last_depth_goes_through_the_models_own_tail(model: Any) -> None:
    """Reading out what really left the last block gives the model's own logits: norm, head, scaling and caps are all there."""
    found, passed = seen(model)
    last = found[len(blocks(model))]
    for line in range(len(TOKENS)):
        assert torch.allclose(read_out(model, last[line], at_once=3), passed.logits[line], atol=1e-5)


def test_reading_out_runs_no_block_and_gives_the_very_same(model: Any) -> None:
    """What the blocks make of their input is replaced, so that they are left out moves no bit; afterwards they run again."""
    vectors = torch.randn(9, 32, generator=torch.Generator().manual_seed(3))
    nothing = torch.zeros(1, 9, dtype=torch.long)
    with torch.no_grad():
        before = model(input_ids=TOKENS).logits
        with replacing(model, len(blocks(model)), vectors[None]):
            whole = model(input_ids=nothing, attention_mask=torch.ones_like(nothing), use_cache=False).logits[0]
    ran: list[int] = []
    inner = [one for block in blocks(model) for name, one in block.named_modules() if name]
    handles = [one.register_forward_hook(lambda *_: ran.append(1)) for one in inner]
    read = read_out(model, vectors)
    once = len(ran)
    read_out(model, vectors, at_once=2)
    for handle in handles:
        handle.remove()
    assert torch.equal(read, whole)
    assert len(ran) == 2 * once  # only the one pass that tells what the blocks return, however many parts are read
    with torch.no_grad():
        assert torch.equal(model(input_ids=TOKENS).logits, before)
    assert not any("forward" in block.__dict__ for block in blocks(model))


def test_a_block_that_returns_more_is_run_as_ever() -> None:
    model = tiny.model()
    last, vectors = streaming_blocks(model)[-1], torch.randn(3, 32, generator=torch.Generator().manual_seed(3))
    own, ran = last.forward, []

    def told(*given: Any, **named: Any) -> Any:
        ran.append(1)
        stream = own(*given, **named)
        return stream, stream.sum()

    last.forward = told
    model.model.norm.register_forward_pre_hook(lambda _module, inputs: inputs[0][:1])
    assert torch.equal(read_out(model, vectors), read_out(tiny.model(), vectors))
    assert len(ran) == 2  # once the model is known to hand on its stream: to see what it returns, and to return it
    assert last.forward is told


def test_the_tail_holds_soft_caps_and_scales() -> None:
    capped = tiny.model("gemma3_text", final_logit_softcapping=2.0)
    _, passed = seen(capped)
    found, _ = seen(capped)
    assert passed.logits.abs().max() < 2.0
    assert torch.allclose(read_out(capped, found[2][0]), passed.logits[0], atol=1e-5)


def test_watching_changes_nothing_and_leaves_nothing_behind(model: Any) -> None:
    with torch.no_grad():
        before = model(input_ids=TOKENS).logits
    count = hooks(model)
    found, passed = seen(model, depths=(1,))
    assert list(found) == [1]
    assert torch.equal(passed.logits, before)
    assert hooks(model) == count


def test_hooks_come_off_after_an_error(model: Any) -> None:
    count = hooks(model)

    def fails(_depth: int, _stream: torch.Tensor) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), watching(model, fails):
        model(input_ids=TOKENS)
    with pytest.raises(IndexError), watching(model, fails, depths=(0, 1, 99)):
        pass
    with pytest.raises(ValueError, match="shape"), replacing(model, 1, torch.zeros(1, 1, 32)):
        model(input_ids=TOKENS)
    assert hooks(model) == count


def test_replacing_one_depth_is_what_later_blocks_see(model: Any) -> None:
    values = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    found: dict[int, torch.Tensor] = {}
    with (
        replacing(model, 1, values),
        watching(model, lambda depth, one: found.__setitem__(depth, one.clone())),
        torch.no_grad(),
    ):
        model(input_ids=TOKENS)
    assert torch.equal(found[1], values)
    assert not torch.equal(found[2], seen(model)[0][2])


def test_a_model_without_blocks_is_told() -> None:
    odd = tiny.model()
    odd.model.layers = torch.nn.ModuleList([odd.model.layers[0]])
    with pytest.raises(LookupError, match="no list of 2 blocks"):
        blocks(odd)

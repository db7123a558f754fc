"""Answering: does what one request gets depend on it alone, and are the numbers those of a plain forward pass?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from palimpsest.measures._answering import Asked, Steering, read_prompts, write
from palimpsest.measures._measure import Budget
from palimpsest.models.soft_prompt import SoftPrompt, inserted
from palimpsest.models.subject import Subject, inspect, load
from palimpsest.models.taps import adding

PROMPTS = [tuple(b"a question"), tuple(b"why"), tuple(b"a much longer question, with a clause"), (7,)]
BUDGET = Budget(64)


def close(subject: Subject) -> float:
    """How far two passes over the same row may lie apart: a gated delta rule rounds otherwise in chunks than step by step."""
    return 5e-5 if "Qwen3_5" in subject.architecture else 1e-5


@pytest.fixture(scope="module", params=["llama", "qwen3_5_text", "gpt2"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return load(inspect(tiny.folder(tmp_path_factory.mktemp(request.param), request.param)))


def plain(subject: Subject, tokens: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities [positions, vocabulary] of one row by itself."""
    with torch.no_grad():
        return subject.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float().log_softmax(-1)


def test_batches_change_nothing_and_greedy_is_what_a_plain_pass_finds_likeliest(subject: Subject) -> None:
    asked = [Asked(prompt, 6 + place, alternatives=place) for place, prompt in enumerate(PROMPTS)]
    together = write(subject, asked)
    for one, found in zip(asked, together, strict=True):
        (alone,) = write(subject, [one])
        assert alone.tokens == found.tokens and len(found.tokens) <= one.most
        np.testing.assert_allclose(alone.log_probability, found.log_probability, atol=close(subject))
        log_p = plain(subject, (*one.prompt, *found.tokens))[len(one.prompt) - 1 : -1]
        assert log_p.argmax(-1).tolist() == found.tokens
        by_hand = [log_p[place, token].item() for place, token in enumerate(found.tokens)]
        np.testing.assert_allclose(found.log_probability, by_hand, atol=close(subject))
        assert all(len(likely) == one.alternatives for likely in found.likely)
        if one.alternatives:
            assert [likely[0][0] for likely in found.likely] == found.tokens


def test_how_likely_a_prompt_is_by_hand(subject: Subject) -> None:
    prompts = [prompt for prompt in PROMPTS if len(prompt) > 1]
    for prompt, found in zip(prompts, read_prompts(subject, prompts, 1, 3, BUDGET), strict=True):
        log_p = plain(subject, prompt)[:-1]
        by_hand = [log_p[place, token].item() for place, token in enumerate(prompt[1:])]
        assert found.tokens == list(prompt[1:])
        np.testing.assert_allclose(found.log_probability, by_hand, atol=close(subject))
        np.testing.assert_allclose(
            [[value for _, value in likely] for likely in found.likely], log_p.topk(3, -1).values.numpy(), atol=close(subject)
        )


def test_a_soft_prompt_made_of_words_reads_as_the_words_in_any_batch(subject: Subject) -> None:
    words = (40, 50, 60)
    soft = SoftPrompt(subject.model.get_input_embeddings().weight[list(words)].numpy())
    asked = [Asked((*soft.tokens, *prompt), 5) for prompt in PROMPTS]
    with inserted(subject.model, soft):
        found = write(subject, asked)
        alone = [write(subject, [one])[0] for one in asked]
        read = read_prompts(subject, [one.prompt for one in asked], 3, 0, BUDGET)
    spelt = write(subject, [Asked((*words, *prompt), 5) for prompt in PROMPTS])
    read_spelt = read_prompts(subject, [(*words, *prompt) for prompt in PROMPTS], 3, 0, BUDGET)
    for one, other in zip(found, alone, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.log_probability, other.log_probability, atol=close(subject))
    assert found == spelt, "the same batch, the same bits"
    assert read == read_spelt and [one.tokens for one in read] == [list(prompt) for prompt in PROMPTS]
    assert not subject.model.get_input_embeddings()._forward_hooks, "the hooks are taken off again"
    assert not subject.model.get_input_embeddings()._forward_pre_hooks


def test_a_soft_prompt_does_as_pefts_own_pass(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = tiny.folder(tmp_path / "base")
    one = load(inspect(base))
    how = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, base_model_name_or_path=str(base))
    theirs = peft.get_peft_model(load(inspect(base)).model, how)
    theirs.save_pretrained(tmp_path / "soft")
    from palimpsest.models.soft_prompt import read

    soft = read(tmp_path / "soft")
    row = torch.tensor([list(PROMPTS[0])])
    with torch.no_grad():
        wanted = theirs(input_ids=row, attention_mask=torch.ones_like(row)).logits[0, 4:-1].log_softmax(-1)
    by_hand = wanted.gather(-1, row[0, 1:, None])[:, 0].numpy()
    with inserted(one.model, soft):
        (found,) = read_prompts(one, [(*soft.tokens, *PROMPTS[0])], 5, 0, BUDGET)
    np.testing.assert_allclose(found.log_probability, by_hand, atol=1e-5)


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_vector_is_added_where_it_is_said(subject: Subject, everywhere: bool) -> None:
    vector = torch.from_numpy(np.random.default_rng(0).normal(size=32).astype(np.float32)) * 3
    steering = Steering(1, vector, everywhere)
    asked = [Asked(prompt, 5) for prompt in PROMPTS]
    for one, found in zip(asked, write(subject, asked, steering), strict=True):
        tokens, first = (*one.prompt, *found.tokens), 0 if everywhere else len(one.prompt) - 1
        places = torch.zeros(1, len(tokens))
        places[:, first:] = 1.0
        with adding(subject.model, 1, vector, lambda places=places: places):
            log_p = plain(subject, tokens)[len(one.prompt) - 1 : -1]
        by_hand = [log_p[place, token].item() for place, token in enumerate(found.tokens)]
        np.testing.assert_allclose(found.log_probability, by_hand, atol=close(subject))
    moved = read_prompts(subject, PROMPTS[:3], 1, 0, BUDGET, steering)[0].log_probability
    still = read_prompts(subject, PROMPTS[:3], 1, 0, BUDGET)[0].log_probability
    assert (np.abs(np.subtract(moved, still)).max() > 1e-3) == everywhere
    assert write(subject, asked)[0].tokens == write(subject, asked)[0].tokens, "nothing is left behind"


def test_dice_belong_to_the_request_and_follow_the_distribution(subject: Subject) -> None:
    asked = [Asked(PROMPTS[0], 1, temperature=1.0, seed=1, name=str(name)) for name in range(1500)]
    drawn = [one.tokens[0] for one in write(subject, asked)]
    assert [write(subject, [one])[0].tokens[0] for one in asked[:5]] == drawn[:5]
    share = np.bincount(drawn, minlength=259)[:259] / len(drawn)
    p = plain(subject, PROMPTS[0])[-1].exp().numpy()
    assert np.all(np.abs(share - p) < 5 * np.sqrt(p / len(drawn)) + 3e-3)


def test_top_k_and_top_p_draw_only_from_what_they_leave(subject: Subject) -> None:
    log_p = plain(subject, PROMPTS[0])[-1]
    order = log_p.argsort(descending=True).tolist()
    asked = [Asked(PROMPTS[0], 1, temperature=2.0, top_k=3, name=str(name)) for name in range(300)]
    assert {one.tokens[0] for one in write(subject, asked)} == set(order[:3])
    share = float(log_p.exp()[order[0]] + log_p.exp()[order[1]]) * 0.999
    asked = [Asked(PROMPTS[0], 1, temperature=1.0, top_p=share, name=str(name)) for name in range(300)]
    assert {one.tokens[0] for one in write(subject, asked)} <= set(order[:2])


def test_writing_ends_at_a_text_a_token_and_a_length(subject: Subject) -> None:
    (free,) = write(subject, [Asked(PROMPTS[0], 12)])
    if free.ended:
        pytest.skip("this random model ends at once")
    stop = subject.renderer.decode(free.tokens[4:5])
    asked = [Asked(PROMPTS[0], 12, stops=(stop,)), Asked(PROMPTS[0], 3), Asked(PROMPTS[0], 12)]
    stopped, short, long = write(subject, asked)
    assert stopped.ended and stop not in stopped.text and free.text.startswith(stopped.text)
    assert subject.renderer.decode(stopped.tokens).endswith(stop)
    assert not short.ended and short.tokens == free.tokens[:3]
    assert long.tokens == free.tokens

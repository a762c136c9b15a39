"""Every loss, its clip, its weights and its corrections: values and gradients worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from gruppo.algorithm.losses import (
    LOSSES,
    ClipRange,
    Tokens,
    cispo,
    clipped_surrogate,
    completion_weights,
    gspo,
    importance_weights,
    is_clipped,
    policy_gradient,
    policy_loss,
    ppo,
    sequence_ratio,
)

RATIOS = [0.5, 0.9, 1.0, 1.25, 1.5]
CLIP = ClipRange(0.2, 0.3)
Pair = tuple[list[float], list[float]]


def doubles(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def tokens_of(ratios: list[float], advantages: list[float], completion: list[int] | None = None) -> Tokens:
    """Tokens with old log-probs of -2 and the given policy ratios."""
    old = torch.full((len(ratios),), -2.0, dtype=torch.float64)
    logprobs = (old + doubles(ratios).log()).requires_grad_()
    return Tokens(logprobs, old, doubles(advantages), torch.tensor(completion or list(range(len(ratios)))))


def values_and_gradient(losses: Tensor, tokens: Tokens) -> Pair:
    (gradient,) = torch.autograd.grad(losses.sum(), tokens.logprobs)
    return losses.tolist(), gradient.tolist()


def surrogate(
    advantage: float, clip: ClipRange = CLIP, ratios: list[float] = RATIOS
) -> tuple[list[float], list[float]]:
    """Losses and their gradients by log-prob, for some ratios and one advantage."""
    tokens = tokens_of(ratios, [advantage] * len(ratios))
    return values_and_gradient(ppo(tokens, clip), tokens)


def test_a_good_completion_earns_no_more_above_the_high_side() -> None:
    losses, gradient = surrogate(2.0)
    assert losses == pytest.approx([-1.0, -1.8, -2.0, -2.5, -2.6])
    assert gradient == pytest.approx([-1.0, -1.8, -2.0, -2.5, 0.0])


def test_a_bad_completion_earns_no_more_below_the_low_side() -> None:
    losses, gradient = surrogate(-2.0)
    assert losses == pytest.approx([1.6, 1.8, 2.0, 2.5, 3.0])
    assert gradient == pytest.approx([0.0, 1.8, 2.0, 2.5, 3.0])


def test_without_an_advantage_nothing_is_learnt() -> None:
    losses, gradient = surrogate(0.0)
    assert losses == [0.0] * 5
    assert gradient == [0.0] * 5


def test_a_clip_range_above_one_never_clips_a_bad_completion() -> None:
    # epsilon 10: the low side is at -9, which no ratio reaches; the high side is at 11
    losses, gradient = surrogate(-2.0, ClipRange(10, 10), [0.001, 10.9, 11.5])
    assert losses == pytest.approx([0.002, 21.8, 23.0])
    assert gradient == pytest.approx([0.002, 21.8, 23.0])
    losses, gradient = surrogate(2.0, ClipRange(10, 10), [0.001, 10.9, 11.5])
    assert losses == pytest.approx([-0.002, -21.8, -22.0])
    assert gradient == pytest.approx([-0.002, -21.8, 0.0])


def test_the_dual_clip_bounds_what_a_bad_completion_costs() -> None:
    dual = ClipRange(0.2, 0.3, dual=3.0)
    losses, gradient = surrogate(-2.0, dual, [0.5, 2.9, 3.5])
    assert losses == pytest.approx([1.6, 5.8, 6.0])
    assert gradient == pytest.approx([0.0, 5.8, 0.0])
    assert surrogate(2.0, dual, [0.5, 2.9, 3.5]) == surrogate(2.0, CLIP, [0.5, 2.9, 3.5])
    ratio = doubles([0.5, 2.9, 3.5])
    assert is_clipped(ratio, doubles([-2.0] * 3), dual).tolist() == [True, False, True]


def test_clipped_is_where_the_clip_takes_the_gradient_away() -> None:
    ratios = torch.tensor(RATIOS)
    assert is_clipped(ratios, torch.full((5,), 2.0), CLIP).tolist() == [False] * 4 + [True]
    assert is_clipped(ratios, torch.full((5,), -2.0), CLIP).tolist() == [True] + [False] * 4
    assert is_clipped(ratios, torch.zeros(5), CLIP).tolist() == [False] * 5
    for advantage in (2.0, -2.0):
        gone = [value == 0 for value in surrogate(advantage)[1]]
        assert gone == is_clipped(ratios, torch.full((5,), advantage), CLIP).tolist()


def test_gspo_clips_whole_completions_by_their_mean_log_ratio() -> None:
    # Completion 0: ratios 2 and 0.5, geometric mean 1. Completion 1: 4, 1 and 1 (mean log: ln 4 / 3), 1.587401.
    tokens = tokens_of([2.0, 0.5, 4.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0], [0, 0, 1, 1, 1])
    assert sequence_ratio(tokens).tolist() == pytest.approx([1.0, 1.0, 1.587401, 1.587401, 1.587401], abs=1e-6)
    losses, gradient = values_and_gradient(gspo(tokens, CLIP), tokens)
    assert losses == pytest.approx([-1.0, -1.0, -1.3, -1.3, -1.3])
    # Each of the two tokens moves s, which stands on both: 2 x s / 2; the second completion is clipped.
    assert gradient == pytest.approx([-1.0, -1.0, 0.0, 0.0, 0.0])
    bad = tokens_of([4.0, 1.0, 1.0], [-1.0] * 3, [0, 0, 0])
    losses, gradient = values_and_gradient(gspo(bad, CLIP), bad)
    assert losses == pytest.approx([1.587401] * 3, abs=1e-6)
    assert gradient == pytest.approx([1.587401] * 3, abs=1e-6)


def test_cispo_bounds_the_weight_and_keeps_the_gradient() -> None:
    tokens = tokens_of([0.5, 1.0, 1.5], [2.0, 2.0, -1.0])
    losses, gradient = values_and_gradient(cispo(tokens, CLIP), tokens)
    logprobs = [math.log(0.5) - 2, -2.0, math.log(1.5) - 2]
    assert losses == pytest.approx([-0.8 * 2 * logprobs[0], -2 * logprobs[1], 1.3 * logprobs[2]])
    assert gradient == pytest.approx([-1.6, -2.0, 1.3])


def test_policy_gradient_is_reinforce() -> None:
    tokens = tokens_of([0.5, 1.0, 1.5], [2.0, 0.0, -1.0])
    losses, gradient = values_and_gradient(policy_gradient(tokens, CLIP), tokens)
    assert losses == pytest.approx([2 * (2 - math.log(0.5)), 0.0, math.log(1.5) - 2])
    assert gradient == [-2.0, 0.0, 1.0]


@pytest.mark.parametrize("name", LOSSES)
def test_at_ratio_one_every_loss_has_the_gradient_of_reinforce(name: str) -> None:
    tokens = tokens_of([1.0] * 4, [1.5, -0.5, -0.5, -0.5], [0, 1, 1, 1])
    assert values_and_gradient(LOSSES[name](tokens, CLIP), tokens)[1] == pytest.approx([-1.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("name", ["clip", "gspo", "policy_gradient"])
@pytest.mark.parametrize("dual", [None, 3.0])
def test_gradients_against_finite_differences(name: str, dual: float | None) -> None:
    generator = torch.Generator().manual_seed(1)
    old = torch.randn(9, dtype=torch.float64, generator=generator) - 3
    advantages = torch.randn(9, dtype=torch.float64, generator=generator)
    completion = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    logprobs = (old + torch.randn(9, dtype=torch.float64, generator=generator)).requires_grad_()

    def loss(logprobs: Tensor) -> Tensor:
        return LOSSES[name](Tokens(logprobs, old, advantages, completion), ClipRange(0.2, 0.3, dual))

    assert torch.autograd.gradcheck(loss, (logprobs,), atol=1e-8)


def test_what_a_token_weighs() -> None:
    assert completion_weights([1, 3], "tokens") == [0.25, 0.25]
    assert completion_weights([1, 4], "sequences") == [0.5, 0.125]
    assert completion_weights([1, 4], "constant", 10) == [0.05, 0.05]
    assert completion_weights([0, 2], "sequences") == [0.5, 0.25]  # without tokens it still counts as a completion
    assert completion_weights([0, 0], "tokens") == [1.0, 1.0]
    for aggregation, length in (("token", 10), ("constant", None), ("constant", 0)):
        with pytest.raises(ValueError, match="aggregation must be tokens, sequences or constant"):
            completion_weights([1], aggregation, length)


# exp(old - sampler) of the tokens 0.5, 4 and 1 of one completion (product 2) and 0.8 of another
CORRECTIONS = {
    "token_truncate": [0.5, 3.0, 1.0, 0.8],
    "token_mask": [0.5, 0.0, 1.0, 0.8],
    "sequence_truncate": [2.0, 2.0, 2.0, 0.8],
    "sequence_mask": [2.0, 2.0, 2.0, 0.8],
}


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_importance_weights(correction: str) -> None:
    tokens = tokens_of([1.0] * 4, [1.0] * 4, [0, 0, 0, 1])
    sampler = tokens.old_logprobs - doubles([0.5, 4.0, 1.0, 0.8]).log()
    weights = importance_weights(tokens, sampler, correction, 3.0)
    assert weights.tolist() == pytest.approx(CORRECTIONS[correction])
    assert not weights.requires_grad


def test_importance_weights_beyond_the_bounds() -> None:
    tokens = tokens_of([1.0] * 3, [1.0] * 3, [0, 0, 1])
    sampler = tokens.old_logprobs - doubles([4.0, 1.0, 0.3]).log()
    assert importance_weights(tokens, sampler, "sequence_truncate", 3.0).tolist() == pytest.approx([3.0, 3.0, 0.3])
    assert importance_weights(tokens, sampler, "sequence_mask", 3.0).tolist() == [0.0, 0.0, 0.0]
    assert importance_weights(tokens, sampler, "token_mask", 4.5).tolist() == pytest.approx([4.0, 1.0, 0.3])
    for wrong in ("none", "token", "truncate_token"):
        with pytest.raises(ValueError, match="correction must be token_ or sequence_ with truncate or mask"):
            importance_weights(tokens, sampler, wrong, 3.0)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("tokens", (-1.8 - 2.5 + 1.6) / 3),
        ("sequences", ((-1.8 - 2.5) / 2 + 1.6) / 2),
        ("constant", (-1.8 - 2.5 + 1.6) / 16),
    ],
)
def test_a_padded_batch_in_one_call(aggregation: str, expected: float) -> None:
    mask = torch.tensor([[True, True], [True, False]])
    old = torch.full((2, 2), -2.0, dtype=torch.float64)
    ratios = torch.tensor([[0.9, 1.25], [0.5, float("nan")]], dtype=torch.float64)
    logprobs = (old + ratios.log()).requires_grad_()
    loss = policy_loss(logprobs, old, doubles([2.0, -2.0]), mask, aggregation=aggregation, clip=CLIP, max_length=8)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad[1].tolist() == [0.0, 0.0]  # clipped, and padding


def test_what_a_padded_batch_refuses() -> None:
    logprobs, mask = torch.zeros(2, 3), torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"must be \[C, T\] and advantages \[C\], got \[\[2, 3\], .*\[3\]\]"):
        policy_loss(logprobs, logprobs, torch.zeros(3), mask)
    with pytest.raises(ValueError, match="loss must be one of clip, policy_gradient, gspo, cispo, got 'ppo'"):
        policy_loss(logprobs, logprobs, torch.zeros(2), mask, loss="ppo")


def test_a_surrogate_alone() -> None:
    assert clipped_surrogate(doubles([1.4]), doubles([1.0]), CLIP).tolist() == [-1.3]

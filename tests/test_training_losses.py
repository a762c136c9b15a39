"""The update under every loss: the same gradient however the work is cut, and each setting's effect on a model."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gruppo.algorithm.kl import ESTIMATORS
from gruppo.algorithm.losses import LOSSES, ClipRange
from gruppo.config.schema import OptimizerFields
from gruppo.training.losses import LossSettings
from gruppo.training.optimizers import MasterWeights, OptimizerSet, adamw
from gruppo.training.packing import Batch, Row
from gruppo.training.policy import LocalPolicy
from gruppo.training.sft import demonstration_row
from models import Caught, distance, logprobs_of, random_rows, same_bits, tiny, weights

LENGTHS = [(3, 4), (3, 2), (10, 9), (10, 5), (2, 1), (2, 7), (4, 8), (4, 3)]
ADVANTAGES = [1.0, -1.0, 0.5, -0.5, 0.0, 0.0, 2.0, -2.0]
SIGNAL = [True, True, True, True, False, False, True, True]
AGGREGATIONS = ("tokens", "sequences", "constant")
KL = (*ESTIMATORS, "k3_weighted", "exact", "exact_forward")


def rows_of_a_step(model: nn.Module, spread: float = 0.2) -> list[Row]:
    """Groups of two, one without signal; the sampler's log-probs lie around the policy's."""
    generator = np.random.default_rng(4)
    rows: list[Row] = []
    for row, signal in zip(random_rows(LENGTHS, ADVANTAGES, masked=True), SIGNAL, strict=True):
        with torch.no_grad():
            exact = logprobs_of(model, row, 0.9).float().numpy()
        noise = spread * generator.standard_normal(len(exact)).astype(np.float32)
        rows.append(replace(row, sampler_logprobs=exact + noise, has_signal=signal))
    return rows


def settings(**changes: Any) -> LossSettings:
    return LossSettings(**{"temperature": 0.9, "clip": ClipRange(0.2, 0.28), "max_length": 12, **changes})


def gradients(
    model: nn.Module, rows: list[Row], loss: LossSettings, budget: int, demonstrations: tuple[Row, ...] = ()
) -> dict[str, Tensor]:
    """What an update gives its optimizer; the reference is a step away from the policy."""
    caught = Caught(MasterWeights(model))
    policy = LocalPolicy(model, caught, budget, reference=loss.beta > 0)
    if policy.reference is not None:
        policy.reference.load_state_dict({name: 1.1 * p.detach() for name, p in model.named_parameters()})
    policy.update(Batch(tuple(rows), demonstrations), loss, 1.0)
    return caught.gradients


def cuts_of(rows: list[Row]) -> list[tuple[list[Row], int]]:
    """The same completions in other micro-batches and in another order."""
    shuffled = [rows[i] for i in np.random.default_rng(8).permutation(len(rows))]
    return [(rows, 1), (rows, 30), (shuffled, 1), (shuffled, 45), (rows[::-1], 10_000)]


VARIANTS = [
    *({"loss": loss, "aggregation": aggregation} for loss in LOSSES for aggregation in AGGREGATIONS),
    *({"beta": 0.3, "kl_estimator": kl, "aggregation": "sequences"} for kl in KL),
    *({"sampler_correction": f"{level}_{form}"} for level in ("token", "sequence") for form in ("truncate", "mask")),
    {"no_signal_groups": "leave_out", "beta": 0.3},
    {"clip": ClipRange(0.2, 0.28, 3.0), "loss": "gspo", "sampler_correction": "sequence_truncate", "beta": 0.1},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(str(x) for x in v.values()))
def test_the_gradient_is_the_same_however_the_work_is_cut(variant: dict[str, Any]):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        model = tiny().to(dtype)
        rows = rows_of_a_step(model)
        whole = gradients(model, rows, settings(**variant), 10_000)
        assert max(float(g.abs().max()) for g in whole.values()) > 1e-4
        for order, budget in cuts_of(rows):
            assert distance(gradients(model, order, settings(**variant), budget), whole) <= tolerance


@pytest.mark.parametrize("variant", VARIANTS[1:], ids=lambda v: "-".join(str(x) for x in v.values()))
def test_every_variant_changes_the_gradient(variant: dict[str, Any]):
    """Over three updates, so that ratios differ from 1. The first variant is the default."""
    found: list[dict[str, Tensor]] = []
    for changes in ({}, variant):
        model = tiny()
        rows = rows_of_a_step(model)
        masters = MasterWeights(model)
        descent = torch.optim.SGD([parameter for _, parameter in masters.named], lr=0.2)
        policy = LocalPolicy(model, OptimizerSet(masters, [(descent, 0.2)], 1e9), 100, reference=True)
        policy.update(Batch(tuple(rows)), settings(updates_per_batch=3, **changes), 1.0)
        found.append(weights(model))
    assert distance(found[1], found[0]) > 1e-4


@pytest.mark.parametrize("forward", [False, True])
def test_the_exact_penalty_is_the_divergence_of_the_models(forward: bool):
    model, beta = tiny(), 0.3
    rows = [replace(row, advantage=row.advantage or 0.25) for row in random_rows(LENGTHS, ADVANTAGES)]
    estimator = "exact_forward" if forward else "exact"
    with_penalty = gradients(model, rows, settings(beta=beta, kl_estimator=estimator), 40)
    without = gradients(model, rows, settings(), 40)
    reference = deepcopy(model)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(1.1)
    total = torch.zeros(())
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.token_ids]])
        spans = slice(len(row.prompt_ids) - 1, -1)
        p, q = (
            torch.distributions.Categorical(logits=m(input_ids=ids).logits[0, spans] / 0.9) for m in (model, reference)
        )
        total = total + torch.distributions.kl_divergence(*((q, p) if forward else (p, q))).sum()
    names = [name for name, _ in model.named_parameters()]
    literal = torch.autograd.grad(beta * total / sum(len(row.token_ids) for row in rows), list(model.parameters()))
    expected = {name: without[name] + g for name, g in zip(names, literal, strict=True)}
    assert distance(with_penalty, expected) <= 1e-5
    assert distance(with_penalty, without) > 1e-2


def test_the_kl_of_each_completion_is_its_mean_over_tokens():
    model = tiny()
    rows = random_rows(LENGTHS, ADVANTAGES, masked=True)
    rows.append(replace(rows[0], mask=np.zeros_like(rows[0].mask)))
    policy = LocalPolicy(model, Caught(MasterWeights(model)), 30, reference=True)
    assert policy.reference is not None
    policy.reference.load_state_dict({name: 1.1 * p.detach() for name, p in model.named_parameters()})
    found = policy.kl_to_reference(rows, settings(beta=1.0, kl_estimator="k1"))
    assert len(found) == 9
    assert found[8] == 0.0
    with torch.no_grad():
        ours = [logprobs_of(model, row, 0.9)[torch.from_numpy(row.mask)] for row in rows[:8]]
        with policy.reference.swapped_in():
            theirs = [logprobs_of(model, row, 0.9)[torch.from_numpy(row.mask)] for row in rows[:8]]
    expected = [float((p - q).mean()) if len(p) else 0.0 for p, q in zip(ours, theirs, strict=True)]
    assert found[:8] == pytest.approx(expected, abs=1e-5)


def test_minibatches_are_steps_of_their_own_on_shares_of_the_batch():
    model = tiny()
    rows = random_rows(LENGTHS, [1.0, -1.0] * 4)
    twin = deepcopy(model)
    stats = LocalPolicy(model, adamw(model, OptimizerFields(), 0.01), 100).update(
        Batch(tuple(rows)), settings(minibatches=2), 1.0
    )
    # By hand: old log-probs first, then one step on the even rows and one on the odd ones.
    with torch.no_grad():
        old = [logprobs_of(twin, row, 0.9) for row in rows]
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.0)
    for start in (0, 1):
        part = range(start, 8, 2)
        total = torch.zeros(())
        for i in part:
            ratio, advantage = torch.exp(logprobs_of(twin, rows[i], 0.9) - old[i]), rows[i].advantage
            total = total - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage).sum()
        optimizer.zero_grad()
        (total / sum(len(rows[i].token_ids) for i in part)).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter, atol=1e-5, rtol=0)
    assert stats.policy_ratio_mean != 1.0


def test_a_minibatch_without_signal_makes_no_step():
    model = tiny()
    rows = random_rows(LENGTHS, [1.0, 0.0] * 4)  # dealt in turn: the second minibatch has no advantage at all
    twin = deepcopy(model)
    LocalPolicy(model, adamw(model, OptimizerFields(), 0.01), 100).update(
        Batch(tuple(rows)), settings(minibatches=2), 1.0
    )
    LocalPolicy(twin, adamw(twin, OptimizerFields(), 0.01), 100).update(Batch(tuple(rows[::2])), settings(), 1.0)
    assert same_bits(weights(model), weights(twin))


def test_groups_without_signal_count_unless_left_out():
    model = tiny()
    rows = rows_of_a_step(model)
    alone = [row for row in rows if row.has_signal]
    left_out = gradients(model, rows, settings(no_signal_groups="leave_out", beta=0.3), 100)
    assert distance(left_out, gradients(model, alone, settings(beta=0.3), 100)) <= 1e-6
    counted = gradients(model, rows, settings(beta=0.3), 100)
    assert distance(counted, left_out) > 1e-2


def test_the_sft_term_is_the_mean_likelihood_of_the_demonstrations():
    model = tiny()
    rows = random_rows(LENGTHS, ADVANTAGES)
    demonstrations = (demonstration_row([1, 2, 3], [4, 5]), demonstration_row([7], [8, 9, 10]))
    both = gradients(model, rows, settings(demonstrations_weight=0.5), 12, demonstrations)
    without = gradients(model, rows, settings(demonstrations_weight=0.5), 12)
    nll = -torch.cat([logprobs_of(model, row, 1.0) for row in demonstrations]).mean()
    literal = torch.autograd.grad(0.5 * nll, list(model.parameters()))
    expected = {name: without[name] + g for (name, _), g in zip(model.named_parameters(), literal, strict=True)}
    assert distance(both, expected) <= 1e-6
    assert distance(both, without) > 1e-2


def test_demonstrations_alone_make_a_step_and_are_reported():
    model = tiny()
    policy = LocalPolicy(model, adamw(model, OptimizerFields(), 0.01), 100)
    demonstrations = (demonstration_row([1, 2, 3], [4, 5]),)
    batch = Batch(tuple(random_rows(LENGTHS, [0.0] * 8)), demonstrations)
    first = policy.update(batch, settings(demonstrations_weight=1.0), 1.0)
    assert first.stepped
    for _ in range(10):
        last = policy.update(batch, settings(demonstrations_weight=1.0), 1.0)
    assert last.demonstrations_loss is not None
    assert first.demonstrations_loss is not None
    assert last.demonstrations_loss < 0.5 * first.demonstrations_loss


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_poison_in_one_minibatch_leaves_the_weights_of_the_others_step(poison: float):
    model = tiny()
    rows = random_rows(LENGTHS, [1.0, -1.0] * 4)
    poisoned = [replace(row, advantage=poison) if i == 1 else row for i, row in enumerate(rows)]
    twin = deepcopy(model)
    stats = LocalPolicy(model, adamw(model, OptimizerFields(), 0.01), 100).update(
        Batch(tuple(poisoned)), settings(minibatches=2), 1.0
    )
    assert (stats.stepped, stats.skipped_optimizer_steps) == (True, 1)
    LocalPolicy(twin, adamw(twin, OptimizerFields(), 0.01), 100).update(Batch(tuple(rows[::2])), settings(), 1.0)
    assert same_bits(weights(model), weights(twin))


def test_the_reference_is_refreshed_by_copy_or_by_a_share():
    model = tiny()
    policy = LocalPolicy(model, Caught(MasterWeights(model)), 30, reference=True)
    start = weights(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert policy.reference is not None
    policy.refresh_reference(0.75)
    for name, value in policy.reference.state_dict().items():
        torch.testing.assert_close(value, start[name] + 0.25, atol=1e-6, rtol=0)
    policy.refresh_reference(0.0)
    assert same_bits(policy.reference.state_dict(), weights(model))
    with pytest.raises(ValueError, match="reference=True"):
        LocalPolicy(model, Caught(MasterWeights(model)), 30).refresh_reference(0.0)

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gruppo.algorithm.losses import ClipRange
from gruppo.config.schema import OptimizerFields
from gruppo.training.losses import LossSettings, UpdateStats
from gruppo.training.optimizers import MasterWeights, adamw
from gruppo.training.packing import Batch, Row
from gruppo.training.policy import LocalPolicy
from gruppo.training.reference import ReferencePolicy
from models import FAMILIES, Caught, distance, logprobs_of, random_rows, same_bits, tiny, weights

LENGTHS = [(3, 4), (10, 2), (1, 9), (5, 5), (2, 1), (7, 7), (4, 8), (6, 3)]
ADVANTAGES = [1.0, -1.0, 0.5, -0.5, 0.0, 0.0, 2.0, -2.0]
BUDGETS = (1, 25, 60, 10_000)


def settings(*, temperature: float = 0.9, beta: float = 0.0, updates_per_batch: int = 1) -> LossSettings:
    return LossSettings(
        temperature=temperature, clip=ClipRange(0.2, 0.28), beta=beta, updates_per_batch=updates_per_batch
    )


def gradient(
    model: nn.Module, rows: Sequence[Row], loss: LossSettings, budget: int, shift: float = 0.0
) -> dict[str, Tensor]:
    """What `LocalPolicy` gives its optimizer; `shift` moves the reference away from the policy."""
    caught = Caught(MasterWeights(model))
    policy = LocalPolicy(model, caught, budget, reference=loss.beta > 0)
    if policy.reference is not None:
        policy.reference.load_state_dict({name: shifted(p, shift) for name, p in model.named_parameters()})
    policy.update(Batch(tuple(rows)), loss, 1.0)
    return caught.gradients


def shifted(parameter: Tensor, by: float) -> Tensor:
    return parameter.detach() * (1.0 + by)


def literal_gradient(model: nn.Module, rows: Sequence[Row], beta: float, shift: float) -> dict[str, Tensor]:
    """The loss written out for each token, one row at a time, in double precision."""
    model = deepcopy(model).double()
    reference = deepcopy(model)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(1.0 + shift)
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        logprobs = logprobs_of(model, row, 0.9)
        with torch.no_grad():
            ref = logprobs_of(reference, row, 0.9)
        for t in range(len(row.token_ids)):
            if row.mask[t]:
                ratio = torch.exp(logprobs[t] - logprobs[t].detach())
                difference = ref[t] - logprobs[t]
                total = total - ratio * row.advantage + beta * (torch.exp(difference) - difference - 1.0)
    (total / sum(int(row.mask.sum()) for row in rows)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_gradient_is_the_same_for_any_budget_and_that_of_the_formula(family: str, beta: float):
    model, rows = tiny(family), random_rows(LENGTHS, ADVANTAGES, masked=True)
    found = [gradient(model, rows, settings(beta=beta), budget, shift=0.1) for budget in BUDGETS]
    literal = literal_gradient(model, rows, beta, shift=0.1)
    for other in found[1:]:
        assert distance(other, found[0]) <= 1e-6
    assert distance(found[0], literal) <= 1e-6
    assert max(float(g.abs().max()) for g in literal.values()) > 1e-3


def test_masked_tokens_carry_no_loss_but_are_seen():
    model, (row,) = tiny(), random_rows([(3, 6)], [1.0])
    mask = np.array([True, True, False, False, True, True])
    with_mask = Row(row.prompt_ids, row.token_ids, mask, row.sampler_logprobs, 1.0)
    last_only = np.array([False] * 4 + [True, True])
    other_tokens = row.token_ids.copy()
    other_tokens[2:4] = (other_tokens[2:4] + 1) % 61
    base = gradient(model, [with_mask], settings(), 100)
    # Tokens 0 and 1 do not see the masked ones, which are no targets: only what follows may change.
    other = gradient(model, [Row(row.prompt_ids, other_tokens, mask, row.sampler_logprobs, 1.0)], settings(), 100)
    first_only = Row(row.prompt_ids, other_tokens, ~last_only & mask, row.sampler_logprobs, 1.0)
    first_base = Row(row.prompt_ids, row.token_ids, ~last_only & mask, row.sampler_logprobs, 1.0)
    assert distance(gradient(model, [first_only], settings(), 100), gradient(model, [first_base], settings(), 100)) == 0
    assert distance(other, base) > 1e-3
    assert distance(base, literal_gradient(model, [with_mask], 0.0, 0.0)) <= 1e-6


def test_the_normaliser_counts_groups_without_signal():
    model, rows = tiny(), random_rows(LENGTHS, ADVANTAGES)
    alone = [row for row in rows if row.advantage]
    share = sum(len(row.token_ids) for row in alone) / sum(len(row.token_ids) for row in rows)
    whole, part = gradient(model, rows, settings(), 100), gradient(model, alone, settings(), 100)
    assert share == pytest.approx(31 / 39)
    assert distance(whole, {name: share * g for name, g in part.items()}) <= 1e-6


class Held:
    """A policy with one loss for all of its updates."""

    def __init__(self, model: nn.Module, loss: LossSettings, rate: float = 0.01, budget: int = 60) -> None:
        optimizers = adamw(model, OptimizerFields(max_grad_norm=1e9), rate)
        self.policy = LocalPolicy(model, optimizers, budget, reference=loss.beta > 0)
        self.loss = loss

    def update(self, batch: Batch, lr_factor: float) -> UpdateStats:
        return self.policy.update(batch, self.loss, lr_factor)


def test_several_updates_on_a_batch_are_ppo_written_out():
    model, rows = tiny(), random_rows(LENGTHS, ADVANTAGES)
    plain = deepcopy(model)
    stats = Held(model, settings(updates_per_batch=3)).update(Batch(tuple(rows)), 0.5)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.005, weight_decay=0.0)
    with torch.no_grad():
        old = [logprobs_of(plain, row, 0.9) for row in rows]
    clipped = ratio_sum = taking_part = 0.0
    for _ in range(3):
        clipped, ratio_sum, taking_part = 0.0, 0.0, 0.0
        total = torch.zeros(())
        for row, before in zip(rows, old, strict=True):
            ratio = torch.exp(logprobs_of(plain, row, 0.9) - before)
            unclipped, held = ratio * row.advantage, ratio.clamp(0.8, 1.28) * row.advantage
            total = total - torch.where(unclipped < held, unclipped, held).sum()
            if row.advantage:
                clipped += float((held < unclipped).sum())
                ratio_sum += float(ratio.detach().sum())
                taking_part += len(ratio)
        optimizer.zero_grad()
        (total / 39).backward()
        optimizer.step()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter, atol=1e-5, rtol=0)
    assert clipped > 0
    assert stats.clipped_share == pytest.approx(clipped / taking_part, abs=1e-9)
    assert stats.policy_ratio_mean == pytest.approx(ratio_sum / taking_part, abs=1e-5)


def test_one_update_starts_at_ratio_one():
    stats = Held(tiny(), settings()).update(Batch(tuple(random_rows(LENGTHS, ADVANTAGES))), 1.0)
    assert stats.policy_ratio_mean == 1.0
    assert stats.clipped_share == 0.0
    assert stats.kl_to_reference is None
    assert stats.loss == pytest.approx(-sum(a * t for a, (_, t) in zip(ADVANTAGES, LENGTHS, strict=True)) / 39)
    assert stats.grad_norm is not None
    assert stats.grad_norm > 0


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_step_without_signal_leaves_everything_as_it_was(beta: float):
    model = tiny()
    policy = Held(model, settings(beta=beta))
    policy.update(Batch(tuple(random_rows(LENGTHS, ADVANTAGES))), 1.0)  # Adam has momentum now
    before, state = weights(model), deepcopy(policy.policy.state_dict())
    stats = policy.update(Batch(tuple(random_rows(LENGTHS, [0.0] * 8, seed=1))), 1.0)
    assert (stats.stepped, stats.loss, stats.grad_norm) == (False, None, None)
    assert same_bits(weights(model), before)
    after = policy.policy.state_dict()
    assert after["version"] == state["version"] == 1
    (old,), (new,) = state["optimizers"]["optimizers"], after["optimizers"]["optimizers"]
    for number, values in old["state"].items():
        assert float(new["state"][number]["step"]) == float(values["step"]) == 1.0
        assert torch.equal(new["state"][number]["exp_avg"], values["exp_avg"])
        assert torch.equal(new["state"][number]["exp_avg_sq"], values["exp_avg_sq"])


def test_a_gradient_that_is_not_finite_is_skipped():
    model = tiny()
    policy = Held(model, settings())
    before = weights(model)
    stats = policy.update(Batch(tuple(random_rows([(3, 4)], [float("nan")]))), 1.0)
    assert not stats.stepped
    assert stats.grad_norm != stats.grad_norm
    assert policy.policy.version == 0
    assert same_bits(weights(model), before)
    assert policy.update(Batch(tuple(random_rows([(3, 4)], [1.0]))), 1.0).stepped
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_the_reference_is_swapped_in_and_out_to_the_bit():
    model = tiny()
    start = weights(model)
    reference = ReferencePolicy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    moved = weights(model)
    with reference.swapped_in():
        assert same_bits(weights(model), start)
    assert same_bits(weights(model), moved)
    with pytest.raises(RuntimeError), reference.swapped_in():
        raise RuntimeError
    assert same_bits(weights(model), moved)
    assert same_bits(reference.state_dict(), start)


def test_kl_is_zero_at_the_first_step_and_pulls_back_later():
    batch = Batch(tuple(random_rows(LENGTHS, ADVANTAGES)))
    pulled, free = tiny(), tiny()
    held, loose = Held(pulled, settings(beta=5.0)), Held(free, settings())
    first = held.update(batch, 1.0)
    assert first.kl_to_reference == 0.0
    loose.update(batch, 1.0)
    kls = [first.kl_to_reference]
    for _ in range(12):
        kls.append(held.update(batch, 1.0).kl_to_reference)
        loose.update(batch, 1.0)
    assert all(kl > 1e-6 for kl in kls[1:])
    start = tiny()
    away: list[float] = []
    for model in (pulled, free):
        with torch.no_grad():
            moved = [(logprobs_of(model, row, 0.9) - logprobs_of(start, row, 0.9)).abs() for row in batch.rows]
        away.append(float(torch.cat(moved).mean()))
    assert away[0] < 0.4 * away[1]


def test_sampler_difference_is_the_largest_one():
    model = tiny()
    row = random_rows([(3, 2)], [1.0])[0]
    with torch.no_grad():
        exact = logprobs_of(model, row, 0.9).numpy()
    off = Row(row.prompt_ids, row.token_ids, row.mask, exact + np.array([0.25, -0.5], dtype=np.float32), 1.0)
    stats = Held(model, settings()).update(Batch((off,)), 1.0)
    assert stats.sampler_logprob_difference_max == pytest.approx(0.5, abs=1e-5)


def test_logprobs_of_rows_come_in_their_order():
    model, rows = tiny(), random_rows(LENGTHS, ADVANTAGES, masked=True)
    for row, found in zip(rows, Held(model, settings()).policy.logprobs(rows, 0.9), strict=True):
        with torch.no_grad():
            torch.testing.assert_close(found, logprobs_of(model, row, 0.9)[torch.from_numpy(row.mask)])


def test_a_policy_on_a_cpu_has_freed_memory_kept(monkeypatch: pytest.MonkeyPatch):
    """From its making on, so that the trial before a run is as quick as the run."""
    asked: list[int] = []
    monkeypatch.setattr("gruppo.training.policy.keep", lambda: asked.append(1))
    model = tiny()
    LocalPolicy(model, adamw(model, OptimizerFields(), 1e-3), 256)
    assert asked == [1]

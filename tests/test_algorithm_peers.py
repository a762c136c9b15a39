"""Losses and gradients against independent implementations: trl's trainer and liger's chunked loss.

trl divides advantages by the sample's std + 1e-4, so both sides get the same ones here.
"""

from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gruppo.algorithm.kl import kl_estimate
from gruppo.algorithm.losses import ClipRange, Tokens, completion_weights, importance_weights, policy_loss

C, T = 12, 9
MAX_LENGTH = 16

# trl's loss type and level | our loss and aggregation | trl's epsilon_high for our 0.28
VARIANTS = {
    ("grpo", "token"): ("clip", "sequences", 0.28),
    ("bnpo", "token"): ("clip", "tokens", 0.28),
    ("dapo", "token"): ("clip", "tokens", 0.28),
    ("dr_grpo", "token"): ("clip", "constant", 0.28),
    ("grpo", "sequence"): ("gspo", "sequences", 0.28),
    ("cispo", "token"): ("cispo", "tokens", 1.28),
}
# cispo has no lower bound in trl
LOW = {"clip": 0.2, "gspo": 0.2, "cispo": 10.0}


def random_batch(dtype: torch.dtype, seed: int) -> SimpleNamespace:
    """Padded completions of random lengths with three sets of log-probs around each other."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, T + 1, (C,), generator=generator)
    old = (torch.randn(C, T, dtype=torch.float64, generator=generator) - 2).to(dtype)

    def near() -> Tensor:
        return old + 0.4 * torch.randn(C, T, dtype=torch.float64, generator=generator).to(dtype)

    return SimpleNamespace(
        mask=torch.arange(T)[None] < lengths[:, None],
        old=old,
        logprobs=near().requires_grad_(),
        ref=near(),
        sampler=near(),
        advantages=torch.randn(C, dtype=torch.float64, generator=generator).to(dtype),
    )


def trl_loss(batch: SimpleNamespace, loss_type: str, level: str, high: float, **more: Any) -> Tensor:
    """trl's own `_compute_loss` on given log-probs, without a model."""
    grpo = pytest.importorskip("trl.trainer.grpo_trainer", reason="trl is not installed")
    arguments = SimpleNamespace(
        delta=more.get("delta"), use_bias_correction_kl=more.get("weighted", False), steps_per_generation=1
    )
    trainer = SimpleNamespace(
        args=arguments,
        loss_type=loss_type,
        importance_sampling_level=level,
        beta=more.get("beta", 0.0),
        epsilon_low=0.2,
        epsilon_high=high,
        max_completion_length=MAX_LENGTH,
        use_vllm="weights" in more,
        vllm_importance_sampling_correction=True,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        _metrics={"train": {}},
    )
    trainer._metrics["train"] = _Anything()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (batch.logprobs, torch.zeros(C, T), None)
    inputs = {
        "prompt_ids": torch.zeros(C, 1),
        "prompt_mask": torch.ones(C, 1),
        "completion_ids": torch.zeros(C, T),
        "completion_mask": batch.mask.to(batch.old.dtype),
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.ref,
        "importance_sampling_ratio": more.get("weights"),
        "num_items_in_batch": batch.mask.sum(),
    }
    return MethodType(grpo.GRPOTrainer._compute_loss, trainer)(None, inputs)


class _Anything(dict[str, list[float]]):
    """A dict of lists that are there when they are asked for."""

    def __missing__(self, key: str) -> list[float]:
        return self.setdefault(key, [])


def our_loss(
    batch: SimpleNamespace,
    loss: str,
    aggregation: str,
    *,
    beta: float = 0.0,
    estimator: str = "k3",
    dual: float | None = None,
) -> Tensor:
    clip = ClipRange(LOW[loss], 0.28, dual)
    total = policy_loss(
        *(batch.logprobs, batch.old, batch.advantages, batch.mask),
        loss=loss,
        aggregation=aggregation,
        clip=clip,
        max_length=MAX_LENGTH,
    )
    if beta:
        kl = kl_estimate(batch.logprobs, batch.ref, estimator, old_logprobs=batch.old)
        weights = torch.tensor(completion_weights(batch.mask.sum(1).tolist(), aggregation, MAX_LENGTH), dtype=kl.dtype)
        total = total + beta * (kl * weights[:, None])[batch.mask].sum()
    return total


def assert_same(batch: SimpleNamespace, theirs: Tensor, ours: Tensor, tolerance: float) -> None:
    (expected,) = torch.autograd.grad(theirs, batch.logprobs)
    (found,) = torch.autograd.grad(ours, batch.logprobs)
    assert ours.item() == pytest.approx(theirs.item(), abs=tolerance)
    assert (found - expected).abs().max().item() <= tolerance
    assert expected.abs().max().item() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_trl(variant: tuple[str, str], dtype: torch.dtype) -> None:
    loss, aggregation, high = VARIANTS[variant]
    for seed in range(5):
        batch = random_batch(dtype, seed)
        theirs = trl_loss(batch, *variant, high)
        assert_same(batch, theirs, our_loss(batch, loss, aggregation), 1e-10 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("estimator", ["k3", "k3_weighted"])
@pytest.mark.parametrize("variant", [("grpo", "token"), ("dapo", "token"), ("dr_grpo", "token")], ids="-".join)
def test_trl_with_a_kl_penalty(variant: tuple[str, str], estimator: str) -> None:
    loss, aggregation, high = VARIANTS[variant]
    batch = random_batch(torch.float64, 7)
    theirs = trl_loss(batch, *variant, high, beta=0.3, weighted=estimator == "k3_weighted")
    assert_same(batch, theirs, our_loss(batch, loss, aggregation, beta=0.3, estimator=estimator), 1e-10)


def test_trl_with_two_sided_clipping() -> None:
    batch = random_batch(torch.float64, 8)
    theirs = trl_loss(batch, "dapo", "token", 0.28, delta=1.5)
    assert_same(batch, theirs, our_loss(batch, "clip", "tokens", dual=1.5), 1e-10)
    plain = our_loss(batch, "clip", "tokens")
    assert abs(theirs.item() - plain.item()) > 1e-3


@pytest.mark.parametrize("correction", ["token_truncate", "sequence_truncate"])
def test_trl_with_truncated_importance_sampling(correction: str) -> None:
    batch = random_batch(torch.float64, 9)
    completion = batch.mask.nonzero()[:, 0]
    tokens = Tokens(batch.logprobs[batch.mask], batch.old[batch.mask], batch.advantages[completion], completion)
    ours = importance_weights(tokens, batch.sampler[batch.mask], correction, 2.0)
    difference = (batch.old - batch.sampler) * batch.mask
    if correction == "sequence_truncate":
        difference = difference.sum(dim=1, keepdim=True).expand(C, T)
    weights = torch.exp(difference).clamp(max=2.0)
    torch.testing.assert_close(ours, weights[batch.mask], atol=1e-12, rtol=0)
    theirs = trl_loss(batch, "bnpo", "token", 0.28, weights=weights)
    per_token = -torch.minimum(*_both(batch)) * weights
    assert_same(batch, theirs, per_token[batch.mask].sum() / batch.mask.sum(), 1e-10)


def _both(batch: SimpleNamespace) -> tuple[Tensor, Tensor]:
    ratio, advantages = torch.exp(batch.logprobs - batch.old), batch.advantages[:, None]
    return ratio * advantages, ratio.clamp(0.8, 1.28) * advantages


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_liger(variant: tuple[str, str]) -> None:
    chunked = pytest.importorskip("liger_kernel.chunked_loss", reason="liger-kernel is not installed")
    loss, aggregation, high = VARIANTS[variant]
    batch = random_batch(torch.float32, 11)
    generator = torch.Generator().manual_seed(12)
    head = torch.randn(17, 6, generator=generator)
    hidden = torch.randn(C, T, 6, generator=generator).requires_grad_()
    targets = torch.randint(0, 17, (C, T), generator=generator)
    logprobs = torch.log_softmax(hidden @ head.T, -1).gather(2, targets[..., None]).squeeze(2)
    batch.old = logprobs.detach() + 0.3 * torch.randn(C, T, generator=generator)
    theirs, *_ = chunked.LigerFusedLinearGRPOLoss(
        beta=0.0,
        compiled=False,
        use_ref_model=False,
        epsilon_low=0.2,
        epsilon_high=high,
        loss_type=variant[0],
        importance_sampling_level=variant[1],
        max_completion_length=MAX_LENGTH,
    )(hidden, head, targets, batch.mask.float(), batch.advantages, old_per_token_logps=batch.old)
    batch.logprobs = logprobs
    ours = our_loss(batch, loss, aggregation)
    (expected,) = torch.autograd.grad(theirs, hidden)
    (found,) = torch.autograd.grad(ours, hidden)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert (found - expected).abs().max().item() <= 1e-6
    assert expected.abs().max().item() > 1e-3

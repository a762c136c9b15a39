"""Estimators of the KL divergence to the reference policy, per token.

Legend: N tokens (any shape). http://joschu.net/blog/kl-approx.html names the estimators k1, k2, k3.
"""

import torch
from torch import Tensor


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The k3 estimate of KL(policy || reference) from tokens that the policy drew.

    k3 = exp(d) - d - 1 with d = ref_logprobs - logprobs; never negative, unbiased as a value.
    DeepSeekMath eq. 4 (https://arxiv.org/abs/2402.03300).

    Args:
        logprobs: [N], log-probs of the tokens under the policy.
        ref_logprobs: [N], the same under the reference policy.

    Returns:
        [N], nats per token.
    """
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio

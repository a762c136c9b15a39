"""Numbers by step: the learning rate's warm-up and fall.

How this differs from the cosine that is commonly copied: that one divides by all steps and so never reaches its
end; this one divides by the steps after the warm-up, and the last step is at the floor.
"""

import math

from gruppo.config.schema import LRSchedule


def lr_factor(step: int, steps: int, schedule: LRSchedule, warmup_ratio: float, min_lr_ratio: float) -> float:
    """Factor of the peak rate at a step.

    Args:
        step: 0 to steps - 1.
        steps: optimizer steps of the stage.
        schedule: how the factor falls after the warm-up.
        warmup_ratio: share of the steps over which it rises linearly; its first step is not at 0.
        min_lr_ratio: the factor at the last step (constant: not used).
    """
    warmup = round(warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    fall = 1.0 - progress if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return min_lr_ratio + (1.0 - min_lr_ratio) * fall

"""Rule and model mixed: gates and normalisation of one reward's values over a group.

A rule says what is right and a model how good it is: `gated` lets the model's score count only where the rule says
correct, `normalize_group` brings scores of any range to one that a weight can be chosen for. The order is gate, then
normalise: what the gate shut counts 0, and is a value of the group like any other.

1. A gated-off value is 0, so 0 should be the worst that the reward gives. A raw score may be below 0, and a wrong
   completion would then get more than a right one: squash the score into 0 to 1 before the gate.
2. None means "does not apply" and stays None. Where the gate itself does not apply, nothing says that the completion
   is correct, and nothing that it is wrong: the gated reward does not apply either.
"""

import math
from collections.abc import Sequence

from gruppo.errors import RewardError
from gruppo.types import PASS_SHARE

SMALLEST_STD = 1e-6
"""A group whose values spread less than this has no order to speak of: all its values become 0."""


def gated(
    values: Sequence[float | None], gate_values: Sequence[float | None], gate_full_scale: float = 1.0
) -> list[float | None]:
    """The values where the gate is open, 0 where it is shut, None where either does not apply.

    A gate is open at 0.99 of its full scale, as a pass is.

    >>> gated([0.7, 0.9, None, 0.4], [1.0, 0.0, 1.0, None])
    [0.7, 0.0, None, None]

    Args:
        values: one reward's, unweighted, over the completions of a group.
        gate_values: another reward's, unweighted, over the same completions.
        gate_full_scale: the gate's value for a perfect completion.

    Raises:
        RewardError: the counts differ.
    """
    if len(values) != len(gate_values):
        raise RewardError(f"gate: {len(values)} values, {len(gate_values)} of the gate; wanted one for each.")
    threshold = PASS_SHARE * gate_full_scale
    return [
        None if value is None or gate is None else (value if gate >= threshold else 0.0)
        for value, gate in zip(values, gate_values)
    ]


def normalize_group(values: Sequence[float | None]) -> list[float | None]:
    """(value - mean) / std over the values of a group that apply; 0 for all where std is below 1e-6.

    std is that of the population (over n, not n - 1). None stays None and counts for nothing.

    >>> normalize_group([1.0, 3.0, None])
    [-1.0, 1.0, None]

    Args:
        values: one reward's, over the completions of a group; finite.
    """
    known = [value for value in values if value is not None]
    # Equal values are told by comparing: the rounding of a large mean would look like a spread.
    if not known or min(known) == max(known):
        return [None if value is None else 0.0 for value in values]
    # Divided first where squares would overflow; the result is the same.
    unit = max(1.0, max(map(abs, known)) / 1e100)
    mean = math.fsum(value / unit for value in known) / len(known)
    std = math.sqrt(math.fsum((value / unit - mean) ** 2 for value in known) / len(known))
    if std * unit < SMALLEST_STD:
        return [None if value is None else 0.0 for value in values]
    return [None if value is None else (value / unit - mean) / std for value in values]

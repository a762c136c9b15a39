"""What was learnt, in plain words, from two evaluations of the same problems."""

from dataclasses import dataclass

from gruppo.evaluation.evaluate import Evaluation, compare


@dataclass(frozen=True, slots=True)
class Decomposition:
    """A change of pass@1 split into choosing a way of answering more often, and answering better.

    With w the share of completions with the label, a their accuracy and b that of the others (0 before, 1 after):
    choosing = (w1 - w0) (a0 - b0) and better = w1 (a1 - a0) + (1 - w1) (b1 - b0). The two add up to the change.
    """

    choosing: float
    better: float


def decompose(before: Evaluation, after: Evaluation) -> Decomposition:
    """Split the change of sampled pass@1 by the label that both evaluations counted."""
    w0, a0, b0 = _shares(before)
    w1, a1, b1 = _shares(after)
    return Decomposition(choosing=(w1 - w0) * (a0 - b0), better=w1 * (a1 - a0) + (1 - w1) * (b1 - b0))


def _shares(evaluation: Evaluation) -> tuple[float, float, float]:
    """Share with the label, accuracy with it, accuracy without; an empty side counts as accuracy 0."""
    total = evaluation.samples * len(evaluation.per_problem)
    labelled = sum(result.labelled for result in evaluation.per_problem)
    with_label = sum(result.labelled_passes for result in evaluation.per_problem)
    without = sum(result.passes for result in evaluation.per_problem) - with_label
    return (
        labelled / total,
        with_label / labelled if labelled else 0.0,
        without / (total - labelled) if labelled < total else 0.0,
    )


def learnt(before: Evaluation, after: Evaluation, verb: str = "") -> list[str]:
    """Sentences for the report.

    Args:
        before: the evaluation before GRPO.
        after: the one after, of the same problems.
        verb: what completions with the label do ("work the answer out"); empty: no label was counted.
    """
    change = compare(before, after)["pass_at_1"]
    points = f"{100 * change.value:+.1f} points (95 % interval {100 * change.low:+.1f} to {100 * change.high:+.1f})"
    if change.low > 0:
        verdict = "the model learnt"
    elif change.high < 0:
        verdict = "the model got worse"
    else:
        verdict = "not told apart from chance"
    sentences = [f"Sampled pass@1 on held-out problems changed by {points}: {verdict}."]
    if not verb or before.label is None:
        return sentences
    parts, old, new = decompose(before, after), _shares(before), _shares(after)
    return [
        *sentences,
        f"{100 * parts.choosing:+.1f} points are choice: {old[0]:.0%} of completions {verb} before, {new[0]:.0%} now.",
        f"{100 * parts.better:+.1f} points are skill: of those, {old[1]:.0%} were right before, {new[1]:.0%} after.",
    ]

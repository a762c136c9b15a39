"""From what a step gave to its line of metrics, told to the run folder, the observer and the mirrors."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from gruppo.monitor.diagnosis import Diagnosis, Finding
from gruppo.monitor.metrics import REWARD_PREFIX, TABLES, find
from gruppo.monitor.mirrors import Mirror
from gruppo.monitor.rollout_table import Advantages
from gruppo.monitor.run_folder import RunFolder
from gruppo.monitor.writer import BackgroundWriter
from gruppo.types import Group, ProgressObserver

SHOWN = ("reward_mean", "pass_at_1", "kl_to_reference", "completion_length_mean", "tokens_per_second", "loss")
"""What a progress line shows, where the step has it."""

Values = Mapping[str, float | None]

_SHOWN_TEXT = 4000
"""Characters of a completion, from its end, that an event keeps."""


class Recorder:
    """Writes each step's metrics and passes them on. One per stage."""

    def __init__(
        self,
        folder: RunFolder,
        observer: ProgressObserver,
        mirrors: Iterable[Mirror] = (),
        *,
        stage: str = "grpo",
        precision: str = "float32",
        writer: BackgroundWriter | None = None,
    ) -> None:
        """folder: the stage's own (`run.sub("sft")` for SFT). stage: `grpo` or `sft`, which sets the table of
        metrics and is the stage's name on the display. precision: how far trainer and sampler may differ; `mixed`
        where each has its own.
        writer: writes the rollouts; None: one of our own.
        """
        self.folder = folder
        self.observer = observer
        self.stage = stage
        self._table = TABLES[stage]
        self._mirrors = list(mirrors)
        self._precision = precision
        self.writer = writer or BackgroundWriter()
        self._diagnosis: Diagnosis | None = None

    def record(self, step: int, values: Values, groups: Sequence[Group] = ()) -> dict[str, float | None]:
        """Make, write and tell a step's metrics; gives them in the table's order, None for what was not measured.

        step: counted from 1. values: by name, as in the table; they win over what is computed from `groups`.
        Raises ValueError for a name that the table does not know, and what went wrong in the background (a disk that
        is full) since. NaN stays NaN in what is returned.
        """
        self.writer.check()
        measured: dict[str, float | None] = {**(group_metrics(groups) if groups else {}), **values, "step": step}
        if measured.get("tokens_per_second") is None:
            measured["tokens_per_second"] = _rate(measured)
        metrics = self._in_order(measured)
        self.folder.append_metrics(metrics)
        self.observer.step(self.stage, step, {n: metrics[n] for n in SHOWN if metrics.get(n) is not None})
        self._mirror(step, metrics)
        return metrics

    def record_rollouts(self, step: int, groups: Sequence[Group], advantages: Advantages | None = None) -> None:
        """Write the step's completions to the run folder, in the background; advantages [P, G]."""
        self.writer.submit(
            f"the rollouts of step {step}", partial(self.folder.write_rollouts, step, groups, advantages)
        )

    def diagnose(self, metrics: Values) -> list[Finding]:
        """What has just gone wrong, from the metrics that `record` gave and those of the steps before.

        After a resume the steps before are read from the run folder, and what was found then is not found again.
        """
        if self._diagnosis is None:
            self._diagnosis = Diagnosis(self._precision)
            for row in self.folder.read_metrics():
                if row["step"] < (metrics["step"] or 0):
                    self._diagnosis.observe(row)
        return self._diagnosis.observe(metrics)

    def report(self, findings: Sequence[Finding]) -> None:
        """Write findings to events.jsonl and tell the observer."""
        for finding in findings:
            self.folder.append_event("finding", **finding.to_json())
            self.observer.note(str(finding))

    def event(self, kind: str, step: int, text: str, *, tell: bool = True) -> None:
        """Write something that the run did by itself to events.jsonl, and tell the observer if it is rare."""
        self.folder.append_event(kind, step=step, text=text)
        if tell:
            self.observer.note(f"step {step}: {text}")

    def reward_errors(self, step: int, groups: Sequence[Group]) -> None:
        """Write each completion on which a reward failed to events.jsonl, with its text, and tell how many."""
        failed = [(group.problem, rollout) for group in groups for rollout in group.rollouts if rollout.score.errors]
        for problem, rollout in failed:
            for reward, text in rollout.score.errors.items():
                self.folder.append_event(
                    "reward_error",
                    step=step,
                    reward=reward,
                    problem=problem.id,
                    sample=rollout.completion.sample,
                    text=text,
                    completion=rollout.text[-_SHOWN_TEXT:],
                )
        if failed:
            problem, rollout = failed[0]
            reward, text = next(iter(rollout.score.errors.items()))
            where = f"{problem.id}, sample {rollout.completion.sample}"
            how_many = "a completion" if len(failed) == 1 else f"{len(failed)} completions"
            told = f"'{reward}' failed on {how_many}, such as {where}: {text}"
            self.observer.note(f"step {step}: {told} (all of them are in events.jsonl)")

    def close(self) -> None:
        """Finish what is being written, and the mirrors."""
        self.writer.flush()
        for mirror in self._mirrors:
            mirror.close()

    def _in_order(self, measured: Values) -> dict[str, float | None]:
        unknown = [name for name in measured if find(name, self._table) is None]
        unknown = [name for name in unknown if measured[name] is not None]
        if unknown:
            raise ValueError(f"no such metric: {', '.join(unknown)}; the table is in gruppo.monitor.metrics")
        ordered: dict[str, float | None] = {}
        for metric in self._table:
            if metric.name == "reward/<name>":
                ordered.update({n: v for n, v in measured.items() if n.startswith(REWARD_PREFIX)})
            else:
                ordered[metric.name] = measured.get(metric.name)
        return ordered

    def _mirror(self, step: int, metrics: Values) -> None:
        """A tracker that breaks (its server is away, its disk is full) is left out from then on; the run goes
        on.
        """
        for mirror in list(self._mirrors):
            try:
                mirror.log(step, metrics)
            except Exception as error:
                self._mirrors.remove(mirror)
                text = f"report_to: {mirror.name} failed at step {step} and is left out from here: {error}"
                self.folder.append_event("mirror_failed", step=step, mirror=mirror.name, text=text)
                self.observer.note(text)


def _rate(measured: Values) -> float | None:
    tokens, seconds = measured.get("generated_tokens"), measured.get("seconds_step")
    return tokens / seconds if tokens is not None and seconds else None


def group_metrics(groups: Sequence[Group]) -> dict[str, float | None]:
    """What a step's scored groups say by themselves, under the names of the table of metrics.

    Means and the (population) standard deviation are over completions; pass_at_1 is the mean over problems of
    the share that passes; a part that does not apply (None) is left out of its mean.
    Raises ValueError without any rollout.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        raise ValueError("a step's metrics need at least one rollout")
    rewards = np.concatenate([group.rewards for group in groups])
    lengths = np.array([len(rollout.completion) for rollout in rollouts])
    passes = [np.mean([rollout.score.passed for rollout in group.rollouts]) for group in groups]
    names = dict.fromkeys(name for rollout in rollouts for name in rollout.score.parts)
    parts = {name: [r.score.parts[name] for r in rollouts if name in r.score.parts] for name in names}
    return {
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        **{f"{REWARD_PREFIX}{name}": _mean(values) for name, values in parts.items()},
        "reward_errors": float(sum(bool(rollout.score.errors) for rollout in rollouts)),
        "no_signal_share": float(np.mean([not group.has_signal for group in groups])),
        "pass_at_1": float(np.mean(passes)),
        "completion_length_mean": float(lengths.mean()),
        "completion_length_max": float(lengths.max()),
        "truncated_share": float(np.mean([rollout.completion.truncated for rollout in rollouts])),
        "generated_tokens": float(sum(int(rollout.completion.mask.sum()) for rollout in rollouts)),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    applied = [value for value in values if value is not None]
    return float(np.mean(applied)) if applied else None

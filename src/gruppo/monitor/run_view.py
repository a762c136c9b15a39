"""A run folder as it reads: what the report and `gruppo show` have in common. Reads only; never locks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gruppo.errors import RunFolderError
from gruppo.monitor import files
from gruppo.monitor.diagnosis import Finding
from gruppo.monitor.run_folder import RunFolder, is_run
from gruppo.monitor.text import number

Row = Mapping[str, Any]
"""A line of metrics.jsonl or events.jsonl."""

_K = re.compile(r"pass_at_(\d+)")


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval, as the evaluation wrote it."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.2f}, {self.high:.2f}]"

    @property
    def signed(self) -> str:
        """For a difference: `+0.568 [+0.53, +0.61]`."""
        return f"{self.value:+.3f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """One evaluation."""

    problems: int
    samples: int
    passes: Mapping[str, Interval]
    """By name: pass_at_1, pass_at_1_greedy, pass_at_8, in the order to show them."""
    figures: Mapping[str, float]
    """Everything else that is a number: mean length, truncated share, what the evaluation adds."""


@dataclass(frozen=True, slots=True)
class RunView:
    """What is known of a run."""

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: Sequence[Row]
    sft_metrics: Sequence[Row]
    events: Sequence[Row]
    findings: Sequence[Finding]
    before: EvaluationView | None
    after: EvaluationView | None
    differences: Mapping[str, Interval]
    """after - before, paired, by the names of `EvaluationView.passes`."""
    learnt: Sequence[str]
    """Sentences on what was learnt."""
    done: Mapping[str, str]
    """The stages that are over."""
    holder: int | None
    """The process that has the run open."""

    @property
    def step(self) -> int:
        """The last GRPO step made."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def steps(self) -> int | None:
        """How many the config wants."""
        wanted = self.config.get("steps")
        return wanted if isinstance(wanted, int) else None

    @property
    def state(self) -> str:
        """`finished`, `running`, or `stopped`, with the step reached."""
        if self.holder is not None:
            return f"running in process {self.holder}, {self._where}"
        if (self.path / "model").is_dir() and self._stages_over:
            return f"finished, {self._where}"
        return f"stopped at {self._where}; the same command goes on from its last checkpoint"

    @property
    def _where(self) -> str:
        if not self.metrics and self.sft_metrics:
            return f"SFT step {int(self.sft_metrics[-1]['step'])}"
        return f"step {self.step}" if self.steps is None else f"step {self.step} of {self.steps}"

    @property
    def _stages_over(self) -> bool:
        """Whether GRPO came to its end, and the evaluation if there is one; or SFT, where it was run by itself."""
        if not self.metrics:
            return "sft" in self.done
        evaluated = self.config.get("eval") is None or self.after is not None
        return evaluated and (self.steps is None or self.step >= self.steps)


def load_run(path: str | Path) -> RunView:
    """Read a run folder. Raises RunFolderError where there is none."""
    folder = RunFolder(path)
    if not is_run(folder.path):
        what = (
            "is no run of gruppo (it has no config.yaml and environment.json)"
            if folder.path.is_dir()
            else "is no folder"
        )
        raise RunFolderError(f"{folder.path} {what}; wanted the folder that a run was given with --out")
    events = folder.read_events()
    summary = files.read_json(folder.path / "eval" / "summary.json")
    learnt = summary.get("learnt")
    return RunView(
        path=folder.path,
        config=folder.read_config(),
        environment=files.read_json(folder.path / "environment.json"),
        metrics=folder.read_metrics(),
        sft_metrics=RunFolder(folder.path / "sft").read_metrics(),
        events=events,
        findings=standing_findings(events),
        before=_evaluation(folder.path / "eval" / "before.json"),
        after=_evaluation(folder.path / "eval" / "after.json"),
        differences=_intervals(summary.get("paired")),
        learnt=[str(sentence) for sentence in learnt] if isinstance(learnt, list) else [],
        done=folder.done_stages(),
        holder=files.holder(folder.path),
    )


def standing_findings(events: Sequence[Row]) -> list[Finding]:
    """The findings of the steps that count: those of steps that a resume went back over are left out."""
    found: list[Finding] = []
    for event in events:
        if event.get("kind") == "finding":
            found.append(Finding.from_json(event))
        elif event.get("kind") == "rewind":
            found = [finding for finding in found if finding.step <= event["step"]]
    return found


def _evaluation(path: Path) -> EvaluationView | None:
    data = files.read_json(path)
    passes = _intervals(data)
    if not passes:
        return None
    extra = data.get("extra")
    numbers = {"mean_length": data.get("mean_length"), "truncated_share": data.get("truncated_share")}
    numbers |= extra if isinstance(extra, dict) else {}
    figures = {name: float(value) for name, value in numbers.items() if isinstance(value, (int, float))}
    return EvaluationView(int(data.get("problems", 0)), int(data.get("samples", 0)), passes, figures)


def _intervals(data: object) -> dict[str, Interval]:
    """The entries of a JSON object that are intervals: pass@1 first, then greedy, then pass@k by k."""
    if not isinstance(data, dict):
        return {}
    found: dict[str, Interval] = {}
    for name, entry in data.items():
        if isinstance(entry, dict) and {"value", "low", "high"} <= set(entry):
            found[str(name)] = Interval(float(entry["value"]), float(entry["low"]), float(entry["high"]))
    return dict(sorted(found.items(), key=lambda item: _rank(item[0])))


def _rank(name: str) -> tuple[int, str]:
    if name == "pass_at_1":
        return (0, name)
    match = _K.fullmatch(name)
    return (1 + int(match.group(1)), name) if match else (1, name)


def pass_label(name: str) -> str:
    """`pass@1 sampled`, `pass@1 greedy`, `pass@8` for pass_at_1, pass_at_1_greedy, pass_at_8; other names in words."""
    if name == "pass_at_1":
        return "pass@1 sampled"
    if name == "pass_at_1_greedy":
        return "pass@1 greedy"
    match = _K.fullmatch(name)
    return f"pass@{match.group(1)}" if match else figure_label(name)


def figure_label(name: str) -> str:
    """A name in words: `share worked` for share_worked."""
    return name.replace("_", " ")


def figure_text(name: str, value: float | None) -> str:
    """A figure of an evaluation: shares and accuracies with three decimals, like pass@k beside them."""
    if value is not None and ("share" in name or "accuracy" in name):
        return f"{value:.3f}"
    return number(value)

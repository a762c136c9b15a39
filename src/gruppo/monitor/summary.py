"""A run in plain text, for `gruppo show`."""

import math
from collections.abc import Sequence
from pathlib import Path

from gruppo.monitor.metrics import TABLES, find
from gruppo.monitor.run_view import Row, RunView, figure_label, figure_text, load_run, pass_label
from gruppo.monitor.text import number, one_line, sparkline, visible

WIDTH = 100


def summarize(run: str | Path) -> str:
    """The state of a run, its last metrics, evaluation, findings and events, as text for a terminal.

    Raises RunFolderError where `run` is no run folder.
    """
    view = load_run(run)
    sections = [
        _head(view),
        _evaluation(view),
        _learnt(view),
        _curves(view),
        _metrics("GRPO", view.metrics, "grpo"),
        _metrics("SFT", view.sft_metrics, "sft"),
        _findings(view),
        _events(view),
        _files(view),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _head(view: RunView) -> list[str]:
    lines = [f"{view.path}: {view.state}"]
    model = view.config.get("model")
    if model is not None:
        lines.append(f"model {visible(str(model))}")
    return lines


def _evaluation(view: RunView) -> list[str]:
    """before, after and their paired difference, one line per measure."""
    present = view.after or view.before
    if present is None:
        return []
    lines = [f"Evaluation on {present.problems:,} held-out problems, {present.samples} samples each (95 % intervals)"]
    lines.append(f"  {'':<24}{'before':<22}{'after':<22}{'difference, paired'}".rstrip())
    for name in present.passes:
        old = view.before.passes.get(name) if view.before else None
        new = view.after.passes.get(name) if view.after else None
        change = view.differences.get(name)
        cells = [str(old or "-"), str(new or "-"), change.signed if change else "-"]
        lines.append(f"  {pass_label(name):<24}{cells[0]:<22}{cells[1]:<22}{cells[2]}")
    for name in present.figures:
        old_figure = figure_text(name, view.before.figures.get(name)) if view.before else "-"
        new_figure = figure_text(name, view.after.figures.get(name)) if view.after else "-"
        lines.append(f"  {figure_label(name):<24}{old_figure:<22}{new_figure}")
    return lines


def _learnt(view: RunView) -> list[str]:
    return ["What was learnt", *(f"  {visible(sentence)}" for sentence in view.learnt)] if view.learnt else []


def _curves(view: RunView) -> list[str]:
    lines: list[str] = []
    for name, label in (("reward_mean", "reward"), ("pass_at_1", "pass@1")):
        values = _finite(view.metrics, name)
        if len(values) > 1:
            lines.append(f"  {label:<8}{sparkline(values, 60)}  {number(values[0])} -> {number(values[-1])}")
    return ["Curves", *lines] if lines else []


def _finite(rows: Sequence[Row], name: str) -> list[float]:
    values = [row.get(name) for row in rows]
    return [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]


def _metrics(title: str, rows: Sequence[Row], stage: str) -> list[str]:
    """The last step's figures; what is out of its healthy range is marked."""
    if not rows:
        return []
    last = rows[-1]
    lines = [f"{title}, step {last['step']}"]
    for name, value in last.items():
        metric = find(name, TABLES[stage])
        if metric is None or value is None or name == "step":
            continue
        mark = "" if metric.healthy(value) else f"  <- healthy is {metric.healthy_range}"
        unit = "" if metric.unit in ("1", "share", "reward", "0 or 1") else f" {metric.unit}"
        lines.append(f"  {visible(name):<32}{number(value)}{unit}{mark}")
    return lines


def _findings(view: RunView) -> list[str]:
    lines: list[str] = []
    for finding in view.findings:
        lines.append(f"  step {finding.step}: {visible(finding.symptom)} ({visible(finding.evidence)})")
        lines += [f"    cause: {visible(finding.cause)}", f"    cure:  {visible(finding.cure)}"]
    return ["Findings", *lines] if lines else []


def _events(view: RunView) -> list[str]:
    """The last few events but findings, which have a section of their own."""
    lines: list[str] = []
    for event in [event for event in view.events if event.get("kind") != "finding"][-5:]:
        rest = ", ".join(f"{name} {value}" for name, value in event.items() if name not in ("time", "kind") and value)
        lines.append("  " + one_line(f"{event.get('time')}  {event.get('kind')}  {rest}", WIDTH))
    return ["Last events", *lines] if lines else []


def _files(view: RunView) -> list[str]:
    named = {"model": view.path / "model", "report": view.path / "report.html"}
    return [f"{name:<8}{path}" for name, path in named.items() if path.exists()]

"""report.html: a run on one page that opens anywhere, without network and without script.

What a model wrote is hostile: every piece of text goes through `_text`, which shows control characters and escapes
markup, and the page forbids scripts and loads to the browser as well.
"""

import html
import math
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from gruppo.monitor import files
from gruppo.monitor.charts import interval_plot, line_chart
from gruppo.monitor.environment import now
from gruppo.monitor.metrics import GRPO_METRICS, SFT_METRICS, Metric, find
from gruppo.monitor.run_folder import RunFolder
from gruppo.monitor.run_view import Interval, Row, RunView, figure_label, figure_text, load_run, pass_label
from gruppo.monitor.samples import Pair, Sample, Shown, pick_samples
from gruppo.monitor.text import number, visible

LONGEST = 2_000
"""Characters of a prompt or completion that are shown."""

CURVES: tuple[tuple[str, str], ...] = (
    ("reward_mean", "Reward"),
    ("pass_at_1", "pass@1 of the step"),
    ("no_signal_share", "Groups without signal"),
    ("completion_length_mean", "Completion length"),
    ("truncated_share", "Truncated"),
    ("entropy", "Entropy"),
    ("kl_to_reference", "KL to the reference"),
    ("grad_norm", "Gradient norm"),
    ("learning_rate", "Learning rate"),
    ("tokens_per_second", "Tokens per second"),
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_report(run: str | Path) -> Path:
    """Make RUN/report.html from what the run has so far, and give its path.

    Raises RunFolderError where `run` is no run folder or can't be written.
    """
    view = load_run(run)
    target = view.path / "report.html"
    files.write_atomic(target, render(view, pick_samples(RunFolder(view.path))))
    return target


def _title(path: Path) -> str:
    """The folder's name, with its parent's where the name alone says nothing."""
    full = path.resolve()
    return f"{full.parent.name}/{full.name}" if full.name == "run" else full.name


def render(view: RunView, pairs: Sequence[Pair] = ()) -> str:
    """The page."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    name = _text(_title(view.path))
    body = [
        _head(view),
        _headline(view),
        _evaluation(view),
        _learnt(view),
        _findings(view),
        _curves("Curves", view.metrics, CURVES, GRPO_METRICS),
        _curves("SFT", view.sft_metrics, (("loss", "Loss"), ("grad_norm", "Gradient norm")), SFT_METRICS),
        _samples(pairs),
        _details(view),
        f"<footer>Made by gruppo {_text(_version(view))} at {now()}</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{name} · gruppo</title><style>\n{style}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _text(value: object, keep: str = "") -> str:
    """Any text as HTML that can do nothing."""
    return html.escape(visible(str(value), keep=keep))


def _words(text: str) -> str:
    """Prose with `names` in backquotes."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))


def _block(text: str) -> str:
    """Text of several lines in a `pre`, cut where it is long."""
    if not text:
        return '<p class="empty">(empty)</p>'
    left = len(text) - LONGEST
    more = f'\n<span class="empty">… {left:,} more characters</span>' if left > 0 else ""
    return f"<pre>{_text(text[:LONGEST], keep=chr(10) + chr(9))}{more}</pre>"


def _version(view: RunView) -> str:
    versions = view.environment.get("versions")
    return str(versions.get("gruppo", "")) if isinstance(versions, dict) else ""


def _head(view: RunView) -> str:
    machine = view.environment.get("gpus") or view.environment.get("cpu")
    machine = ", ".join(map(str, machine)) if isinstance(machine, list) else machine
    facts = [
        view.state.split(";")[0],
        f"model {view.config['model']}" if "model" in view.config else "",
        f"started {str(view.environment.get('started', '')).replace('T', ' ').replace('+00:00', ' UTC')}",
        str(machine or ""),
    ]
    spans = " ".join(f"<span>{_text(fact)}</span>" for fact in facts if fact)
    name = _text(_title(view.path))
    return f'<header><p class="eyebrow">gruppo run</p><h1>{name}</h1><p class="meta">{spans}</p></header>'


def _headline(view: RunView) -> str:
    """pass@1 before and after, large."""
    if view.after is None or "pass_at_1" not in view.after.passes:
        return ""
    after = view.after.passes["pass_at_1"]
    old = view.before.passes.get("pass_at_1") if view.before else None
    was = f'<span class="was">{old.value:.3f}</span><span class="arrow">→</span>' if old else ""
    change = view.differences.get("pass_at_1")
    moved = f" The paired difference is {change.signed}." if change else ""
    held = f"pass@1 on {view.after.problems:,} held-out problems, {view.after.samples} samples each."
    return (
        f'<section class="headline"><span class="figure">{was}<span class="is">{after.value:.3f}</span></span>'
        f'<span class="said">{held}{_text(moved)}</span></section>'
    )


def _cell(interval: Interval | None, sign: str = "-") -> str:
    if interval is None:
        return "<td>-</td>"
    value, low, high = (format(x, f"{sign}.{digits}f") for x, digits in _digits(interval))
    return f'<td>{value}<span class="range">{low} to {high}</span></td>'


def _digits(interval: Interval) -> tuple[tuple[float, int], ...]:
    """An interval's figures, each with the decimals that it is shown with."""
    return (interval.value, 3), (interval.low, 2), (interval.high, 2)


def _evaluation(view: RunView) -> str:
    present = view.after or view.before
    if present is None:
        return ""
    rows = [_pass_row(view, name) for name in present.passes] + [_figure_row(view, name) for name in present.figures]
    return (
        '<section class="scroll"><table><thead><tr><th></th><th>before</th><th>after</th><th>difference</th>'
        f'<th class="plot"></th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
        '<p class="note">Ranges are 95 % intervals, bootstrapped over problems; differences are paired by problem.</p>'
        "</section>"
    )


def _pass_row(view: RunView, name: str) -> str:
    old = view.before.passes.get(name) if view.before else None
    new = view.after.passes.get(name) if view.after else None
    plot = f'<td class="plot">{interval_plot(old, new)}</td>'
    change = _cell(view.differences.get(name), sign="+")
    return f"<tr><td>{_text(pass_label(name))}</td>{_cell(old)}{_cell(new)}{change}{plot}</tr>"


def _figure_row(view: RunView, name: str) -> str:
    figures = [figure_text(name, side.figures.get(name)) if side else "-" for side in (view.before, view.after)]
    cells = "".join(f"<td>{figure}</td>" for figure in figures)
    return f'<tr class="figure"><td>{_text(figure_label(name))}</td>{cells}<td></td><td class="plot"></td></tr>'


def _learnt(view: RunView) -> str:
    if not view.learnt:
        return ""
    items = "".join(f"<li>{_text(sentence)}</li>" for sentence in view.learnt)
    return f'<section><h2>What was learnt</h2><ul class="learnt">{items}</ul></section>'


def _findings(view: RunView) -> str:
    if not view.findings:
        return ""
    parts = [
        f'<div class="finding"><h3>{_text(f.symptom)} <span class="step">from step {f.step:,}</span></h3>'
        f"<p>{_text(f.evidence)}</p><p>{_words(f.cause)} <strong>Cure:</strong> {_words(f.cure)}</p></div>"
        for f in view.findings
    ]
    return f"<section><h2>Findings</h2>{''.join(parts)}</section>"


def _curves(title: str, rows: Sequence[Row], curves: Sequence[tuple[str, str]], table: Sequence[Metric]) -> str:
    cards = [card for name, heading in curves if (card := _card(rows, heading, find(name, table)))]
    return f'<section><h2>{title}</h2><div class="charts">{"".join(cards)}</div></section>' if cards else ""


def _card(rows: Sequence[Row], heading: str, metric: Metric | None) -> str:
    """One curve with its name, its last value and what it means."""
    if metric is None:
        return ""
    pairs = [(row["step"], row.get(metric.name)) for row in rows]
    points = [(float(x), float(y)) for x, y in pairs if isinstance(y, (int, float)) and math.isfinite(y)]
    if not points:
        return ""
    unit = "" if metric.unit in ("1", "share", "reward") else f' <span class="unit">{_text(metric.unit)}</span>'
    chart = line_chart(heading, points, bounds=(metric.low, metric.high), smooth=metric.name != "learning_rate")
    return (
        f'<figure class="card"><figcaption><h3>{_text(heading)}</h3><span class="last">{number(points[-1][1])}{unit}'
        f'</span></figcaption><p class="why">{_text(metric.meaning)}</p>{chart}</figure>'
    )


def _samples(pairs: Sequence[Pair]) -> str:
    if not pairs:
        return ""
    twice = pairs[0].early is not None and pairs[0].late is not None
    note = "The same problems early and late in the run" if twice else "Problems from the first and the last step"
    cards = [_problem(pair) for pair in pairs]
    return (
        f'<section><h2>Completions</h2><p class="note">{note}: the best and the worst completion of the group.</p>'
        f"{''.join(cards)}</section>"
    )


def _problem(pair: Pair) -> str:
    sides = [side for side in (pair.early, pair.late) if side is not None]
    answer = "" if sides[0].answer is None else f'<p class="answer">answer: {_text(sides[0].answer[:LONGEST])}</p>'
    return (
        f'<article class="problem"><div class="prompt">{_block(sides[0].prompt)}{answer}</div>'
        f'<div class="sides">{"".join(_side(side) for side in sides)}</div></article>'
    )


def _side(side: Shown) -> str:
    samples = "".join(_sample(sample) for sample in side.samples)
    return f'<div class="side"><h3>step {side.step:,}: {side.passes} of {side.size} pass</h3>{samples}</div>'


def _sample(sample: Sample) -> str:
    verdict = '<span class="pass">passes</span>' if sample.passed else '<span class="fail">fails</span>'
    cut = "<span>truncated</span>" if sample.truncated else ""
    why = f"<span>{_text(sample.reasons[:300])}</span>" if sample.reasons else ""
    return (
        f'<div class="sample"><p class="verdict">{verdict}<span>reward {number(sample.reward)}</span>{cut}{why}</p>'
        f"{_block(sample.text)}</div>"
    )


def _details(view: RunView) -> str:
    parts: list[str] = []
    for title, content in (("Config", view.config), ("Environment", view.environment)):
        text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
        parts.append(f"<details><summary>{title}</summary><pre>{_text(text, keep=chr(10))}</pre></details>")
    return f"<section><h2>How it was made</h2>{''.join(parts)}</section>"

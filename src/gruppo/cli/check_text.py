"""The check before a run as text for a terminal: figures first, the verdict last, where it is read first."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gruppo.config.table import aligned, wrapped
from gruppo.evaluation.statistics import Estimate
from gruppo.monitor.text import duration, number, visible
from gruppo.preflight.check import Check
from gruppo.preflight.of_data import PromptFigures
from gruppo.preflight.of_outputs import LEARNABLE, SignalFigures
from gruppo.preflight.outputs import FEWEST, Outputs
from gruppo.preflight.reasons import Cure, Reason, yaml_lines
from gruppo.preflight.reward_test import RewardTest

if TYPE_CHECKING:
    from gruppo.launch.check import Fixed

_BAR = 24
_RATES = ("none", "to 25%", "to 50%", "to 75%", "below 100%", "all")


def as_text(found: Check) -> str:
    """Figures, reasons with their cures, the verdict."""
    sections = [
        aligned([[name, text] for name, text in _rows(found)]) if found.problems else "",
        *([] if found.signal is None else [_histogram(found.signal)]),
        "\n".join(line for reason in found.reasons for line in _reason(reason)),
        _verdict(found),
    ]
    return "\n\n".join(section for section in sections if section)


def _rows(found: Check) -> Iterator[tuple[str, str]]:
    """The figures, a line or two for each part."""
    if found.prompts is not None:
        yield "data", _data(found.prompts)
        yield "prompts", _prompts(found.prompts)
    if found.rewards is not None:
        yield "rewards", _rewards(found.rewards)
    if found.outputs is not None:
        outputs = found.outputs
        told = f"{len(outputs.groups)} problems x {outputs.samples}, temperature {outputs.temperature:g}"
        if found.before_sft:
            yield "model", "not judged yet: SFT comes first, and gruppo train checks again after it"
            yield "SFT", _demonstrations(found.demonstrations)
        else:
            yield "completions", f"{told}; {_formats(outputs)}"
            yield "lengths", _lengths(outputs)
    if found.signal is not None:
        yield from _signal(found.signal)
    yield from _numbers(found)


def _data(prompts: PromptFigures) -> str:
    parts = [f"{prompts.problems:,} problems"]
    parts.append(f"{prompts.duplicates:,} repeats" if prompts.duplicates else "no repeats")
    parts += [f"{prompts.without_answer:,} without an answer"] if prompts.without_answer else []
    if prompts.held_out:
        shared = f"{prompts.overlap:,}" if prompts.overlap else "none"
        parts.append(f"{shared} of {prompts.held_out:,} evaluation problems among them")
    return ", ".join(parts)


def _prompts(prompts: PromptFigures) -> str:
    spread = f"{prompts.shortest} to {prompts.longest} tokens, median {prompts.median}, 99 % {prompts.p99}"
    context = f"; context {prompts.context:,}" if prompts.context is not None else ""
    return spread + context + (f"; {prompts.too_long:,} too long" if prompts.too_long else "")


def _rewards(test: RewardTest) -> str:
    golds = [probe for probe in test.probes if probe.must == "pass"]
    bad = [probe for probe in test.probes if probe.must == "fail"]
    parts: list[str] = []
    for probes, what in ((golds, "known answers"), (bad, "completions that must not")):
        tried = sum(probe.tried for probe in probes)
        if tried:
            parts.append(f"{sum(probe.passed for probe in probes):,} of {tried:,} {what} pass")
    return f"{', '.join(test.rewards)}: {', '.join(parts) or 'nothing to try them on'}"


def _formats(outputs: Outputs) -> str:
    marks = [f"{name} in {_percent(share)}" for name, share in outputs.formats.items() if share >= 0.01]
    languages = [f"{name} {_percent(share)}" for name, share in list(outputs.languages.items())[:2]]
    return ", ".join([*(marks or ["no mark of an answer"]), *languages])


def _lengths(outputs: Outputs) -> str:
    cover = [
        f"{share:.0%} fit in {found}" if found is not None else f"{share:.0%} in more than {outputs.limit}"
        for share, found in ((0.9, outputs.covering(0.9)), (0.99, outputs.covering(0.99)))
    ]
    return f"mean {outputs.lengths.mean():.0f} tokens, {', '.join(cover)}; {_percent(outputs.truncated_share)} cut off"


def _demonstrations(lengths: Sequence[int]) -> str:
    if not lengths:
        return "no demonstrations"
    ordered = sorted(lengths)
    return f"demonstrations of {ordered[0]} to {ordered[-1]} tokens, median {ordered[len(ordered) // 2]}"


def _signal(signal: SignalFigures) -> Iterator[tuple[str, str]]:
    ten = signal.pass_at_10
    reach = "most are in reach" if ten.value >= LEARNABLE else "not all are in reach"
    yield "pass@1", f"{_interval(signal.pass_at_1)}   pass@10 {_interval(ten)}: {reach}"
    others = ", ".join(f"{size}: {e.value:.0%}" for size, e in signal.at.items() if size != signal.group_size)
    share = (
        f"{signal.share.value:.0%} [{signal.share.low:.0%}, {signal.share.high:.0%}] of groups of {signal.group_size}"
    )
    yield "signal", f"{share} in the first steps; groups of {others}"
    if signal.temperatures:
        told = ", ".join(f"{temperature:g}: {share:.0%}" for temperature, share in signal.temperatures.items())
        yield "", f"at other temperatures, groups of {FEWEST}: {told}"


def _numbers(found: Check) -> Iterator[tuple[str, str]]:
    engine, update = found.engine, found.update
    if engine is not None:
        yield "engine", f"differs from the trainer by {number(_two(engine.most))} nats on a token at most"
    if update is not None and not update.failure:
        kl = "-" if update.kl is None else number(_two(update.kl))
        memory = "" if update.memory_bytes is None else f"; memory {update.memory_bytes / 1e9:.2g} GB"
        norm = "-" if update.grad_norm is None else number(_two(update.grad_norm))
        yield "update", f"gradient norm {norm}, moves the policy by {kl} nats per token at the full rate{memory}"
    if found.step_seconds is not None and not found.before_sft:
        yield "time", f"{_seconds(found.step_seconds)} a step"


def _histogram(signal: SignalFigures) -> str:
    """Problems by pass rate."""
    most = max(signal.histogram)
    lines = ["problems by how many of their completions pass"]
    for name, count in zip(_RATES, signal.histogram):
        bar = "█" * round(_BAR * count / most) or ("▏" if count else "")
        lines.append(f"  {name:<12}{count:>3} {bar}".rstrip())
    return "\n".join(lines)


def _reason(reason: Reason) -> Iterator[str]:
    yield wrapped(f"{reason.level}: {_plain(reason.what)}", 6)
    for line in reason.evidence:
        yield wrapped(f"      {_plain(line)}", 6)
    for place, cure in enumerate(reason.cures[:2]):
        yield from _cure(cure, "cure: " if place == 0 else "  or: ")


def _cure(cure: Cure, head: str) -> Iterator[str]:
    yield wrapped(f"      {head}{_plain(cure.text)}", 12)
    yield from (f"            {line}" for line in cure.lines)


def _verdict(found: Check) -> str:
    return f"{found.verdict} (checked in {duration(found.seconds)})"


def fix_text(fixed: "Fixed | None") -> str:
    """What `--fix` has done."""
    if fixed is None:
        return "--fix: no cure is a matter of config lines; nothing was written"
    lines = [line for _, cure in fixed.cures for line in (yaml_lines(cure.changes) or ["data: without those rows"])]
    return f"wrote {fixed.path}: {'; '.join(lines)}\n"


def _plain(text: str) -> str:
    return visible(text, keep="")


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.01 else f"{share:.0%}"


def _two(value: float) -> float:
    return float(f"{value:.2g}")


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 10 else duration(value)

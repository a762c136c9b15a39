"""The test of a rubric as text for a terminal."""

from collections.abc import Iterator, Sequence

from gruppo.config.table import aligned, wrapped
from gruppo.monitor.text import duration, number, visible
from gruppo.preflight.findings import Finding
from gruppo.preflight.reward_test import RewardTest

_MUST = {"pass": "must pass", "fail": "must not pass", "either": "may pass or not: how strict the reward is"}


def as_text(found: RewardTest) -> str:
    """All that the test has shown, what has to be mended last, where it is read first."""
    sections = [
        "\n".join(_head(found)),
        *_probes(found),
        _times(found),
        "\n".join(_runs(found)),
        "\n".join(line for finding in reversed(found.findings) for line in _finding(finding)),
        _verdict(found),
    ]
    return "\n\n".join(section for section in sections if section)


def _head(found: RewardTest) -> Iterator[str]:
    named = [f"{name} (success)" if name == found.success else name for name in found.rewards]
    yield f"{found.problems} of {found.of} problems tried in {duration(found.seconds)}; rewards: {', '.join(named)}"
    if found.problems < found.chosen:
        yield f"the time was up before {found.chosen - found.problems} more; a cheaper reward would get further"


def _probes(found: RewardTest) -> Iterator[str]:
    for must, title in _MUST.items():
        counts = [count for count in found.probes if count.must == must]
        if counts:
            rows = [
                [f"  {count.probe.removeprefix('form: ')}", _mark(must, count.passed, count.tried)] for count in counts
            ]
            yield f"{title}\n{aligned(rows)}"


def _mark(must: str, passed: int, tried: int) -> str:
    wrong = (must == "pass" and passed < tried) or (must == "fail" and passed)
    return f"{passed} of {tried} pass{'  <-' if wrong else ''}"


def _times(found: RewardTest) -> str:
    rows: list[Sequence[str]] = [["time of a call", "median", "95 %", "worst", "calls", "failed"]]
    for timing in found.timings:
        failed = ", ".join(f"{count} {kind}" for kind, count in timing.failures.items())
        times = [_time(value) if timing.calls else "-" for value in (timing.median_ms, timing.p95_ms, timing.worst_ms)]
        rows.append([f"  {timing.reward}", *times, f"{timing.calls:,}", failed or "none"])
    return aligned(rows)


def _time(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.2f} s" if milliseconds >= 1000 else f"{number(float(f'{milliseconds:.2g}'))} ms"


def _runs(found: RewardTest) -> Iterator[str]:
    differing = found.repeated - found.agreed
    told = "agree on all of them" if not differing else f"differ on {differing}  <-"
    yield f"two runs over {found.repeated} completions {told}"
    if found.examples:
        expected = [example for example in found.examples if example.agrees is not None]
        agreed = sum(example.agrees is True for example in expected)
        told = f"{agreed} of {len(expected)} as expected" if expected else "with nothing expected of them"
        yield f"{len(found.examples)} examples of yours, {told}"
        for example in found.examples:
            verdict = "passes" if example.passed else "fails"
            reasons = "; ".join(visible(reason, keep="") for reason in example.reasons.values())
            odd = "" if example.agrees is not False else "  <-"
            line = f"  {example.place} ({example.problem}): reward {example.reward:.4g}, {verdict}{odd}  {reasons}"
            yield wrapped(line.rstrip())


def _finding(finding: Finding) -> Iterator[str]:
    yield wrapped(f"{'mend' if finding.mend else 'note'}: {finding.what}", 6)
    for line in finding.evidence:
        yield wrapped(f"      {line}", 6)
    if finding.cure:
        yield wrapped(f"      cure: {finding.cure}", 6)


def _verdict(found: RewardTest) -> str:
    count = sum(finding.mend for finding in found.findings)
    if not count:
        return "fine: nothing has to be mended"
    return f"{count} thing{'s' * (count > 1)} to mend before a run"

"""Line charts and intervals as inline SVG: no script, no network; colours come from the page's style sheet."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gruppo.monitor.run_view import Interval
from gruppo.monitor.text import number

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24
MOST_POINTS = 240
"""Points drawn at most; longer curves are averaged in bins."""

Point = tuple[float, float]
Bounds = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values, its ticks, and where they fall."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


def nice_axis(low: float, high: float, count: int = 4) -> Axis:
    """An axis about [low, high] with ticks at 1, 2 or 5 times a power of ten, about `count` of them.

    It starts at 0 where the values come near it, and has some width where they are all equal.
    """
    if 0 < low <= 0.6 * high:
        low = 0.0
    if high == low:
        pad = abs(high) * 0.5 or 1.0
        low, high = (0.0, high + pad) if low >= 0 else (low - pad, 0.0)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(index * step for index in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def step_axis(first: float, last: float) -> Axis:
    """An axis of steps: exactly from the first to the last, with ticks at round numbers between."""
    if first == last:
        return Axis(first - 1, last + 1, (first,))
    inner = nice_axis(first, last).ticks
    return Axis(first, last, tuple(tick for tick in inner if first <= tick <= last))


def label(value: float, axis: Axis) -> str:
    """A tick's text with as many decimals as the ticks need: `0.25`, `4,000`, `2e-6`."""
    size = max(abs(axis.low), abs(axis.high))
    if value == 0:
        return "0"
    if size < 1e-3 or size >= 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    gap = axis.ticks[1] - axis.ticks[0] if len(axis.ticks) > 1 else size
    decimals = max(0, -math.floor(math.log10(gap) + 1e-9))
    return f"{value:,.{decimals}f}"


def binned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: the means of equal runs of neighbours."""
    if len(points) <= most:
        return list(points)
    edges = [round(index * len(points) / most) for index in range(most + 1)]
    parts = [points[a:b] for a, b in pairwise(edges)]
    return [(_mean([x for x, _ in part]), _mean([y for _, y in part])) for part in parts]


def smoothed(points: Sequence[Point], reach: int | None = None) -> list[Point]:
    """Each value that of the straight line through its neighbours, up to `reach` on either side (unset: a 20th).

    A line and not a mean, so that a curve that falls steeply at its start is not drawn too low there.
    """
    width = max(2, len(points) // 20) if reach is None else reach
    return [(x, _line_at(x, points[max(0, i - width) : i + width + 1])) for i, (x, _) in enumerate(points)]


def _line_at(x: float, points: Sequence[Point]) -> float:
    """The least-squares line through some points, at x."""
    middle, height = _mean([a for a, _ in points]), _mean([b for _, b in points])
    spread = sum((a - middle) ** 2 for a, _ in points)
    slope = sum((a - middle) * (b - height) for a, b in points) / spread if spread > 0 else 0.0
    return height + slope * (x - middle)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def line_chart(
    name: str,
    points: Sequence[Point],
    *,
    bounds: Bounds = (None, None),
    smooth: bool = True,
    shown: Callable[[float], str] = number,
) -> str:
    """A curve: raw points faint, a smoothed line, ticks, the value of each point on hovering.

    name: for those who can't see it. points: (step, finite value), ascending, at least one. bounds: the healthy range,
    an end of which is drawn where the curve passes it.
    smooth: false for what has no noise. shown: how a value reads.
    """
    x_axis = step_axis(points[0][0], points[-1][0])
    y_axis = nice_axis(min(y for _, y in points), max(y for _, y in points))

    def place(point: Point) -> Point:
        x = LEFT + x_axis.share(point[0]) * (WIDTH - LEFT - RIGHT)
        return x, HEIGHT - BOTTOM - y_axis.share(point[1]) * (HEIGHT - TOP - BOTTOM)

    drawn = binned(points)
    line = [place(point) for point in (smoothed(drawn) if smooth and len(drawn) > 12 else drawn)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line)
    dots = [(point, *place(point)) for point in drawn]
    spot = "".join(f'<circle class="raw" cx="{x:.1f}" cy="{y:.1f}" r="1.6"/>' for _, x, y in dots)
    hover = "".join(
        f'<g class="hit"><rect x="{x - _half(len(dots)):.1f}" y="{TOP}" width="{2 * _half(len(dots)):.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
        f"<title>step {point[0]:,.0f}: {html.escape(shown(point[1]))}</title></g>"
        for point, x, y in dots
    )
    said = f"{name}: from {shown(points[0][1])} to {shown(points[-1][1])} over {len(points):,} steps"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(said)}">'
        f"{_grid(x_axis, y_axis, place)}{_bounds(points, bounds, y_axis, place)}{spot}"
        f'<path class="line" d="{path}"/>{hover}</svg>'
    )


def _half(count: int) -> float:
    """Half the width of the strip in which a point answers the pointer."""
    return (WIDTH - LEFT - RIGHT) / max(1, count - 1) / 2 if count > 1 else 20.0


def _grid(x_axis: Axis, y_axis: Axis, place: Callable[[Point], Point]) -> str:
    parts: list[str] = []
    for tick in y_axis.ticks:
        _, y = place((x_axis.low, tick))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{label(tick, y_axis)}</text>')
    for tick in x_axis.ticks:
        x, _ = place((tick, y_axis.low))
        end = "end" if x > WIDTH - RIGHT - 12 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 7}" text-anchor="{end}">{label(tick, x_axis)}</text>')
    return "".join(parts)


def _bounds(points: Sequence[Point], bounds: Bounds, axis: Axis, place: Callable[[Point], Point]) -> str:
    parts: list[str] = []
    values = [y for _, y in points]
    low, high = bounds
    passed = [low] if low is not None and min(values) < low else []
    passed += [high] if high is not None and max(values) > high else []
    for bound in passed:
        if axis.low <= bound <= axis.high:
            _, y = place((points[0][0], bound))
            parts.append(f'<line class="bound" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    return "".join(parts)


def interval_plot(before: Interval | None, after: Interval | None, width: int = 260) -> str:
    """Before and after as dots with whiskers on a line from 0 to 1."""
    parts = [f'<line class="grid" x1="6" x2="{width - 6}" y1="15" y2="15"/>']
    for end in (0.0, 0.5, 1.0):
        x = 6 + end * (width - 12)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="11" y2="19"/>')
    for kind, interval in (("before", before), ("after", after)):
        if interval is not None:
            low, mid, high = (6 + v * (width - 12) for v in (interval.low, interval.value, interval.high))
            parts.append(
                f'<g class="{kind}"><line x1="{low:.1f}" x2="{high:.1f}" y1="15" y2="15"/>'
                f'<circle cx="{mid:.1f}" cy="15" r="4.5"/><title>{kind} {interval}</title></g>'
            )
    said = " and ".join(f"{kind} {i}" for kind, i in (("before", before), ("after", after)) if i is not None)
    return f'<svg class="interval" viewBox="0 0 {width} 30" role="img" aria-label="{said}">{"".join(parts)}</svg>'

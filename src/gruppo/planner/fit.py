"""Settings that fit: a search from the config outwards, the smallest change first, and what was traded.

A change has a harm. Changes of harm 1 to 4 leave the update as it is and cost time alone; those of the tens change its
arithmetic; the hundreds change what can be learnt. Every set of changes is tried in the order of its summed harm, so
the first that fits does the least, and among equals the quickest is taken.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gruppo.config.load import check
from gruppo.config.model_shape import ModelShape
from gruppo.config.ranges import LORA_FACTOR
from gruppo.config.schema import Config
from gruppo.errors import ConfigError, nearest
from gruppo.planner.devices import GB
from gruppo.planner.forecast import Forecast, Request, corrections_of, forecast_in, gigabytes, settle
from gruppo.planner.memory import token_budget
from gruppo.planner.rollouts import MOST_LIVE
from gruppo.planner.seconds import Corrections
from gruppo.planner.workload import workload_of

LORA_RANK = 16
SMALLEST_STEPS = 20
"""Fewer are no longer the run that was meant."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may take; None: no limit."""

    memory: float | None = None
    """Bytes of one device."""
    hours: float | None = None
    cost: float | None = None
    """US dollars."""

    def broken(self, made: Forecast) -> list[str]:
        """Which limits a forecast breaks, in words."""
        found: list[str] = []
        if self.memory is not None and made.needed > self.memory:
            found.append(f"memory {gigabytes(made.needed)} of {gigabytes(self.memory)}")
        if self.hours is not None and made.hours > self.hours:
            found.append(f"{made.hours:.2g} of {self.hours:g} hours")
        if self.cost is not None and (made.usd is None or made.usd > self.cost):
            found.append("no price" if made.usd is None else f"${made.usd:.2f} of ${self.cost:g}")
        return found


def read_limits(text: str) -> Limits:
    """`memory=24GB,hours=4,cost=20`, any of them.

    Raises:
        ConfigError: an unknown limit, or no number.
    """
    found: dict[str, float] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        name = name.strip().lower()
        if not equals or name not in ("memory", "hours", "cost"):
            near = nearest(name, ["memory", "hours", "cost"])
            raise ConfigError(f"--fit: got '{item}', wanted memory=24GB, hours=4, cost=20 or some of them.{near}")
        found[name] = _amount(name, value.strip().lower())
    if not found:
        raise ConfigError("--fit: wanted memory=24GB,hours=4,cost=20 or some of them")
    return Limits(**found)


def _amount(name: str, text: str) -> float:
    factor = 1.0
    if name == "memory":
        units = {"gib": 2.0**30, "gb": GB, "mib": 2.0**20, "mb": 1e6, "g": GB, "tb": 1e12}
        unit = next((unit for unit in units if text.endswith(unit)), "")
        text, factor = text.removesuffix(unit), units.get(unit, GB)
    try:
        value = float(text.removeprefix("$").removesuffix("h")) * factor
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        wanted = {"memory": "24GB", "hours": "4", "cost": "20"}[name]
        raise ConfigError(f"--fit: {name}: got {text!r}, wanted a number above 0 such as {wanted}")
    return value


@dataclass(frozen=True, slots=True)
class Change:
    """One option moved."""

    values: Mapping[str, Any]
    harm: float
    traded: str


@dataclass(frozen=True, slots=True)
class Fitted:
    """What the search has found."""

    before: Forecast
    after: Forecast
    changes: tuple[Change, ...]

    @property
    def harm(self) -> float:
        """Of all changes together."""
        return _harm(self.changes)

    @property
    def values(self) -> dict[str, Any]:
        """The options to write into the config."""
        return {name: value for change in self.changes for name, value in change.values.items()}


def fit(config: Config, request: Request, limits: Limits) -> Fitted:
    """The least harmful changes after which the config keeps to its limits.

    Raises:
        ConfigError: nothing does; the message says how near it came.
    """
    setting = settle(config, request)
    work, _ = workload_of(config, request.measured, request.prompt_tokens, request.completion_tokens)
    known = corrections_of(config, setting, work)
    if limits.memory is None:
        limits = replace(limits, memory=setting.device.memory)
    before = forecast_in(config, setting, known)
    closest, best, least = before, None, float("inf")
    for changes in _ordered(config, setting.shape, setting.device.is_cpu):
        if _harm(changes) > least:
            break
        made = _after(changes, before, known)
        if fewer := _fewer_steps(made, limits):
            changes = (*changes, fewer)
            made = _after(changes, before, known)
        if not limits.broken(made):
            rank = _harm(changes)
            if best is None or (rank, made.seconds.step) < (least, best.after.seconds.step):
                best, least = Fitted(before, made, changes), rank
        elif len(limits.broken(made)) < len(limits.broken(closest)) or made.needed < closest.needed:
            closest = made
    if best is None:
        what = ", ".join(limits.broken(closest))
        raise ConfigError(
            f"--fit: no settings keep to these limits; the nearest takes {what}. Take a larger GPU or a smaller model"
        )
    check(Config, config.model_dump(exclude_unset=True) | best.values, "--fit")
    return best


def _harm(changes: Sequence[Change]) -> float:
    return sum(change.harm for change in changes)


def _after(changes: Sequence[Change], before: Forecast, known: tuple[Corrections, float]) -> Forecast:
    values = {name: value for change in changes for name, value in change.values.items()}
    return forecast_in(before.config.model_copy(update=values), before.setting, known)


def _fewer_steps(made: Forecast, limits: Limits) -> Change | None:
    """The steps that time and money are enough for, where memory is and those are too many."""
    shares = [limits.hours / made.hours] if limits.hours else []
    shares += [limits.cost / made.usd] if limits.cost and made.usd else []
    steps = int(made.config.steps * min(shares, default=1.0))
    if not SMALLEST_STEPS <= steps < made.config.steps or (limits.memory or 0) < made.needed:
        return None
    lost = 1 - steps / made.config.steps
    return Change({"steps": steps}, 350 + 1000 * lost, f"{lost:.0%} fewer steps: it learns less")


def _ordered(config: Config, shape: ModelShape, on_cpu: bool) -> Iterator[tuple[Change, ...]]:
    """Every set of changes, at most one of each kind, from no harm upwards."""
    kinds = [[None, *kind] for kind in _kinds(config, shape, on_cpu)]
    sets = (tuple(filter(None, picked)) for picked in itertools.product(*kinds))
    yield from sorted(sets, key=_harm)


def _kinds(config: Config, shape: ModelShape, on_cpu: bool) -> Iterator[Sequence[Change]]:
    budget = token_budget(config, shape, on_cpu)
    yield [
        Change({"micro_batch_tokens": size}, step, "smaller micro-batches: a little slower, the same update")
        for step in (1, 2, 3)
        if (size := budget >> step) >= 256
    ]
    if not config.gradient_checkpointing:
        yield [
            Change({"gradient_checkpointing": True}, 2, "activations are recomputed: about a third more update time")
        ]
    live = min(config.max_live_completions or MOST_LIVE, config.completions_per_step)
    if live >= 16:
        yield [Change({"max_live_completions": live // 4}, 1.5, "fewer completions decoded at a time: slower sampling")]
    yield from _arithmetic(config, on_cpu)
    yield from _amounts(config)


def _arithmetic(config: Config, on_cpu: bool) -> Iterator[Sequence[Change]]:
    if config.precision == "float32":
        yield [Change({"precision": "bfloat16"}, 10, "bfloat16 arithmetic, float32 master weights")]
    if config.optimizer == "adamw" and not on_cpu:
        yield [Change({"optimizer": "adamw_8bit"}, 20, "AdamW's moments in 8 bits; needs the extra `quant`")]
    if not config.lora_rank:
        rate = float(f"{min(1.0, LORA_FACTOR * config.learning_rate):g}")
        lora = {"lora_rank": LORA_RANK, "learning_rate": rate}
        what = f"adapters of rank {LORA_RANK} in place of all weights, at ten times the rate: it can learn less"
        found = [Change(lora, 150, what)]
        if not on_cpu:
            found.append(Change({**lora, "quantize": "4bit"}, 250, f"{what}; the base in 4 bits, slower and rounded"))
        yield found
    elif config.quantize == "none" and not on_cpu:
        yield [
            Change({"quantize": "4bit"}, 100, "the frozen base in 4 bits: slower, and rounded; needs the extra `quant`")
        ]


def _amounts(config: Config) -> Iterator[Sequence[Change]]:
    amounts = (
        ("max_completion_length", 64, (2, 4), 300, "shorter completions: longer answers are truncated"),
        ("group_size", 4, (2, 4), 400, "smaller groups: fewer of them carry a signal"),
        ("prompts_per_step", 4, (2,), 500, "fewer problems a step: noisier updates"),
    )
    for name, smallest, shares, harm, what in amounts:
        value = getattr(config, name)
        yield [Change({name: value // share}, harm * share / 2, what) for share in shares if value // share >= smallest]


def as_text(found: Fitted) -> str:
    """The config lines, and what was traded for what."""
    before, after = found.before, found.after
    if not found.changes:
        return "fits as it is: nothing has to be changed"
    lines = ["to keep to the limits, put this into the config:"]
    lines += [f"  {name}: {_yaml(value)}" for name, value in found.values.items()]
    lines += ["traded:"]
    lines += [f"  {', '.join(change.values)}: {change.traded}" for change in found.changes]
    lines += [
        f"memory  {gigabytes(before.needed)} -> {gigabytes(after.needed)}",
        f"hours   {before.hours:.2f} -> {after.hours:.2f}",
    ]
    if before.usd is not None and after.usd is not None:
        lines.append(f"money   ${before.usd:.2f} -> ${after.usd:.2f}")
    return "\n".join(lines)


def as_json(found: Fitted) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "values": found.values,
        "traded": [{"options": list(change.values), "what": change.traded} for change in found.changes],
    }


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

"""The table by model size of docs/planning.md: hardware, memory, hours and money, computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gruppo.config.load import check
from gruppo.config.schema import Config
from gruppo.errors import ConfigError
from gruppo.planner.fit import Fitted, Limits, fit
from gruppo.planner.forecast import Request, gigabytes

RUN: Mapping[str, Any] = {
    "steps": 200,
    "prompts_per_step": 16,
    "group_size": 8,
    "max_completion_length": 512,
    "precision": "bfloat16",
    "preset": ["math"],
}
"""The run of every row, beside its model."""


@dataclass(frozen=True, slots=True)
class Row:
    """A span of sizes, computed at its upper end; and the hardware that is commonly published for it."""

    sizes: str
    model_size: str
    published: str
    """Hardware, dollars, hours."""
    gpu: str
    settings: Mapping[str, Any]


ROWS = (
    Row("0.5-1B", "1B", "T4 24 GB, $1.00/h, 1-2 h", "t4-medium", {}),
    Row("1-3B", "3B", "A10G 24 GB, $1.50/h, 2-4 h", "a10g-small", {}),
    Row("3-7B", "7B", "A10G 24 GB, $2.50/h, 4-8 h", "a10g-large", {}),
    Row("7B+ with LoRA", "7B", "A100 40 GB, $5.00/h, 8-16 h", "a100-40", {"lora_rank": 16}),
)
CHOICE = ("t4-medium", "l4x1", "a10g-small", "l40sx1", "a100-40", "a100-large", "h200")
"""What the planner's own choice is made of."""
TIERS = (10.0, 100.0, 300.0)
"""Harm below which changes leave the update as it is; change its arithmetic; train adapters alone."""


def fitted(row: Row, gpu: str) -> Fitted | None:
    """The row's run on a GPU, with the least changes; None: it doesn't fit short of a smaller run."""
    request = Request(gpu=gpu, model_size=row.model_size, prompt_tokens=128, completion_tokens=256)
    values = {"model": row.model_size, "data": "unnamed", **RUN, **row.settings}
    try:
        found = fit(check(Config, values, "the table by size"), request, Limits())
    except ConfigError:
        return None
    return found if found.harm < TIERS[-1] else None


def cheapest(row: Row) -> Fitted:
    """The cheapest GPU on which the run fits as it is, or else with the least changes."""
    found = [made for gpu in CHOICE if (made := fitted(row, gpu)) is not None]
    return min(found, key=lambda each: (sum(each.harm >= tier for tier in TIERS), each.after.usd or 0.0))


def as_markdown() -> str:
    """The whole table."""
    head = "| model | published for it | there | cheapest with the least changes | changes | memory | hours | money |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *map(_line, ROWS)])


def _line(row: Row) -> str:
    there, best = fitted(row, row.gpu), cheapest(row)
    cells = [
        f"{row.sizes} ({row.model_size})",
        row.published,
        "does not fit" if there is None else f"{_changes(there)}: {_figures(there, ', ')}",
        best.after.device.title,
        _changes(best),
        _figures(best, " | "),
    ]
    return f"| {' | '.join(cells)} |"


def _figures(found: Fitted, between: str) -> str:
    after = found.after
    return between.join([gigabytes(after.needed), f"{after.hours:.1f} h", f"${after.usd or 0:.2f}"])


def _changes(found: Fitted) -> str:
    """The options that were moved, beside the rate of LoRA."""
    moved = [f"{name}: {str(value).lower()}" for name, value in found.values.items() if name != "learning_rate"]
    return ", ".join(moved) or "as it is"

"""The tables of docs/presets.md, made from the data: `python -m gruppo.config.preset_page docs/presets.md`."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from gruppo.config.checks import shown
from gruppo.config.presets import PRESETS, Kind, Preset
from gruppo.config.ranges import BETA_BY_SIZE, GENERAL, GROUP_BY_GPUS, RATE_BY_SIZE, Range

_TASK_COLUMNS = ("epsilon", "beta", "group_size", "temperature", "learning_rate", "max_completion_length")


def render_page(page: str) -> str:
    """The page with the tables between its markers renewed.

    Raises:
        ValueError: a marker is missing.
    """
    for name, table in (("task", _tasks()), ("paper", _papers()), ("range", _ranges())):
        start, end = f"<!-- {name} table -->", f"<!-- end of {name} table -->"
        if start not in page or end not in page:
            raise ValueError(f"the page lacks the marker {start} or {end}")
        head, rest = page.split(start, 1)
        page = f"{head}{start}\n{table}\n{end}{rest.split(end, 1)[1]}"
    return page


def _of_kind(kind: Kind) -> list[Preset]:
    return [preset for preset in PRESETS.values() if preset.kind == kind]


def _tasks() -> str:
    rows = [
        (f"`{task.name}`", *(_with_range(task, column) for column in _TASK_COLUMNS), task.source)
        for task in _of_kind("task")
    ]
    return _table(("task", *(f"`{column}`" for column in _TASK_COLUMNS), "source"), rows)


def _with_range(preset: Preset, option: str) -> str:
    found = preset.ranges.get(option)
    return shown(preset.values[option]) + (f" ({found.text})" if found else "")


def _papers() -> str:
    rows = [
        (f"`{paper.name}`" if first else "", f"`{option}`", shown(value), paper.why(option), _links(paper, first))
        for paper in _of_kind("paper")
        for first, (option, value) in zip([True] + [False] * len(paper.values), paper.values.items())
    ]
    return _table(("paper", "option", "value", "why", "address"), rows)


def _links(paper: Preset, first: bool) -> str:
    return paper.source if first else ""


def _ranges() -> str:
    rows = [(f"`{option}`", "everybody", found.text, _reasons(found)) for option, found in GENERAL.items()]
    for option, rules in (("learning_rate", RATE_BY_SIZE), ("beta", BETA_BY_SIZE), ("group_size", GROUP_BY_GPUS)):
        rows += [(f"`{option}`", rule.who, rule.range.text, _reasons(rule.range)) for rule in rules]
    return _table(("option", "for", "recommended", "why"), rows)


def _reasons(found: Range) -> str:
    return f"below: {found.reason}. Above: {found.above}" if found.above else found.reason


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(render_page(target.read_text()))

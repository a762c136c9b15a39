"""A forecast as text: tables on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterator, Sequence

from gruppo.config.table import wrapped
from gruppo.planner.forecast import Forecast, gigabytes, remarks

Row = tuple[str, ...]


def as_text(made: Forecast) -> str:
    """Plain text that fits 110 columns."""
    blocks = [wrapped(line) for line in _heading(made)]
    for head, rows in (_memory(made), _time(made)):
        blocks += ["", _plain(head, rows)]
    return "\n".join([*blocks, "", *(wrapped(line) for line in _closing(made))])


def show(made: Forecast) -> None:
    """Tables where standard output is a terminal, plain text elsewhere."""
    if not sys.stdout.isatty():
        print(as_text(made))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for line in _heading(made):
        console.print(line, highlight=False, markup=False)
    for head, rows in (_memory(made), _time(made)):
        table = Table(*head[:1], show_edge=False, pad_edge=False)
        for name in head[1:]:
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*row, style="bold" if row[0].startswith(("peak", "step")) else None)
        console.print()
        console.print(table)
    console.print()
    for line in _closing(made):
        colour = "red" if "does not fit" in line else ("dim" if line.startswith(("assumed", "note")) else "")
        console.print(line, style=colour, highlight=False, markup=False)


def _plain(head: Row, rows: Sequence[Row]) -> str:
    grid = [head, *rows]
    widths = [max(len(row[column]) for row in grid) for column in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in grid]
    return "\n".join(lines)


def _heading(made: Forecast) -> Iterator[str]:
    config, work, device = made.config, made.work, made.device
    trained = "all of them trained" if not config.lora_rank else f"{made.trainable:,} trained (LoRA)"
    count = f"{device.count} x " if device.count > 1 else ""
    parameters = f"{made.setting.shape.parameters:,} parameters, {trained}"
    yield f"{config.model}: {parameters}, {config.precision}, on {count}{device.title}"
    yield (
        f"a step: {work.prompts} prompts x {work.group_size} completions; prompts of {work.prompt_tokens:.0f} tokens, "
        f"completions of {work.completion_tokens:.0f} on average and {work.longest_completion} at most"
    )


def _memory(made: Forecast) -> tuple[Row, list[Row]]:
    memory = made.memory
    names = list(dict.fromkeys([*memory.sampling, *memory.update]))
    rows = [(name, memory.sampling.get(name, 0.0), memory.update.get(name, 0.0)) for name in names]
    rows.append(("reward models", memory.reward_models, memory.reward_models))
    shown = [(name, *map(_size, values)) for name, *values in rows if any(values)]
    each = " of one GPU" if made.device.count > 1 else ""
    return (f"memory{each}", "sampling", "update"), [
        *shown,
        ("peak", gigabytes(memory.sampling_peak), gigabytes(memory.update_peak)),
    ]


def _size(value: float) -> str:
    return gigabytes(value) if value else "-"


def _time(made: Forecast) -> tuple[Row, list[Row]]:
    seconds, steps = made.seconds, made.config.steps
    work = made.work
    parts = [
        (f"generate, {work.completions} completions", seconds.sampling),
        (f"reward, {work.completions} completions", seconds.reward),
        ("update", seconds.update),
        ("step", seconds.step),
        (f"plain SFT on {work.completions} demonstrations", seconds.sft),
        (f"plain SFT on {work.prompts}, one a prompt", seconds.sft_of_prompts),
    ]
    return ("time", "a step", f"{steps} steps"), [
        (name, _seconds(value), _hours(value * steps / 3600)) for name, value in parts
    ]


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"


def _hours(value: float) -> str:
    return f"{value:.1f} h" if value >= 1 else f"{60 * value:.1f} min"


def _closing(made: Forecast) -> Iterator[str]:
    device = made.device
    have = gigabytes(device.memory)
    cure = f"--fit memory={device.memory / 1e9:.0f}GB looks for settings that do"
    room = f"fits into {have}" if made.fits else f"does not fit into {have}; {cure}"
    yield f"memory: {gigabytes(made.needed)} with what the process takes itself: {room}"
    seconds = made.seconds
    yield (
        f"against plain SFT: {seconds.over_sft:.1f} times the time for as many demonstrations as completions, "
        f"{seconds.step / seconds.sft_of_prompts:.1f} times for one demonstration a prompt"
    )
    price = made.setting.price
    if made.usd is not None and price is not None:
        times = f"{made.setting.machines:g} x " if made.setting.machines != 1 else ""
        yield f"money: ${made.usd:.2f} at {times}${price.usd:.2f} an hour ({price.source}, {price.date})"
    if made.setting.request.measured is not None:
        known = made.known
        yield f"measured: sampling took {known.sampling:.2f} times what was computed, updates {known.update:.2f} times"
    for line in made.assumed:
        yield f"assumed: {line}"
    for line in remarks(made):
        yield f"note: {line}"

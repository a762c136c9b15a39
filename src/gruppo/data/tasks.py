"""Problems that the package `reasoning-gym` makes: `reasoning-gym:chain_sum/size=500/seed=1/level=0-3`.

After the task's name come settings, each at most once: `size` problems (500), `seed` (0), and `level`, one or a range
of the task's curriculum from 0, the easiest. Without a level the task has the difficulty that its authors chose, which
is high for a small model.

1. The same source gives the same problems. Training and evaluation never draw the same random numbers, whatever the
   size: the package's own item i of seed s is item i - 1 of seed s + 1, so seeds here lie 2^21 apart. Small tasks
   repeat questions all the same; where training's stand in the evaluation, a note says so.
2. A level is a band: only problems of that level, where the package would mix in all easier ones. A range shares its
   size out equally, the easiest first, and a problem's difficulty is its level: `min_difficulty` and curricula work.
3. Not every task can be made at each of its levels; that is refused by name. `composite` needs settings that a name
   can't hold.
"""

import functools
import importlib
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gruppo.data.readers import TASK_PREFIX, Purpose, Row, Table
from gruppo.errors import DataError, nearest

if TYPE_CHECKING:
    from types import ModuleType

_SETTINGS = ("size", "seed", "level")
_SEED_SPAN = 1 << 20
_LEVEL_SPAN = 1 << 15
_LARGEST_SEED = 2047
"""So that the package's own seeds stay below 2^32, as numpy demands."""
_INSTALL = "pip install 'gruppo[tasks]'"
_LEVELS = re.compile(r"(\d{1,2})(?:-(\d{1,2}))?")


@dataclass(frozen=True, slots=True)
class Task:
    """A task and how much of it."""

    name: str
    size: int = 500
    seed: int = 0
    levels: tuple[int, ...] = ()
    """Of its curriculum; empty: the authors' own difficulty."""


def parse_task(source: str) -> Task:
    """The task of a source. Raises DataError for what is no task's spelling."""
    name, *settings = source.removeprefix(TASK_PREFIX).split("/")
    found: dict[str, str] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in _SETTINGS or key in found:
            wrong = "is given twice." if key in found else f"is no setting.{nearest(key, list(_SETTINGS))}"
            raise DataError(f"data: '{source}': '{key}' {wrong} Wanted: {TASK_PREFIX}{name}/size=500/seed=0/level=1.")
        found[key] = value
    levels = _levels(source, found["level"]) if "level" in found else ()
    size = _whole(source, "size", found.get("size", "500"), 1, _LEVEL_SPAN * len(levels) or _SEED_SPAN)
    return Task(name, size, _whole(source, "seed", found.get("seed", "0"), 0, _LARGEST_SEED), levels)


def read_task(source: str, purpose: Purpose = "train") -> Table:
    """The problems of a source. Raises DataError where the package is missing, or the task or level can't be made."""
    task = parse_task(source)
    gym = import_reasoning_gym(f"data: '{source}'")
    names = sorted(gym.factory.DATASETS)
    if task.name not in names:
        raise DataError(
            f"data: '{source}': reasoning-gym has no task '{task.name}'.{nearest(task.name, names)} "
            f"There are {len(names)}, from '{names[0]}' to '{names[-1]}'."
        )
    base = (2 * task.seed + (purpose == "test")) * _SEED_SPAN
    rows: list[Row] = []
    for number, level in enumerate(task.levels or (None,)):
        size = task.size // max(1, len(task.levels)) + (number < task.size % max(1, len(task.levels)))
        seed = base + (0 if level is None else level * _LEVEL_SPAN)
        rows += _rows(task.name, level, _made(source, task.name, size, seed, level), f"{purpose}, seed {task.seed}")
    what = "the authors' difficulty" if not task.levels else f"level {_span(task.levels)} of its curriculum"
    return Table(source, tuple(rows), (f"{source}: {len(rows)} problems made, seed {task.seed}, {what}",))


def make_dataset(name: str, size: int, seed: int, level: int | None) -> Any:
    """The package's own object for a task at a level, which makes and scores its items."""
    gym = import_reasoning_gym(f"the task '{name}'")
    if level is None:
        return gym.create_dataset(name, size=size, seed=seed)
    coaching = gym.coaching.base_curriculum
    curriculum = gym.factory.create_curriculum(name)
    curriculum.set_global_level(level)
    band = coaching.DefaultCurriculumContext(mode=coaching.RangeAttributeMode.UPPER_BOUND)
    config = curriculum.generate_configuration({"size": size, "seed": seed}, context=band)
    return gym.factory.DATASETS[name][0](config)


def import_reasoning_gym(what: str) -> "ModuleType":
    """The package. Raises DataError with the command that installs it."""
    try:
        return _imported()
    except ImportError as error:
        raise DataError(f"{what} needs the package `reasoning-gym` ({error}): {_INSTALL}") from error


@functools.cache
def _imported() -> "ModuleType":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' invalid escapes, at their first import
        for part in ("reasoning_gym.coaching.base_curriculum", "reasoning_gym.factory"):
            importlib.import_module(part)
        return importlib.import_module("reasoning_gym")


def _made(source: str, name: str, size: int, seed: int, level: int | None) -> list[dict[str, Any]]:
    gym = import_reasoning_gym(f"data: '{source}'")
    if level is not None:
        _check_level(source, name, level, gym)
    try:
        dataset = make_dataset(name, size, seed, level)
        return [dataset[index] for index in range(size)]
    except Exception as error:  # each task raises what it likes for a configuration that it can't make
        where = "" if level is None else f" at level {level}"
        raise DataError(
            f"data: '{source}': reasoning-gym can't make '{name}'{where} ({type(error).__name__}: {error}); take "
            "another level or task."
        ) from error


def _check_level(source: str, name: str, level: int, gym: "ModuleType") -> None:
    if name not in gym.factory.CURRICULA:
        raise DataError(f"data: '{source}': '{name}' has no curriculum; leave out level.")
    attributes = gym.factory.create_curriculum(name).attributes.values()
    highest = max((len(attribute.levels) for attribute in attributes), default=0) - 1
    if level > highest:
        raise DataError(f"data: '{source}': '{name}' has levels from 0 to {highest}, not {level}.")


def _rows(name: str, level: int | None, items: list[dict[str, Any]], origin: str) -> list[Row]:
    """The items as rows, named by their task and origin."""
    label = f"{TASK_PREFIX}{name}, {origin}" + ("" if level is None else f", level {level}")
    extra = {} if level is None else {"level": level}
    return [
        Row(f"{label}:{number}", {**item, "metadata": {**item["metadata"], "source_dataset": name}, **extra})
        for number, item in enumerate(items, start=1)
    ]


def _levels(source: str, text: str) -> tuple[int, ...]:
    match = _LEVELS.fullmatch(text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if low > high or high >= _SEED_SPAN // _LEVEL_SPAN:
        raise DataError(f"data: '{source}': level is '{text}', wanted a level or a range of them, such as 2 or 0-3.")
    return tuple(range(low, high + 1))


def _whole(source: str, name: str, text: str, low: int, high: int) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else -1
    if not low <= number <= high:
        raise DataError(f"data: '{source}': {name} is '{text}', wanted a whole number from {low} to {high}.")
    return number


def _span(levels: tuple[int, ...]) -> str:
    return str(levels[0]) if len(levels) == 1 else f"{levels[0]} to {levels[-1]}"

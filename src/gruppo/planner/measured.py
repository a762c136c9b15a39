"""What a short trial of a run has taken: written by the check before a run, read by the forecast.

A trial samples, scores and updates once, on a few of the run's own problems. The forecast computes the same trial,
and what the trial took in place of that corrects what the whole run is computed to take, part by part.
"""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from gruppo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Measured:
    """A trial: what it was of, and what it took. Seconds are of the wall clock."""

    device: str
    """cpu, or the GPU's name as its driver gives it."""
    problems: int
    """P of the trial: prompts that were sampled from, each once."""
    group_size: int
    """Completions per prompt."""
    prompt_tokens: float
    """Mean tokens of a prompt."""
    completion_tokens: float
    """Mean tokens of a completion."""
    longest_completion: int
    """Tokens of the longest completion."""
    rollout_seconds: float
    """From the first prompt submitted to the last completion, the start of the engine left out."""
    reward_seconds: float
    """Scoring that the sampling did not cover, as `seconds_reward` of docs/metrics.md."""
    update_seconds: float
    """One update on all these completions, the optimizer's step included. Best of two: a first one also warms up."""
    memory_bytes: int | None = None
    """The largest memory during the trial: on a GPU the allocator's peak, on a CPU the process's peak above what it
    held before the model was loaded. None: not known."""

    @property
    def completions(self) -> int:
        """P x G."""
        return self.problems * self.group_size

    @property
    def generated_tokens(self) -> float:
        """Tokens of all completions."""
        return self.completions * self.completion_tokens

    @property
    def rollout_rate(self) -> float:
        """Generated tokens a second while sampling."""
        return self.generated_tokens / self.rollout_seconds

    def to_json(self) -> dict[str, Any]:
        """What `read_measured` reads."""
        return {"measured": asdict(self)}

    def save(self, path: Path) -> None:
        """Write it to a file."""
        path.write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")


def read_measured(path: Path) -> Measured:
    """The trial in a JSON file: an object whose `measured` has the fields of `Measured`; others are left alone.

    Raises:
        ConfigError: no such file, no such object, or a field is missing or out of range.
    """
    where = f"--measured: {path}"
    try:
        read: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON ({error}); give what the check before a run has written") from error
    found = cast(dict[str, Any], read).get("measured") if isinstance(read, dict) else None
    if not isinstance(found, dict):
        raise ConfigError(f"{where} has no object `measured`; give what the check before a run has written")
    return _checked(cast(dict[str, Any], found), where)


def _checked(values: dict[str, Any], where: str) -> Measured:
    known = [field.name for field in fields(Measured)]
    missing = [name for name in known if name not in values and name != "memory_bytes"]
    if missing:
        raise ConfigError(f"{where}: measured lacks {', '.join(missing)}")
    for name in known:
        _check_value(name, values.get(name), where)
    kept: dict[str, Any] = {name: values.get(name) for name in known}
    return Measured(**kept)


_MAY_BE_ZERO = frozenset({"reward_seconds"})


def _check_value(name: str, value: Any, where: str) -> None:
    if name == "device":
        good, wanted = isinstance(value, str), "a name"
    elif name == "memory_bytes" and value is None:
        return
    else:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        good = number and (value > 0 or (value == 0 and name in _MAY_BE_ZERO))
        wanted = "a number, at least 0" if name in _MAY_BE_ZERO else "a number above 0"
    if not good:
        raise ConfigError(f"{where}: measured.{name}: got {value!r}, wanted {wanted}")

"""Mirrors of the scalar metrics in TensorBoard, Weights & Biases or trackio, through accelerate's trackers.

The run folder stays the record; a mirror is a copy for those who look elsewhere.
"""

import hashlib
import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from gruppo.errors import ConfigError
from gruppo.monitor.run_folder import is_run

PROJECT = "gruppo"


class Mirror(Protocol):
    """Something that is told each step's metrics."""

    name: str

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Take a step's metrics; None and values that are not finite are left out."""
        ...

    def close(self) -> None:
        """Flush and finish."""
        ...


class TrackerMirror:
    """One of accelerate's trackers as a mirror."""

    def __init__(self, name: str, tracker: Any) -> None:
        self.name = name
        self._tracker = tracker

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Pass on what is finite."""
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        self._tracker.log(finite, step=step)

    def close(self) -> None:
        """Finish the tracker."""
        self._tracker.finish()


def open_mirrors(
    report_to: str, run: Path, config: Mapping[str, Any], *, resumed_at: int = 0
) -> tuple[TrackerMirror, ...]:
    """The mirrors that `report_to` asks for: none, or one.

    run: the run folder; TensorBoard's files go to its `tensorboard/`. config: the resolved config, shown
    beside the curves. resumed_at: the step that the run goes on from; TensorBoard drops what an earlier start
    wrote after it.
    Raises ConfigError where the tracker's package is not installed or does not start.
    """
    if report_to == "none":
        return ()
    if importlib.util.find_spec(report_to) is None:
        raise ConfigError(
            f"report_to: {report_to} is not installed; install it with "
            f"`pip install 'gruppo[{report_to}]'`, or say report_to: none"
        )
    try:
        return (TrackerMirror(report_to, _start(report_to, run, config, resumed_at)),)
    except Exception as error:
        first = str(error).split("\n", 1)[0]
        raise ConfigError(
            f"report_to: {report_to} did not start ({type(error).__name__}: {first}); set it up, or say report_to: none"
        ) from error


def _start(report_to: str, run: Path, config: Mapping[str, Any], resumed_at: int) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

    PartialState()  # accelerate's own logger, which the trackers use, refuses to work before
    if report_to == "tensorboard":
        tracker = TensorBoardTracker("tensorboard", run, purge_step=resumed_at + 1 if resumed_at else None)
        tracker.start()
        tracker.log({"config": f"```json\n{json.dumps(dict(config), indent=2, default=str)}\n```"}, step=0)
        return tracker
    if report_to == "wandb":
        tracker = WandBTracker(PROJECT, name=_title(run), dir=str(run), id=_identity(run), resume="allow")
    else:
        tracker = TrackioTracker(PROJECT, name=f"{_title(run)}-{_identity(run)}", resume="allow")
    tracker.start()
    tracker.store_init_configuration(flat_config(config))
    return tracker


def _title(run: Path) -> str:
    """The run's name; of a stage's subfolder, the run's and the stage's."""
    path = run.resolve()
    return path.name if is_run(path) or not is_run(path.parent) else f"{path.parent.name}-{path.name}"


def _identity(run: Path) -> str:
    """A name that a run keeps when it goes on, and that no other run has."""
    environment = run / "environment.json"
    start = environment.read_bytes() if environment.is_file() else b""
    return hashlib.sha256(str(run.resolve()).encode() + start).hexdigest()[:12]


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config as one level of scalars, `sft.epochs` for what is nested; lists as JSON text."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flat_config(value, f"{prefix}{key}."))
        elif value is None or isinstance(value, (bool, int, float, str)):
            flat[f"{prefix}{key}"] = value
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, default=str)
    return flat

"""Checkpoints: every stateful part of a run, written aside and renamed, verified by hash before it is believed.

With a `BackgroundWriter` the state is copied to the host at once, and written while the next step runs.
"""

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from gruppo.monitor import files
from gruppo.monitor.environment import available_memory
from gruppo.monitor.writer import BackgroundWriter
from gruppo.types import Stateful

_MANIFEST = "manifest.json"


class Checkpoints:
    """The checkpoints of one stage in one folder.

    Args:
        folder: where `step-000050/` and its like stand.
        parts: what a checkpoint holds, by name; loaded in place.
        every: steps between two.
        keep: how many stay.
        writer: writes beside the training; None: `save` writes by itself.
    """

    def __init__(
        self,
        folder: Path,
        parts: Mapping[str, Stateful],
        every: int,
        keep: int,
        writer: BackgroundWriter | None = None,
    ) -> None:
        self._folder = folder
        self._parts = parts
        self._every = every
        self._keep = keep
        self._writer = writer

    def save_if_due(self, step: int, last: bool = False) -> Path | None:
        """Save after every n-th step and after the last; returns the folder if one is being written."""
        return self.save(step) if last or step % self._every == 0 else None

    def save(self, step: int) -> Path:
        """Write the checkpoint of a step whole or not at all; with a writer, it is there once that has come to it.

        Raises:
            RunFolderError: it can't be written.
            Exception: what the writer has met before.
        """
        target = self._folder / f"step-{step:06d}"
        if self._writer is not None:
            self._writer.flush()  # first, so that there is one copy at a time
        states = {name: part.state_dict() for name, part in self._parts.items()}
        if self._writer is None or not _copy_fits(states):
            self._write(target, step, states)
        else:
            self._writer.submit(f"the checkpoint of step {step}", partial(self._write, target, step, _copied(states)))
        return target

    def _write(self, target: Path, step: int, states: Mapping[str, Any]) -> None:
        aside = self._folder / f"writing-{target.name}"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            hashes = {f"{name}.pt": _save(state, aside / f"{name}.pt") for name, state in states.items()}
            (aside / _MANIFEST).write_text(json.dumps({"step": step, "sha256": hashes}, indent=1))
            shutil.rmtree(target, ignore_errors=True)
            aside.rename(target)
            self._prune(target)
        except OSError as error:
            raise files.unwritable(target, error) from error

    def resume(self) -> tuple[int, list[str]]:
        """Load the newest whole checkpoint.

        Returns:
            Its step (0 without any), and a line for each damaged one that was passed over.
        """
        if self._writer is not None:
            self._writer.flush()
        complaints: list[str] = []
        for path in sorted(self._folder.glob("step-*"), reverse=True):
            damage = self._damage(path)
            if damage is None:
                return self._load(path), complaints
            complaints.append(f"checkpoint {path.name} is damaged ({damage}); going on from an earlier one")
        return 0, complaints

    def _load(self, path: Path) -> int:
        states: dict[str, Any] = {
            name: torch.load(path / f"{name}.pt", map_location="cpu", weights_only=True) for name in self._parts
        }
        for name, part in self._parts.items():
            part.load_state_dict(states[name])
        return int(json.loads((path / _MANIFEST).read_text())["step"])

    def _prune(self, newest: Path) -> None:
        """Keep the newest few. Later ones are what `resume` passed over as damaged: they must not count."""
        paths = sorted(self._folder.glob("step-*"))
        later = [path for path in paths if path.name > newest.name]
        for path in later + [path for path in paths if path not in later][: -self._keep]:
            shutil.rmtree(path)

    def _damage(self, path: Path) -> str | None:
        """What is wrong with a checkpoint, or None."""
        try:
            manifest = json.loads((path / _MANIFEST).read_text())
            if f"step-{manifest['step']:06d}" != path.name:
                return f"{_MANIFEST} is of another step"
            hashes = {name: str(manifest["sha256"][f"{name}.pt"]) for name in self._parts}
            for name, expected in hashes.items():
                if _sha256(path / f"{name}.pt") != expected:
                    return f"{name}.pt does not match its hash"
        except OSError as error:
            return f"{Path(error.filename or path).name}: {error.strerror}"
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{_MANIFEST} is broken"
        return None


def _save(state: Any, path: Path) -> str:
    """Write a part's state through to the disk; returns its hash."""
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    return _sha256(path)


def _copied(value: Any) -> Any:
    """A copy on the host, which no later step touches."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in cast(dict[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in cast(list[Any], value))
    return copy.deepcopy(value)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a state."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in cast(dict[Any, Any], value).values() if isinstance(value, dict) else cast(list[Any], value):
            yield from _tensors(item)


def _copy_fits(states: Mapping[str, Any]) -> bool:
    """Whether a copy of the state takes at most half of the memory that is left; where nobody knows, it does."""
    available = available_memory()
    return available is None or 2 * sum(t.numel() * t.element_size() for t in _tensors(states)) <= available


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

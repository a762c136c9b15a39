"""Checkpoints: every stateful part of a run, written aside and renamed, verified by hash before it is believed."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gruppo.types import Stateful

_MANIFEST = "manifest.json"


class Checkpoints:
    """The checkpoints of one stage in one folder.

    Args:
        folder: where `step-000050/` and its like stand.
        parts: what a checkpoint holds, by name; loaded in place.
        every: steps between two.
        keep: how many stay.
    """

    def __init__(self, folder: Path, parts: Mapping[str, Stateful], every: int, keep: int) -> None:
        self._folder = folder
        self._parts = parts
        self._every = every
        self._keep = keep

    def save_if_due(self, step: int, last: bool = False) -> Path | None:
        """Save after every n-th step and after the last; returns the folder if one was written."""
        return self.save(step) if last or step % self._every == 0 else None

    def save(self, step: int) -> Path:
        """Write the checkpoint of a step whole or not at all."""
        target = self._folder / f"step-{step:06d}"
        aside = self._folder / f"writing-{target.name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        hashes: dict[str, str] = {}
        for name, part in self._parts.items():
            path = aside / f"{name}.pt"
            with path.open("wb") as file:
                torch.save(part.state_dict(), file)
                file.flush()
                os.fsync(file.fileno())
            hashes[path.name] = _sha256(path)
        (aside / _MANIFEST).write_text(json.dumps({"step": step, "sha256": hashes}, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        self._prune(target)
        return target

    def resume(self) -> tuple[int, list[str]]:
        """Load the newest whole checkpoint.

        Returns:
            Its step (0 without any), and a line for each damaged one that was passed over.
        """
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The run folder: everything a run leaves behind, and the one place that knows where in it what lies.

RUN/
├── config.yaml                       the resolved config
├── environment.json                  versions, machine, command, start
├── metrics.jsonl                     one line per GRPO step (docs/metrics.md)
├── events.jsonl                      what happened: start, resume, findings, notes
├── stages.json                       which stages are done
├── rollouts/step-000120.parquet      the step's completions, one row each
├── checkpoints/step-000120/
├── sft/, eval/                       the other stages, each with files of the same names
├── model/                            the final model
├── report.html
└── run.lock                          held while a process has the run open

One process writes, under the lock; readers never lock. Files are appended line by line or written aside and
renamed.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from gruppo.errors import RunFolderError
from gruppo.monitor import environment, files
from gruppo.monitor.rollout_table import Advantages, write_rollout_table
from gruppo.types import Group

MAY_DIFFER = frozenset(
    {
        "output_dir",
        "report_to",
        "keep_checkpoints",
        "checkpoint_every",
        "save_rollouts_every",
        "micro_batch_tokens",
        "plain",
        "batch_invariant",
        "packing",
        "max_live_completions",
    }
)
"""Fields that may change when a run goes on: none of them changes what is drawn or learnt. `packing` is an option that
older runs have."""

_OWN = frozenset({files.LOCK_NAME, "environment.json", "config.yaml"})
_RESULTS = ("metrics.jsonl", "sft/metrics.jsonl", "eval/before.json", "eval/after.json", "stages.json", "model")
_STEP = re.compile(r"step-(\d+)(?:\.parquet)?")


class RunFolder:
    """A run folder, or a stage's subfolder of one. The constructor touches nothing; `open` makes it ours to
    write.
    """

    def __init__(self, path: str | Path, *, events_folder: Path | None = None, stage: str | None = None) -> None:
        self.path = Path(path)
        self.resumed = False
        """Whether `open` found an earlier start of the same run."""
        self._events = (events_folder or self.path) / "events.jsonl"
        self._stage = stage
        self._lock: files.FolderLock | None = None

    @classmethod
    def open(
        cls, path: str | Path, config: Mapping[str, Any] | str, *, command: list[str] | None = None
    ) -> "RunFolder":
        """Create a run folder, or go on with the one that is there; it stays locked until `close`.

        config: the resolved config, as a mapping (`config.model_dump(mode="json")`) or as YAML.
        command: for environment.json; unset: sys.argv.
        Raises RunFolderError: it can't be written, a living process has it open, it holds something that is
        no run, or a run of another config.
        """
        run = cls(path)
        wanted = _plain(config)
        _prepare(run.path)
        run._lock = files.FolderLock(run.path)
        try:
            run._start(wanted, command)
        except BaseException:
            run.close()
            raise
        return run

    def _start(self, wanted: dict[str, Any], command: list[str] | None) -> None:
        described = environment.describe(command)
        if is_run(self.path):
            self.resumed = True
            changed = _differences(self.read_config(), wanted)
            if self._has_results():
                _refuse_other_run(self.path, changed)
            self._repair()
            self.append_event("resume", command=described["command"], changed=changed)
        else:
            # environment.json first: a config.yaml without it is a user's own file, never ours to replace.
            files.write_json(self.path / "environment.json", described)
            self.append_event("start", command=described["command"])
        text = yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
        files.write_atomic(self.path / "config.yaml", text)

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Add to environment.json what was found out about the machine."""
        path = self.path / "environment.json"
        files.write_json(path, {**files.read_json(path), **facts})

    def read_environment(self) -> dict[str, Any]:
        """environment.json; empty where it is missing."""
        return files.read_json(self.path / "environment.json")

    def _has_results(self) -> bool:
        """Whether anything was computed: until then a mistake in the config may be mended in the same folder."""
        return any((self.path / name).exists() for name in _RESULTS)

    def _repair(self) -> None:
        """Take away what a kill may have left half-done."""
        for name in ("metrics.jsonl", "events.jsonl", "sft/metrics.jsonl", "eval/metrics.jsonl"):
            files.drop_half_line(self.path / name)
        for aside in self.path.rglob(".*.tmp"):
            aside.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process open the run; harmless when done twice."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- where things lie

    def sub(self, name: str) -> "RunFolder":
        """The subfolder of a stage (`sft`, `eval`), made if need be; its events go to the run's own
        events.jsonl.
        """
        folder = self.path / name
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise files.unwritable(folder, error) from error
        return RunFolder(folder, events_folder=self._events.parent, stage=name)

    @property
    def model_path(self) -> Path:
        """The final model."""
        return self.path / "model"

    @property
    def report_path(self) -> Path:
        """The page that `write_report` makes."""
        return self.path / "report.html"

    def checkpoint_path(self, step: int) -> Path:
        """checkpoints/step-000120"""
        return self.path / "checkpoints" / f"step-{step:06d}"

    def rollouts_path(self, step: int) -> Path:
        """rollouts/step-000120.parquet"""
        return self.path / "rollouts" / f"step-{step:06d}.parquet"

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return _steps(self.path / "checkpoints")

    def rollout_steps(self) -> list[int]:
        """Steps whose rollouts are on disk, ascending."""
        return _steps(self.path / "rollouts")

    # ---- reading

    def read_config(self) -> dict[str, Any]:
        """config.yaml. Raises RunFolderError where it is missing or broken."""
        file = self.path / "config.yaml"
        try:
            config = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RunFolderError(f"{file} can't be read ({_first_line(error)}); choose another folder") from error
        return config if isinstance(config, dict) else {}

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl in order; a half-written last line is left out."""
        return files.read_lines(self.path / "metrics.jsonl")

    def read_events(self) -> list[dict[str, Any]]:
        """The run's events in order, each with `time` and `kind`; a half-written last line is left out."""
        return files.read_lines(self._events)

    # ---- writing

    def append_metrics(self, values: Mapping[str, float | None]) -> None:
        """Add a step's metrics; NaN and infinities become null."""
        files.append_line(self.path / "metrics.jsonl", values)

    def append_event(self, kind: str, **fields: Any) -> None:
        """Add a line to events.jsonl: `time`, `kind`, the stage in a stage's folder, and these fields."""
        stage = {} if self._stage is None else {"stage": self._stage}
        files.append_line(self._events, {"time": environment.now(), "kind": kind, **stage, **fields})

    def write_atomic(self, name: str, data: str | bytes) -> Path:
        """Write a file of this folder aside and rename it; `name` may lie in a subfolder. Gives its path."""
        target = self.path / name
        _make_folder(target.parent)
        files.write_atomic(target, data)
        return target

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file of this folder (strict: NaN is null) aside and rename it. Gives its path."""
        target = self.path / name
        _make_folder(target.parent)
        files.write_json(target, value)
        return target

    def write_rollouts(self, step: int, groups: Sequence[Group], advantages: Advantages | None = None) -> Path:
        """Write a step's completions as Parquet, one row each (docs/run-folder.md). Gives its path.

        advantages: [P, G], in the order of `groups` and their rollouts; unset: null.
        """
        target = self.rollouts_path(step)
        _make_folder(target.parent)
        write_rollout_table(target, step, groups, advantages)
        return target

    def truncate_after(self, step: int) -> None:
        """Drop the metrics and rollouts of later steps, when a run goes on from the checkpoint of `step`."""
        metrics = self.read_metrics()
        kept = [row for row in metrics if row["step"] <= step]
        if len(kept) < len(metrics):
            files.rewrite_lines(self.path / "metrics.jsonl", kept)
        for later in reversed(self.rollout_steps()):
            if later > step:
                self.rollouts_path(later).unlink(missing_ok=True)
        self.append_event("rewind", step=step, dropped=len(metrics) - len(kept))

    def prune_checkpoints(self, keep: int) -> list[int]:
        """Delete all but the newest `keep` checkpoints; gives the steps deleted.

        Renamed before it is deleted, so that a half-deleted one is never taken for whole.
        """
        old = self.checkpoint_steps()[:-keep] if keep > 0 else self.checkpoint_steps()
        for step in old:
            folder = self.checkpoint_path(step)
            doomed = folder.with_name(f".{folder.name}.deleted")
            shutil.rmtree(doomed, ignore_errors=True)
            folder.replace(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        return old

    def mark_done(self, stage: str) -> None:
        """Note that a stage (`sft`, `grpo`, `eval`, ...) is over, so that a resumed run passes it by."""
        self.write_json("stages.json", {**self.done_stages(), stage: environment.now()})

    def is_done(self, stage: str) -> bool:
        """Whether `mark_done(stage)` was called, by this process or an earlier one."""
        return stage in self.done_stages()

    def done_stages(self) -> dict[str, str]:
        """The stages that are over, with the time of each."""
        return files.read_json(self.path / "stages.json")


def is_run(path: str | Path) -> bool:
    """Whether a folder holds a run of gruppo."""
    folder = Path(path)
    if not (folder / "config.yaml").is_file():
        return False
    return "versions" in files.read_json(folder / "environment.json")


def _prepare(path: Path) -> None:
    """Make the folder, and refuse one that holds something else."""
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"output_dir: {path} is a file; wanted a folder, choose another with --out")
    _make_folder(path)
    try:
        there = {name for name in os.listdir(path) if not name.endswith(".tmp")}
    except OSError as error:
        raise files.unwritable(path, error) from error
    started = there <= _OWN and ("config.yaml" not in there or "environment.json" in there)
    if not started and not is_run(path):
        some = ", ".join(sorted(there)[:3]) + (", ..." if len(there) > 3 else "")
        raise RunFolderError(
            f"output_dir: {path} holds {some}, and is no run of gruppo. Wanted a new folder, an empty "
            "one, or a run to go on with; choose another with --out"
        )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.unwritable(path, error) from error


def _plain(config: Mapping[str, Any] | str) -> dict[str, Any]:
    """The config as YAML gives it back: plain dicts, lists, text, numbers."""
    plain = yaml.safe_load(config) if isinstance(config, str) else files.strict(config)
    if not isinstance(plain, dict):
        raise ValueError("the config of a run is a mapping")
    return plain


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            leaves.update(_flat(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`learning_rate: the folder has 1e-06, now 3e-06`, one per field that differs."""
    a, b = _flat(old), _flat(new)
    names = [*b, *(name for name in a if name not in b)]
    changed = [name for name in names if a.get(name) != b.get(name)]
    return [f"{name}: the folder has {_shown(a, name)}, now {_shown(b, name)}" for name in changed]


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    return "unset" if leaves.get(name) is None else f"{leaves[name]}"


def _refuse_other_run(path: Path, changed: list[str]) -> None:
    wrong = [line for line in changed if line.split(":", 1)[0] not in MAY_DIFFER]
    if wrong:
        listed = "".join(f"\n  {line}" for line in wrong)
        raise RunFolderError(
            f"output_dir: {path} holds a run of another config:{listed}\nChoose another with --out, go back to "
            "the folder's values to go on with that run, or delete the folder to start afresh"
        )


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(m.group(1)) for m in map(_STEP.fullmatch, os.listdir(folder)) if m)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]

"""Mirrors: TensorBoard for real; Weights & Biases and trackio against packages of their shape."""

import importlib.util
import json
import math
import sys
import types
from pathlib import Path

import pytest

from gruppo.errors import ConfigError
from gruppo.monitor.mirrors import flat_config, open_mirrors
from gruppo.monitor.run_folder import RunFolder

CONFIG = {"steps": 3, "sft": {"epochs": 1.0, "data": ["a", "b"]}, "success": None}


def test_none_is_no_mirror(tmp_path: Path) -> None:
    assert open_mirrors("none", tmp_path, CONFIG) == ()


def test_tensorboard_holds_the_scalars_and_a_resume_takes_back_what_is_made_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (mirror,) = open_mirrors("tensorboard", tmp_path, CONFIG)
    mirror.log(1, {"reward_mean": 0.25, "kl_to_reference": None, "loss": math.nan})
    mirror.log(2, {"reward_mean": 0.5})
    mirror.log(3, {"reward_mean": 0.75})
    mirror.close()
    (again,) = open_mirrors("tensorboard", tmp_path, CONFIG, resumed_at=1)
    again.log(2, {"reward_mean": 0.625})
    again.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["reward_mean"]
    assert [(e.step, e.value) for e in events.Scalars("reward_mean")] == [(1, 0.25), (2, 0.625)]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_named_with_its_cure(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError) as caught:
        open_mirrors(name, tmp_path, CONFIG)
    assert str(caught.value) == (
        f"report_to: {name} is not installed; install it with `pip install 'gruppo[{name}]'`, or say report_to: none"
    )


class Recorded:
    """A package of the shape of wandb and trackio."""

    def __init__(self, name: str, broken: bool = False) -> None:
        self.calls: list[tuple[str, object]] = []
        self.module = types.ModuleType(name)
        self.module.init = self.init  # type: ignore[attr-defined]
        self.module.config = self  # type: ignore[attr-defined]
        self.broken = broken

    def init(self, **kwargs: object) -> "Recorded":
        if self.broken:
            raise RuntimeError("no API key\nrun login")
        self.calls.append(("init", kwargs))
        return self

    def update(self, values: object, allow_val_change: bool) -> None:
        self.calls.append(("config", values))

    def log(self, values: object, step: int) -> None:
        self.calls.append(("log", (step, values)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


def install(monkeypatch: pytest.MonkeyPatch, name: str, broken: bool = False) -> Recorded:
    package = Recorded(name, broken)
    monkeypatch.setitem(sys.modules, name, package.module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    return package


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_config_and_scalars_and_knows_a_resumed_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = install(monkeypatch, name)
    for _ in range(2):
        (mirror,) = open_mirrors(name, tmp_path, CONFIG)
        mirror.log(1, {"loss": 0.5, "entropy": None})
        mirror.close()
    kinds = [kind for kind, _ in package.calls]
    assert kinds in (["init", "config", "log", "finish"] * 2, ["init", "config", "log"] * 2)
    assert package.calls[0] == package.calls[len(kinds) // 2]
    assert package.calls[1] == ("config", flat_config(CONFIG))
    assert package.calls[2] == ("log", (1, {"loss": 0.5}))


def test_a_tracker_that_does_not_start_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "wandb", broken=True)
    with pytest.raises(ConfigError) as caught:
        open_mirrors("wandb", tmp_path, CONFIG)
    assert str(caught.value) == (
        "report_to: wandb did not start (RuntimeError: no API key); set it up, or say report_to: none"
    )


def test_a_config_is_flattened_to_scalars() -> None:
    assert flat_config(CONFIG) == {"steps": 3, "sft.epochs": 1.0, "sft.data": json.dumps(["a", "b"]), "success": None}


def test_a_stage_is_named_after_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = install(monkeypatch, "wandb")
    with RunFolder.open(tmp_path / "mine", CONFIG) as run:
        for folder in (run.path, run.sub("sft").path):
            open_mirrors("wandb", folder, CONFIG)
    names = [values["name"] for kind, values in package.calls if kind == "init" and isinstance(values, dict)]
    assert names == ["mine", "mine-sft"]

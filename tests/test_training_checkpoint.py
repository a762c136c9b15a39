import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gruppo.errors import RunFolderError, TrainingError
from gruppo.monitor.writer import THREAD, BackgroundWriter
from gruppo.training.checkpoint import Checkpoints
from gruppo.training.controls import Controls, ControlSettings


class Part:
    """A stateful part: a tensor and a number."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"tensor": torch.full((300,), self.value), "value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]
        assert state["tensor"].tolist() == [self.value] * 300


def saved(folder: Path, steps: int, every: int = 2, keep: int = 3) -> tuple[Checkpoints, dict[str, Part]]:
    parts = {"a": Part(), "b": Part()}
    checkpoints = Checkpoints(folder, parts, every, keep)
    for step in range(1, steps + 1):
        parts["a"].value, parts["b"].value = float(step), 10.0 * step
        checkpoints.save_if_due(step, last=step == steps)
    return checkpoints, parts


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_saved_when_due_and_at_the_end_and_few_stay(tmp_path: Path):
    saved(tmp_path, 9)
    assert names(tmp_path) == ["step-000006", "step-000008", "step-000009"]
    assert names(tmp_path / "step-000009") == ["a.pt", "b.pt", "manifest.json"]


def test_resume_takes_the_newest(tmp_path: Path):
    checkpoints, parts = saved(tmp_path, 6)
    parts["a"].value = parts["b"].value = -1.0
    assert checkpoints.resume() == (6, [])
    assert (parts["a"].value, parts["b"].value) == (6.0, 60.0)


def test_resume_without_any_is_step_zero(tmp_path: Path):
    assert Checkpoints(tmp_path / "none", {"a": Part()}, 1, 1).resume() == (0, [])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "bit": lambda folder: flip(folder / "b.pt"),
    "missing part": lambda folder: (folder / "a.pt").unlink(),
    "cut short": lambda folder: os.truncate(folder / "a.pt", 100),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "empty manifest": lambda folder: (folder / "manifest.json").write_text(""),
    "half a manifest": lambda folder: os.truncate(folder / "manifest.json", 30),
    "manifest of null": lambda folder: (folder / "manifest.json").write_text("null"),
    "manifest of text": lambda folder: (folder / "manifest.json").write_text('{"step": 6, "sha256": "x"}'),
    "part not listed": lambda folder: edit(folder / "manifest.json", sha256={}),
    "another step": lambda folder: edit(folder / "manifest.json", step=5),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_with_a_complaint(tmp_path: Path, damage: str):
    checkpoints, parts = saved(tmp_path, 6)
    DAMAGES[damage](tmp_path / "step-000006")
    step, complaints = checkpoints.resume()
    assert (step, parts["a"].value, parts["b"].value) == (4, 4.0, 40.0)
    (complaint,) = complaints
    assert complaint.startswith("checkpoint step-000006 is damaged (")
    assert complaint.endswith("going on from an earlier one")


def test_a_damaged_one_does_not_count_among_those_that_stay(tmp_path: Path):
    saved(tmp_path, 6)
    flip(tmp_path / "step-000006" / "a.pt")
    checkpoints = Checkpoints(tmp_path, {"a": Part(), "b": Part()}, every=1, keep=1)
    assert checkpoints.resume()[0] == 4
    checkpoints.save(5)
    assert names(tmp_path) == ["step-000005"]


def test_all_damaged_is_a_start_from_nothing_with_every_complaint(tmp_path: Path):
    checkpoints, parts = saved(tmp_path, 6)
    for step in (2, 4, 6):
        flip(tmp_path / f"step-{step:06d}" / "a.pt")
    step, complaints = checkpoints.resume()
    assert step == 0
    assert [complaint.split()[1] for complaint in complaints] == ["step-000006", "step-000004", "step-000002"]
    assert parts["a"].value == 6.0  # nothing was loaded


def test_a_half_written_one_is_not_seen_and_written_over(tmp_path: Path):
    checkpoints, parts = saved(tmp_path, 4)
    half = tmp_path / "writing-step-000006"
    half.mkdir()
    (half / "a.pt").write_bytes(b"half")
    assert checkpoints.resume() == (4, [])
    parts["a"].value = 6.0
    checkpoints.save(6)
    assert names(tmp_path) == ["step-000002", "step-000004", "step-000006"]
    assert checkpoints.resume() == (6, [])


def test_an_error_while_saving_leaves_the_old_ones(tmp_path: Path):
    class Full(Part):
        def state_dict(self) -> dict[str, Any]:
            raise OSError("no space left")

    saved(tmp_path, 4)
    with pytest.raises(OSError, match="no space"):
        Checkpoints(tmp_path, {"a": Part(6.0), "b": Full()}, 2, 3).save(6)
    parts = {"a": Part(), "b": Part()}
    assert Checkpoints(tmp_path, parts, 2, 3).resume() == (4, [])
    assert parts["a"].value == 4.0


class Moving:
    """A part whose state is its own tensors, which training changes in place."""

    def __init__(self) -> None:
        self.tensor = torch.arange(6.0).reshape(2, 3)
        self.nested = {"moments": [torch.ones(2), 1.5], "name": "x"}

    def state_dict(self) -> dict[str, Any]:
        return {"view": self.tensor[1], "whole": self.tensor, "nested": self.nested, "pair": (1, self.tensor[0])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state


def test_what_is_written_in_the_background_is_the_state_at_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    go, save = threading.Event(), torch.save
    monkeypatch.setattr(torch, "save", lambda *given: go.wait(30) and save(*given))
    part, writer = Moving(), BackgroundWriter()
    checkpoints = Checkpoints(tmp_path, {"a": part}, 1, 1, writer)
    checkpoints.save(1)
    part.tensor.mul_(-1)
    part.nested["moments"][0].zero_()  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
    part.nested["name"] = "y"
    assert [path.name for path in tmp_path.glob("step-*")] == []
    go.set()
    assert checkpoints.resume() == (1, [])  # waits for the writer
    assert part.loaded["whole"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (part.loaded["view"].tolist(), part.loaded["pair"][1].tolist()) == ([3, 4, 5], [0, 1, 2])
    assert (part.loaded["nested"]["moments"][0].tolist(), part.loaded["nested"]["name"]) == ([1, 1], "x")
    assert part.loaded["pair"][0] == 1


def test_a_state_too_large_to_copy_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    threads: list[str] = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda *given: threads.append(threading.current_thread().name) or save(*given))
    writer = BackgroundWriter()
    for step, available in enumerate((1 << 40, 2 * 300 * 4, 2 * 300 * 4 - 1, None), 1):
        monkeypatch.setattr("gruppo.training.checkpoint.available_memory", lambda given=available: given)
        Checkpoints(tmp_path, {"a": Part()}, 1, 9, writer).save(step)
        writer.flush()
    assert threads == [THREAD, THREAD, "MainThread", THREAD]
    assert names(tmp_path) == [f"step-{step:06d}" for step in (1, 2, 3, 4)]


def test_a_full_disk_is_named_and_leaves_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoints, _ = saved(tmp_path, 4)

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunFolderError, match=r"output_dir: can't write .*step-000006: No space left on device"):
        checkpoints.save(6)
    assert checkpoints.resume() == (4, [])


def test_controls_count_and_end():
    controls = Controls(2)
    controls.advance(poisoned=False)
    assert (controls.step, controls.done, controls.finished) == (1, False, False)
    controls.stop_requested = True
    assert (controls.done, controls.finished) == (True, False)
    again = Controls(2)
    again.load_state_dict(controls.state_dict())
    assert (again.step, again.done) == (1, False)
    again.advance(poisoned=False)
    assert (again.done, again.finished) == (True, True)


def test_three_poisoned_steps_in_a_row_end_the_run():
    controls = Controls(100)
    for poisoned in (True, True, False, True, True):
        controls.advance(poisoned=poisoned)
        controls.give_up_if_poisoned()
    controls.advance(poisoned=True)
    with pytest.raises(TrainingError, match=r"step 6: loss or gradient was not finite 3 times in a row.*learning_rate"):
        controls.give_up_if_poisoned()


def test_an_adaptive_beta_follows_the_kl_within_bounds():
    controls = Controls(100, ControlSettings(target_kl=0.05))
    assert [controls.adapt_beta(kl) for kl in (0.06, 0.05, 0.025, 0.02, None, float("nan"))] == [
        *(True, False, False, True, False, False)
    ]
    assert controls.beta_factor == pytest.approx(1.5 * 0.9)
    again = Controls(100, ControlSettings(target_kl=0.05))
    again.load_state_dict(controls.state_dict())
    assert again.beta_factor == controls.beta_factor
    for _ in range(20):
        controls.adapt_beta(1.0)
    assert (controls.beta_factor, controls.adapt_beta(1.0)) == (100.0, False)
    for _ in range(100):
        controls.adapt_beta(0.0)
    assert controls.beta_factor == 0.01
    assert not Controls(100).adapt_beta(1.0)


def test_refreshes_are_due_every_so_many_steps_and_not_after_the_last():
    controls, due = Controls(6, ControlSettings(refresh_every=2)), []
    for _ in range(6):
        controls.advance(poisoned=False)
        due.append(controls.refresh_due)
    assert due == [False, True, False, True, False, False]


def test_signals_stop_after_the_step_in_hand_and_the_old_handlers_come_back():
    controls = Controls(100)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with controls.stopping_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        assert controls.done
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_controls_work_outside_the_main_thread():
    seen: list[bool] = []

    def work() -> None:
        with Controls(1).stopping_on_signals():
            seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]

"""From a config to the problems that are loaded, their order, and what is told of them."""

import json
from pathlib import Path
from typing import Any

import pytest

import gruppo
from gruppo.config.schema import Config
from gruppo.data.difficulty import DifficultySlice
from gruppo.errors import DataError
from gruppo.launch.streams import load_limits, problem_stream, slices
from gruppo.monitor.progress import SilentProgress
from gruppo.types import Problem


def config(**values: Any) -> Config:
    return Config.model_validate({"model": "m", "data": "d.jsonl", **values})


class Heard(SilentProgress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ({}, None),
        ({"min_difficulty": 2}, DifficultySlice(2, None)),
        ({"curriculum": [{"steps": "1-9", "max_difficulty": 2}]}, None),
        ({"max_difficulty": 3, "curriculum": [{"steps": "1-9", "max_difficulty": 5}]}, DifficultySlice(None, 5)),
        (
            {
                "min_difficulty": 2,
                "max_difficulty": 3,
                "curriculum": [{"steps": "1-9", "min_difficulty": 1}, {"steps": "10-", "max_difficulty": 4}],
            },
            DifficultySlice(1, 4),
        ),
    ],
)
def test_what_is_loaded_is_what_some_step_asks_for(values: dict[str, Any], limits: DifficultySlice | None) -> None:
    assert load_limits(config(**values)) == limits


def test_a_span_that_has_no_problem_is_refused_at_the_start() -> None:
    problems = [Problem(str(level), "?", None, difficulty=level) for level in (1.0, 2.0)]
    spans = [{"steps": "1-9", "max_difficulty": 1}, {"steps": "10-", "min_difficulty": 3}]
    assert slices(config(curriculum=spans)) == [None, DifficultySlice(None, 1), DifficultySlice(3, None)]
    with pytest.raises(DataError, match="no problem has a difficulty of at least 3; 2 of 2 problems have one"):
        problem_stream(config(curriculum=spans), problems, print)


def test_weights_pools_and_drops_reach_the_stream() -> None:
    problems = [Problem(f"{source}{n}", "?", None, source=source) for source in "ab" for n in range(10)]
    mixed = config(data=["a", {"path": "b", "weight": 9}], pool_weights=[1, 1, 2], drop_after=3)
    stream = problem_stream(mixed, problems, print)
    taken = [problem.source for problem in stream.take(300)]
    assert 240 <= taken.count("b") <= 290
    assert stream.report() == {"pool_easy": 0, "pool_normal": 20, "pool_hard": 0, "problems_dropped": 0}
    plain = problem_stream(config(data=["a", "b"]), problems, print)
    assert len({problem.id for problem in plain.take(20)}) == 20


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_run_over_two_data_sets_with_a_reward_each(tiny_model: Path, tmp_path: Path) -> None:
    sums = [{"question": f"What is {a} + 1?", "answer": str(a + 1), "level": a} for a in range(6)]
    talk = [{"question": f"Say {word}.", "level": "Level 1"} for word in ("yes", "no")]
    one, two = write(tmp_path / "sums.jsonl", sums), write(tmp_path / "talk.jsonl", talk)
    held_out = write(tmp_path / "held.jsonl", [{"question": "what is 3 + 1?", "answer": "4"}])
    heard = Heard()
    settings = config(
        model=str(tiny_model),
        data=[one, {"path": two, "weight": 2}],
        output_dir=str(tmp_path / "run"),
        min_difficulty=1,
        pool_weights=[0.5, 1, 1],
        steps=2,
        prompts_per_step=4,
        group_size=2,
        max_completion_length=6,
        threads=1,
        rewards=[{"name": "math", "data": [one, held_out]}, {"name": "digits", "data": two}],
        eval={"data": held_out, "samples": 2, "before": False},
    )

    def digits(completion: str) -> float:
        return sum(letter.isdigit() for letter in completion) / max(1, len(completion))

    result = gruppo.train(settings, rewards=[digits], observer=heard)
    assert result.finished
    assert "1 of 8 problems left out: their difficulty is not of at least 1 (min_difficulty, max_difficulty)" in (
        heard.notes
    )
    assert "7 of 7 problems have a difficulty, from 1 to 5" in heard.notes
    overlap = [note for note in heard.notes if note.startswith("warning: 1 of 1 problems of eval.data are in the")]
    assert len(overlap) == 1
    assert "(held.jsonl:1 is sums.jsonl:4)" in overlap[0]
    assert {"reward/math", "reward/digits"} <= set(result.metrics[0])


def test_a_span_without_problems_and_a_data_set_without_reward_stop_before_training(
    tiny_model: Path, tmp_path: Path
) -> None:
    data = write(tmp_path / "d.jsonl", [{"question": "q", "answer": "1"}])
    other = write(tmp_path / "o.jsonl", [{"question": "o", "answer": "1"}])
    base: dict[str, Any] = {"model": str(tiny_model), "output_dir": str(tmp_path / "run"), "max_completion_length": 6}
    with pytest.raises(DataError, match="none of the 1 problems has a difficulty"):
        gruppo.train(config(**base, data=data, min_difficulty=1), observer=SilentProgress())
    with pytest.raises(gruppo.GruppoError, match=r"rewards: none is for the data set '.*o\.jsonl' \(o\.jsonl:1\)"):
        gruppo.train(
            config(**base, data=[data, other], rewards=[{"name": "math", "data": data}]), observer=SilentProgress()
        )

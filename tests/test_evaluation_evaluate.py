import json
from collections.abc import Sequence

import numpy as np
import pytest

from gruppo.evaluation.evaluate import Evaluation, Evaluator, Label, ProblemResult, compare
from gruppo.evaluation.explain import decompose, learnt
from gruppo.monitor.progress import SilentProgress
from gruppo.rollout.collect import Collector
from gruppo.rollout.engine import ScriptedEngine
from gruppo.types import GroupRequest, Problem, SamplingParams, Score
from models import Letters
from scorers import AtOnce

A, W, STOP = 0, 22, 30
"""`a` is right, `w` marks a worked answer, 30 (`4`) ends."""
SAMPLING = SamplingParams(temperature=0.8, max_completion_length=3, top_k=5, stop_token_ids=(STOP,))
LABEL = Label("worked", lambda text: "w" in text, verb="work it out")

# Per problem: its four sampled completions, then the greedy one.
SCRIPT = {
    "p0": [[A, STOP], [W, A, STOP], [1, STOP], [W, 1, STOP], [A, STOP]],
    "p1": [[1, STOP], [1, 1, 1], [1, 1, 1], [W, 1, STOP], [1, STOP]],
    "p2": [[A, STOP], [A, STOP], [W, A, STOP], [A, STOP], [W, A, STOP]],
}


def script(request: GroupRequest, sample: int) -> list[int]:
    return SCRIPT[request.problem_id][4 if request.sampling.temperature == 0 else sample]


class HasA(AtOnce):
    def score(
        self, problem: Problem, texts: Sequence[str], truncated: Sequence[bool], lengths: Sequence[int]
    ) -> list[Score]:
        return [Score(float("a" in text), {"a": float("a" in text)}, "a" in text) for text in texts]


class Told(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self.lines.append((stage, total))

    def step(self, stage: str, done: int, values: object) -> None:
        self.lines.append((stage, done, values))

    def finish(self, stage: str) -> None:
        self.lines.append((stage, "end"))


def evaluated(
    label: Label | None = LABEL, greedy: bool = True, observer: Told | None = None
) -> tuple[Evaluation, ScriptedEngine]:
    engine = ScriptedEngine(script)
    collector = Collector(engine, HasA(), Letters(), SamplingParams(), group_size=2)
    problems = [Problem(id=name, prompt="?", answer="a", prompt_ids=(1, 2)) for name in SCRIPT]
    evaluator = Evaluator(collector, problems, SAMPLING, 4, greedy, seed=0, label=label, observer=observer)
    return evaluator.evaluate("eval"), engine


def test_the_figures_are_these():
    result, _ = evaluated()
    assert [(r.id, r.passes, r.greedy, r.labelled, r.labelled_passes) for r in result.per_problem] == [
        ("p0", 2, True, 2, 1),
        ("p1", 0, False, 1, 0),
        ("p2", 4, True, 1, 1),
    ]
    assert result.pass_at_1.value == pytest.approx((0.5 + 0.0 + 1.0) / 3)
    assert result.pass_at_k.value == pytest.approx(2 / 3)
    assert result.values(2).tolist() == pytest.approx([1 - 1 / 6, 0.0, 1.0])  # of C(4, 2) pairs one fails twice
    assert result.pass_at_1_greedy is not None
    assert result.pass_at_1_greedy.value == pytest.approx(2 / 3)
    assert result.share_labelled == pytest.approx(4 / 12)
    assert result.accuracy_given_label == pytest.approx(2 / 4)
    assert result.mean_length == pytest.approx((2 + 3 + 2 + 3 + 2 + 3 + 3 + 3 + 2 + 2 + 3 + 2) / 12)
    assert result.truncated_share == pytest.approx(2 / 12)
    assert result.pass_at_1.low == 0.0
    assert result.pass_at_1.high == 1.0


def test_without_label_or_greedy():
    result, engine = evaluated(label=None, greedy=False)
    assert (result.pass_at_1_greedy, result.share_labelled, result.accuracy_given_label) == (None, None, None)
    assert len(engine.requests) == 3
    assert result.to_json()["extra"] == {}
    assert "pass_at_1_greedy" not in compare(result, result)


def test_what_the_engine_is_asked():
    _, engine = evaluated()
    sampled = [r for r in engine.requests if r.sampling.temperature == 0.8]
    greedy = [r for r in engine.requests if r.sampling.temperature == 0.0]
    assert [r.group_size for r in sampled] == [4, 4, 4]
    assert [r.group_size for r in greedy] == [1, 1, 1]
    assert {(r.sampling.top_k, r.sampling.top_p) for r in greedy} == {(0, 1.0)}
    assert {r.sampling.stop_token_ids for r in engine.requests} == {(STOP,)}
    _, again = evaluated()
    assert [r.seed for r in again.requests] == [r.seed for r in engine.requests]


def test_the_observer_is_told():
    told = Told()
    evaluated(observer=told)
    assert told.lines == [("eval", 3), ("eval", 3, {"pass_at_1": pytest.approx(0.5)}), ("eval", "end")]


def test_json_goes_there_and_back():
    result, _ = evaluated()
    data = json.loads(json.dumps(result.to_json()))
    assert Evaluation.from_json(data) == result
    assert data["pass_at_4"]["value"] == pytest.approx(2 / 3)
    assert data["extra"] == {"share_worked": pytest.approx(1 / 3), "accuracy_given_worked": 0.5}


def evaluation(rows: Sequence[tuple[int, int, int, bool]], label: str | None = "worked") -> Evaluation:
    """Rows of (passes, labelled, labelled passes, greedy) of four samples each."""
    results = [ProblemResult(f"p{i}", p, 4, greedy, n, np_) for i, (p, n, np_, greedy) in enumerate(rows)]
    return Evaluation(tuple(results), 4, 1.0, 5.0, 0.0, seed=0, label=label)


BEFORE = evaluation([(1, 2, 1, False), (0, 0, 0, False), (2, 1, 1, True), (1, 1, 0, False)])
AFTER = evaluation([(3, 4, 3, True), (2, 2, 2, False), (4, 3, 3, True), (2, 3, 2, False)])


def test_compare_is_paired():
    differences = compare(BEFORE, AFTER)
    assert differences["pass_at_1"].value == pytest.approx((2 + 2 + 2 + 1) / 16)
    assert differences["pass_at_4"].value == pytest.approx(1 / 4)
    assert differences["pass_at_1_greedy"].value == pytest.approx(1 / 4)
    assert differences["pass_at_1"].low == pytest.approx(6 / 16, abs=0.07)  # differences are 1/2 or 1/4
    assert differences["pass_at_1"].high == 0.5
    assert compare(AFTER, AFTER)["pass_at_1"].high == 0.0


def test_the_decomposition_adds_up():
    parts = decompose(BEFORE, AFTER)
    # 4/16 worked, half of them right, 2/12 of the others; then 12/16 worked, 10/12 right, 1/4 of the others.
    assert parts.choosing == pytest.approx((12 - 4) / 16 * (2 / 4 - 2 / 12))
    assert parts.better == pytest.approx(12 / 16 * (10 / 12 - 2 / 4) + 4 / 16 * (1 / 4 - 2 / 12))
    assert parts.choosing + parts.better == pytest.approx(7 / 16)
    generator = np.random.default_rng(0)
    for _ in range(50):  # also where one side is empty
        pair: list[Evaluation] = []
        for _ in range(2):
            n = int(generator.integers(0, 5))
            worked = int(generator.integers(0, n + 1))
            pair.append(evaluation([(worked + int(generator.integers(0, 5 - n)), n, worked, False)]))
        split = decompose(*pair)
        change = pair[1].values(1).mean() - pair[0].values(1).mean()
        assert split.choosing + split.better == pytest.approx(change, abs=1e-12)


def test_what_was_learnt_in_words():
    first, *rest = learnt(BEFORE, AFTER, "work it out")
    low = 100 * compare(BEFORE, AFTER)["pass_at_1"].low
    assert first == (
        f"Sampled pass@1 on held-out problems changed by +43.8 points (95 % interval +{low:.1f} to +50.0): "
        "the model learnt."
    )
    assert rest == [
        "+16.7 points are choice: 25% of completions work it out before, 75% now.",
        "+27.1 points are skill: of those, 50% were right before, 83% after.",
    ]
    assert learnt(AFTER, BEFORE)[0].endswith("the model got worse.")
    assert learnt(AFTER, BEFORE)[0].startswith("Sampled pass@1 on held-out problems changed by -43.8 points")
    assert learnt(BEFORE, BEFORE) == [
        "Sampled pass@1 on held-out problems changed by +0.0 points (95 % interval +0.0 to +0.0): "
        "not told apart from chance."
    ]
    assert len(learnt(evaluation([(1, 0, 0, False)], None), evaluation([(1, 0, 0, False)], None), "work")) == 1

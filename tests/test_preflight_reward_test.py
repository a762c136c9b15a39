"""The test of a rubric before a run: literal verdicts on small data of each kind, and on rewards with known holes."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from command_line import Outcome
from gruppo.cli.main import main
from gruppo.config.rewards import CodeReward, FormatReward, LengthReward, LogicReward, MathReward, QAReward
from gruppo.config.schema import DataFields
from gruppo.data.problems import load_problems
from gruppo.errors import DataError, RewardError
from gruppo.preflight import findings
from gruppo.preflight.examples import read_examples
from gruppo.preflight.probes import Prober
from gruppo.preflight.reward_test import RewardTest, evenly, try_rubric
from gruppo.rewards.building import build_rubric
from gruppo.rewards.rubric import Reward, Rubric
from gruppo.rewards.workers import WorkerPool
from gruppo.types import Problem

MATH = [
    {"question": f"Tom has {a} pens and buys {b} more each day for 3 days. How many pens has he?", "answer": working}
    for a, b in ((3, 4), (10, 2), (7, 5), (20, 30))
    for working in (f"He buys 3 * {b} = {3 * b} pens, so {a} + {3 * b} = {a + 3 * b}\n#### {a + 3 * b}",)
]
SUM = {"question": "What is 3 + 4?", "answer": "7"}
PRIME = {
    "problem": "Write a function is_prime(n) that says whether n is prime.",
    "tests": "assert is_prime(7) == True",
    "solution": "def is_prime(n):\n    if n < 2: return False\n    ...",
}
DOUBLE = {
    "problem": "Write a function double(n) that gives twice n.",
    "tests": ["assert double(2) == 4", "assert double(-3) == -6"],
    "solution": "def double(n):\n    return 2 * n",
}
JOINED = {
    "problem": "Write a function joined(words) that joins words by spaces.",
    "tests": ["assert joined(['a', 'b']) == 'a b'"],
    "solution": "def joined(words):\n    return ' '.join(words)",
}
QA = [
    {"question": "Who wrote Dubliners?", "answer": ["James Joyce", "Joyce"]},
    {"question": "When did he die?", "answer": ["1941"]},
    {"question": "Where?", "answer": ["Zurich"]},
]
LOGIC = [
    {
        "quiz": f"{one} says: {other} is a knave. {other} says nothing of note. Who is what?",
        "names": [one, other],
        "solution": [True, False],
        "solution_text": f"(1) {one} is a knight\n(2) {other} is a knave",
    }
    for one, other in (("Zoey", "Owen"), ("Ada", "Liam"))
]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[Problem, ...]]:
    def problems(*rows: dict[str, Any]) -> tuple[Problem, ...]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load_problems([str(path)], DataFields()).problems

    return problems


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1) as workers:
        yield workers


def own(function: Callable[..., Any], **options: Any) -> Rubric:
    return Rubric([Reward("mine", function, **options)])


def passes(found: RewardTest) -> dict[str, tuple[int, int]]:
    return {count.probe: (count.passed, count.tried) for count in found.probes}


def kinds(found: RewardTest) -> list[str]:
    return [finding.kind for finding in found.findings if finding.mend]


def only(found: RewardTest, kind: str) -> findings.Finding:
    (finding,) = [finding for finding in found.findings if finding.kind == kind]
    return finding


# ---- data of each kind under the reward that fits


def test_math(load: Callable[..., Any]) -> None:
    found = try_rubric(build_rubric([MathReward()]), load(*MATH))
    assert passes(found) == {
        "gold": (4, 4),
        "empty": (0, 4),
        "garbage": (0, 4),
        "echoed prompt": (0, 4),
        "all answers": (0, 4),
        "truncated gold": (0, 4),
        "wrong by one": (0, 4),
        "repeated wrong answer": (0, 4),
        "another row's gold": (0, 4),
        "form: answer alone": (4, 4),
        "form: #### answer": (4, 4),
        "form: \\boxed{answer}": (4, 4),
        "form: sentence": (4, 4),
        "form: <answer>": (4, 4),
        "form: <think> <answer>": (4, 4),
    }
    assert found.fine
    assert found.findings == ()
    assert (found.problems, found.chosen, found.of) == (4, 4, 4)
    assert (found.repeated, found.agreed) == (36, 36)
    assert [(timing.reward, timing.calls, timing.failures) for timing in found.timings] == [("math", 60, {})]


def test_strict_math_is_strict_about_the_form_alone(load: Callable[..., Any]) -> None:
    found = try_rubric(build_rubric([MathReward(strict=True)]), load(*MATH))
    forms = {name: counts for name, counts in passes(found).items() if name.startswith("form")}
    assert forms == {
        "form: answer alone": (0, 4),
        "form: #### answer": (4, 4),
        "form: \\boxed{answer}": (4, 4),
        "form: sentence": (0, 4),
        "form: <answer>": (0, 4),
        "form: <think> <answer>": (0, 4),
    }
    assert found.fine


def test_the_solution_that_fails_its_own_test(load: Callable[..., Any]) -> None:
    found = try_rubric(build_rubric([CodeReward()]), load(PRIME))
    gold = only(found, "gold")
    assert gold.mend
    assert gold.what == "the data's own gold does not pass on 1 of 1 problems"
    assert gold.evidence == ("rows.jsonl:1: 0 of 1 tests passed; test 1 failed: assert is_prime(7) == True: got None",)
    assert gold.cure.endswith("mend the solution or that test, or drop the row.")
    assert gold.rows == ("rows.jsonl:1",)
    assert kinds(found) == ["gold"]


def test_code(load: Callable[..., Any]) -> None:
    found = try_rubric(build_rubric([CodeReward(score="all")]), load(DOUBLE, JOINED))
    assert {name: passed for name, (passed, _) in passes(found).items()} == {
        "gold": 2,
        "empty": 0,
        "garbage": 0,
        "echoed prompt": 0,
        "empty program": 0,
        "equals anything": 0,
        "quits": 0,
        "truncated gold": 0,
        "wrong by one": 0,
        "repeated wrong answer": 0,
        "another row's gold": 0,
        "form: program alone": 2,
        "form: fence without language": 2,
        "form: prose around": 2,
    }
    assert found.fine


def test_a_row_whose_tests_cannot_be_run_is_named(load: Callable[..., Any]) -> None:
    found = try_rubric(build_rubric([CodeReward()]), load({**DOUBLE, "tests": ["double(2)  # no assert"]}))
    failing = only(found, "failures")
    assert failing.evidence[0].startswith("can't be scored: rows.jsonl:1: the tests of the row hold no test")
    assert "mend or drop it" in failing.cure


def test_answers(load: Callable[..., Any]) -> None:
    found = try_rubric(build_rubric([QAReward()]), load(*QA))
    assert passes(found)["gold"] == (3, 3)
    assert {name for name, (passed, _) in passes(found).items() if passed} == {
        "gold",
        *(name for name in passes(found) if name.startswith("form")),
    }
    assert found.fine


def test_levels_that_rank_partial_below_wrong_are_said_aloud(load: Callable[..., Any]) -> None:
    found = try_rubric(build_rubric([QAReward(mode="levels", levels=(1.0, -0.5, 0.0))]), load(*QA))
    assert not only(found, "levels").mend
    assert only(found, "levels").what.startswith("reward 'qa': levels: partly right (-0.5) ranks below wrong (0)")
    assert found.fine


def test_logic(load: Callable[..., Any]) -> None:
    found = try_rubric(build_rubric([LogicReward()]), load(*LOGIC))
    assert passes(found) == {
        "gold": (2, 2),
        "empty": (0, 2),
        "garbage": (0, 2),
        "echoed prompt": (0, 2),
        "all answers": (0, 2),
        "truncated gold": (0, 2),
        "wrong by one": (0, 2),
        "repeated wrong answer": (0, 2),
        "another row's gold": (0, 2),
        "form: <answer>": (2, 2),
        "form: <think> <answer>": (2, 2),
    }
    assert found.fine


# ---- rewards with holes


def test_a_reward_that_looks_for_the_answer_anywhere(load: Callable[..., Any]) -> None:
    rows = [
        {"question": f"{word}?", "answer": answer} for word, answer in (("a", "cats"), ("b", "dogs"), ("c", "an ox"))
    ]
    found = try_rubric(own(lambda completion, answer: answer in completion), load(*rows))
    hack = only(found, "hack")
    assert hack.what == "'all answers' passes on 3 of 3 problems"
    assert hack.evidence[0] == "rows.jsonl:1: 'The answer is an ox, cats, dogs.' passes: mine is 1"
    assert kinds(found) == ["hack"]


def test_a_reward_that_likes_everything(load: Callable[..., Any]) -> None:
    found = try_rubric(own(lambda completion: 1.0), load(SUM))
    assert {name for name, (passed, tried) in passes(found).items() if passed == tried} == set(passes(found))
    assert [finding.what for finding in found.findings if finding.kind == "hack"] == [
        "'empty' passes on 1 of 1 problems",
        "'garbage' passes on 1 of 1 problems",
        "'echoed prompt' passes on 1 of 1 problems (up to 10% may be by right)",
        "'truncated gold' passes on 1 of 1 problems (up to 5% may be by right)",
        "'wrong by one' passes on 1 of 1 problems (up to 5% may be by right)",
        "'repeated wrong answer' passes on 1 of 1 problems (up to 5% may be by right)",
    ]
    assert "an empty completion passes: mine is 1" in found.findings[0].evidence[0]


def executed(completion: str, tests: list[str]) -> float:
    """As many run programs: in the trainer's own process."""
    space: dict[str, Any] = {}
    try:
        exec(completion.removeprefix("```python\n").removesuffix("\n```"), space)
        for test in tests:
            exec(test, space)
    except Exception:
        return 0.0
    return 1.0


def test_a_reward_that_runs_programs_itself(load: Callable[..., Any]) -> None:
    found = try_rubric(own(executed), load(DOUBLE, JOINED))
    assert passes(found)["equals anything"] == (2, 2)
    assert passes(found)["empty program"] == (0, 2)
    assert only(found, "hack").what == "'equals anything' passes on 2 of 2 problems"
    assert only(found, "failures").what == "reward 'mine': 2 of 28 calls raise an error"
    assert "raised SystemExit for rows.jsonl:1: 0; completion" in only(found, "failures").evidence[0]


def test_trivial_completions_that_earn_as_much_as_the_gold(load: Callable[..., Any]) -> None:
    brief = LengthReward(shape="cap", budget=2, weight=2.0)
    found = try_rubric(build_rubric([MathReward(), brief]), load(*MATH))
    (pay,) = [finding for finding in found.findings if finding.kind == "pay"]
    assert pay.what == "'empty' does not pass, and earns as much as the gold on 4 of 4 problems"
    assert pay.evidence == (
        "rows.jsonl:1: an empty completion earns 2 (math 0, length 1); the gold 1 (math 1, length 0)",
    )
    assert kinds(found) == ["pay"]
    assert try_rubric(build_rubric([MathReward(), replace_gate(brief)]), load(*MATH)).fine


def replace_gate(reward: LengthReward) -> LengthReward:
    return reward.model_copy(update={"gate": "math"})


# ---- rewards that fail, dawdle, or change their mind


def test_a_reward_that_raises(load: Callable[..., Any]) -> None:
    found = try_rubric(own(lambda completion, answer: float(completion.split()[-1] == answer)), load(SUM))
    failing = only(found, "failures")
    assert failing.mend
    assert failing.what == "reward 'mine': 1 of 13 calls raise an error"
    assert failing.evidence == (
        "raised IndexError for rows.jsonl:1: list index out of range; completion an empty completion",
    )
    assert found.timings[0].failures == {"raised": 1}


def test_a_reward_that_returns_no_reward_or_too_few(load: Callable[..., Any]) -> None:
    found = try_rubric(own(lambda completion: "good" if "7" in completion else 0.0), load(SUM))
    assert "returned 'good' (str) for rows.jsonl:1; wanted a finite number" in only(found, "failures").evidence[0]
    short = try_rubric(own(lambda completions: [1.0]), load(SUM))
    assert "returned 1 values for the 13 completions of rows.jsonl:1" in only(short, "failures").evidence[0]


def test_a_reward_that_hangs_and_one_that_dies(load: Callable[..., Any], pool: WorkerPool) -> None:
    def hangs(completion: str, answer: str) -> float:
        while not completion:
            pass
        if completion == answer:
            import os

            os._exit(3)
        return float("boxed" in completion)

    rubric = Rubric([Reward("mine", hangs, time_limit=0.3)], pool=pool)
    found = try_rubric(rubric, load(SUM))
    assert found.timings[0].failures == {"timeout": 1, "crashed": 1}
    assert [finding.what for finding in found.findings if finding.kind == "failures"] == [
        "reward 'mine': 1 of 13 calls take longer than they may",
        "reward 'mine': 1 of 13 calls end their process",
    ]
    assert found.timings[0].worst_ms > 250


def test_a_slow_reward(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "SLOW_SECONDS", 0.01)

    def slow(completion: str, answer: str) -> float:
        time.sleep(0.02)
        return float(completion == f"The answer is \\boxed{{{answer}}}.")

    found = try_rubric(own(slow), load(SUM))
    assert not only(found, "slow").mend
    assert only(found, "slow").what == "reward 'mine' takes 0.0 s a completion: it may hold up the run"
    assert found.fine
    assert 20 <= found.timings[0].median_ms <= found.timings[0].p95_ms <= found.timings[0].worst_ms


def test_a_reward_that_looks_at_the_clock_or_remembers(load: Callable[..., Any]) -> None:
    found = try_rubric(own(lambda completion, answer: time.perf_counter() % 1 / 2), load(SUM))
    differing = only(found, "disagreement")
    assert differing.mend
    assert differing.what == "reward 'mine' gives 7 completions another reward the second time"
    assert (found.repeated, found.agreed) == (7, 0)

    seen: set[str] = set()

    def novel(completion: str, answer: str) -> float:
        if completion in seen or f"boxed{{{answer}}}" not in completion:
            return 0.0
        seen.add(completion)
        return 1.0

    found = try_rubric(own(novel), load(SUM))
    assert (found.repeated, found.agreed) == (7, 6)
    assert only(found, "disagreement").evidence == ("rows.jsonl:1, 'gold': 1, then 0",)


# ---- rubrics that can't work


def test_a_full_scale_that_is_never_reached(load: Callable[..., Any]) -> None:
    found = try_rubric(own(lambda completion, answer: 0.5 * (f"boxed{{{answer}}}" in completion)), load(SUM))
    scale = only(found, "scale")
    assert scale.what == (
        "reward 'mine' is 0.5 for each of the 1 golds tried, and its full_scale is 1: nothing passes, for a pass is "
        "0.99 of it"
    )
    assert scale.cure.startswith("set `full_scale: 0.5` on it")
    assert kinds(found) == ["scale"]


def test_a_gate_that_never_opens(load: Callable[..., Any]) -> None:
    tags = FormatReward(tags=("think", "answer"))
    found = try_rubric(build_rubric([MathReward(), LengthReward(gate="format"), tags]), load(*MATH))
    assert [finding.kind for finding in found.findings] == []  # one of the forms opens it
    pattern = FormatReward(pattern="never.*")
    found = try_rubric(build_rubric([MathReward(), LengthReward(gate="format"), pattern]), load(*MATH))
    assert only(found, "gate").what == (
        "reward 'length' never counts: its gate 'format' passes on none of the 60 completions tried, golds among them"
    )


def test_gold_that_fails_for_its_form_alone(load: Callable[..., Any]) -> None:
    rubric = own(lambda completion, answer: completion == f"#### {answer.rpartition('#### ')[2]}")
    found = try_rubric(rubric, load(*MATH))
    form = only(found, "form")
    assert form.what == "the data's own gold does not pass on 4 of 4 problems, for its form alone"
    assert "would pass as `#### answer`: ask for that form in the prompt" in form.cure
    assert kinds(found) == ["form"]


def test_rows_that_nothing_decides(load: Callable[..., Any]) -> None:
    found = try_rubric(build_rubric([MathReward()]), load(SUM, {"question": "And 2 + 2?", "answer": None}))
    rows = only(found, "rows")
    assert rows.mend
    assert rows.what == (
        "the success reward 'math' does not apply to 1 of 2 problems, which have no answer or tests for it: no "
        "completion of theirs ever passes"
    )
    assert rows.rows == ("rows.jsonl:2",)
    assert only(found, "no gold").what.startswith("1 of 2 problems have no gold completion")
    silent = try_rubric(own(lambda completion, answer: None), load(SUM))
    assert "returns None (does not apply) for the gold of 1 of 1 problems" in only(silent, "rows").what


def test_what_stops_a_run_at_its_start_stops_the_test(load: Callable[..., Any]) -> None:
    with pytest.raises(RewardError, match=r"wants the parameter 'level', but rows.jsonl:1 has no such column"):
        try_rubric(own(lambda completion, level: 1.0), load(SUM))
    with pytest.raises(RewardError, match="there are no problems to try them on"):
        try_rubric(own(lambda completion: 1.0), [])


# ---- the probes, and which problems are tried


@pytest.mark.parametrize(
    ("answer", "near"),
    [
        ("72", "73"),
        ("-3", "-4"),
        ("0.25", "1.25"),
        ("1,999", "2,000"),
        ("\\frac{3}{4}", "\\frac{4}{4}"),
        ("(C)", "(A)"),
        ("A", "B"),
        ("Yes", "No"),
        ("false", "true"),
    ],
)
def test_an_answer_that_is_nearly_right(answer: str, near: str) -> None:
    problem = Problem("p", "?", answer, {"question": "?", "answer": answer})
    probes = {probe.name: probe.text for probe in Prober([problem]).of(problem)}
    assert probes["gold"] == f"The answer is \\boxed{{{answer}}}."
    assert probes["wrong by one"] == f"The answer is \\boxed{{{near}}}."


def test_a_tolerance_moves_the_answer_further() -> None:
    problem = Problem("p", "?", "#### 1000", {"question": "?", "answer": "#### 1000"})
    probes = {probe.name: probe for probe in Prober([problem], tolerance=0.01).of(problem)}
    assert probes["wrong by one"].text == "#### 1020"
    assert probes["truncated gold"].truncated
    found = try_rubric(build_rubric([MathReward(tolerance=0.01)]), [problem])
    assert passes(found)["wrong by one"] == (0, 1)


def test_a_program_that_is_nearly_right(load: Callable[..., Any]) -> None:
    (problem,) = load(DOUBLE)
    near = {probe.name: probe.text for probe in Prober([problem]).of(problem)}["wrong by one"]
    assert "def double(n):\n    return off_by_one(2 * n)" in near
    assert executed(near, ["assert double(2) == 5", "assert double(3) == 7"]) == 1.0
    printing = replace(problem, columns={**problem.columns, "solution": "print(int(input()) + 1)"})
    near = {probe.name: probe.text for probe in Prober([printing]).of(printing)}["wrong by one"]
    assert near.endswith("print(int(input()) + 1, 1)\n```")


def test_problems_are_taken_evenly() -> None:
    problems = [Problem(str(number), "?", "1") for number in range(100)]
    assert sorted(int(problem.id) for problem in evenly(problems, 5)) == [0, 20, 40, 60, 80]
    assert [problem.id for problem in evenly(problems, 5)] == ["0", "40", "80", "20", "60"]
    assert len(evenly(problems, 1000)) == 100


def test_the_time_may_be_up(load: Callable[..., Any]) -> None:
    found = try_rubric(build_rubric([MathReward()]), load(*MATH), seconds=0.0)
    assert (found.problems, found.chosen, found.repeated) == (1, 4, 9)


# ---- examples of the user's


def test_examples(load: Callable[..., Any], tmp_path: Path) -> None:
    problems = load(*MATH)
    rows = [
        {"completion": "#### 15"},
        {"completion": "#### 16", "id": "rows.jsonl:2", "expect": True},
        {"completion": "#### 16", "problem": MATH[1]["question"], "expect": 1},
        {"completion": "It is 4.", "question": "2 + 2?", "answer": "4", "expect": "pass"},
        {"completion": "It is 5.", "question": "2 + 2?", "answer": "4", "expect": 0.5},
    ]
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = read_examples(str(path), problems)
    assert [example.problem.id for example in examples] == [
        "rows.jsonl:1",
        "rows.jsonl:2",
        "rows.jsonl:2",
        "examples.jsonl:4",
        "examples.jsonl:5",
    ]
    found = try_rubric(build_rubric([MathReward()]), problems, examples=examples)
    assert [(verdict.passed, verdict.agrees) for verdict in found.examples] == [
        (True, None),
        (True, True),
        (True, True),
        (True, True),
        (False, False),
    ]
    assert only(found, "examples").what == "1 of 5 examples are not scored as expected"
    assert (
        only(found, "examples")
        .evidence[0]
        .startswith("examples.jsonl:5: expected reward 0.5, got reward 0, does not pass (math: ")
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "7"}, r"examples.jsonl:1: no text in the column `completion`; there are: text"),
        ({"completion": "7", "id": "rows.jsonl:9"}, r"no problem 'rows.jsonl:9' in the data. Did you mean 'rows.json"),
        ({"completion": "7", "problem": "What?"}, r"no problem of the data asks 'What\?'; give its id, such as"),
        ({"completion": "7", "expect": "maybe"}, r"expect is 'maybe'; wanted true or false \(does it pass\?\), or a"),
    ],
)
def test_examples_that_cannot_be_used(
    load: Callable[..., Any], tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(DataError, match=message):
        read_examples(str(path), load(SUM))


# ---- the command


@pytest.fixture
def gruppo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in MATH))
    (tmp_path / "prime.jsonl").write_text(json.dumps(PRIME) + "\n")
    (tmp_path / "run.yaml").write_text("data: math.jsonl\nrewards: [math]\n")
    (tmp_path / "mine.py").write_text("def anywhere(completion, answer):\n    return answer[-2:] in completion\n")

    def call(*arguments: str) -> Outcome:
        code = main(["reward", "test", *arguments])
        return Outcome(code, *capsys.readouterr())

    return call


def test_the_command_where_all_is_fine(gruppo: Callable[..., Outcome]) -> None:
    outcome = gruppo("run.yaml", "--problems", "3")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].startswith("3 of 4 problems tried in ")
    assert lines[0].endswith("rewards: math (success)")
    assert "  gold  3 of 3 pass" in lines
    assert "  wrong by one           0 of 3 pass" in lines
    assert "two runs over 27 completions agree on all of them" in lines
    assert lines[-1] == "fine: nothing has to be mended"
    assert (
        "trying the rewards on 3 problems, twice, for 120 s each at most; lengths are counted in words\n" in outcome.err
    )


def test_the_command_on_the_row_that_fails_itself(gruppo: Callable[..., Outcome]) -> None:
    outcome = gruppo("--data", "prime.jsonl")
    assert outcome.code == 1
    assert outcome.out.endswith(
        "mend: the data's own gold does not pass on 1 of 1 problems\n"
        "      prime.jsonl:1: 0 of 1 tests passed; test 1 failed: assert is_prime(7) == True: got None\n"
        "      cure: the row's own solution fails its tests: mend the solution or that test, or drop the row.\n\n"
        "1 thing to mend before a run\n"
    )
    assert "  gold  0 of 1 pass  <-" in outcome.out
    assert "rewards: code, by the form of the data" in outcome.err


def test_the_command_for_machines(gruppo: Callable[..., Outcome], tmp_path: Path) -> None:
    outcome = gruppo("run.yaml", "--rewards", "mine.py:anywhere", "--json", "-")
    assert outcome.code == 1
    found = json.loads(outcome.out)
    assert (found["fine"], found["success"], found["problems"], found["of"]) == (False, "anywhere", 4, 4)
    assert {"probe": "all answers", "must": "fail", "tried": 4, "passed": 4} in found["probes"]
    assert [finding["what"].partition(" (")[0] for finding in found["findings"] if finding["mend"]] == [
        "'all answers' passes on 4 of 4 problems",
        "'wrong by one' passes on 4 of 4 problems",  # the working has the right answer in it
        "'repeated wrong answer' passes on 4 of 4 problems",
        "'another row's gold' passes on 1 of 4 problems",
    ]
    assert found["findings"][1]["evidence"][0] == (
        "math.jsonl:1: 'He buys 3 * 4 = 12 pens, so 3 + 12 = 15 #### 16' passes: anywhere is 1"
    )
    both = gruppo("run.yaml", "--json", "found.json")
    assert both.code == 0
    assert both.out.endswith("fine: nothing has to be mended\n")
    assert json.loads((tmp_path / "found.json").read_text())["fine"] is True


def test_the_command_with_examples(gruppo: Callable[..., Outcome], tmp_path: Path) -> None:
    row = {"completion": "#### 14", "id": "math.jsonl:1", "expect": True}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row))
    outcome = gruppo("run.yaml", "--examples", "mine.jsonl")
    assert outcome.code == 1
    assert "1 examples of yours, 0 of 1 as expected" in outcome.out
    assert "mine.jsonl:1: expected a pass, got reward 0, does not pass (math: ####: 14 is not 15)" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run.yaml", "--problems", "0"], "--problems: got 0, wanted at least 1"),
        (["run.yaml", "--examples", "none.jsonl"], "none.jsonl"),
        (["none.yaml"], "none.yaml: there is no such file; give the path of a YAML config."),
        (["run.yaml", "--rewards", "maths"], "no built-in reward 'maths'"),
        (["run.yaml", "--exmples", "x"], "there is no flag or argument '--exmples'. Did you mean '--examples'?"),
    ],
)
def test_what_the_command_refuses(gruppo: Callable[..., Outcome], arguments: list[str], message: str) -> None:
    assert message in gruppo(*arguments).error

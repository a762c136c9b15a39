"""Generated tasks by name, and their own verifiers as a reward."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from gruppo.config.schema import DataFields
from gruppo.data.difficulty import DifficultySlice
from gruppo.data.gold import default_reward, gold_completion
from gruppo.data.problems import load_problems
from gruppo.data.readers import Purpose
from gruppo.data.tasks import Task, parse_task
from gruppo.errors import DataError
from gruppo.rewards.binding import Call
from gruppo.rewards.result import RewardResult
from gruppo.rewards.rubric import Reward, Rubric
from gruppo.rewards.workers import WorkerPool, by_value
from gruppo.types import Problem

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed (gruppo[tasks])"
)


def problems(source: str, purpose: Purpose = "train") -> tuple[Problem, ...]:
    return load_problems([source], DataFields(), split=purpose).problems


def score(problem: Problem, completion: str, **options: bool) -> float:
    return result(problem, completion, **options)[0]


def result(problem: Problem, completion: str, **options: bool) -> tuple[float, str]:
    """Through the rubric, as in a run."""
    from functools import partial

    from gruppo.rewards.reasoning_gym import reasoning_gym_reward

    rubric = Rubric([Reward("r", partial(reasoning_gym_reward, **options))])
    (found,) = rubric.score(problem, [completion], [False], [1])
    return found.reward, found.reasons.get("r", "")


@pytest.mark.parametrize(
    ("source", "task"),
    [
        ("reasoning-gym:chain_sum", Task("chain_sum", 500, 0, ())),
        ("reasoning-gym:chain_sum/size=20/seed=3", Task("chain_sum", 20, 3, ())),
        ("reasoning-gym:chain_sum/level=2", Task("chain_sum", 500, 0, (2,))),
        ("reasoning-gym:chain_sum/level=1-3/size=7", Task("chain_sum", 7, 0, (1, 2, 3))),
    ],
)
def test_the_spelling(source: str, task: Task) -> None:
    assert parse_task(source) == task


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("reasoning-gym:ab/siez=3", "'siez' is no setting. Did you mean 'size'?"),
        ("reasoning-gym:ab/size=3/size=4", "'size' is given twice."),
        ("reasoning-gym:ab/size=0", "size is '0', wanted a whole number from 1 to 1048576."),
        ("reasoning-gym:ab/size=99999/level=1-2", "size is '99999', wanted a whole number from 1 to 65536."),
        ("reasoning-gym:ab/seed=2048", "seed is '2048', wanted a whole number from 0 to 2047."),
        ("reasoning-gym:ab/level=3-1", "level is '3-1', wanted a level or a range of them, such as 2 or 0-3."),
        ("reasoning-gym:ab/level=hard", "level is 'hard'"),
    ],
)
def test_a_wrong_spelling_is_refused(source: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_task(source)
    assert expected in str(caught.value)


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from gruppo.data import tasks

    tasks._imported.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(DataError, match=r"data: 'reasoning-gym:ab' needs .*: pip install 'gruppo\[tasks\]'$"):
        problems("reasoning-gym:ab")


@needs_package
def test_the_same_source_gives_the_same_problems_and_evaluation_others() -> None:
    source = "reasoning-gym:chain_sum/size=4/seed=1/level=1"
    first = problems(source)
    assert [problem.prompt for problem in problems(source)] == [problem.prompt for problem in first]
    assert first[0].prompt.endswith("problem: 40 - 42 + 24 =")
    assert first[0].answer == "22"
    assert first[0].id == "reasoning-gym:chain_sum, train, seed 1, level 1:1"
    others = [*problems(source, "test"), *problems("reasoning-gym:chain_sum/size=4/seed=2/level=1")]
    assert not {problem.prompt for problem in others} & {problem.prompt for problem in first}


@needs_package
def test_items_of_neighbouring_seeds_are_not_each_others() -> None:
    """The package's own item i of seed s is item i - 1 of seed s + 1."""
    seeds = [{p.prompt for p in problems(f"reasoning-gym:chain_sum/size=50/seed={seed}/level=4")} for seed in range(3)]
    assert len(seeds[0] | seeds[1] | seeds[2]) == sum(map(len, seeds)) == 150


@needs_package
def test_levels_are_difficulties() -> None:
    found = problems("reasoning-gym:chain_sum/size=8/level=0-2")
    assert [problem.difficulty for problem in found] == [0, 0, 0, 1, 1, 1, 2, 2]
    terms = [problem.columns["metadata"]["num_terms"] for problem in found]
    assert terms == [2, 2, 2, 3, 3, 3, 4, 4]
    limits = DifficultySlice(low=2)
    hard = load_problems(["reasoning-gym:chain_sum/size=8/level=0-2"], DataFields(), limits=limits).problems
    assert len(hard) == 2
    assert problems("reasoning-gym:chain_sum/size=1")[0].difficulty is None


@needs_package
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("reasoning-gym:chain_sun", "reasoning-gym has no task 'chain_sun'. Did you mean 'chain_sum'?"),
        ("reasoning-gym:chain_sum/level=11", "'chain_sum' has levels from 0 to 10, not 11."),
        ("reasoning-gym:acre/level=1", "'acre' has no curriculum; leave out level."),
        ("reasoning-gym:spell_backward/level=4", "can't make 'spell_backward' at level 4 (IndexError"),
        ("reasoning-gym:composite", "can't make 'composite' (AssertionError"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(source: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        problems(source)
    assert expected in str(caught.value)


@needs_package
@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("3 + 4\n<answer> 22 </answer>", 1.0),
        ("<answer>1</answer> no: <answer>22</answer>.", 1.0),
        ("<answer>22</answer> no: <answer>1</answer>.", 0.0),
        ("thinking #### 22\n", 1.0),
        ("<think>1 or 22</think>\n22", 1.0),
        ("22", 1.0),
        ("022.0", 1.0),
        ("<answer>22", 0.0),
        ("<answer></answer>", 0.0),
        ("", 0.0),
        ("\x00", 0.0),
        ("9**9**9**9", 0.0),
        ("<answer>" * 50_000, 0.0),
        ("<answer>22" + " " * 20_000 + "</answer>", 0.0),
    ],
)
def test_the_stated_answer_is_scored(completion: str, expected: float) -> None:
    problem = problems("reasoning-gym:chain_sum/size=4/seed=1/level=1")[0]
    assert score(problem, completion) == expected
    assert score(problem, completion, strict=True) == (expected if "</answer>" in completion else 0.0)


@needs_package
def test_graded_scores_and_their_reasons() -> None:
    problem = problems("reasoning-gym:letter_counting/size=1")[0]
    answer = problem.answer or ""
    listed = f"<answer>{answer} or 1000</answer>"
    assert len(answer) == 1
    assert result(problem, listed) == (1 / 9, f"in tags: '{answer} or 1000'")
    assert score(problem, listed, partial=False) == 0.0
    assert score(problem, f"<answer>{answer}</answer>", partial=False) == 1.0


@needs_package
def test_a_verifier_that_raises_is_a_zero_with_the_reason() -> None:
    problem = problems("reasoning-gym:prime_factorization/size=1")[0]
    assert result(problem, "x") == (0.0, "all of the text: 'x'; the verifier raised ValueError")


@needs_package
@pytest.mark.parametrize(
    "task",
    ["chain_sum", "spell_backward", "mini_sudoku", "zebra_puzzles", "binary_matrix", "word_ladder", "dice", "maze"],
)
def test_gold_scores_full_and_garbage_does_not(task: str) -> None:
    found = problems(f"reasoning-gym:{task}/size=3")
    assert default_reward(found) == "reasoning_gym"
    for problem in found:
        gold = gold_completion(problem)
        assert gold is not None
        assert score(problem, f"Well.\n{gold}\n") == 1.0
        assert score(problem, "<answer>garbage</answer>") < 0.99


@needs_package
def test_a_task_without_one_right_answer_is_scored_all_the_same() -> None:
    problem = problems("reasoning-gym:graph_color/size=1")[0]
    assert problem.answer is None
    assert gold_completion(problem) is None
    assert score(problem, "<answer>{}</answer>") == 0.01
    assert default_reward([problem]) == "reasoning_gym"


@needs_package
def test_rows_saved_to_a_file_are_the_same_task(tmp_path: Path) -> None:
    import json

    (made,) = problems("reasoning-gym:chain_sum/size=1")
    path = tmp_path / "saved.jsonl"
    path.write_text(json.dumps(dict(made.columns)))
    (saved,) = problems(str(path))
    assert (saved.prompt, saved.answer) == (made.prompt, made.answer)
    assert score(saved, gold_completion(saved) or "") == 1.0


EVALUATING = [
    *("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"),
    *("countdown", "puzzle24", "intermediate_integration", "polynomial_multiplication", "simple_integration"),
]


@needs_package
@pytest.mark.parametrize("task", EVALUATING)
def test_no_answer_is_run_as_a_program(task: str, tmp_path: Path) -> None:
    """Each of these wrote the file when the verifier was asked directly."""
    (problem,) = problems(f"reasoning-gym:{task}/size=1")
    mark = tmp_path / "run"
    attacks = [
        f"__import__('os').system('touch {mark}')",
        f"exec(\"open('{mark}','w')\")",
        f"open('{mark}','w')",
        f"[open('{mark}','w')]",
        f"[c for c in ().__class__.__base__.__subclasses__() if c.__name__=='Popen'][0](['touch','{mark}'])",
        f"(lambda: open('{mark}','w'))()",
        f"sin.__globals__['__builtins__']['open']('{mark}','w')",
        f"[\n\"{'x' * 8}\",\nopen('{mark}','w')\n]",
        "9**9**9**9",
        "exp(exp(exp(exp(9))))",
        "(9**99)**99",
        "9 * * 9",
        "1e9999999",
        "sin(" * 20 + "x" + ")" * 20,
        "(x+1)**99*(x+2)**99",
        "Integral(x, x)",
        "factorial(9999999)",
    ]
    for attack in attacks:
        assert score(problem, f"<answer>{attack}</answer>") < 0.1, attack
    assert not mark.exists()


def unscreened(completion: str) -> RewardResult:
    """The verifier of `spiral_matrix` with the screen off: 0.1 where an expression could be run to its end."""
    from gruppo.rewards import reasoning_gym

    reasoning_gym._harmless = lambda name, stated: True
    stated = f"({completion}, ['done'])[1]"
    return reasoning_gym.reasoning_gym_reward(stated, {"source_dataset": "spiral_matrix"}, answer="done")


@needs_package
@pytest.mark.skipif(sys.platform != "linux", reason="a worker's fork is confined on Linux alone")
def test_past_the_screen_an_answer_can_only_read(tmp_path: Path) -> None:
    """Each is run by the verifier: in the worker itself, where it must succeed to prove anything, and in its fork."""
    new, old = tmp_path / "new", tmp_path / "old"
    harmless = ["1", f"open('{old}').read()", f"__import__('os').listdir('{tmp_path}')", "__import__('colorsys')"]
    attacks = [
        f"open('{new}', 'w').write('written')",
        f"open('{old}', 'a').write('written')",
        f"__import__('os').open('{new}', {os.O_CREAT})",
        f"__import__('os').open('{old}', {os.O_TRUNC})",
        f"__import__('os').open('{tmp_path}', {os.O_TMPFILE | os.O_WRONLY})",
        f"__import__('os').mkdir('{new}-folder')",
        f"__import__('os').chmod('{old}', 0o600)",
        f"__import__('os').rename('{old}', '{new}')",
        f"__import__('os').remove('{new}')",
        "__import__('os').chdir('/')",
        "__import__('socket').socket()",
        "__import__('socket').socket(type=2)",
        "__import__('socket').socketpair()",
        "__import__('subprocess').run(['true'])",
        "__import__('os').fork() or __import__('os')._exit(0)",
        "__import__('os').kill(__import__('os').getppid(), 0)",
        "__import__('threading').Thread(target=int).start()",
        "__import__('os').memfd_create('x')",
    ]

    def ran(confined: bool) -> list[str]:
        old.write_text("as it was")
        calls = [Call((), {"completion": each}) for each in [*harmless, *attacks]]
        function = by_value("r", unscreened, forks=confined, warm="reasoning_gym")
        outcomes = pool.submit(function, False, calls, len(calls), 20.0).result(120).outcomes
        assert {type(outcome) for outcome in outcomes} == {RewardResult}, outcomes
        return [call.kwargs["completion"] for call, outcome in zip(calls, outcomes) if outcome.value == 0.1]

    with WorkerPool(1) as pool:
        assert ran(confined=True) == harmless
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "as it was")]
        assert ran(confined=False) == [*harmless, *attacks]


@needs_package
@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("n_queens", "[['Q', '_'], ['_', 'Q']]"),
        ("spiral_matrix", "[1, -2, 3]"),
        ("countdown", "(3 + 4) * 2 - 10 / 5"),
        ("simple_integration", "-1.5*x**2/7 + sin(3*x) - log(cos(x)) + C"),
        ("intermediate_integration", "x**4*exp(2*x)*sin(x)/2 + C"),
        ("chain_sum", "anything(at) all"),
    ],
)
def test_plain_answers_reach_the_verifier(task: str, answer: str) -> None:
    (problem,) = problems(f"reasoning-gym:{task}/size=1")
    assert "would run it" not in result(problem, answer)[1]


@needs_package
def test_no_other_verifier_runs_its_answer() -> None:
    """A newer version of the package may bring one: then its task belongs into the tables."""
    import inspect
    import re

    from gruppo.data.tasks import import_reasoning_gym

    found = import_reasoning_gym("a test").factory.DATASETS
    runs = re.compile(r"(?<![\w.])(?:eval|exec)\(\s*\w*answer|(?:parse_expr|sympify)\(\s*answer")
    evaluating = {name for name, (made_by, _) in found.items() if runs.search(inspect.getsource(made_by))}
    assert evaluating - {"propositional_logic"} == set(EVALUATING)

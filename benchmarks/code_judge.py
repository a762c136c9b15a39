"""References and mutants of them through the code reward, against a bare interpreter.

    python benchmarks/code_judge.py --data DIR [--mutants 3] [--every 1] [--timing]

DIR holds mbpp_train.jsonl. Each reference solution that passes its tests in a bare interpreter has to pass, and each
mutant of it (swapped operator, off-by-one constant, negated condition, returned constant, dropped statement) that a
bare interpreter fails has to fail. Prints the disagreements and the figures.
"""

import argparse
import ast
import copy
import json
import multiprocessing
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gruppo.rewards.code import code_reward

SWAPS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.Lt: ast.GtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitXor,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


def mutants(source: str, seed: int) -> list[str]:
    """Every mutant of a program with one change, in an order that the seed fixes."""
    tree = ast.parse(source)
    count = len(list(ast.walk(tree)))
    out: list[str] = []
    for at in range(count):
        changed = copy.deepcopy(tree)
        if mutate(list(ast.walk(changed))[at]):
            out.append(ast.unparse(ast.fix_missing_locations(changed)))
    out = list(dict.fromkeys(out))
    random.Random(seed).shuffle(out)
    return out


def mutate(node: ast.AST) -> bool:
    """Change one node; whether there is a change to make."""
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in SWAPS:
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.Constant) and type(node.value) in (int, bool, str):
        node.value = (
            not node.value if type(node.value) is bool else node.value + (1 if type(node.value) is int else "x")
        )
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Return) and node.value is not None:
        node.value = ast.Constant(None)
    elif isinstance(node, ast.Call) and len(node.args) > 1:
        node.args.reverse()
    else:
        return False
    return True


def in_bare_interpreter(source: str, tests: list[str], seconds: int = 4) -> bool:
    """Whether program and tests pass in one fresh process."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_bare, args=(source, tests, seconds))
    process.start()
    process.join(3 * seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def _bare(source: str, tests: list[str], seconds: int) -> None:
    import os
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    names: dict[str, object] = {"__name__": "program"}
    try:
        exec(compile(source, "<program>", "exec"), names)
        for test in tests:
            exec(compile(test, "<tests>", "exec"), names)
    except BaseException:
        os._exit(1)
    os._exit(0)


def check(row: dict, wanted: int) -> tuple[list[str], int, int]:
    """One row: what disagrees, whether the reference counts, how many mutants were judged."""
    source, tests = row["code"], row["test_list"]
    if row.get("test_setup_code"):
        source = row["test_setup_code"] + "\n" + source
    wrong: list[str] = []
    if not in_bare_interpreter(source, tests, seconds=10):
        return wrong, 0, 0
    result = code_reward(source, tests)
    if result != 1.0:
        wrong.append(f"{row['task_id']}: the reference fails: {result.reason}")
    judged = 0
    for mutant in mutants(source, row["task_id"]):
        if judged == wanted:
            break
        if in_bare_interpreter(mutant, tests, seconds=2):
            continue
        judged += 1
        if code_reward(mutant, tests, score="all", seconds=4) != 0.0:
            wrong.append(f"{row['task_id']}: a mutant passes: {mutant!r}")
    return wrong, 1, judged


def timing(rows: list[dict], runs: int) -> str:
    """Judged runs per second, one after another."""
    began = time.perf_counter()
    for index in range(runs):
        row = rows[index % len(rows)]
        code_reward(row["code"], row["test_list"])
    return f"{runs / (time.perf_counter() - began):.1f} judged runs/s, one after another"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--mutants", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="only every so manieth row")
    parser.add_argument("--start", type=int, default=0, help="the first row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timing", action="store_true", help="judged runs per second only")
    options = parser.parse_args()
    lines = (options.data / "mbpp_train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines][options.start :: options.every]
    code_reward(rows[0]["code"], rows[0]["test_list"])
    if options.timing:
        print(timing(rows, 300))
        return
    with ThreadPoolExecutor(options.threads) as pool:
        results = list(pool.map(lambda row: check(row, options.mutants), rows))
    for wrong, _, _ in results:
        for line in wrong:
            print(line)
    references = sum(counted for _, counted, _ in results)
    judged = sum(count for _, _, count in results)
    print(f"{len(rows)} rows, {references} references pass in a bare interpreter, {judged} mutants fail there")
    print(f"disagreements: {sum(len(wrong) for wrong, _, _ in results)}")


if __name__ == "__main__":
    main()

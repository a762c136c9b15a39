"""The rewards by name: keys of the config are options of functions, and the functions work outside a run."""

import importlib
import inspect
import subprocess
import sys

import pytest

from gruppo import rewards
from gruppo.config.rewards import REWARDS, RewardConfig
from gruppo.errors import SandboxError
from gruppo.rewards.building import BUILT_IN

OF_THE_RUBRIC = {("model", "normalize")}
UNSET = {("reflection", "phrases")}


@pytest.mark.parametrize("name", REWARDS)
def test_keys_are_options_with_the_same_defaults(name: str) -> None:
    module, _, function = BUILT_IN[name].function.partition(":")
    found = getattr(importlib.import_module(f"gruppo.rewards.{module}"), function)
    options = inspect.signature(found).parameters
    for key, field in REWARDS[name].model_fields.items():
        if key in RewardConfig.model_fields or (name, key) in OF_THE_RUBRIC:
            continue
        assert key in options, key
        if not field.is_required() and (name, key) not in UNSET:
            assert options[key].default == field.default, key


def test_public_names() -> None:
    for name in rewards.__all__:
        assert callable(getattr(rewards, name))
    with pytest.raises(AttributeError):
        rewards.maths_reward  # noqa: B018


def test_the_four_of_the_readme() -> None:
    result = rewards.math_reward("So it is \\boxed{\\frac12}", "0.5")
    assert (result, result.reason) == (1.0, "boxed: \\frac12 equals 0.5")
    assert result.parts == {"strict": 1.0, "lenient": 1.0}
    assert rewards.format_reward("<think>2+2</think><answer>4</answer>", tags=["think", "answer"]) == 1.0
    assert rewards.qa_reward("The answer is Neil Armstrong.", "Neil Armstrong") == 1.0
    try:
        passed = rewards.code_reward("```python\ndef twice(n):\n    return 2 * n\n```", tests=["assert twice(3) == 6"])
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    assert (passed, passed.parts["tests"]) == (1.0, 1.0)
    row = "def is_prime(n):\n    if n < 2: return False\n    ..."
    wrong = rewards.code_reward(f"```python\n{row}\n```", tests=["assert is_prime(7) == True"])
    assert wrong == 0.0
    assert "got None" in wrong.reason


def test_they_load_nothing_heavy() -> None:
    code = "import sys, gruppo.rewards as r; [getattr(r, n) for n in r.__all__]; print(sorted(m for m in ('torch', "
    code += "'transformers', 'datasets', 'sympy', 'math_verify') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr

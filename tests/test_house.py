"""The rules of the house, held by tests: what imports what, how long things are, what is public."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import gruppo

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "gruppo"
FILES = sorted(SOURCE.rglob("*.py"))
HEAVY = {"torch", "transformers", "datasets", "peft", "accelerate", "math_verify", "sympy", "pyarrow"}
COMMANDS = ["demo", "check", "train", "init", "sft", "eval", "show", "config", "plan", "reward", "serve-reward"]

PUBLIC = [
    "ChatRenderer",
    "Collector",
    "Completion",
    "Config",
    "EvalConfig",
    "Evaluation",
    "Evaluator",
    "Group",
    "GroupRequest",
    "GruppoError",
    "LocalEngine",
    "LocalPolicy",
    "Problem",
    "RewardConfig",
    "RewardResult",
    "RolloutEngine",
    "Rollout",
    "Rubric",
    "RunResult",
    "SFTConfig",
    "SamplingParams",
    "Score",
    "ScriptedEngine",
    "Trainer",
    "Workbench",
    "__version__",
    "configure",
    "evaluate",
    "load_config",
    "load_problems",
    "train",
]


def loaded_after(code: str) -> set[str]:
    """The heavy modules that a fresh interpreter has loaded after some code."""
    report = "import sys, json; print(json.dumps([name for name in sys.modules if '.' not in name]))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1])) & HEAVY


def modules(*rooms: str) -> list[str]:
    """The modules of these rooms, by name."""
    return [
        ".".join(("gruppo", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for room in rooms
        for path in sorted((SOURCE / room).glob("*.py"))
    ]


def test_light_rooms_come_up_without_a_framework() -> None:
    light = ["gruppo", "gruppo.types", "gruppo.errors", *modules("config", "monitor", "planner"), "gruppo.cli.main"]
    light += ["gruppo.cli.flags", "gruppo.cli.commands"]
    assert "gruppo.monitor.report" in light
    assert loaded_after("\n".join(f"import {name}" for name in light)) == set()


def test_the_check_of_light_rooms_can_fail() -> None:
    assert "torch" in loaded_after("import gruppo.algorithm.kl")


def test_help_imports_no_framework() -> None:
    """Its time is measured by benchmarks/help_time.py; what would make it long is held here."""
    code = f"""
import contextlib, io
from gruppo.cli.main import main
for arguments in [[], ["--help"], ["--version"]] + [[name, "--help"] for name in {COMMANDS}]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(arguments)
    assert "gruppo" in out.getvalue()
with contextlib.redirect_stdout(io.StringIO()):
    assert main(["config", "schema"]) == 0
    assert main(["config", "explain"]) == 0
"""
    assert loaded_after(code) == set()


def test_the_layers_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    if not lint.exists():
        pytest.skip("import-linter is not installed beside this Python")
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "4 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_lengths(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > 60
    ]
    assert long == []


def test_no_option_is_read_by_guessing() -> None:
    """No `hasattr` in the source, and no `.get` on a config (monitor reads those of older runs, as mappings)."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "hasattr", f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Attribute) and node.attr == "get" and path.parent.name != "monitor":
                owner = ast.unparse(node.value)
                assert not owner.endswith("config"), f"{path.name}:{node.lineno}: {owner}.get"


def test_the_public_surface_is_frozen() -> None:
    assert gruppo.__all__ == PUBLIC
    assert dir(gruppo) == sorted(PUBLIC)


def test_every_public_name_is_where_the_type_checker_sees_it() -> None:
    """`if TYPE_CHECKING` says where names come from; what is imported at run time must be the same things."""
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted([*seen, "__version__"]) == sorted(PUBLIC)
    for name, (module, original) in seen.items():
        assert module is not None
        assert getattr(gruppo, name) is getattr(importlib.import_module(module), original), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gruppo' has no attribute 'tarin'"):
        gruppo.tarin  # noqa: B018

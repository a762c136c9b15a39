"""The program in a completion.

1. What follows the last reasoning tag (`</think>` and its like) counts; where that leaves nothing, the whole text.
2. A program is a complete fenced block, marked as Python or not marked. Of several, the last that parses and defines
   the entry point; else the last that parses; else the last. Blocks are never joined.
3. Where the prompt ends in a signature, as HumanEval's do, a block or text that is only the body continues it; text
   that runs on after the body is cut off where the indentation ends. A block that defines the function itself gets
   what the prompt has before the signature: its imports and helpers.
4. Without a complete block: an unclosed one that parses (an end-of-text instead of the closing fence), else the whole
   text.
5. Texts longer than MAX_CHARACTERS are no program.
"""

import ast
import re
import textwrap

MAX_CHARACTERS = 100_000
"""Longest program, in characters; of a longer completion the last so many are read."""
_REASONING = re.compile(r"</(?:think|thinking|reasoning|thought)>")
_FENCE = re.compile(r"^[ \t]{0,3}(`{3,}|~{3,})[ \t]*([\w+.-]*)[^\n`]*$", re.MULTILINE)
_PYTHON = frozenset({"", "python", "python3", "py", "py3", "python-exec"})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_FAILURES = (SyntaxError, ValueError, RecursionError, MemoryError)


def parse(source: str) -> ast.Module | None:
    """The tree of a program, None where it is none."""
    if len(source) > MAX_CHARACTERS:
        return None
    try:
        return ast.parse(source)
    except _FAILURES:
        return None


def extract_program(completion: str, prompt: str = "", entry_point: str | None = None) -> tuple[str, str]:
    """The program in a completion, and how it was found: "block", "continuation", "unclosed block" or "whole text".

    >>> extract_program("Here it is:\\n```python\\nx = 1\\n```\\nDone.")
    ('x = 1\\n', 'block')
    """
    text = completion[-MAX_CHARACTERS:]
    after = _REASONING.split(text)[-1]
    text = after if after.strip() else text
    head, start = _signature(prompt, entry_point)
    blocks, unclosed = _blocks(text)
    if blocks:
        return _chosen(blocks, head, start, entry_point)
    if unclosed is not None:
        program = _with_prompt(unclosed, head, start, entry_point)
        if program is not None:
            return program[0], "unclosed block" if program[1] == "block" else program[1]
    program = _with_prompt(text, head, start, entry_point) if start else None
    if program is not None:
        return program[0], "whole text" if program[1] == "block" else program[1]
    return text, "whole text"


def _blocks(text: str) -> tuple[list[str], str | None]:
    """The complete Python blocks, and what an unclosed one at the end holds."""
    blocks: list[str] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[1].startswith(opened[1]) and not fence[2]:
            if opened[2].lower() in _PYTHON:
                blocks.append(text[opened.end() + 1 : fence.start()])
            opened = None
    if opened is None or opened[2].lower() not in _PYTHON:
        return blocks, None
    return blocks, text[opened.end() + 1 :]


def _chosen(blocks: list[str], head: str, start: str, entry_point: str | None) -> tuple[str, str]:
    """The block of a completion, completed by the prompt."""
    programs = [_with_prompt(block, head, start, entry_point) for block in blocks[-8:]]
    parsed = [program for program in programs if program is not None]
    defining = [program for program in parsed if entry_point is not None and defines(program[0], entry_point)]
    return (defining or parsed or [(blocks[-1], "block")])[-1]


def _with_prompt(text: str, head: str, start: str, entry_point: str | None) -> tuple[str, str] | None:
    """A program from a text and the prompt's signature; None where neither alone nor together they parse."""
    alone = parse(text)
    if alone is None and text[:1] in " \t":
        dedented = textwrap.dedent(text)
        alone, text = (parse(dedented), dedented) if not start else (None, text)
    if not start:
        return None if alone is None else (text, "block")
    name = entry_point or _last_name(start)
    if alone is not None and name is not None and defines(text, name):
        return (head + text if parse(head + text) is not None else text), "block"
    for body in (text, "    " + text, textwrap.indent(text, "    "), _body(text), _body("    " + text)):
        if name is not None and _has_body(start + body, name):
            return start + body, "continuation"
    return None if alone is None else (text, "block")


def _has_body(source: str, name: str) -> bool:
    """Whether a program gives the function of this name more than a docstring."""
    tree = parse(source)
    functions = [] if tree is None else [node for node in tree.body if isinstance(node, _FUNCTIONS)]
    body = next((node.body for node in functions if node.name == name), [])
    return len(body) > 1 or (len(body) == 1 and not _is_text(body[0]))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _body(text: str) -> str:
    """The leading lines that are indented or empty."""
    lines = text.splitlines(keepends=True)
    end = next((i for i, line in enumerate(lines) if i and line.strip() and line[0] not in " \t"), len(lines))
    return "".join(lines[:end])


def defines(source: str, name: str) -> bool:
    """Whether a program's top level defines a name."""
    tree = parse(source)
    if tree is None:
        return False
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == name:
            return True
        if isinstance(node, (ast.Assign, ast.ImportFrom)) and name in ast.unparse(node):
            return True
    return False


def _last_name(start: str) -> str | None:
    tree = parse(start.rstrip() + "\n    pass\n")
    last = tree.body[-1] if tree is not None and tree.body else None
    return getattr(last, "name", None)


def prompt_code(prompt: str) -> str:
    """The code in a prompt that ends in a signature: all of it, or its last block; "" where there is none."""
    blocks, unclosed = _blocks(prompt[-MAX_CHARACTERS:])
    for text in (prompt, *([unclosed] if unclosed else []), *reversed(blocks[-4:])):
        if text.strip() and _ends_in_signature(text):
            return text
    return ""


def _ends_in_signature(text: str) -> bool:
    """Whether a text is code whose last statement is a function without a body (a docstring is none)."""
    tree = parse(text.rstrip() + "\n    pass\n")
    last = tree.body[-1] if tree is not None and tree.body else None
    if not isinstance(last, _FUNCTIONS):
        return False
    body = last.body[:-1]
    return not body or (len(body) == 1 and _is_text(body[0]))


def _signature(prompt: str, entry_point: str | None) -> tuple[str, str]:
    """What a prompt's code has before its last function, and the code with that function's signature."""
    code = prompt_code(prompt) if "def " in prompt else ""
    if not code:
        return "", ""
    start = code.rstrip() + "\n"
    tree = parse(start + "    pass\n")
    assert tree is not None
    last = tree.body[-1]
    lines = start.splitlines(keepends=True)
    first = min([last.lineno, *(item.lineno for item in getattr(last, "decorator_list", []))])
    return "".join(lines[: first - 1]), start


def prelude(prompt: str, entry_point: str | None) -> str:
    """The helpers that a prompt defines before its last function: the tests use the prompt's, not the program's."""
    return _signature(prompt, entry_point)[0]

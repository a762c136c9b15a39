"""The process of a program that reads standard input and writes standard output; one run is one test.

The expected output is nowhere in the sandbox: what the program printed is compared outside.
"""

import sys
import types

from gruppo.rewards.sandbox.pipe import Pipe

NO_PROGRAM = 97
"""Exit code of a text that does not compile."""


def run(payload: bytes, pipe: Pipe | None) -> None:
    """The entry: the payload is the program's text."""
    try:
        code = compile(payload, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(NO_PROGRAM)
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    exec(code, main.__dict__)

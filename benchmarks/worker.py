"""A process that is asked one thing at a time: a line of JSON in, a line of JSON out. The standard library alone."""

import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

LIMIT = 3600
"""Seconds that one answer may take."""


class Worker:
    """The asking end.

    Args:
        name: for messages.
        command: what to start; its other end is a `Pipe`.
        environment: variables beside those of this process.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in `close`
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | dict(environment),
        )

    def ask(self, question: Any = None, limit: float = LIMIT) -> Any:
        """The answer.

        Args:
            question: anything that JSON can hold.
            limit: seconds that the answer may take.

        Raises:
            RuntimeError: the process has ended, with the end of what it said.
            TimeoutError: it took longer than the limit; the process is ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        if not select.select([self._process.stdout], [], [], limit)[0]:
            self.close()
            raise TimeoutError(f"{self.name}: no answer in {limit:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> RuntimeError:
        self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")[-3000:]
        return RuntimeError(f"{self.name} ended with code {self._process.returncode}:\n{said}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


class Pipe:
    """The answering end. What libraries print goes to standard error, so that it is not taken for an answer."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._questions: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        """Ends the process as soon as nobody is left to ask, in the midst of an answer too."""
        for line in sys.stdin:
            self._questions.put(line)
        os._exit(0)

    def answer(self, value: Any) -> None:
        """Say it."""
        print(json.dumps(value), file=self._answers, flush=True)

    def question(self) -> Any:
        """The next question."""
        return json.loads(self._questions.get())

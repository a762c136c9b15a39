"""Starts vLLM's server on this machine, waits until it is up, and says in one message why it is not.

not started --start--> coming up --healthy--> up --stop--> not started
                          | ended, or START_SECONDS over       | ended by itself: `alive` is False
                          v                                    v
                       EngineError with the end of the log    the engine asks, and may start it again
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gruppo.errors import EngineError
from gruppo.rollout.vllm import guard
from gruppo.rollout.vllm.client import VLLMClient
from gruppo.rollout.vllm.settings import VLLMSettings

START_SECONDS = 900.0
"""For a server to come up: a large model's graphs are captured, kernels are compiled."""
LOOK_EVERY = 0.25
STOP_SECONDS = 15.0
TAIL_LINES = 15

CAUSES = (
    (r"address already in use", "the port is taken; end what listens there"),
    (
        r"out of memory|No available memory|less than desired|can't allocate|KV cache memory|Free memory on device",
        "it is short of memory; lower engine_memory or max_live_completions",
    ),
    (r"not supported for now|architectures.* not supported|Unsupported head", "vLLM can't run this model"),
    (r"unrecognized arguments", "this vLLM does not know an option; its version is not supported"),
    (r"No module named 'gruppo'", "its Python does not find gruppo"),
)
"""What the end of a log shows, and what that means; the first that is found."""


class VLLMServer:
    """A server process, and all its own, on a port of this machine's loopback.

    Args:
        command: what is run, without host and port.
        log: where its output goes; added to.
        folder: what is removed if this process is killed.
        environment: variables beside this process's own.
        port: 0: a free one.
        start_seconds: the time limit for coming up.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        port: int = 0,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self.log = log
        self.folder = folder
        self._command = list(command)
        self._environment = dict(environment or {})
        self._wanted_port = port
        self._start_seconds = start_seconds
        self._guard: subprocess.Popen[bytes] | None = None
        self.url = ""

    @classmethod
    def of(cls, settings: VLLMSettings, log: Path, folder: Path) -> "VLLMServer":
        """vLLM's own server, in this Python."""
        source = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *settings.flags]
        quiet = ["--disable-uvicorn-access-log"]
        return cls([*command, *quiet], log, folder, settings.environment | {"PYTHONPATH": path})

    def start(self) -> VLLMClient:
        """Start it, and wait until it answers.

        Raises:
            EngineError: it ended, or was not up in time; with the cause, and the end of its log.
        """
        port = self._wanted_port or _free_port()
        self.url = f"http://127.0.0.1:{port}"
        guarded = [sys.executable, guard.__file__, str(self.folder)]
        command = [*guarded, *self._command, "--host", "127.0.0.1", "--port", str(port)]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as file:
            file.write(f"\n--- {' '.join(command)}\n".encode())
            file.flush()
            self._guard = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | self._environment,
                start_new_session=True,  # Ctrl-C is the trainer's, which ends after the step in hand
            )
        client = VLLMClient(self.url)
        try:
            self._wait_until_up(client)
        except BaseException:
            self.stop()
            raise
        return client

    def _wait_until_up(self, client: VLLMClient) -> None:
        end = time.monotonic() + self._start_seconds
        while time.monotonic() < end:
            if not self.alive:
                raise EngineError(f"the vLLM server did not start: {self.obituary()}")
            if client.healthy(seconds=2.0):
                return
            time.sleep(LOOK_EVERY)
        raise EngineError(f"the vLLM server was not up after {self._start_seconds:g} s: {self.obituary()}")

    @property
    def alive(self) -> bool:
        """Whether its first process runs."""
        return self._guard is not None and self._guard.poll() is None

    def obituary(self) -> str:
        """Why it ended, as far as can be told, and the end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        lines = text.rpartition("\n--- ")[2].splitlines()[1:]
        found = [meaning for pattern, meaning in CAUSES if re.search(pattern, "\n".join(lines), re.IGNORECASE)]
        code = None if self._guard is None else self._guard.poll()
        if code is not None and code > 128:
            name = signal.Signals(code - 128).name if code - 128 in set(signal.Signals) else str(code - 128)
            found.append(f"it was ended by {name}" + ", often for want of memory" * (name == "SIGKILL"))
        elif code:
            found.append(f"it ended with status {code}")
        tail = "\n".join(f"  {line[:300]}" for line in lines[-TAIL_LINES:])
        return f"{found[0] if found else 'no cause was found'}. The end of its log, {self.log}:\n{tail}"

    def stop(self) -> None:
        """End it with everything below it; returns once nothing of it is left."""
        if self._guard is None:
            return
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            with contextlib.suppress(OSError):
                self._guard.stdin.write(b"e")
                self._guard.stdin.close()
        try:
            self._guard.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._guard.pid, signal.SIGKILL)
            self._guard.wait(STOP_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

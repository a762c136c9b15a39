"""A server that answers as vLLM's does, as far as gruppo asks; and misbehaves as it is told. Standard library alone.

python vllm_standin.py --host 127.0.0.1 --port 8000 [--set NAME=VALUE ...]
"""

import argparse
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SHAPE = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
STATE = {
    "held": None,
    "context_length": 128,
    "block_size": 32,
    "logprobs_mode": "processed_logprobs",
    "dtype": "float32",
    "split_prompts": False,
    "shape": SHAPE,
}


class Behaviour:
    """What is asked of it, and what it has been told so far."""

    def __init__(self, wishes: dict[str, str]) -> None:
        self.wishes = wishes
        self.state: dict[str, Any] = json.loads(json.dumps(STATE)) | json.loads(wishes.get("state", "{}"))
        self.answered = 0
        self.lock = threading.Lock()

    def read(self, path: str, owner: str, version: str, count: str) -> None:
        """Take weights, as `WeightReceiver.gruppo_read` does."""
        with open(path, "rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(size))
        named = header.pop("__metadata__")
        found = len(header) + len(json.loads(named["gruppo_tied"]))
        if named["gruppo_version"] != version or found != int(count):
            raise ValueError(f"{found} tensors came, {count} were announced")
        held = {"owner": owner, "version": int(version), "tensors": int(count)}
        wish = self.wishes.get("held")
        if wish == "old" and self.state["held"] is not None:
            return
        self.state["held"] = held | json.loads(wish) if wish and wish != "old" else held

    def completions(self, body: dict[str, Any]) -> dict[str, Any]:
        """Samples whose tokens tell the prompt's first token and the seed."""
        with self.lock:
            self.answered += 1
            number = self.answered
        if number > int(self.wishes.get("die_after", "1000000")) and self._may_die():
            os.kill(os.getpid(), signal.SIGKILL)  # at once: nothing else of this process is run
        time.sleep(float(self.wishes.get("seconds", "0")))
        choices = [
            {
                "index": i,
                "token_ids": [body["prompt"][0], (body["seed"] + i) % 61],
                "logprobs": {"token_logprobs": [-1.0, -2.0]},
                "finish_reason": "length",
            }
            for i in reversed(range(body["n"]))
        ]
        if "without" in self.wishes:
            for choice in choices:
                del choice[self.wishes["without"]]
        return {"choices": choices}

    def _may_die(self) -> bool:
        """So many lives in all, counted in a file."""
        with self.lock:
            lives = Path(self.wishes["lives"])
            left = int(lives.read_text())
            lives.write_text(str(left - 1))
            return left > 0


class Handler(BaseHTTPRequestHandler):
    """The paths that gruppo asks for."""

    behaviour: Behaviour

    def do_GET(self) -> None:
        answers = {
            "/health": {},
            "/version": {"version": self.behaviour.wishes.get("version", "0.32.0")},
            "/v1/models": {"data": [{"id": "m"}]},
        }
        if self.path not in answers or self.behaviour.wishes.get("health") == "never":
            return self._write(404, {})
        return self._write(200, answers[self.path])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        wishes = self.behaviour.wishes
        if self.path == "/v1/completions" and "refuses" in wishes:
            return self._write(400, {"error": {"message": wishes["refuses"]}})
        if self.path == "/v1/completions":
            return self._write(200, self.behaviour.completions(body))
        if self.path == "/reset_prefix_cache":
            return self._write(200, {"success": wishes.get("reset") != "fails"})
        if self.path != "/collective_rpc" or wishes.get("dev") == "off":
            return self._write(404, {"detail": "Not Found"})
        if body["method"] == "gruppo_state":
            return self._write(200, {"results": [self.behaviour.state]})
        try:
            self.behaviour.read(**body["kwargs"])
        except ValueError as error:
            return self._write(500, {"error": {"message": str(error)}})
        return self._write(200, {"results": [None]})

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _write(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    wishes = dict(wish.split("=", 1) for wish in arguments.set)
    if "say" in wishes:
        print(wishes["say"], flush=True)
        sys.exit(1)
    if "child" in wishes:  # a process of a session of its own, as an engine's workers may be
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        Path(wishes["child"]).write_text(f"{os.getpid()} {child.pid}")
    Handler.behaviour = Behaviour(wishes)
    ThreadingHTTPServer.request_queue_size = 64
    ThreadingHTTPServer((arguments.host, arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()

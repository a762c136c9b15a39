"""A small scoring server: a reward model behind HTTP, for trainers on other nodes.

    POST /score {"prompts": [...], "completions": [...]} -> {"scores": [...], "model": ...}
    GET /health -> {"status": "ok", "model": ...}

    connection --> thread: head and body within READ_SECONDS --> waits for its turn --> scores --> answers, closes
                                                                    (one at a time)

1. A thread for each connection, PLACES of them at most; what comes beyond is closed at once, and asks again.
2. Requests are scored one at a time, each a batch of its own, never put together: so the same request gives the same
   scores to the bit, whoever else asks.
3. Beyond this machine a bearer token is wanted for everything, /health too. On loopback none has to be, and the Host
   header must be loopback's own, so that no page in a browser can reach the server under another name.
4. Every wait has an end: READ_SECONDS for a request, TURN_SECONDS for its turn, WRITE_SECONDS for its answer,
   DRAIN_SECONDS at the end for what is under way. The scoring itself is bounded by the model's max_length alone.
"""

import hmac
import ipaddress
import json
import math
import secrets
import signal
import socket
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from gruppo.errors import RewardError
from gruppo.rewards.reward_text import Prompt
from gruppo.rewards.wire import BODY_LIMIT, ITEM_LIMIT, Deadline, parse_json

PLACES = 32
READ_SECONDS = 20.0
WRITE_SECONDS = 20.0
TURN_SECONDS = 300.0
DRAIN_SECONDS = 5.0


class Judge(Protocol):
    """What the server needs of a model."""

    path: str

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One score for each completion."""
        ...


class RewardServer:
    """Serves a model from a thread until it is closed; usable as `with RewardServer(model) as server:`."""

    def __init__(self, model: Judge, host: str = "127.0.0.1", port: int = 0, token: str | None = None) -> None:
        """Take the port; requests are answered from `start` on.

        Args:
            model: a `RewardModel`, or anything with its `path` and `score`.
            host: the address to listen on.
            port: 0: a free one.
            token: that requests must bear; None: none on loopback, else a new random one.

        Raises:
            RewardError: the address can't be had.
        """
        self.loopback = is_loopback(host)
        self.token = token if token or self.loopback else secrets.token_urlsafe(24)
        try:
            self._server = _Server(host, port, model, self.token, self.loopback)
        except (OSError, OverflowError) as error:
            raise RewardError(
                f"serve-reward: can't listen on {host}, port {port}: {error}; choose another --port (0: a free one) "
                "or --host."
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="gruppo-reward-server")
        self._thread.daemon = True

    @property
    def url(self) -> str:
        """Where it listens, as a trainer names it."""
        host, port = self._server.server_address[:2]
        name = str(host)
        if ipaddress.ip_address(name).is_unspecified:
            name = socket.gethostname()
        return f"http://{f'[{name}]' if ':' in name else name}:{port}"

    def start(self) -> "RewardServer":
        """Begin to answer."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop listening, and wait a little for what is under way."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(DRAIN_SECONDS)
        self._server.server_close()
        self._server.drain(DRAIN_SECONDS)

    def __enter__(self) -> "RewardServer":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.close()


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve_until_told(server: RewardServer, ready: Callable[[], None]) -> None:
    """Start the server, say that it is ready, wait for SIGINT or SIGTERM, close it. For the main thread."""
    told = threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.start()
        ready()
        told.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # a second one ends it at once
        server.close()


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, host: str, port: int, model: Judge, token: str | None, loopback: bool) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.model = model
        self.token = token
        self.loopback = loopback
        self.turn = threading.Lock()
        self._places = threading.BoundedSemaphore(PLACES)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the name service for this machine's name, which can take half a minute.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a peer that went away is none of our troubles
            traceback.print_exc()

    def drain(self, seconds: float) -> None:
        """Wait until no connection is under way, or the seconds are over."""
        end = time.monotonic() + seconds
        for _ in range(PLACES):
            if not self._places.acquire(timeout=max(0.0, end - time.monotonic())):
                return


class _Refused(Exception):
    """A request that is not answered with scores."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = READ_SECONDS
    server_version = "gruppo"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self._reading = Deadline(self.connection, READ_SECONDS)

    def finish(self) -> None:
        self._reading.met()
        super().finish()

    def do_GET(self) -> None:
        self._respond(self._health)

    def do_POST(self) -> None:
        self._respond(self._score)

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""

    def _respond(self, action: Any) -> None:
        self._unread = self._announced() or 0
        try:
            self._admit()
            status, answer = HTTPStatus.OK, action()
        except _Refused as refused:
            status, answer = refused.status, {"error": str(refused)}
        except RewardError as error:
            status, answer = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": str(error)}
        except OSError:
            raise
        except Exception as error:  # ours, and to be seen where the server runs
            traceback.print_exc()
            status, answer = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"}
        self._write(status, answer)
        if self._unread:
            self._let_go()

    def _admit(self) -> None:
        """Refuse who may not ask."""
        if self.server.loopback:
            name = self.headers.get("Host", "")
            if not is_loopback(_without_port(name)):
                raise _Refused(HTTPStatus.FORBIDDEN, f"the Host header names {name[:100]!r}, not this machine")
        if "Origin" in self.headers:
            raise _Refused(HTTPStatus.FORBIDDEN, "a page in a browser asks; trainers send no Origin header")
        if self.server.token is None:
            return
        given = self.headers.get("Authorization", "")
        wanted = f"Bearer {self.server.token}"
        if not hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode("utf-8", "replace")):
            raise _Refused(HTTPStatus.UNAUTHORIZED, "no bearer token, or a wrong one")

    def _health(self) -> dict[str, Any]:
        if self.path != "/health":
            raise _Refused(HTTPStatus.NOT_FOUND, "there is POST /score and GET /health")
        return {"status": "ok", "model": self.server.model.path}

    def _score(self) -> dict[str, Any]:
        if self.path != "/score":
            raise _Refused(HTTPStatus.NOT_FOUND, "there is POST /score and GET /health")
        prompts, completions = _checked(self._body())
        self._reading.met()
        if not self.server.turn.acquire(timeout=TURN_SECONDS):
            raise _Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"busy for {TURN_SECONDS:g} s with other requests")
        try:
            scores = self.server.model.score(prompts, completions)
        finally:
            self.server.turn.release()
        if len(scores) != len(completions) or not all(map(math.isfinite, scores)):
            raise RewardError(f"the model gave {len(scores)} scores for {len(completions)}, or one that is not finite")
        return {"scores": scores, "model": self.server.model.path}

    def _announced(self) -> int | None:
        """Bytes of the body, as the head has it; None where it says nothing that can be read."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def _body(self) -> bytes:
        size = self._announced()
        if size is None:
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "wanted a Content-Length header")
        if size > BODY_LIMIT:
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{size} bytes, at most {BODY_LIMIT} are taken; send fewer at once"
            )
        data = self.rfile.read(size)
        if len(data) < size:
            raise TimeoutError("the body did not come in time")
        self._unread = 0
        return data

    def _write(self, status: HTTPStatus, answer: dict[str, Any]) -> None:
        data = json.dumps(answer, allow_nan=False).encode()
        self.connection.settimeout(WRITE_SECONDS)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _let_go(self) -> None:
        """Read what was not: closing over unread bytes would reset the connection and lose the answer."""
        self.connection.shutdown(socket.SHUT_WR)
        unread = min(self._unread, BODY_LIMIT)
        while unread > 0 and (data := self.rfile.read1(min(unread, 2**16))):
            unread -= len(data)


def _checked(data: bytes) -> tuple[list[Prompt], list[str]]:
    """The prompts and completions of a request; raises _Refused with what is wrong."""
    try:
        request = parse_json(data)
    except ValueError as error:
        raise _Refused(HTTPStatus.BAD_REQUEST, f"the body is no JSON: {error}") from None
    if not isinstance(request, dict) or set(request) != {"prompts", "completions"}:
        raise _Refused(HTTPStatus.BAD_REQUEST, 'wanted {"prompts": [...], "completions": [...]}')
    prompts, completions = request["prompts"], request["completions"]
    if not isinstance(prompts, list) or not isinstance(completions, list):
        raise _Refused(HTTPStatus.BAD_REQUEST, "prompts and completions must be lists")
    if len(prompts) != len(completions):
        raise _Refused(HTTPStatus.BAD_REQUEST, f"{len(prompts)} prompts, {len(completions)} completions")
    if len(completions) > ITEM_LIMIT:
        raise _Refused(HTTPStatus.BAD_REQUEST, f"{len(completions)} completions, at most {ITEM_LIMIT} in a request")
    for place, completion in enumerate(completions):
        if not isinstance(completion, str):
            raise _Refused(HTTPStatus.BAD_REQUEST, f"completions[{place}] is no string")
    for place, prompt in enumerate(prompts):
        if not isinstance(prompt, str) and not _is_conversation(prompt):
            raise _Refused(
                HTTPStatus.BAD_REQUEST, f"prompts[{place}] is neither a string nor a list of messages with a role"
            )
    return prompts, completions


def _is_conversation(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) for message in prompt
    )

"""vLLM's OpenAI-compatible server as the engine sees it: token ids in, token ids and log-probs out, over HTTP.

Every request has a time limit and names the server in its errors. A connection is one request: that costs nothing
beside a completion, and a request given up ends with its connection, which makes vLLM abort it.
"""

import contextlib
import http.client
import json
import socket
import threading
from typing import Any, cast
from urllib.parse import urlsplit

from gruppo.errors import EngineError
from gruppo.rollout.vllm.requests import LOGITS_NOT_FINITE, Drawn, sampling_fields
from gruppo.rollout.vllm.settings import RECEIVER
from gruppo.types import GroupRequest

ASK_SECONDS = 30.0
"""For an answer to a question that needs no work."""
LOAD_SECONDS = 600.0
"""For a server to take new weights."""
GENERATE_SECONDS = 3600.0
"""For a group: from its request to the end of its last completion, waiting included."""


NOT_FINITE = "not JSON compliant"
"""In vLLM's refusal where a log-prob is NaN or infinite: its answers are strict JSON."""


class ServerGone(EngineError):
    """The server can't be reached, or broke off in an answer: it may be dead."""


class VLLMClient:
    """Asks a server. Usable from several threads at once.

    Args:
        url: http://host:port.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._place = urlsplit(self.url)
        self._model = ""
        self._live: set[socket.socket | None] = set()
        self._lock = threading.Lock()
        self._given_up = False

    def session(self) -> "VLLMClient":
        """A client of the same server, to be given up by itself."""
        client = VLLMClient(self.url)
        client._model = self._model
        return client

    def healthy(self, seconds: float = ASK_SECONDS) -> bool:
        """Whether the server answers, and its engine lives."""
        try:
            self._ask("GET", "/health", None, seconds)
        except EngineError:
            return False
        return True

    def version(self) -> str:
        """The server's version of vLLM."""
        answer = self._ask("GET", "/version", None, ASK_SECONDS)
        return str(answer["version"]) if isinstance(answer, dict) and "version" in answer else "unknown"

    def find_model(self) -> str:
        """The name of the one model that is served, which requests have to name."""
        answer = self._ask("GET", "/v1/models", None, ASK_SECONDS)
        try:
            self._model = str(answer["data"][0]["id"])
        except (TypeError, KeyError, IndexError) as error:
            raise EngineError(f"the server {self.url} answered no list of models; is it vLLM's?") from error
        return self._model

    def states(self) -> list[dict[str, Any]]:
        """What each worker says of the weights that it holds.

        Raises:
            EngineError: the server was not started for a trainer.
        """
        answer = self._worker("gruppo_state", {}, ASK_SECONDS)
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list) or not all(isinstance(each, dict) for each in results):
            raise EngineError(f"the server {self.url} does not say which weights it holds: got {_shown(answer)}")
        return results

    def read_weights(self, path: str, owner: str, version: int, count: int) -> None:
        """Have the workers read a file of weights, and forget what was computed with the old ones."""
        arguments = {"path": path, "owner": owner, "version": str(version), "count": str(count)}
        self._worker("gruppo_read", arguments, LOAD_SECONDS)
        answer = self._ask("POST", "/reset_prefix_cache", {}, ASK_SECONDS)
        if isinstance(answer, dict) and answer.get("success") is False:
            raise EngineError(f"the server {self.url} did not reset its prefix cache after new weights")

    def generate(self, request: GroupRequest) -> list[Drawn]:
        """The samples of a group, in order.

        Raises:
            ServerGone: the server can't be reached, or its engine is dead.
            EngineError: it refuses the request, computes what is not finite, or answers something else.
        """
        body = {
            "model": self._model,
            "prompt": list(request.prompt_ids),
            "return_token_ids": True,
            **sampling_fields(request),
        }
        try:
            answer = self._ask("POST", "/v1/completions", body, GENERATE_SECONDS)
        except _Refused as error:
            if NOT_FINITE in str(error):
                raise EngineError(f"problem {request.problem_id}: {LOGITS_NOT_FINITE}") from error
            if error.status == http.client.INTERNAL_SERVER_ERROR and not self.healthy():
                raise ServerGone(str(error)) from error
            raise
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            return [Drawn(c["token_ids"], c["logprobs"]["token_logprobs"], c["finish_reason"]) for c in choices]
        except (TypeError, KeyError) as error:
            raise EngineError(
                f"the server {self.url} answered without token ids or log-probs ({error!r}); is it vLLM's, of a "
                f"supported version? Got {_shown(answer)}"
            ) from error

    def give_up(self) -> None:
        """Close every connection, for good: whoever waits on one gets ServerGone, and vLLM aborts the requests."""
        with self._lock:
            self._given_up = True
            for connection in filter(None, self._live):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _worker(self, method: str, arguments: dict[str, str], seconds: float) -> Any:
        try:
            return self._ask("POST", "/collective_rpc", {"method": method, "kwargs": arguments}, seconds)
        except _Refused as error:
            if error.status == http.client.NOT_FOUND:
                raise EngineError(
                    f"the server {self.url} takes no weights: it was started without VLLM_SERVER_DEV_MODE=1 and "
                    f"--worker-extension-cls {RECEIVER}; docs/engines.md has the command"
                ) from error
            raise EngineError(
                f"the server {self.url} failed in {method}: {error}. It needs --worker-extension-cls {RECEIVER}, "
                "gruppo on its PYTHONPATH, and to be able to read the files of weights"
            ) from error

    def _ask(self, method: str, path: str, body: Any, seconds: float) -> Any:
        """One request; the answer's document, or its text where that is none."""
        kind = http.client.HTTPSConnection if self._place.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._place.hostname or "", self._place.port, timeout=min(seconds, ASK_SECONDS))
        held: socket.socket | None = None
        try:
            connection.connect()
            held = cast(socket.socket, connection.sock)
            held.settimeout(seconds)
            with self._lock:
                if self._given_up:
                    raise ConnectionAbortedError("given up")
                self._live.add(held)
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, self._place.path + path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, content = response.status, response.read()
        except TimeoutError as error:
            raise ServerGone(f"the server {self.url} did not answer {path} within {seconds:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise ServerGone(f"the server {self.url} can't be reached ({path}: {reason})") from error
        finally:
            with self._lock:
                self._live -= {held}
            connection.close()
        return self._answer(path, status, content)

    def _answer(self, path: str, status: int, content: bytes) -> Any:
        text = content.decode("utf-8", "replace")
        try:
            document = json.loads(text) if text else None
        except ValueError:
            document = text
        if status == http.client.OK:
            return document
        if status in (http.client.SERVICE_UNAVAILABLE, http.client.BAD_GATEWAY):
            raise ServerGone(f"the server {self.url} is up, but its engine is not ({path}: status {status})")
        raise _Refused(self.url, path, status, _told(document))


class _Refused(EngineError):
    """The server answered with an error."""

    def __init__(self, url: str, path: str, status: int, text: str) -> None:
        super().__init__(f"the server {url} refuses {path} (status {status}): {text}")
        self.status = status


def _told(document: Any) -> str:
    """The message of an error that vLLM answered."""
    error = document.get("error", document) if isinstance(document, dict) else document
    return _shown(error.get("message", error) if isinstance(error, dict) else error)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 300 else text[:297] + "..."

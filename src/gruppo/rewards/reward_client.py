"""A reward model on another node, asked over HTTP: the client of `gruppo serve-reward`.

    client                                server
      | -- POST /score {prompts, completions} -> |   a connection for each request
      | <- {"scores": [...], "model": ...} ----- |   or {"error": ...} with a status

1. A connection that fails, and an answer that the server is busy or going down, are tried again with growing pauses,
   for `patience` seconds in all. Scoring changes nothing, so asking twice does no harm.
2. A server that took the request and does not answer within `timeout` is an error at once: asking again would only
   give it more to do. So is every other refusal.
3. Requests are cut at 256 completions or 8 MiB of text.
4. Plain HTTP hides neither texts nor token from the network. `https://` works where a proxy stands before the server.
"""

import http.client
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from gruppo.errors import RewardError
from gruppo.rewards.reward_text import Prompt
from gruppo.rewards.wire import BODY_LIMIT, TOKEN_VARIABLE, deadline, parse_json

ITEMS_A_REQUEST = 256
BYTES_A_REQUEST = 8 * 2**20
CONNECT_SECONDS = 10.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
_AGAIN = (502, 503, 504)


class _TryAgain(Exception):
    """A failure that may pass."""


class RewardClient:
    """Asks a scoring server; usable from any thread."""

    def __init__(self, url: str, token: str | None = None, timeout: float = 120.0, patience: float = 60.0) -> None:
        """Nothing is asked yet.

        Args:
            url: http://host:port of the server.
            token: that the server wants; None: that of the environment variable GRUPPO_REWARD_TOKEN, if any.
            timeout: seconds for one answer.
            patience: seconds in all for a server that can't be reached.

        Raises:
            RewardError: what is given as url is none.
        """
        self.url = url.rstrip("/")
        self._place = _checked(url)
        self._token = token or os.environ.get(TOKEN_VARIABLE)
        self.timeout = timeout
        self.patience = patience

    def score(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """The model's logit for each completion, in order.

        Args:
            prompts: texts, or lists of chat messages, one for each completion.
            completions: texts.

        Raises:
            RewardError: the server can't be reached, is too slow, refuses, or answers what are no scores.
        """
        if len(prompts) != len(completions):
            raise RewardError(f"reward model: {len(prompts)} prompts, {len(completions)} completions; wanted as many.")
        scores: list[float] = []
        for body, count in _requests(prompts, completions):
            scores += self._checked_scores(self._patiently("POST", "/score", body), count)
        return scores

    def health(self) -> dict[str, Any]:
        """What the server says of itself: `model`, `status`. Raises RewardError as `score` does."""
        answer = self._patiently("GET", "/health", None)
        if not isinstance(answer, dict):
            raise self._strange(f"answered {_shown(answer)}")
        return answer

    def _patiently(self, method: str, path: str, body: bytes | None) -> Any:
        """The answer to a request, which is made until it is answered or patience is over."""
        end = time.monotonic() + self.patience
        pause, tries = FIRST_PAUSE, 0
        while True:
            tries += 1
            try:
                return self._ask(method, path, body)
            except _TryAgain as error:
                if time.monotonic() + pause > end:
                    raise RewardError(
                        f"the scoring server {self.url} can't be reached: {error} ({tries} tries in "
                        f"{self.patience:g} s). Start it with gruppo serve-reward MODEL, or mend `url`."
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        """One try; raises _TryAgain for what may pass, RewardError for what will not."""
        kind = http.client.HTTPSConnection if self._place.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._place.hostname or "", self._place.port, timeout=min(CONNECT_SECONDS, self.timeout))
        try:
            try:
                connection.connect()
            except OSError as error:
                raise _TryAgain(str(error) or type(error).__name__) from error
            connection.sock.settimeout(self.timeout)
            with deadline(connection.sock, self.timeout) as limit:
                try:
                    connection.request(method, self._place.path.rstrip("/") + path, body, self._headers())
                    response = connection.getresponse()
                    status, data = response.status, response.read(BODY_LIMIT + 1)
                    if response.length and len(data) <= BODY_LIMIT:
                        raise http.client.IncompleteRead(data, response.length)
                except (OSError, http.client.HTTPException) as error:
                    if limit.passed or isinstance(error, TimeoutError):
                        raise self._slow() from error
                    raise _TryAgain(str(error) or type(error).__name__) from error
                if limit.passed:
                    raise self._slow()
        finally:
            connection.close()
        return self._answer(status, data)

    def _headers(self) -> dict[str, str]:
        bearer = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return {"Content-Type": "application/json", "Connection": "close", **bearer}

    def _answer(self, status: int, data: bytes) -> Any:
        """The document of an answer."""
        if len(data) > BODY_LIMIT:
            raise self._strange(f"answered with more than {BODY_LIMIT} bytes")
        try:
            answer = parse_json(data)
        except ValueError as error:
            answer = None
            if status == http.client.OK:
                raise self._strange(f"answered {_shown(data.decode('utf-8', 'replace'))}, no JSON ({error})") from error
        if status == http.client.OK:
            return answer
        told = answer.get("error") if isinstance(answer, dict) else None
        cause = str(told or f"status {status}")
        if status in _AGAIN:
            raise _TryAgain(cause)
        if status == http.client.UNAUTHORIZED:
            raise RewardError(
                f"the scoring server {self.url} refuses the token ({cause}); set {TOKEN_VARIABLE} to the one that "
                "gruppo serve-reward printed or was given."
            )
        raise RewardError(f"the scoring server {self.url} refuses ({status}): {_shown(cause)}")

    def _checked_scores(self, answer: Any, count: int) -> list[float]:
        scores = answer.get("scores") if isinstance(answer, dict) else None
        if not isinstance(scores, list):
            raise self._strange(f"answered {_shown(answer)}, which has no list 'scores'")
        if len(scores) != count:
            raise self._strange(f"answered {len(scores)} scores for {count} completions")
        for place, score in enumerate(scores):
            if isinstance(score, bool) or not isinstance(score, (int, float)) or not _finite(score):
                raise self._strange(f"gave {_shown(score)} for completion {place + 1} of {count}, no finite number")
        return [float(score) for score in scores]

    def _strange(self, what: str) -> RewardError:
        return RewardError(f"the scoring server {self.url} {what}; is it gruppo serve-reward of this version?")

    def _slow(self) -> RewardError:
        return RewardError(
            f"the scoring server {self.url} took the request and did not answer within {self.timeout:g} s; give it a "
            "GPU or a smaller model, or raise `timeout`."
        )


def _checked(url: str) -> SplitResult:
    wanted = "wanted http://host:port or https://host"
    try:
        place = urlsplit(url)
        port = place.port
    except ValueError as error:
        raise RewardError(f"url: {url!r} of the scoring server can't be read ({error}); {wanted}") from error
    if place.username is not None or place.password is not None:
        raise RewardError(f"url: no user and password in the scoring server's; put its token into {TOKEN_VARIABLE}")
    odd = any(character.isspace() or not character.isprintable() for character in url)
    if place.scheme not in ("http", "https") or not place.hostname or port == 0 or odd or place.query or place.fragment:
        raise RewardError(f"url: got {url!r} for the scoring server, {wanted}")
    return place


def _requests(prompts: Sequence[Prompt], completions: Sequence[str]) -> Iterator[tuple[bytes, int]]:
    """Bodies of requests with the number of completions in each."""
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    size = 0
    for prompt, completion in zip(prompts, completions):
        pair = _json(prompt), _json(completion)
        new = len(pair[0]) + len(pair[1]) + 4
        if parts[0] and (len(parts[0]) == ITEMS_A_REQUEST or size + new > BYTES_A_REQUEST):
            yield _body(*parts), len(parts[0])
            parts, size = ([], []), 0
        parts[0].append(pair[0])
        parts[1].append(pair[1])
        size += new
    if parts[0]:
        yield _body(*parts), len(parts[0])


def _body(prompts: Sequence[bytes], completions: Sequence[bytes]) -> bytes:
    return b'{"prompts": [' + b", ".join(prompts) + b'], "completions": [' + b", ".join(completions) + b"]}"


def _json(value: Any) -> bytes:
    """As UTF-8; what UTF-8 can't hold (halves of surrogate pairs) becomes a question mark, as in the model itself."""
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")


def _finite(score: int | float) -> bool:
    try:
        return math.isfinite(score)
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else text[:197] + "..."

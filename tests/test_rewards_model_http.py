"""A reward model over HTTP: the same scores, each trouble one clear error in time, and nothing left behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gruppo.cli.main import main
from gruppo.errors import RewardError
from gruppo.rewards import reward_client, reward_server
from gruppo.rewards.reward_client import RewardClient
from gruppo.rewards.reward_model import RewardModel, reward_model_function
from gruppo.rewards.reward_server import RewardServer, is_loopback
from gruppo.rewards.wire import TOKEN_VARIABLE
from reward_models import COMPLETIONS, PROMPTS, Judge, save_reward_model

SOON = 4.0
"""Seconds within which every refusal of these tests is there."""


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + SOON
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.02)
    assert set(threading.enumerate()) - before == set()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def refusal(client: RewardClient, count: int = 1) -> str:
    """The one message of a scoring that fails, in time."""
    with within(SOON), pytest.raises(RewardError) as raised:
        client.score(["?"] * count, ["12345"] * count)
    message = str(raised.value)
    assert client.url in message
    assert "\n" not in message
    return message


def talk(url: str, text: str | bytes) -> bytes:
    """What a server answers to raw bytes, until it closes."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    data = text.encode() if isinstance(text, str) else text
    answer = b""
    with socket.create_connection((host, int(port)), timeout=SOON) as connection, suppress(ConnectionError):
        connection.sendall(data)
        while part := connection.recv(65536):
            answer += part
    return answer


def post(url: str, body: str | bytes, head: str = "Host: localhost\r\n") -> tuple[int, dict]:
    data = body.encode() if isinstance(body, str) else body
    answer = talk(url, f"POST /score HTTP/1.1\r\n{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    first, _, rest = answer.partition(b"\r\n")
    return int(first.split()[1]), json.loads(rest.partition(b"\r\n\r\n")[2])


@contextmanager
def answering(*answers: bytes, pause: float = 0.0) -> Iterator[str]:
    """A server of fixed answers, one for each connection, the last for all that follow; byte by byte if paused."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.05)
    stop = threading.Event()

    def serve() -> None:
        count = 0
        while not stop.is_set():
            with suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    connection.settimeout(SOON)
                    connection.recv(65536)
                    answer = answers[min(count, len(answers) - 1)]
                    count += 1
                    for place in range(0, len(answer), 1 if pause else len(answer) or 1):
                        connection.sendall(answer[place : place + 1] if pause else answer)
                        if stop.wait(pause):
                            break

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        stop.set()
        thread.join(SOON)
        listening.close()


def ok(body: str) -> bytes:
    return f"HTTP/1.0 200 OK\r\nContent-Length: {len(body.encode())}\r\n\r\n{body}".encode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---- the same scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reward_model(tmp_path_factory.mktemp("reward_model"))


def test_http_is_local(folder: Path) -> None:
    model = RewardModel(str(folder), device="cpu")
    prompts = [*PROMPTS, [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "𝔘?"}], "a\0b", "c"]
    completions = [*COMPLETIONS, "naïve <|end|>", "\ud800", "\u2028‮ x\r\n"]
    local = model.score(prompts, completions)
    with RewardServer(model) as server:
        client = RewardClient(server.url)
        assert client.score(prompts, completions) == pytest.approx(local, abs=1e-6)
        assert client.score(prompts, completions) == client.score(prompts, completions)
        assert client.health() == {"status": "ok", "model": str(folder)}
        assert client.score([], []) == []
        reward = reward_model_function(url=server.url, squash="sigmoid")
        found = reward(prompts[:2], completions[:2])
        assert [result.parts["logit"] for result in found] == pytest.approx(local[:2], abs=1e-6)
        assert found[0].reason.endswith(f"by {server.url}")
        reward.close()


def test_many_completions_go_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge()
    texts = ["x" * (place % 7) for place in range(600)]
    with RewardServer(judge) as server:
        client = RewardClient(server.url)
        assert client.score(["?"] * 600, texts) == [float(place % 7) for place in range(600)]
        assert judge.calls == 3  # 256 + 256 + 88
        monkeypatch.setattr(reward_client, "BYTES_A_REQUEST", 100)
        assert client.score(["?"] * 4, ["x" * 60] * 4) == [60.0] * 4
        assert judge.calls == 7


def test_requests_are_scored_one_at_a_time() -> None:
    running, most = [0], [0]

    def score(texts):
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.03)
        running[0] -= 1
        return [float(len(text)) for text in texts]

    found: list[list[float]] = []
    with RewardServer(Judge(score)) as server:
        ask = lambda number: found.append(RewardClient(server.url).score(["?"], ["x" * number]))  # noqa: E731
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SOON)
    assert sorted(found) == [[float(number)] for number in range(12)]
    assert most == [1]


# ---- a server that is not there


def test_a_server_that_is_dead() -> None:
    client = RewardClient(f"http://127.0.0.1:{free_port()}", patience=0.5)
    assert re.search(
        r"can't be reached: .*refused \(3 tries in 0.5 s\). Start it with gruppo serve-reward MODEL", refusal(client)
    )


def test_a_server_that_is_restarted_in_the_middle() -> None:
    port = free_port()
    first = RewardServer(Judge(), port=port).start()
    client = RewardClient(first.url, patience=SOON)
    assert client.score(["?"], ["123"]) == [3.0]
    first.close()
    found: list[list[float]] = []
    asking = threading.Thread(target=lambda: found.append(client.score(["?"], ["1234"])))
    asking.start()
    time.sleep(0.4)
    assert found == []
    with RewardServer(Judge(), port=port):
        asking.join(SOON)
    assert found == [[4.0]]


def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    whole = ok('{"scores": [2.5], "model": "m"}')
    busy = b'HTTP/1.0 503 Busy\r\n\r\n{"error": "busy"}'
    with answering(b"", whole[:50], busy, whole) as url:
        assert RewardClient(url).score(["?"], ["!"]) == [2.5]
    with answering(busy) as url:
        assert "can't be reached: busy (2 tries in 0.2 s)" in refusal(RewardClient(url, patience=0.2))


# ---- a server that is slow


def test_a_server_that_is_slow() -> None:
    judge = Judge(seconds=1.0)
    with RewardServer(judge) as server:
        message = refusal(RewardClient(server.url, timeout=0.3))
        assert "took the request and did not answer within 0.3 s; give it a GPU or a smaller model" in message
        assert judge.calls == 1  # it is not asked again for what it was too slow for


def test_an_answer_that_comes_byte_by_byte() -> None:
    with answering(ok('{"scores": [2.5], "model": "m"}'), pause=0.1) as url, within(1.5):
        assert "did not answer within 0.5 s" in refusal(RewardClient(url, timeout=0.5))


def test_a_request_that_comes_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_server, "READ_SECONDS", 0.5)
    with RewardServer(Judge()) as server, within(1.5):
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=SOON) as connection:
            with suppress(ConnectionError):
                for letter in b"POST /score HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 99:
                    connection.sendall(bytes([letter]))
                    time.sleep(0.01 if letter != ord("y") else 0.1)
            with suppress(ConnectionError):
                assert connection.recv(99) == b""


def test_connections_beyond_the_places_are_closed_and_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_server, "PLACES", 2)
    with RewardServer(Judge()) as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        idle = [socket.create_connection((host, int(port)), timeout=SOON) for _ in range(2)]
        time.sleep(0.1)
        assert "can't be reached" in refusal(RewardClient(server.url, patience=0.3))
        for connection in idle:
            connection.close()
        assert RewardClient(server.url).score(["?"], ["12"]) == [2.0]


# ---- tokens and names


def test_a_token_is_wanted_and_kept_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with RewardServer(Judge(), token="s3cret") as server:
        for wrong in (None, "S3CRET", "s3cret ", "ß"):
            message = refusal(RewardClient(server.url, token=wrong))
            assert "refuses the token (no bearer token, or a wrong one); set GRUPPO_REWARD_TOKEN" in message
            assert "s3cret" not in message.lower()
        with pytest.raises(RewardError, match="refuses the token"):
            RewardClient(server.url).health()
        assert RewardClient(server.url, token="s3cret").score(["?"], ["12"]) == [2.0]
        monkeypatch.setenv(TOKEN_VARIABLE, "s3cret")
        assert RewardClient(server.url).health()["status"] == "ok"


def test_beyond_loopback_there_is_always_a_token() -> None:
    with RewardServer(Judge(), host="0.0.0.0") as server:
        assert server.token is not None
        assert len(server.token) == 32
        url = f"http://127.0.0.1:{server.url.rpartition(':')[2]}"
        assert "refuses the token" in refusal(RewardClient(url))
        assert RewardClient(url, token=server.token).score(["?"], ["12"]) == [2.0]
    assert RewardServer(Judge()).token is None


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost 127.0.0.1 127.8.9.1 ::1", True),
        ("0.0.0.0 :: 10.0.0.1 localhost.evil.com 127.0.0.1.evil.com 127.1", False),
    ],
)
def test_loopback(host: str, own: bool) -> None:
    assert [is_loopback(name) for name in host.split()] == [own] * len(host.split())
    assert not is_loopback("")


@pytest.mark.parametrize("name", ["evil.com", "evil.com:80", "localhost.evil.com", "", "[", "[::1.evil]", "10.0.0.1"])
def test_another_name_for_this_machine_is_refused(name: str) -> None:
    with RewardServer(Judge()) as server:
        status, answer = post(server.url, '{"prompts": ["?"], "completions": ["!"]}', f"Host: {name}\r\n")
        assert (status, answer["error"]) == (403, f"the Host header names {name!r}, not this machine")


def test_a_page_in_a_browser_is_refused() -> None:
    judge = Judge()
    with RewardServer(judge) as server:
        head = "Host: localhost\r\nOrigin: http://evil.com\r\nContent-Type: text/plain\r\n"
        status, answer = post(server.url, '{"prompts": ["?"], "completions": ["!"]}', head)
    assert (status, answer["error"], judge.calls) == (
        403,
        "a page in a browser asks; trainers send no Origin header",
        0,
    )


# ---- requests that are none


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("", "the body is no JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff", "the body is no JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        ("[" * 200_000, "the body is no JSON: nested too deeply"),
        ('{"prompts": [NaN], "completions": ["!"]}', "the body is no JSON: NaN is no JSON number"),
        ("[]", 'wanted {"prompts": [...], "completions": [...]}'),
        ('{"prompts": []}', 'wanted {"prompts": [...], "completions": [...]}'),
        ('{"prompts": [], "completions": [], "model": "x"}', 'wanted {"prompts": [...], "completions": [...]}'),
        ('{"prompts": "?", "completions": ["!"]}', "prompts and completions must be lists"),
        ('{"prompts": ["?"], "completions": []}', "1 prompts, 0 completions"),
        ('{"prompts": ["?", "?"], "completions": ["!", 1]}', "completions[1] is no string"),
        (
            '{"prompts": [{"role": "user"}], "completions": ["!"]}',
            "prompts[0] is neither a string nor a list of messages with a role",
        ),
    ],
)
def test_a_request_that_is_none(body: str | bytes, error: str) -> None:
    judge = Judge()
    with RewardServer(judge) as server, within(SOON):
        assert post(server.url, body) == (400, {"error": error})
        assert judge.calls == 0
        assert RewardClient(server.url).score(["?"], ["12"]) == [2.0]


def test_too_many_or_too_much() -> None:
    with RewardServer(Judge()) as server, within(SOON):
        many = json.dumps({"prompts": ["?"] * 1025, "completions": ["!"] * 1025})
        assert post(server.url, many) == (400, {"error": "1025 completions, at most 1024 in a request"})
        much = post(server.url, b" " * (16 * 2**20 + 1))
        assert much == (413, {"error": "16777217 bytes, at most 16777216 are taken; send fewer at once"})
        assert "refuses (413): " in refusal_of_text(server.url, "x" * (16 * 2**20))
        for head in ("", "Content-Length: -1\r\n", "Content-Length: ٣\r\n", "Transfer-Encoding: chunked\r\n"):
            assert b" 411 " in talk(server.url, f"POST /score HTTP/1.1\r\nHost: localhost\r\n{head}\r\n")[:20]
        assert b" 404 " in talk(server.url, "GET /score HTTP/1.1\r\nHost: localhost\r\n\r\n")[:20]
        assert b" 501 " in talk(server.url, "PUT /score HTTP/1.1\r\nHost: localhost\r\n\r\n")[:20]


def refusal_of_text(url: str, text: str) -> str:
    with pytest.raises(RewardError) as raised:
        RewardClient(url).score(["?"], [text])
    return str(raised.value)


# ---- answers that are none


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"scores": [1.0]}', "answered 1 scores for 2 completions"),
        ('{"scores": [1, 2, 3]}', "answered 3 scores for 2 completions"),
        ('{"scores": [1.0, NaN]}', "no JSON (NaN is no JSON number)"),
        ('{"scores": [1.0, 1e999]}', "gave inf for completion 2 of 2, no finite number"),
        ('{"scores": [1.0, null]}', "gave None for completion 2 of 2, no finite number"),
        ('{"scores": [true, 1.0]}', "gave True for completion 1 of 2, no finite number"),
        ('{"scores": ["7", 1.0]}', "gave 7 for completion 1 of 2, no finite number"),
        ('{"scores": [1%s, 1.0]}' % ("0" * 400), "for completion 1 of 2, no finite number"),
        ('{"scores": 1.0}', "answered {'scores': 1.0}, which has no list 'scores'"),
        ("[1.0, 2.0]", "answered [1.0, 2.0], which has no list 'scores'"),
        ("<html>Hello</html>", "answered <html>Hello</html>, no JSON (Expecting value: line 1 column 1 (char 0))"),
    ],
)
def test_an_answer_that_is_none(body: str, message: str) -> None:
    with answering(ok(body)) as url:
        assert message in refusal(RewardClient(url), count=2)


@pytest.mark.parametrize("status", [301, 400, 404, 500])
def test_another_status(status: int) -> None:
    with answering(f"HTTP/1.0 {status} No\r\nLocation: http://elsewhere\r\n\r\nnot here".encode()) as url:
        assert f"refuses ({status}): status {status}" in refusal(RewardClient(url))


def test_a_model_that_fails_says_why() -> None:
    def fail(texts):
        raise RewardError("the reward model 'm' ran out of memory on cuda; lower token_budget")

    with RewardServer(Judge(fail)) as server:
        assert "refuses (500): the reward model 'm' ran out of memory on cuda" in refusal(RewardClient(server.url))
    with RewardServer(Judge(lambda texts: [float("nan")] * len(texts))) as server:
        assert "refuses (500): the model gave 1 scores for 1, or one that is not finite" in refusal(
            RewardClient(server.url)
        )
    with RewardServer(Judge(lambda texts: [])) as server:
        assert "refuses (500): the model gave 0 scores for 1" in refusal(RewardClient(server.url))


def test_a_bug_of_ours_is_told_on_both_sides(capfd: pytest.CaptureFixture[str]) -> None:
    with RewardServer(Judge(lambda texts: [1 / 0 for _ in texts])) as server:
        assert "refuses (500): ZeroDivisionError: division by zero" in refusal(RewardClient(server.url))
    assert "ZeroDivisionError" in capfd.readouterr().err


# ---- the command


def serve(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gruppo", "serve-reward", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def first_line(process: subprocess.Popen[str], seconds: float = 120.0) -> str:
    """The line of a process that is ready; the process is ended where it does not come in time."""
    assert process.stdout is not None
    watch = threading.Timer(seconds, process.kill)
    watch.start()
    try:
        return process.stdout.readline()
    finally:
        watch.cancel()


@pytest.mark.slow
def test_the_command(folder: Path) -> None:
    """Two servers, on loopback and beyond it: their scores, their tokens, and how they end."""
    expected = RewardModel(str(folder), device="cpu").score(PROMPTS, COMPLETIONS)
    processes = [serve(folder, "--device", "cpu"), serve(folder, "--device", "cpu", "--host", "0.0.0.0")]
    try:
        near, far = (first_line(process) for process in processes)
        found = re.fullmatch(rf"reward model {folder} on cpu ready at (http://127\.0\.0\.1:\d+)\n", near)
        assert found, near
        assert RewardClient(found[1]).score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-6)

        assert processes[1].stderr is not None
        told = re.fullmatch(r"token: (\S{32}) \(set GRUPPO_REWARD_TOKEN .*\)\n", processes[1].stderr.readline())
        assert told
        url = f"http://127.0.0.1:{far.strip().rpartition(':')[2]}"
        with pytest.raises(RewardError, match="refuses the token"):
            RewardClient(url).score(["?"], ["!"])
        assert RewardClient(url, token=told[1]).score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-6)

        for process, number in zip(processes, (signal.SIGTERM, signal.SIGINT)):
            with within(2 * SOON):
                process.send_signal(number)
                assert process.wait(2 * SOON) == 0
        assert processes[0].stderr is not None
        assert processes[0].stderr.read() == ""
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=SOON)


@pytest.mark.parametrize(("port", "cause"), [(None, "in use"), (70000, "0-65535")])
def test_the_command_on_a_port_that_can_not_be_had(
    folder: Path, port: int | None, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with RewardServer(Judge()) as server:
        port = port or int(server.url.rpartition(":")[2])
        assert main(["serve-reward", str(folder), "--device", "cpu", "--port", str(port)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error: serve-reward: can't listen on 127.0.0.1, port {port}: " in err
    assert cause in err


def test_the_command_refuses_what_is_no_reward_model(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve-reward", str(tiny_model), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("error: ")) == ("", 1)
    assert "has no classification head (it is a Qwen2ForCausalLM)" in err

"""vLLM as a server: one that gruppo starts on this machine, or one that runs already.

Who waits for whom:

    submit --> queue --> a thread a group: POST /v1/completions --> done --> completed() yields
                             | ServerGone
                             v
    of the server that gruppo started: everything on its way is given up, the server started again with the same
    weights, unfinished groups asked for anew (with the same seeds). Once for each version of the weights.
    of the user's server: the run ends with a message, and goes on from its checkpoint.

Every wait has a limit: `client` has those of requests, `launcher` those of coming up and ending. The weights that are
held are asked for before a step's first request and after its last completion.
"""

import ipaddress
import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from urllib.parse import urlsplit

from safetensors.torch import save_file
from torch import Tensor

from gruppo.errors import EngineError
from gruppo.rollout.engine import RolloutEngine
from gruppo.rollout.vllm.client import ServerGone, VLLMClient
from gruppo.rollout.vllm.launcher import VLLMServer
from gruppo.rollout.vllm.requests import Drawn, check_request, completions_of, probe_prompts
from gruppo.rollout.vllm.settings import check_version
from gruppo.rollout.vllm.weights import Held
from gruppo.types import Completion, GroupRequest, TensorStream

PARALLEL = 128
"""Groups on their way at a time; the server queues what it has no room for."""
LOOK_EVERY = 0.5
RESTARTS = 1
"""How often a dead server is started again for one version of the weights."""
SHARED_MEMORY = Path("/dev/shm")


class ServerVLLM(RolloutEngine):
    """Samples from a server.

    Args:
        where: the url of a server that runs, or the server to start.
        held: what its answers about weights are checked against.
        folder: where files of weights go, its own; the server has to see it under the same path (`weights_folder`).
        max_live: completions decoded at a time.
        note: is told when a server is started again.

    Raises:
        EngineError: the server is not there, is not vLLM's, or has another model.
    """

    separate = True

    def __init__(
        self,
        where: str | VLLMServer,
        held: Held,
        folder: Path,
        max_live: int = 256,
        note: Callable[[str], None] = print,
    ) -> None:
        self._held = held
        self._server = where if isinstance(where, VLLMServer) else None
        self._folder = folder
        self._note = note
        self._parallel = max(1, min(PARALLEL, max_live))
        self._queue: deque[GroupRequest] = deque()
        self._sampling = False
        self._file: Path | None = None
        self._restarts = 0
        self._client = VLLMClient(where) if isinstance(where, str) else where.start()
        try:
            self._meet()
        except BaseException:
            self.close()
            raise

    def _meet(self) -> None:
        """Know the server: its version, its model, its limits."""
        if not self._client.healthy():
            raise EngineError(
                f"vllm_url: no vLLM server answers at {self._client.url}; start it (docs/engines.md has the command), "
                "or say vllm_url: launch"
            )
        check_version(self._client.version())
        self._client.find_model()
        states = self._client.states()
        self._held.check_model(states)
        self._context_length: int = states[0]["context_length"]
        self._probes = probe_prompts(states[0])

    @property
    def probe_prompts(self) -> Sequence[tuple[int, ...]]:
        """A prompt longer than a block of the prefix cache, and a short one."""
        return self._probes

    def submit(self, request: GroupRequest) -> None:
        """Queue a group. Raises EngineError where it can't be served."""
        check_request(request, self._context_length)
        self._queue.append(request)

    def completed(self) -> Generator[Completion, None, None]:
        """Yield completions, a group at a time.

        Raises:
            EngineError: the server failed for good, or does not hold the weights that it was given.
        """
        self._sampling = True
        try:
            self._alive_with_weights()
            while self._queue:
                yield from self._session()
            self._alive_with_weights()
        finally:
            self._queue.clear()
            self._sampling = False

    def _session(self) -> Generator[Completion, None, None]:
        """Work the queue off, until it is empty or the server is gone; then what is unfinished is queued again."""
        client = self._client.session()
        running: dict[Future[list[Drawn]], GroupRequest] = {}
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="gruppo-vllm") as pool:
            try:
                while self._queue or running:
                    while self._queue and len(running) < self._parallel:
                        request = self._queue.popleft()
                        running[pool.submit(client.generate, request)] = request
                    done = wait(running, LOOK_EVERY, FIRST_COMPLETED).done
                    for future in [future for future in running if future in done]:
                        drawn = future.result()
                        yield from completions_of(running.pop(future), drawn, self._held.version)
                    if self._server is not None and not self._server.alive:
                        raise ServerGone("the vLLM server ended")
            except ServerGone as error:
                client.give_up()
                self._queue.extendleft(reversed(running.values()))
                gone = error
            else:
                return
            finally:
                client.give_up()
        self._start_again(gone)

    def _alive_with_weights(self) -> None:
        """Before a step and after it: the server lives, and holds what it was given."""
        try:
            states = self._client.states()
        except ServerGone as error:
            self._start_again(error)
            states = self._client.states()
        self._held.check_weights(states)

    def _start_again(self, gone: ServerGone) -> None:
        """A new server with the same weights, once; a server that is not ours can't be started.

        Raises:
            EngineError: it is not ours, it died twice, or it does not come up again.
        """
        if self._server is None:
            raise EngineError(f"{gone}. Start it again; the same command goes on from the last checkpoint") from gone
        self._server.stop()
        obituary = self._server.obituary()
        if self._restarts >= RESTARTS:
            raise EngineError(f"the vLLM server died again after a restart: {obituary}") from gone
        self._restarts += 1
        self._note(f"the vLLM server is gone ({gone}) and started again: {obituary}")
        self._client = self._server.start()
        self._meet()
        if self._file is not None:
            self._send(self._file)

    def load_weights(self, tensors: TensorStream, version: int) -> None:
        """Hand new weights over in a file, have prompts computed with the old ones forgotten, read the version back.

        Raises:
            EngineError: completions are still on their way, or the server holds something else afterwards.
        """
        if self._sampling:
            raise EngineError("new weights came while completions were on their way")
        before, self._restarts = self._file, 0
        self._file = self._write(dict(tensors), version)
        try:
            self._send(self._file)
        except ServerGone as error:
            self._start_again(error)
        self._held.check_weights(self._client.states())
        if before is not None and before != self._file:
            before.unlink(missing_ok=True)
        if self._server is None:
            self._file.unlink(missing_ok=True)  # nobody reads it again

    def _write(self, tensors: dict[str, Tensor], version: int) -> Path:
        """Weights as a file. A tensor under two names is written once."""
        stored: dict[str, Tensor] = {}
        first_name: dict[tuple[int, int], str] = {}
        tied: dict[str, str] = {}
        for name, tensor in tensors.items():
            key = (tensor.data_ptr(), tensor.numel())
            if key in first_name:
                tied[name] = first_name[key]
            else:
                first_name[key] = name
                stored[name] = tensor.detach().contiguous()
        self._held.version, self._held.tensors = version, len(tensors)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"version-{version:06d}.safetensors"
        named = {"gruppo_owner": self._held.owner, "gruppo_version": str(version), "gruppo_tied": json.dumps(tied)}
        save_file(stored, path, metadata=named)
        return path

    def _send(self, path: Path) -> None:
        self._client.read_weights(str(path.resolve()), self._held.owner, self._held.version, self._held.tensors)

    def close(self) -> None:
        """End the server if it is ours, and remove the files of weights."""
        self._queue.clear()
        if self._server is not None:
            self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def weights_folder(url: str | None, size: int, otherwise: Path) -> Path:
    """A folder for files of weights: in shared memory where the server is on this machine and there is room.

    Args:
        url: the server's; None: on this machine.
        size: bytes of a version; two are there at a time.
        otherwise: a folder that the server sees under the same path.
    """
    local = url is None or is_local(url)
    if local and SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > 3 * size:
        return Path(tempfile.mkdtemp(prefix="gruppo-weights-", dir=SHARED_MEMORY))
    return otherwise


def is_local(url: str) -> bool:
    """Whether a url names this machine by its loopback."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

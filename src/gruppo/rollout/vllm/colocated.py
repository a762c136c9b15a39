"""vLLM in the trainer's own process: one device, weights handed over in memory.

On a GPU vLLM sleeps while the policy is updated: its memory is the trainer's then. A CPU has nothing to give back.
"""

import contextlib
import gc
import os
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch

from gruppo.errors import EngineError
from gruppo.rollout.engine import RolloutEngine
from gruppo.rollout.vllm.requests import Drawn, check_request, completions_of, probe_prompts, sampling_fields
from gruppo.rollout.vllm.settings import VLLMSettings
from gruppo.rollout.vllm.weights import Held
from gruppo.types import Completion, GroupRequest, TensorStream

MEMORY_WORDS = ("out of memory", "No available memory", "less than desired", "can't allocate", "KV cache memory")


class ColocatedVLLM(RolloutEngine):
    """Samples with vLLM's engine, stepped in this process.

    Args:
        settings: what vLLM is started with.
        held: what its answers about weights are checked against.

    Raises:
        EngineError: vLLM can't start: no memory, a model that it does not know.
    """

    separate = True

    def __init__(self, settings: VLLMSettings, held: Held) -> None:
        self._held = held
        self._sleeps = settings.device != "cpu"
        self._asleep = False
        self._requests: dict[str, GroupRequest] = {}
        self._made = 0
        os.environ |= settings.environment | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        with _told("vLLM can't start"), _process_kept_as_it_is():
            self._engine: Any = self._start(settings)
        state = self._states()
        self._held.check_model(state)
        self._context_length: int = state[0]["context_length"]
        self._probes = probe_prompts(state[0])

    def _start(self, settings: VLLMSettings) -> Any:
        from vllm.engine.arg_utils import EngineArgs  # pyright: ignore[reportMissingImports]
        from vllm.v1.engine.llm_engine import LLMEngine  # pyright: ignore[reportMissingImports]

        sleep = {"enable_sleep_mode": True} if self._sleeps else {}
        return LLMEngine.from_engine_args(EngineArgs(**settings.arguments, **sleep, disable_log_stats=True))

    @property
    def probe_prompts(self) -> Sequence[tuple[int, ...]]:
        """A prompt longer than a block of the prefix cache, and a short one."""
        return self._probes

    def submit(self, request: GroupRequest) -> None:
        """Queue a group. Raises EngineError where it can't be served."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams  # pyright: ignore[reportMissingImports]

        check_request(request, self._context_length)
        fields = sampling_fields(request)
        # Without stop strings no text is needed, and none is made.
        params = SamplingParams(**fields, detokenize=bool(fields["stop"]), output_kind=RequestOutputKind.FINAL_ONLY)
        self._made += 1
        name = f"gruppo-{self._made}"
        with _told(f"problem {request.problem_id}"):
            self._engine.add_request(name, {"prompt_token_ids": list(request.prompt_ids)}, params)
        self._requests[name] = request

    def completed(self) -> Generator[Completion, None, None]:
        """Yield completions, a group at a time.

        Raises:
            EngineError: vLLM failed in a step, or does not hold the weights that it was given.
        """
        try:
            self._held.check_weights(self._states())
            while self._requests:
                with _told("vLLM failed while sampling"):
                    outputs = self._engine.step()
                for output in outputs:
                    if output.finished:
                        yield from self._completions(output)
        finally:
            if self._requests:
                self._engine.abort_request(list(self._requests))
                self._requests.clear()

    def _completions(self, output: Any) -> list[Completion]:
        request = self._requests.pop(output.request_id)
        samples = [
            Drawn(
                sample.token_ids,
                [found[token].logprob for token, found in zip(sample.token_ids, sample.logprobs, strict=True)],
                sample.finish_reason,
            )
            for sample in sorted(output.outputs, key=lambda sample: sample.index)
        ]
        return completions_of(request, samples, self._held.version)

    def load_weights(self, tensors: TensorStream, version: int) -> None:
        """Hand new weights over, forget every prompt computed with the old ones, and read the version back.

        Raises:
            EngineError: completions are still on their way, or vLLM holds something else afterwards.
        """
        if self._requests:
            raise EngineError("new weights came while completions were on their way")
        named = list(tensors)
        self._held.version, self._held.tensors = version, len(named)
        with _told(f"vLLM can't load the weights of version {version}"):
            self._wake("weights")
            self._engine.collective_rpc("gruppo_take", args=(iter(named), self._held.owner, version, len(named)))
            self._wake("kv_cache")
            if not self._engine.reset_prefix_cache():
                raise EngineError("vLLM did not reset its prefix cache after new weights")
        self._held.check_weights(self._states())
        self._asleep = False

    def sleep(self) -> None:
        """Give the weights' and the cache's memory back; they come anew with `load_weights`. Nothing on a CPU."""
        if self._sleeps and not self._asleep:
            self._engine.sleep(level=2)
            self._asleep = True

    def wake(self) -> None:
        """Be ready to take weights and to sample."""
        self._wake("weights")
        self._wake("kv_cache")
        self._asleep = False

    def _wake(self, part: str) -> None:
        if self._asleep:
            self._engine.wake_up(tags=[part])

    def close(self) -> None:
        """Shut vLLM down and let its memory go."""
        if self._engine is not None:
            self._engine.engine_core.shutdown()
            self._engine = None
            gc.collect()

    def _states(self) -> list[dict[str, Any]]:
        return self._engine.collective_rpc("gruppo_state")


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """What vLLM raises as one message."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:  # vLLM raises what it likes
        text = str(error).strip() or type(error).__name__
        cure = ""
        if any(word.lower() in text.lower() for word in MEMORY_WORDS):
            cure = " It is short of memory: lower engine_memory or max_live_completions, or give it a larger device."
        raise EngineError(f"{what}: {text.splitlines()[0][:500]}.{cure}") from error


@contextlib.contextmanager
def _process_kept_as_it_is() -> Iterator[None]:
    """vLLM seeds torch, and its CPU worker replaces torch.set_num_threads by nothing: both are put back."""
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            torch.set_num_threads = set_num_threads
            torch.set_num_threads(threads)

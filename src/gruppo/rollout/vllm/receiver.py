"""What gruppo adds to a vLLM worker: it takes new weights, counts them, and says which version it holds.

vLLM mixes the class into its worker (`worker_extension_cls`), in the trainer's process or in a server's. Nothing but
torch, safetensors and the standard library may be imported here, since a server's environment need have no more.
"""

import json
from collections.abc import Iterator
from typing import Any

from safetensors import safe_open
from torch import Tensor


class WeightReceiver:
    """Methods for vLLM's `collective_rpc`; their names may not be those of a worker's own."""

    gruppo_held: dict[str, Any] | None = None
    """Which weights the worker holds: owner, version, tensors; None: not the trainer's."""

    def gruppo_take(self, tensors: Iterator[tuple[str, Tensor]], owner: str, version: int, count: int) -> None:
        """Load tensors from memory: in vLLM's own process only.

        Raises:
            ValueError: fewer or more tensors came than were announced.
        """
        self.gruppo_held = None  # until all is there, the worker holds no version at all
        taken = _Counted(tensors)
        self.reload_weights(weights_iterator=taken)  # pyright: ignore[reportAttributeAccessIssue]  the worker's own
        if taken.count != count:
            raise ValueError(f"{taken.count} tensors came, {count} were announced")
        self.gruppo_held = {"owner": owner, "version": version, "tensors": count}

    def gruppo_read(self, path: str, owner: str, version: str, count: str) -> None:
        """Load tensors from a safetensors file, which names its owner and version. Over HTTP arguments are text.

        A tensor under two names (a tied head) is stored once: `gruppo_tied` has the second name and the first.

        Raises:
            ValueError: the file is another's or of another version, or holds fewer or more tensors.
        """
        with safe_open(path, framework="pt") as file:
            named = file.metadata() or {}
            if (named.get("gruppo_owner"), named.get("gruppo_version")) != (owner, version):
                raise ValueError(f"{path} holds version {named.get('gruppo_version')}, wanted {version}")
            also: dict[str, str] = json.loads(named.get("gruppo_tied", "{}"))
            names = [(name, name) for name in file.keys()]  # noqa: SIM118  it is no dict
            tensors = ((name, file.get_tensor(stored)) for name, stored in [*names, *also.items()])
            self.gruppo_take(tensors, owner, int(version), int(count))

    def gruppo_state(self) -> dict[str, Any]:
        """Which weights are held, and the facts by which a trainer knows its model."""
        settings: Any = self.vllm_config  # pyright: ignore[reportAttributeAccessIssue]  the worker's own
        config = settings.model_config.hf_text_config
        return {
            "held": self.gruppo_held,
            "context_length": settings.model_config.max_model_len,
            "block_size": settings.cache_config.block_size,
            "logprobs_mode": str(settings.model_config.logprobs_mode),
            "dtype": str(settings.model_config.dtype).removeprefix("torch."),
            "split_prompts": str(settings.device_config.device_type) == "cpu"
            and bool(settings.scheduler_config.enable_chunked_prefill),
            "shape": {
                "vocab_size": config.vocab_size,
                "hidden_size": config.hidden_size,
                "num_hidden_layers": config.num_hidden_layers,
                "num_attention_heads": config.num_attention_heads,
            },
        }


class _Counted:
    """An iterator that counts what it gives."""

    def __init__(self, tensors: Iterator[tuple[str, Tensor]]) -> None:
        self._tensors = tensors
        self.count = 0

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for pair in self._tensors:
            self.count += 1
            yield pair

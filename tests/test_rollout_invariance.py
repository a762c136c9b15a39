"""A completion is the same to the bit whatever else is in the batch, where this machine's kernels allow it."""

import pytest
import torch

from gruppo.rollout.local import LocalEngine
from gruppo.types import SamplingParams
from models import Letters, prompts_of, request, tiny

PROMPTS = prompts_of([5, 40, 90, 17, 130, 2, 64, 200])
SAMPLING = SamplingParams(max_completion_length=150, stop_token_ids=(5,))
SHAPE = {"hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 8}


def rows_are_computed_alone(dtype: torch.dtype) -> bool:
    """Whether a row of a product has the same bits among 4 rows as among 32."""
    generator = torch.Generator().manual_seed(0)
    weight, rows = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((688, 256), (32, 256)))
    whole = torch.nn.functional.linear(rows, weight)
    return all(torch.equal(torch.nn.functional.linear(rows[s : s + 4], weight), whole[s : s + 4]) for s in range(28))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alone_in_8_slots_in_a_full_batch_and_permuted(dtype: torch.dtype):
    if not rows_are_computed_alone(dtype):
        pytest.skip("this processor's products depend on the number of rows")
    model = tiny("qwen2", context=512, spread=0.06, **SHAPE)
    model.to(dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def bits(order: list[int], group_size: int = 4, max_live: int = 256) -> dict[tuple[int, int], tuple[bytes, bytes]]:
        engine = LocalEngine(model, Letters(), max_live)
        asked = [request(PROMPTS[i], SAMPLING, id=i, group_size=group_size) for i in order]
        found = {
            (c.request_id, c.sample): (c.token_ids.tobytes(), c.sampler_logprobs.tobytes())
            for group in engine.generate(asked)
            for c in group
        }
        assert engine.stats.decode_steps > 0
        return found

    whole = bits(list(range(8)))
    assert len({len(ids) for ids, _ in whole.values()}) > 8
    assert bits([3, 6, 0, 7, 5, 1, 4, 2]) == whole
    assert bits(list(range(8)), max_live=8) == whole
    assert bits(list(range(8)), max_live=5) == whole
    for alone in range(8):
        assert bits([alone], group_size=1) == {(alone, 0): whole[alone, 0]}

from dataclasses import replace

import numpy as np
import pytest
import torch

from gruppo.training.logprobs import token_logprobs
from gruppo.training.packing import Row, build_batch, micro_batches, minibatches
from models import FAMILIES, random_rows, scripted_group, tiny

CPU = torch.device("cpu")
LENGTHS = [(3, 4), (10, 2), (1, 9), (5, 5), (2, 1), (7, 7)]


def test_micro_batches_keep_to_the_token_budget_longest_first():
    rows = random_rows(LENGTHS, [1.0] * 6)  # 7, 12, 10, 10, 3, 14 tokens
    for budget, shapes in {
        1: [(1, 14), (1, 12), (1, 10), (1, 10), (1, 7), (1, 3)],
        20: [(1, 14), (1, 12), (2, 10), (2, 7)],
        28: [(2, 14), (2, 10), (2, 7)],
        30: [(2, 14), (3, 10), (1, 3)],
        84: [(6, 14)],
    }.items():
        assert [tuple(micro.input_ids.shape) for micro in micro_batches(rows, budget, CPU)] == shapes


def test_a_micro_batch_is_laid_out_as_documented():
    rows = [
        Row((1, 2, 3), np.array([4, 5]), np.array([True, False]), np.array([-0.5, -0.25], dtype=np.float32), 2.0),
        Row((6,), np.array([7, 8]), np.array([True, True]), np.array([-1.0, -2.0], dtype=np.float32), -1.0),
    ]
    (micro,) = micro_batches(rows, 100, CPU)
    assert micro.input_ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]]
    assert micro.columns == 5
    assert micro.targets.tolist() == [[2, 3, 4, 5], [7, 8, 0, 0]]
    assert micro.mask.tolist() == [[False, False, True, False], [True, True, False, False]]
    assert micro.sampler_logprobs.tolist() == [[0, 0, -0.5, -0.25], [-1, -2, 0, 0]]
    assert micro.advantages.tolist() == [[2.0] * 4, [-1.0] * 4]
    assert micro.completion.tolist() == [0, 1, 1]


def test_the_order_is_the_same_every_time_and_ties_stay_as_they_came():
    rows = random_rows([(4, 4)] * 5, [0.0, 1.0, 2.0, 3.0, 4.0])
    order = [micro.advantages[:, 0].tolist() for micro in micro_batches(rows, 16, CPU)]
    assert order == [[0.0, 1.0], [2.0, 3.0], [4.0]]


def test_a_batch_keeps_groups_in_order_and_knows_their_signal():
    groups = [scripted_group([0.0, 1.0, 1.0]), scripted_group([1.0, 1.0, 1.0])]
    batch = build_batch(groups, torch.tensor([[-1.4, 0.7, 0.7], [0.0, 0.0, 0.0]]))
    assert [round(row.advantage, 4) for row in batch.rows] == [-1.4, 0.7, 0.7, 0.0, 0.0, 0.0]
    assert [row.has_signal for row in batch.rows] == [True] * 3 + [False] * 3
    assert batch.rows[2].token_ids.tolist() == [2]


def test_truncated_completions_carry_no_loss_if_so_asked():
    (group,) = [scripted_group([0.0, 1.0])]
    cut, whole = group.rollouts
    group = replace(group, rollouts=(replace(cut, completion=replace(cut.completion, finish_reason="length")), whole))
    for asked, tokens in ((False, [1, 1]), (True, [0, 1])):
        rows = build_batch([group], torch.tensor([[-1.0, 1.0]]), mask_truncated=asked).rows
        assert [int(row.mask.sum()) for row in rows] == tokens


def test_minibatches_are_dealt_in_turn_and_weighed_each_by_itself():
    rows = random_rows([(2, n) for n in (1, 2, 3, 4, 5)], [1.0] * 5)
    dealt = minibatches(rows, 2, "tokens", 10)
    assert [[len(row.token_ids) for row in part] for part in dealt] == [[1, 3, 5], [2, 4]]
    assert [{row.weight for row in part} for part in dealt] == [{1 / 9}, {1 / 6}]
    (part,) = minibatches(rows[:2], 1, "sequences", 10)
    assert [row.weight for row in part] == [1 / 2, 1 / 4]
    assert [len(part) for part in minibatches(rows[:2], 5, "constant", 10)] == [1, 1]
    masked = random_rows([(2, 3)], [1.0])[0]
    without = Row(masked.prompt_ids, masked.token_ids, np.array([True, False, True]), masked.sampler_logprobs, 1.0)
    assert minibatches([masked, without], 1, "tokens", 10)[0][0].weight == 1 / 5


@pytest.mark.parametrize("family", FAMILIES)
def test_token_logprobs_and_entropy_are_those_of_each_row_alone(family: str):
    model, rows = tiny(family), random_rows(LENGTHS, [1.0] * 6, masked=True)
    ordered = sorted(rows, key=len, reverse=True)
    for budget in (1, 30, 84):
        found = [token_logprobs(model, micro, 0.8) for micro in micro_batches(rows, budget, CPU)]
        logprobs = torch.cat([result.logprobs.detach() for result in found])
        entropies = torch.cat([result.entropy for result in found])
        expected: list[float] = []
        spread: list[float] = []
        for row in ordered:
            ids = torch.tensor([[*row.prompt_ids, *row.token_ids]])
            with torch.no_grad():
                all_logprobs = torch.log_softmax(model(input_ids=ids).logits[0].double() / 0.8, dim=-1)
            for place in np.flatnonzero(row.mask):
                at = all_logprobs[len(row.prompt_ids) + place - 1]
                expected.append(float(at[row.token_ids[place]]))
                spread.append(float(-(at.exp() * at).sum()))
        torch.testing.assert_close(logprobs.double(), torch.tensor(expected).double(), atol=5e-6, rtol=0)
        torch.testing.assert_close(entropies.double(), torch.tensor(spread).double(), atol=2e-5, rtol=0)

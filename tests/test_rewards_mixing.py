"""Gates and normalisation on literal numbers, and the memory of a reward model from its folder alone."""

import json
import math
from pathlib import Path

import pytest

from gruppo.errors import RewardError
from gruppo.rewards.mixing import gated, normalize_group
from gruppo.rewards.reward_memory import reward_model_memory
from reward_models import save_reward_model


def test_the_score_counts_only_where_the_rule_says_correct() -> None:
    assert gated([0.7, 0.9, -2.0, 0.5], [1.0, 0.0, 1.0, 0.5]) == [0.7, 0.0, -2.0, 0.0]


@pytest.mark.parametrize(("gate", "open"), [(0.99, True), (0.98, False), (1.5, True), (-1.0, False)])
def test_a_gate_opens_where_a_completion_passes(gate: float, open: bool) -> None:
    assert gated([3.0], [gate]) == [3.0 if open else 0.0]


def test_a_gate_of_another_scale() -> None:
    assert gated([3.0, 3.0], [1.97, 1.98], gate_full_scale=2.0) == [0.0, 3.0]


def test_none_is_does_not_apply_on_both_sides() -> None:
    assert gated([None, 1.0, None], [1.0, None, 0.0]) == [None, None, None]


def test_a_gate_of_another_group_is_refused() -> None:
    with pytest.raises(RewardError, match="gate: 2 values, 1 of the gate; wanted one for each"):
        gated([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("values", "normal"),
    [
        ([1.0, 3.0], [-1.0, 1.0]),
        ([0.0, 0.0, 0.0, 4.0], [-0.5773502691896258] * 3 + [1.7320508075688774]),
        ([2.0, None, 4.0, None], [-1.0, None, 1.0, None]),
        ([5.0], [0.0]),
        ([5.0, None], [0.0, None]),
        ([None, None], [None, None]),
        ([], []),
        ([0.1, 0.1, 0.1], [0.0, 0.0, 0.0]),
        ([1e16 / 3] * 3, [0.0, 0.0, 0.0]),
        ([0.0, 1.9e-6], [0.0, 0.0]),
        ([0.0, 2.1e-6], [-1.0, 1.0]),
        ([-1e308, 1e308], [-1.0, 1.0]),
        ([1e200, 3e200], [-1.0, 1.0]),
    ],
)
def test_normalize(values: list[float | None], normal: list[float | None]) -> None:
    assert normalize_group(values) == pytest.approx(normal, abs=1e-12)


def test_gate_then_normalise_ranks_no_wrong_completion_above_a_right_one() -> None:
    """Rule: right, right, wrong, wrong. Model, squashed: it likes a wrong one best, which is worth nothing."""
    mixed = normalize_group(gated([0.9, 0.5, 0.99, 0.1], [1.0, 1.0, 0.0, 0.0]))
    assert mixed == pytest.approx([1.45698559, 0.39735971, -0.92717265, -0.92717265], abs=1e-6)


# ---- memory


def test_memory_is_parameters_times_bytes(tmp_path: Path) -> None:
    """456 x 32 of the embedding; 2 layers of 4 heads, 2 shared; norms; 32 of the head."""
    folder = save_reward_model(tmp_path / "model")
    layer = (32 * 32 + 32) + 2 * (16 * 32 + 16) + 32 * 32 + 3 * 32 * 48 + 2 * 32
    parameters = 456 * 32 + 2 * layer + 32 + 32
    assert parameters == 30_272
    assert reward_model_memory(folder) == 4 * parameters
    assert reward_model_memory(folder, "bfloat16") == 2 * parameters
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    assert reward_model_memory(folder) == 2 * parameters


def test_memory_from_the_config_where_there_are_no_weights(tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "model")
    exact = reward_model_memory(folder)
    (folder / "model.safetensors").unlink()
    estimate = reward_model_memory(folder)
    assert exact is not None
    assert estimate is not None
    assert estimate - exact == 4 * (456 * 32 - 32)  # an output layer of the vocabulary instead of one label


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 40, b"\x04\0\0\0\0\0\0\0[[]]", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_folder_that_does_not_say(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.safetensors").write_bytes(content)
    assert reward_model_memory(tmp_path) is None
    assert reward_model_memory("org/name") is None


def test_normal_values_have_mean_zero_and_std_one() -> None:
    found = [value for value in normalize_group([0.3, -1.7, 12.0, 4.4, None]) if value is not None]
    assert math.fsum(found) == pytest.approx(0.0, abs=1e-12)
    assert math.fsum(value**2 for value in found) / 4 == pytest.approx(1.0, abs=1e-12)

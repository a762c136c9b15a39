"""The numbers of each step: spans, ramps, promotion, and a state that goes on where it was."""

from typing import Any

import pytest

from gruppo.config.schedules import Curriculum, StepNumbers
from gruppo.config.schema import Config

SPANS: list[dict[str, Any]] = [
    {"steps": "1-10", "epsilon": 10, "beta": 0.001, "max_difficulty": 2},
    {"steps": "11-20", "epsilon": 8, "beta": 0.0015, "temperature": [1.2, 0.3], "promote_at": 0.6},
    {"steps": "26-", "epsilon": 6, "beta": 0.002, "learning_rate": [1e-3, 2e-4], "max_completion_length": [64, 128]},
]


def config(curriculum: list[dict[str, Any]] = SPANS, **changes: Any) -> Config:
    plain = {"model": "m", "data": "d", "steps": 30, "learning_rate": 2e-3, "lr_schedule": "constant"}
    return Config.model_validate({**plain, "warmup_steps": 0, "curriculum": curriculum, **changes})


def numbers(curriculum: Curriculum, *steps: int) -> list[StepNumbers]:
    """Of steps counted from 1, as people count them."""
    return [curriculum.at(step - 1) for step in steps]


def test_each_span_has_its_numbers_and_between_them_the_top_level_holds() -> None:
    found = numbers(Curriculum(config()), 1, 10, 11, 20, 21, 25, 26, 30)
    assert [each.span for each in found] == [1, 1, 2, 2, None, None, 3, 3]
    assert [each.epsilon for each in found] == [10, 10, 8, 8, 0.2, 0.2, 6, 6]
    assert [each.epsilon_high for each in found] == [10, 10, 8, 8, 0.2, 0.2, 6, 6]
    assert [each.beta for each in found] == [0.001, 0.001, 0.0015, 0.0015, 0.0, 0.0, 0.002, 0.002]
    assert [each.max_difficulty for each in found] == [2, 2, *[None] * 6]


def test_a_ramp_is_linear_from_the_first_step_of_its_span_to_the_last() -> None:
    curriculum = Curriculum(config())
    assert [each.temperature for each in numbers(curriculum, 10, 11, 14, 20, 21)] == pytest.approx(
        [1.0, 1.2, 0.9, 0.3, 1.0]
    )
    last = numbers(curriculum, 26, 28, 30)
    assert [each.learning_rate for each in last] == pytest.approx([1e-3, 6e-4, 2e-4])
    assert [each.lr_factor for each in last] == pytest.approx([0.5, 0.3, 0.1])
    assert [each.max_completion_length for each in last] == [64, 96, 128]


def test_an_epsilon_high_of_the_top_level_stays_unless_the_span_has_its_own() -> None:
    spans = [{"steps": "1-2", "epsilon": 0.1}, {"steps": "3-3", "epsilon_high": 0.5}]
    high = [each.epsilon_high for each in numbers(Curriculum(config(spans, epsilon_high=0.28)), 1, 3, 4)]
    assert high == [0.28, 0.5, 0.28]


def test_without_spans_every_step_has_the_numbers_of_the_top_level() -> None:
    (found,) = numbers(Curriculum(config([], warmup_steps=3, temperature=0.7, min_difficulty=1)), 2)
    assert (found.lr_factor, found.learning_rate) == (0.5, 1e-3)
    assert (found.temperature, found.min_difficulty, found.span) == (0.7, 1, None)
    assert (found.group_size, found.prompts_per_step, found.max_completion_length) == (8, 32, 256)


def test_a_span_is_left_early_once_its_last_ten_pass_rates_are_high_and_the_rest_moves_forward() -> None:
    spans = [{"steps": "1-50", "promote_at": 0.6, "epsilon": 1}, {"steps": "51-", "epsilon": 2}]
    curriculum = Curriculum(config(spans, steps=60))
    left = [curriculum.observe(step, 0.1 * step) for step in range(13)]
    # The mean of 0.1 x (step - 9 .. step) is 0.1 (step - 4.5): 0.55 at step 10 (counted from 0), 0.65 at 11.
    assert left == [None] * 11 + [1, None]
    assert [each.epsilon for each in numbers(curriculum, 13, 14, 60)] == [2, 2, 2]
    again = Curriculum(config(spans, steps=60))
    again.load_state_dict(curriculum.state_dict())
    assert numbers(again, 13) == numbers(curriculum, 13)


def test_pass_rates_of_an_earlier_span_do_not_promote_from_a_later_one() -> None:
    spans = [{"steps": "1-12"}, {"steps": "13-40", "promote_at": 0.5}]
    curriculum = Curriculum(config(spans, steps=60))
    left = [curriculum.observe(step, 1.0) for step in range(24)]
    assert [step for step, span in enumerate(left) if span is not None] == [21]
    assert numbers(curriculum, 23)[0].span is None


def test_a_span_in_numbers_and_in_words_that_are_none() -> None:
    assert config([{"steps": 7}]).curriculum[0].last == 7
    for wrong in ("0-5", "5-3", "one", "5", "1-2-3"):
        with pytest.raises(ValueError, match="wanted first and last step"):
            config([{"steps": wrong}])


def test_a_reference_is_wanted_where_any_span_has_a_beta() -> None:
    assert config().wants_reference
    assert not config([{"steps": "1-2", "beta": 0}]).wants_reference
    assert config([]).longest_completion == 256
    assert config(max_completion_length=32).longest_completion == 128

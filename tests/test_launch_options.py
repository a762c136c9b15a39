"""Every option of the algorithm reaches the run: the weights of a few steps are others with it than without."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from gruppo.config.schema import Config
from gruppo.launch.build import loss_settings
from models import distance
from test_launch_algorithm import config
from test_launch_pipeline import train

BASE: dict[str, Any] = {"steps": 3, "group_size": 4, "max_completion_length": 8, "learning_rate": 0.01}
SEVERAL = {"updates_per_batch": 4}
HELD = {"beta": 2.0}

CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"advantage_scale": "none"}),
    ({}, {"advantage_scale": "batch"}),
    ({"advantage_scale": "none"}, {"advantage_scale": "leave_one_out"}),
    ({}, {"advantage_clip": 0.5}),
    (HELD, {"no_signal_groups": "leave_out"}),
    ({}, {"truncated": "mask"}),
    ({}, {"loss_aggregation": "sequences"}),
    ({"max_grad_norm": 1e-3}, {"max_grad_norm": 1e-9}),
    ({}, SEVERAL),
    ({}, {"minibatches": 2}),
    (SEVERAL, {"loss": "gspo"}),
    (SEVERAL, {"loss": "cispo"}),
    (SEVERAL, {"epsilon": 0.01}),
    (SEVERAL, {"epsilon_high": 0.01}),
    ({**SEVERAL, "epsilon": 0.05}, {"dual_clip": 1.06}),
    ({}, HELD),
    (HELD, {"kl_estimator": "k2"}),
    (HELD, {"kl_estimator": "exact"}),
    (HELD, {"kl_in": "reward"}),
    (HELD, {"target_kl": 1e-9}),
    (HELD, {"reference_refresh_every": 1}),
    ({**HELD, "reference_refresh_every": 1}, {"reference_decay": 0.9}),
    ({}, {"temperature": 0.7}),
    ({}, {"top_k": 5}),
    ({}, {"top_p": 0.5}),
    ({}, {"warmup_steps": 2}),
    ({}, {"warmup_ratio": 1.0}),
    ({}, {"lr_schedule": "constant"}),
    ({"lr_schedule": "linear"}, {"min_lr_ratio": 0.5}),
    ({}, {"weight_decay": 0.5}),
    ({}, {"adam_beta1": 0.1}),
    ({}, {"adam_beta2": 0.5}),
    ({}, {"optimizer": "muon"}),
    ({"optimizer": "muon"}, {"muon_learning_rate": 0.001}),
    ({}, {"max_difficulty": 2}),
    ({}, {"min_difficulty": 2}),
    ({}, {"max_sampling_factor": 3.0}),
    ({}, {"pool_weights": [1, 1, 5]}),
    ({"steps": 8, "rewards": [{"name": "digits", "full_scale": 0.05}]}, {"drop_after": 2}),
    ({}, {"curriculum": [{"steps": "2-", "temperature": 0.5}]}),
    ({}, {"prompt_template": "Q {prompt} A"}),
]


def name_of(change: tuple[dict[str, Any], dict[str, Any]]) -> str:
    return " ".join(f"{name}={value}" for name, value in change[1].items())


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve problems of three difficulties."""
    rows = [{"question": f"What is {n} + {n % 7}?", "answer": str(n + n % 7), "level": 1 + n % 3} for n in range(12)]
    path = tmp_path_factory.mktemp("many") / "many.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def weights(tiny_model: Path, many: Path, tmp_path_factory: pytest.TempPathFactory):
    """The final weights under some options; each run is made once."""
    made: dict[str, Any] = {}

    def run(values: dict[str, Any]) -> Any:
        key = json.dumps(values, sort_keys=True)
        if key not in made:
            out = tmp_path_factory.mktemp("option") / "run"
            result = train(config(tiny_model, many, out, **{**BASE, "steps": 4 if "pool" in key else 3, **values}))
            made[key] = load_file(result.model / "model.safetensors")
        return made[key]

    return run


@pytest.mark.parametrize("change", CHANGES, ids=name_of)
def test_an_option_moves_the_weights_elsewhere(change: tuple[dict[str, Any], dict[str, Any]], weights: Any):
    base, more = change
    assert distance(weights({**base, **more}), weights(base)) > 1e-5


def test_every_number_of_the_loss_is_the_configs() -> None:
    values = {
        "temperature": 0.7,
        "loss": "gspo",
        "loss_aggregation": "constant",
        "max_completion_length": 99,
        "epsilon": 0.1,
        "epsilon_high": 0.3,
        "updates_per_batch": 2,
        "minibatches": 3,
        "no_signal_groups": "leave_out",
        "sampler_correction": "token_mask",
        "sampler_correction_max": 3.0,
        "beta": 0.01,
        "kl_estimator": "k2",
        "kl_in": "reward",
        "demonstrations": ["d"],
        "demonstrations_weight": 0.7,
    }
    assert asdict(loss_settings(Config.model_validate({"model": "m", "data": "d", **values}))) == {
        "temperature": 0.7,
        "loss": "gspo",
        "aggregation": "constant",
        "max_length": 99,
        "clip": {"low": 0.1, "high": 0.3, "dual": None},
        "updates_per_batch": 2,
        "minibatches": 3,
        "no_signal_groups": "leave_out",
        "sampler_correction": "token_mask",
        "sampler_correction_max": 3.0,
        "beta": 0.01,
        "kl_estimator": "k2",
        "kl_in": "reward",
        "demonstrations_weight": 0.7,
    }


def test_what_is_kept_on_disk(tiny_model: Path, many: Path, tmp_path: Path):
    for changes, checkpoints, rollouts in (
        ({"checkpoint_every": 1, "keep_checkpoints": 3, "save_rollouts_every": 2}, 3, ["step-000002.parquet"]),
        ({"checkpoint_every": 50, "keep_checkpoints": 1, "save_rollouts_every": 0}, 1, []),
    ):
        run = train(config(tiny_model, many, tmp_path / str(checkpoints), **BASE, **changes)).folder
        assert len(list((run / "checkpoints").glob("step-*"))) == checkpoints
        assert [path.name for path in (run / "rollouts").glob("*")] == rollouts

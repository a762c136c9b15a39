"""Parameters counted from a config.json, against models that are really made."""

import json
from pathlib import Path

import pytest

from gruppo.config.model_shape import ModelShape, read_shape, shape_of
from gruppo.config.ranges import parameters_of
from gruppo.errors import ConfigError
from models import tiny


def saved(folder: Path, family: str, **settings: object) -> int:
    """Save a model's config.json as transformers does; returns the parameters that the model has."""
    model = tiny(family, **settings)
    model.config.save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(
    ("family", "settings", "parameters"),
    [
        ("qwen2", {}, 17600),
        ("qwen2", {"tie_word_embeddings": False}, 19552),
        ("llama", {}, 19424),
        ("llama", {"tie_word_embeddings": True}, 17472),
        ("llama", {"attention_bias": True, "mlp_bias": True}, 19872),
        ("llama", {"head_dim": 16}, 25568),
        ("gpt2", {}, 31520),
    ],
)
def test_the_count_is_that_of_the_real_model(
    tmp_path: Path, family: str, settings: dict[str, object], parameters: int
) -> None:
    real = saved(tmp_path, family, **settings)
    shape = read_shape(tmp_path)
    assert shape is not None
    assert (shape.parameters, real) == (parameters, parameters)
    assert (shape.family, shape.layers, shape.hidden, shape.vocabulary) == (family, 2, 32, 61)


def test_known_models_by_the_figures_of_their_cards() -> None:
    """Qwen2.5-0.5B has 494,032,768 parameters, Llama-3.1-8B 8,030,261,248, GPT-2 124,439,808."""
    qwen = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    qwen |= {"num_key_value_heads": 2, "vocab_size": 151936}
    assert shape_of({"model_type": "qwen2", "tie_word_embeddings": True, **qwen}).parameters == 494_032_768
    llama = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    llama |= {"num_key_value_heads": 8, "vocab_size": 128256}
    assert shape_of({"model_type": "llama", "tie_word_embeddings": False, **llama}).parameters == 8_030_261_248
    gpt2 = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
    assert shape_of({"model_type": "gpt2", **gpt2}) == ModelShape(
        "gpt2", 124_439_808, 12, 768, 50257, 12, 12, 64, inner=3072, tied=True, context=1024
    )


def test_experts_are_all_counted() -> None:
    """Mixtral-8x7B has 46.7 billion parameters."""
    values = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    values |= {"num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8}
    assert shape_of({"model_type": "mixtral", "tie_word_embeddings": False, **values}).parameters == 46_702_792_704


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"model_type": "llama", "hidden_size": "x"}', "\ufeff{"])
def test_what_is_no_model_has_no_shape(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    assert read_shape(tmp_path) is None
    assert read_shape("org/name") is None


def test_a_model_inside_another_is_looked_for(tmp_path: Path) -> None:
    parameters = saved(tmp_path, "llama")
    inner = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "some_vision", "text_config": inner}))
    shape = read_shape(tmp_path)
    assert shape is not None
    assert shape.parameters == parameters


@pytest.mark.parametrize(
    ("given", "parameters"), [("7B", 7e9), ("0.5b", 5e8), (" 494M ", 494e6), (3_000_000_000, 3e9), ("1.5e9", 1.5e9)]
)
def test_sizes_in_words(given: str | float, parameters: float) -> None:
    assert parameters_of(given) == parameters


@pytest.mark.parametrize("given", ["large", "", "B", 0, -7, "nan", "7BB"])
def test_what_is_no_size_is_refused(given: str | float) -> None:
    with pytest.raises(ConfigError, match=r"^model_size: got .*, wanted a number of parameters such as 7B, 0.5b or"):
        parameters_of(given)

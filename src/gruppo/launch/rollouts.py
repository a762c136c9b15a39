"""The local engines that a config asks for."""

from collections.abc import Callable
from dataclasses import replace

from gruppo.config.schema import Config
from gruppo.rollout.local import LocalEngine
from gruppo.training.models import DTYPES, LoadedModel
from gruppo.training.rollout_copy import rollout_copy
from gruppo.types import TextDecoder


def local_engine(
    config: Config,
    loaded: LoadedModel,
    decoder: TextDecoder,
    max_live: int,
    note: Callable[[str], None],
    *,
    separate: bool = False,
) -> LocalEngine:
    """An engine on the model that was loaded.

    Args:
        config: how it decodes.
        loaded: the trainer's model, or a copy for rollouts.
        decoder: turns tokens into text, for stop strings.
        max_live: completions decoded at a time.
        note: is told why it does not decode as it was asked to.
        separate: the model is a copy.
    """
    return LocalEngine(
        loaded.model,
        decoder,
        max_live,
        loaded.context_length,
        note=note,
        plain=config.plain,
        batch_invariant=config.batch_invariant,
        separate=separate,
    )


def separate_engine(
    config: Config, loaded: LoadedModel, decoder: TextDecoder, max_live: int, note: Callable[[str], None]
) -> LocalEngine:
    """An engine on a copy of the model in `rollout_precision`; says what corrects the difference."""
    assert config.rollout_precision is not None
    correction = config.sampler_correction
    corrected = "not corrected" if correction == "none" else f"corrected by sampler_correction {correction}"
    rollouts = f"rollouts in {config.rollout_precision} on a copy of the weights"
    note(f"{rollouts}, the update in {config.precision}; {corrected}")
    copied = replace(loaded, model=rollout_copy(loaded.model, DTYPES[config.rollout_precision]))
    return local_engine(config, copied, decoder, max_live, note, separate=True)

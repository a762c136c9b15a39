"""Plain English to a plan: `Train a math model using GRPO on openai/gsm8k based on Qwen/Qwen2.5-0.5B.`

1. The sentence is cut into words, names and numbers (sentences/words.py, names.py).
2. Rules read it (cues.py, tasks.py, rewards.py, values.py, in the notation of pattern.py). Each takes the words that it
   understands, and no word is taken twice.
3. Which name is what is decided (roles.py), and the rest is put together (draft.py): defaults that the words ask for,
   and what must be asked.

Nothing is guessed. Words that are left over, a negation, two values for one option, or a name that could be two things
are questions. The same sentence gives the same plan; of the machine, nothing is looked at but whether there are files
by the names in it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gruppo.config.plan import Plan
from gruppo.config.sentences.cues import read_names
from gruppo.config.sentences.draft import Draft, left_over
from gruppo.config.sentences.names import Exists
from gruppo.config.sentences.reading import Reading
from gruppo.config.sentences.rewards import read_reward_models, read_rewards
from gruppo.config.sentences.roles import assign
from gruppo.config.sentences.tasks import read_hardware, read_mentions, read_task_phrases, read_tasks
from gruppo.config.sentences.values import read_amounts, read_values
from gruppo.config.sentences.words import VERBS, Words
from gruppo.errors import ConfigError

EXAMPLE = "Train a math model using GRPO on openai/gsm8k based on Qwen/Qwen2.5-0.5B."
LONGEST = 1000
"""Characters of a sentence: rules take time that grows faster than its length."""


def here(name: str) -> bool:
    """Whether a file or folder of this name is at hand."""
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def is_sentence(argument: str) -> bool:
    """Whether an argument is a sentence rather than the path of a config: it has white space, and is no file."""
    return len(argument.split()) > 1 and not here(argument)


def read_sentence(sentence: str, given: Mapping[str, Any] | None = None, exists: Exists = here) -> Plan:
    """The plan that a sentence describes.

    Args:
        sentence: plain English, at most `LONGEST` characters.
        given: values beside it, by dotted name, which stand over the sentence and answer its questions; also answers
            to `partial_at` (a number) and `scale` (true).
        exists: whether there is a file or folder of a name.

    Raises:
        ConfigError: it is no English sentence about a run, or a value in it is out of range.
    """
    if len(sentence) > LONGEST:
        raise ConfigError(
            f"the sentence has {len(sentence):,} characters, wanted at most {LONGEST:,}: write a YAML file"
        )
    reading = Reading(Words(sentence, exists))
    read_amounts(reading)
    read_task_phrases(reading)
    read_reward_models(reading)
    read_hardware(reading)
    read_names(reading)
    read_rewards(reading)
    read_values(reading)
    read_tasks(reading)
    roles = assign(reading)
    read_mentions(reading)
    _refuse_foreign(reading)
    return Draft(reading, roles, dict(given or {}), exists).plan()


def _refuse_foreign(reading: Reading) -> None:
    """Refuse what is no English, or not about a run."""
    words = reading.words
    plain = [index for index, token in enumerate(words.tokens) if token.kind == "word"]
    left = [index for index in left_over(reading) if words.tokens[index].kind == "word"]
    verb = any(token.text in VERBS for token in words.tokens)
    about_a_run = reading.claims or words.names() or reading.facts
    if about_a_run and (verb or len(left) * 2 <= len(plain)):
        return
    path = " There is no file of this name either." if words.sentence.endswith((".yaml", ".yml")) else ""
    what = ", ".join(f"'{words.text([index])}'" for index in left[:6])
    raise ConfigError(
        f"this is not understood{f' ({what})' if what else ''}: gruppo reads plain English about a run, such as "
        f'"{EXAMPLE}", or the path of a YAML config.{path}'
    )

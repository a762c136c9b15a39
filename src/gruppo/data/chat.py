"""Text to tokens and back: the only place that renders prompts and decodes completions.

1. A prompt goes through the model's chat template with the generation prompt at its end, or through a plain
   `prompt_template`. The chat template writes its own special tokens, so none are added to it; a plain prompt
   gets those that the tokenizer puts in front of text, and never one that ends it.
2. A row whose prompt is a list of chat messages is rendered whole; `system_prompt` stands before it unless
   the row has a system message of its own. A plain template sees only its last question.
3. A demonstration's prompt has the tokens that `render` gives and its completion is tokenised by itself, so
   that SFT teaches to go on from exactly what rollouts start from. It ends with the token that ends a turn.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from gruppo.data.problems import PROMPT_MESSAGES
from gruppo.errors import ConfigError, DataError, ModelError
from gruppo.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTINEL = "gruppo-turn"


@dataclass(frozen=True)
class ChatRenderer:
    """Renders problems and decodes completions for one tokenizer.

    Raises ModelError where the tokenizer has no chat template and no `prompt_template` is given, and
    ConfigError where a system prompt is given for a plain template.
    """

    tokenizer: "PreTrainedTokenizerBase"
    prompt_template: str | None = None
    """Plain text around the prompt, with {prompt} in it. None: the chat template."""
    system_prompt: str | None = None

    def __post_init__(self) -> None:
        if self.prompt_template is None and not self.tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of '{self.tokenizer.name_or_path}' has no chat template; give a plain one with "
                "--prompt-template '{prompt}', or take a model that has a chat template."
            )
        if self.prompt_template is not None and "{prompt}" not in self.prompt_template:
            raise ConfigError(f"prompt_template: must contain {{prompt}}, got {self.prompt_template!r}")
        if self.prompt_template is not None and self.system_prompt is not None:
            raise ConfigError("system_prompt: is for the chat template; write it into prompt_template instead.")

    def render(self, problem: Problem) -> tuple[str, tuple[int, ...]]:
        """The text that the model sees for a problem, and its token ids."""
        text = self._prompt_text(problem)
        return text, self._prompt_ids([text])[0]

    def encode_problems(
        self,
        problems: Sequence[Problem],
        max_prompt_length: int | None = None,
        policy: Literal["skip", "refuse"] = "skip",
    ) -> tuple[list[Problem], int]:
        """The problems with `prompt_text` and `prompt_ids`, and how many were left out for their length.

        `max_prompt_length` is in tokens. Raises DataError for a prompt that is longer where the policy is to
        refuse, and where no problem is left.
        """
        if not problems:
            return [], 0
        texts = [self._prompt_text(problem) for problem in problems]
        kept: list[Problem] = []
        lengths: list[int] = []
        for problem, text, ids in zip(problems, texts, self._prompt_ids(texts)):
            lengths.append(len(ids))
            if max_prompt_length is None or len(ids) <= max_prompt_length:
                kept.append(replace(problem, prompt_text=text, prompt_ids=ids))
            elif policy == "refuse":
                raise DataError(
                    f"{problem.id}: the prompt has {len(ids)} tokens, max_prompt_length is {max_prompt_length}; "
                    "raise max_prompt_length, remove the row, or leave such rows out with long_prompts: skip."
                )
        if not kept:
            raise DataError(
                f"all {len(problems)} prompts are longer than max_prompt_length {max_prompt_length} (the shortest "
                f"has {min(lengths)} tokens); raise max_prompt_length."
            )
        return kept, len(problems) - len(kept)

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of a completion, special tokens left out."""
        text = self.tokenizer.decode(
            [int(token) for token in token_ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text if isinstance(text, str) else "".join(text)

    def stop_token_ids(self, model_eos: int | Sequence[int] | None = None) -> tuple[int, ...]:
        """Every token that ends a completion, ascending.

        The tokenizer's end of text, those of the model's generation config, and the end of a turn in the chat
        template. Raises ModelError where there is none at all.
        """
        given = [model_eos] if isinstance(model_eos, int) else list(model_eos or ())
        found = {*given, self._eos_id, self.end_of_turn_id} - {None}
        if not found:
            raise ModelError(
                f"the tokenizer of '{self.tokenizer.name_or_path}' has no token that ends a completion; "
                "set eos_token in its tokenizer_config.json."
            )
        return tuple(sorted(token for token in found if token is not None))

    def encode_demonstration(self, prompt: Problem | str, completion: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids of a prompt, as `render` gives them, and of its completion, which ends with the stop token.

        The two are tokenised apart: merges across their border are not made, since rollouts can't make them
        either.
        """
        problem = Problem(id="demonstration", prompt=prompt, answer=None) if isinstance(prompt, str) else prompt
        _, prompt_ids = self.render(problem)
        end = next(token for token in (self.end_of_turn_id, self._eos_id, *self.stop_token_ids()) if token is not None)
        completion_ids = self._ids([completion], special=False)[0]
        return prompt_ids, (*completion_ids, end)

    @cached_property
    def end_of_turn_id(self) -> int | None:
        """The special token that follows an assistant's message in the chat template, or None."""
        if self.prompt_template is not None:
            return None
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}]
        _, found, rest = self._apply_template(messages, whole=True).rpartition(_SENTINEL)
        if not found or not rest.strip():
            return None
        first = self._ids([rest.lstrip()], special=False)[0][0]
        added = self.tokenizer.added_tokens_decoder.get(first)
        special = first in self.tokenizer.all_special_ids or (added is not None and added.special)
        return int(first) if special else None

    @property
    def _eos_id(self) -> int | None:
        token = self.tokenizer.eos_token_id
        return token if isinstance(token, int) else None

    def _prompt_text(self, problem: Problem) -> str:
        if self.prompt_template is not None:
            # Not str.format: a question may hold braces, and so may the template.
            return self.prompt_template.replace("{prompt}", problem.prompt)
        messages = problem.columns.get(PROMPT_MESSAGES) or [{"role": "user", "content": problem.prompt}]
        if self.system_prompt is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        return self._apply_template(messages, unfinished=messages[-1]["role"] == "assistant")

    def _apply_template(
        self, messages: Sequence[Mapping[str, Any]], *, unfinished: bool = False, whole: bool = False
    ) -> str:
        """Messages as text: to be answered, or their last to be gone on with (unfinished), or as they are (whole)."""
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=not (unfinished or whole),
                continue_final_message=unfinished,
            )
        except Exception as error:  # a template is a program, which raises what it likes
            roles = [message["role"] for message in messages]
            raise ModelError(
                f"the chat template of '{self.tokenizer.name_or_path}' can't render messages of the roles "
                f"{roles}: {error}. Leave out system_prompt, or give a plain prompt_template."
            ) from error
        return str(text)

    def _prompt_ids(self, texts: list[str]) -> list[tuple[int, ...]]:
        if self.prompt_template is None:
            return self._ids(texts, special=False)
        return [self._plain(ids) for ids in self._ids(texts, special=True)]

    def _plain(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Without a second start of text, where the template has one of its own, and without an end."""
        bos, eos = self.tokenizer.bos_token_id, self._eos_id
        if len(ids) > 1 and bos is not None and ids[0] == ids[1] == bos:
            ids = ids[1:]
        return ids[:-1] if len(ids) > 1 and eos is not None and ids[-1] == eos else ids

    def _ids(self, texts: list[str], *, special: bool) -> list[tuple[int, ...]]:
        encoded = self.tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
        return [tuple(ids) for ids in encoded["input_ids"]]

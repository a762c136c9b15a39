"""What a reward model reads: a prompt and a completion as token ids.

1. Where the tokenizer has a chat template: the prompt as the user's turn, or a row's own messages, and the completion
   as the assistant's. Where the row's last message is the assistant's, the completion goes on with it.
2. Else, where the tokenizer marks pairs ([CLS] and [SEP], as encoders have them), the two are its pair; else the
   completion follows the prompt as it stands.
3. Too many tokens: the special tokens at the very start are kept, then the left end goes, the prompt's beginning first.
   The completion's end is never cut.
4. A completion is hostile text. One that spells a special token (an end of turn, a forged turn of the user, padding,
   which models skip) is read as those letters: a space parts them. The prompt is the data's, and is taken as it stands.
5. A template may leave out parts of an assistant's turn (some drop the reasoning); the model then does not see them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gruppo.errors import RewardError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]
"""A text, or chat messages with `role` and `content`."""

_LONGEST_TOKEN = 16
"""Characters per token of the window in front of the tokenizer, which bounds its time; text averages about four."""
_MOST_START_TOKENS = 4
_PASSES = 3
"""Overlapping ones take a second pass; a token that begins with spaces would take them for ever."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One prompt and completion as a model takes them, not padded."""

    ids: tuple[int, ...]
    types: tuple[int, ...] | None
    """Which of a pair each token belongs to, for models that are told."""


class RewardText:
    """Turns prompts and completions into token ids of at most `max_length`."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", max_length: int, nothing: int) -> None:
        """`nothing` is the token that stands for a text without any, which a model could not take."""
        self._nothing = nothing
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._window = _LONGEST_TOKEN * max_length
        self._special_ids = frozenset(tokenizer.all_special_ids)
        self._special = _pattern(tokenizer)
        self._pairs = tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None

    def encode(self, prompt: Prompt, completion: str) -> Encoded:
        """The token ids. Raises RewardError where the chat template can't render the row's messages."""
        completion = self.harmless(_readable(completion)[-self._window :])
        if self.tokenizer.chat_template:
            text = self._rendered(prompt, completion)
            return self._cut(self.tokenizer(text, add_special_tokens=False, verbose=False))
        before = _readable(plain(prompt))[-self._window :]
        if self._pairs:
            return self._cut(self.tokenizer(before, completion, verbose=False))
        return self._cut(self.tokenizer(before + completion, verbose=False))

    def harmless(self, text: str) -> str:
        """The text with a space inside everything that the tokenizer would take for a special token."""
        for _ in range(_PASSES):
            if self._special is None or not self._special.search(text):
                break
            text = self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        return text

    def _rendered(self, prompt: Prompt, completion: str) -> str:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
        for message in messages:
            if isinstance(message.get("content"), str):
                message["content"] = _readable(message["content"])[-self._window :]
        if messages and messages[-1].get("role") == "assistant":
            last = messages.pop()
            completion = str(last.get("content") or "") + completion
        messages.append({"role": "assistant", "content": completion})
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False))
        except Exception as error:  # a template is a program, which raises what it likes
            roles = [message.get("role") for message in messages]
            raise RewardError(
                f"the chat template of the reward model '{self.tokenizer.name_or_path}' can't render messages of the "
                f"roles {roles}: {error}. Give prompts as plain text, or take a reward model whose template can."
            ) from error

    def _cut(self, encoded: Any) -> Encoded:
        ids: list[int] = encoded["input_ids"]
        if not ids:
            return Encoded((self._nothing,), None)
        types: list[int] | None = encoded.get("token_type_ids")
        over = len(ids) - self.max_length
        if over > 0:
            start = self._start(ids)
            ids = ids[:start] + ids[start + over :]
            types = None if types is None else types[:start] + types[start + over :]
        return Encoded(tuple(ids), None if types is None else tuple(types))

    def _start(self, ids: Sequence[int]) -> int:
        """How many special tokens begin the text: those that models expect there, whatever is cut behind them."""
        most = min(_MOST_START_TOKENS, self.max_length // 4)
        return next((place for place in range(most) if ids[place] not in self._special_ids), most)


def plain(prompt: Prompt) -> str:
    """A prompt as one text: itself, or its messages' contents under one another."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message.get("content") or "") for message in prompt)


def _readable(text: str) -> str:
    """Without halves of surrogate pairs, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _pattern(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str] | None:
    """Whatever the tokenizer reads as one special token, whatever its case; one-letter ones can't be parted."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    known = {text for text in (*added, *tokenizer.all_special_tokens) if len(text) > 1 and not text[1:].isspace()}
    longest_first = sorted(known, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if known else None

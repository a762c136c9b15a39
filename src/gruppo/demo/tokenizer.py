"""The demo's tokenizer: byte-level BPE trained on the demo's own text, each digit a token of its own.

The training text comes from a fixed seed and the trainer breaks ties by token ids, so every process builds
the same file. Runs with different seeds thus differ in model and data, never in tokens.
"""

from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gruppo.demo.task import sft_examples

VOCABULARY_SIZE = 456
CONTEXT_LENGTH = 256
"""Tokens that the demo's model has positions for."""

# Qwen2's tokenizer class adds an <|endoftext|> of its own, past the model's vocabulary, where there is none.
PAD = "<|endoftext|>"
END, SYSTEM, USER, ASSISTANT = "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"

_TEXT_SEED = 0
_TEXT_STEPS = 125
# Qwen2's own rule: AutoTokenizer puts it in place of any other when it loads a folder of this architecture.
_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the demo's tokenizer (below a second)."""
    return train_tokenizer(_texts(), VOCABULARY_SIZE, CONTEXT_LENGTH)


def train_tokenizer(
    texts: Iterable[str], vocabulary_size: int, context_length: int, chat_template: str = CHAT_TEMPLATE
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, each digit a token; the same texts give the same tokens in every process.

    Args:
        texts: what to learn the merges from.
        vocabulary_size: tokens in all, the special ones among them.
        context_length: tokens that the model has positions for.
        chat_template: over the special tokens of this module; `<|end|>` is the end-of-sequence token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=PAD,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=chat_template,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )


def _texts() -> Iterator[str]:
    for example in sft_examples(_TEXT_SEED, steps=_TEXT_STEPS):
        yield example.question
        yield example.completion

"""Prompts to tokens and back, with a tokenizer of one token per byte and four special ones."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from gruppo.data.chat import ChatRenderer
from gruppo.errors import ConfigError, DataError, ModelError
from gruppo.types import Problem

BOS, EOS, START, END = 0, 1, 2, 3
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def tokenizer(template: str | None = TEMPLATE, *, adds_eos: bool = False) -> PreTrainedTokenizerFast:
    special = ["<s>", "</s>", "<|start|>", "<|end|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    single = "<s> $A </s>" if adds_eos else "<s> $A"
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", BOS), ("</s>", EOS)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", additional_special_tokens=special[2:]
    )
    wrapped.chat_template = template
    return wrapped


def problem(prompt: str = "hi", **columns: object) -> Problem:
    return Problem(id="f.jsonl:1", prompt=prompt, answer=None, columns=columns)


def test_the_chat_template_is_rendered_with_one_start_and_a_generation_prompt() -> None:
    text, ids = ChatRenderer(tokenizer(), system_prompt="S").render(problem())
    assert text == "<s><|start|>system\nS<|end|>\n<|start|>user\nhi<|end|>\n<|start|>assistant\n"
    assert ids.count(BOS) == 1
    assert ids[:2] == (BOS, START)
    assert len(ids) == 1 + (1 + 7 + 1 + 1 + 1) + (1 + 5 + 2 + 1 + 1) + (1 + 10)


def test_messages_are_rendered_whole_and_keep_their_system_message() -> None:
    messages = [{"role": "system", "content": "own"}, {"role": "user", "content": "hi"}]
    row = problem(prompt_messages=messages)
    text, _ = ChatRenderer(tokenizer(), system_prompt="S").render(row)
    assert text == "<s><|start|>system\nown<|end|>\n<|start|>user\nhi<|end|>\n<|start|>assistant\n"
    begun = problem(prompt_messages=[*messages[1:], {"role": "assistant", "content": "Well,"}])
    assert ChatRenderer(tokenizer()).render(begun)[0] == "<s><|start|>user\nhi<|end|>\n<|start|>assistant\nWell,"


@pytest.mark.parametrize("template", ["Q: {prompt}\nA:", "<s>Q: {prompt}\nA:"])
def test_a_plain_template_has_one_start_and_no_end(template: str) -> None:
    text, ids = ChatRenderer(tokenizer(None, adds_eos=True), template).render(problem("{x}"))
    assert text == template.replace("{prompt}", "{x}")
    assert ids[0] == BOS
    assert len(ids) == 1 + len("Q: {x}\nA:")
    assert EOS not in ids


def test_no_template_at_all_names_the_cure() -> None:
    with pytest.raises(ModelError, match=r"has no chat template; give a plain one with --prompt-template '\{prompt\}'"):
        ChatRenderer(tokenizer(None))
    with pytest.raises(ConfigError, match="system_prompt"):
        ChatRenderer(tokenizer(None), "{prompt}", "S")


def test_a_template_that_refuses_a_role_is_a_model_error() -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}x"
    with pytest.raises(ModelError, match=r"roles \['system', 'user'\]: no system role. Leave out system_prompt"):
        ChatRenderer(tokenizer(strict), system_prompt="S").render(problem())


def test_long_prompts_are_left_out_and_counted_or_refused() -> None:
    renderer = ChatRenderer(tokenizer(None), "{prompt}")
    problems = [problem("abc"), problem("abcdef"), problem("abcd")]
    kept, dropped = renderer.encode_problems(problems, 5)
    assert [item.prompt for item in kept] == ["abc", "abcd"]
    assert dropped == 1
    assert (kept[0].prompt_text, len(kept[0].prompt_ids)) == ("abc", 4)
    with pytest.raises(DataError, match=r"f.jsonl:1: the prompt has 7 tokens, max_prompt_length is 5; raise"):
        renderer.encode_problems(problems, 5, "refuse")
    with pytest.raises(DataError, match=r"all 3 prompts are longer than max_prompt_length 3 \(the shortest has 4"):
        renderer.encode_problems(problems, 3)
    assert renderer.encode_problems(problems)[1] == 0


def test_stop_tokens_are_those_of_tokenizer_model_and_template() -> None:
    assert ChatRenderer(tokenizer()).stop_token_ids() == (EOS, END)
    assert ChatRenderer(tokenizer()).stop_token_ids([9, 1]) == (EOS, END, 9)
    assert ChatRenderer(tokenizer(), "{prompt}").stop_token_ids(7) == (EOS, 7)
    assert ChatRenderer(tokenizer("{{ messages[-1]['content'] }} </s>")).end_of_turn_id == EOS
    assert ChatRenderer(tokenizer("A: {{ messages[-1]['content'] }}\n\nB:")).end_of_turn_id is None


def test_a_demonstration_has_the_prompt_of_rollouts_and_teaches_to_stop() -> None:
    renderer = ChatRenderer(tokenizer())
    prompt_ids, completion_ids = renderer.encode_demonstration("hi", "7 é")
    assert prompt_ids == renderer.render(problem("hi"))[1]
    assert completion_ids[-1] == END
    assert len(completion_ids) == len("7 é".encode()) + 1
    assert renderer.decode(completion_ids) == "7 é"
    plain = ChatRenderer(tokenizer(None), "{prompt} ")
    assert plain.encode_demonstration(problem("hi"), "x")[1][-1] == EOS


def test_decoding_leaves_special_tokens_out_and_spaces_alone() -> None:
    renderer = ChatRenderer(tokenizer())
    ids = renderer.encode_demonstration("q", "it 's , so")[1]
    assert renderer.decode(ids) == "it 's , so"

"""Keys and values in slots: a cache of transformers whose rows come and go while the others decode on.

Legend: R slots, n of them live (always the first n), H query heads, K key heads, T positions, D head size, N tokens
of a prefill.

Each layer has one static buffer [R, K, T, D] for keys and one for values, which grow in steps. Row i has its tokens
at positions 0 to length - 1, so rows of any length decode together, and each masks what lies behind it. The model is
called through transformers' own interfaces: this cache as `past_key_values`, and the attention function below, which
finds the cache by the keyword `slots`. Two ways to call:

1. Prefill: prompts side by side in one row [1, N]; each token attends within its own prompt.
2. Decode: one token of each of the first n rows, [n, 1].

With grouped heads, the H / K queries of a key head stand side by side as the query positions of one product. The
usual way copies keys and values for every query head and step, which costs several times the attention itself.

A long prompt's keys and values are kept once for all rows of its group (`rollout.shared_prompts`), and the rows'
slots hold what comes after it.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Cache, PreTrainedConfig

from gruppo.rollout.decode_attention import decode_attention, takes
from gruppo.rollout.pages import zeros
from gruppo.rollout.shared_prompts import BLOCK, PromptKey, SharedPrompts, attention_and_sums

NAME = "gruppo_slots"
STEP = 64
"""Positions are rounded up to a multiple of it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A prompt in a packed prefill."""

    start: int
    end: int
    slots: tuple[int, ...] = ()
    """The slots that get its keys and values."""
    shared: PromptKey | None = None
    """Or the name under which they are kept once."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a layer scores: queries times keys times scaling, then as these say."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def linear(self) -> bool:
        """Whether scores are scaled products and nothing else."""
        return self.softcap is None and self.sinks is None

    @property
    def plain(self) -> bool:
        """Whether, besides, a row may look at all its tokens."""
        return self.linear and self.window is None


def round_up(positions: int) -> int:
    """The width at which so many positions are computed.

    torch's attention on the CPU sums keys in blocks whose size it takes from the width. Between these two widths a
    row's sum would depend on how long the others are.
    """
    width = -(-positions // STEP) * STEP
    return 384 if 192 < width < 384 else width


class SlotCache(Cache):
    """Static buffers by layer, and the call that is under way.

    Args:
        block: as in `SharedPrompts`.
    """

    def __init__(self, block: int = BLOCK) -> None:
        super().__init__(layers=[])
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self.rows = 0
        self.positions = 0
        self._position_bytes = 0
        """Bytes of a position of a slot, in all buffers: they have the same rows and positions."""
        self._segments: Sequence[Segment] | None = None
        self._lengths = torch.empty(0)
        self._width = 0
        self._biases: dict[int | None, Tensor] = {}
        self._places: dict[int, Tensor] = {}
        self._layer = 0
        self.prompts = SharedPrompts(block)
        self.forms_seen: list[Form] = []
        """That of each attention call since the last `begin_`."""
        self.looks_at_width = False
        """Whether a decode step so far depended on how many positions it was to look at: torch's attention does."""

    @property
    def bytes(self) -> int:
        """Bytes of all buffers, and of the prompts that are kept once."""
        return self._position_bytes * self.rows * self.positions + self.prompts.bytes

    @property
    def addresses(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Where each buffer is, and its shape; nothing where none has been made."""
        return tuple((t.data_ptr(), tuple(t.shape)) for pair in self._buffers.values() for t in pair)

    @property
    def alike(self) -> bool:
        """Whether keys and values have the same size in every layer."""
        return all(keys.shape == values.shape for keys, values in self._buffers.values())

    @torch.inference_mode()
    def reserve(self, rows: int, positions: int) -> None:
        """Make the buffers at least so large; what is in them stays. One layer is copied at a time."""
        if rows <= self.rows and positions <= self.positions:
            return
        self.rows, self.positions = max(rows, self.rows), max(positions, self.positions)
        for layer, pair in self._buffers.items():
            self._buffers[layer] = (self._grown(pair[0]), self._grown(pair[1]))

    def _empty(self, states: Tensor) -> Tensor:
        # Zeros, not what the memory held: masked positions still enter the products, times 0.
        return zeros((self.rows, states.shape[1], self.positions, states.shape[3]), states)

    def _grown(self, old: Tensor) -> Tensor:
        new = zeros((self.rows, old.shape[1], self.positions, old.shape[3]), old)
        new[: old.shape[0], :, : old.shape[2]] = old
        return new

    @torch.inference_mode()
    def copy_rows(self, source: Sequence[int], target: Sequence[int], positions: int) -> None:
        """Copy the first positions of slots to other slots; one source may stand for all targets."""
        if not positions:
            return
        for buffer in (each for pair in self._buffers.values() for each in pair):
            buffer[list(target), :, :positions] = buffer[list(source), :, :positions]

    def of_row(self, row: int, positions: int) -> list[Tensor]:
        """The keys and values of a row's first positions in every layer, each [K, positions, D]."""
        return [buffer[row, :, :positions] for pair in self._buffers.values() for buffer in pair]

    def begin_prefill(self, segments: Sequence[Segment]) -> None:
        """The next call to the model is a packed prefill."""
        self._segments = segments
        self.forms_seen = []

    def begin_decode(self, lengths: Tensor, width: int) -> None:
        """The next call to the model gives one token to each of the first rows, whose `prompts` have begun a step.

        Args:
            lengths: [n], tokens that each row has already in its slot.
            width: how many positions are looked at, more than the longest length.
        """
        self._segments = None
        self._lengths = lengths
        self._width = width
        self._biases = {}
        self._places = {}
        self.forms_seen = []

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Take new keys and values; returns those that the attention below is to be given.

        In a decode step it writes them to the slots itself, in one with its work where the kernel does it.
        """
        self._layer = layer_idx
        if layer_idx not in self._buffers:
            self._buffers[layer_idx] = (self._empty(key_states), self._empty(value_states))
            self._position_bytes = sum(t[0, :, 0].nbytes for both in self._buffers.values() for t in both)
        pair = self._buffers[layer_idx]
        if self._segments is not None:
            for segment in self._segments:
                slots, length = list(segment.slots), segment.end - segment.start
                if segment.shared is not None:
                    within = slice(segment.start, segment.end)
                    self.prompts.put(layer_idx, segment.shared, key_states[:, :, within], value_states[:, :, within])
                    continue
                for buffer, states in zip(pair, (key_states, value_states), strict=True) if slots else ():
                    buffer[slots, :, :length] = states[:, :, segment.start : segment.end]
            return key_states, value_states
        return key_states, value_states

    def _written(self, *states: Tensor) -> list[Tensor]:
        """The slots [n, K, T, D] that are looked at, with the keys and values of the token in their places."""
        self.looks_at_width = True
        rows, heads = states[0].shape[:2]
        places = self._place(heads)
        pair = self._buffers[self._layer]
        for buffer, new in zip(pair, states, strict=True):
            buffer.view(-1, new.shape[3]).index_copy_(0, places, new.reshape(-1, new.shape[3]))
        return [buffer[:rows, :, : self._width] for buffer in pair]

    def _place(self, heads: int) -> Tensor:
        """[n * K], where in a buffer of so many heads, seen as [R * K * T, D], the new tokens go."""
        if heads not in self._places:
            first = torch.arange(len(self._lengths) * heads, device=self._lengths.device) * self.positions
            self._places[heads] = (first.view(-1, heads) + self._lengths[:, None]).view(-1)
        return self._places[heads]

    def _bias(self, window: int | None, like: Tensor) -> Tensor:
        """[n, 1, 1, T]: 0 where a row may look, minus infinity elsewhere. The same for every layer of a step."""
        if window not in self._biases:
            columns = torch.arange(self._width, device=like.device)
            last = self._lengths[:, None]
            hidden = columns > last
            if window is not None:
                hidden |= columns <= last - window
            bias = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            self._biases[window] = bias.masked_fill_(hidden, float("-inf"))[:, None, None]
        return self._biases[window]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, form: Form) -> Tensor:
        """Attention of the call under way: [rows, query positions, H, D]."""
        self.forms_seen.append(form)
        if self._segments is not None:
            return self._attend_prefill(query, key, value, form)
        rows, heads, _, size = query.shape
        grouped = query.reshape(rows, key.shape[1], -1, size)
        return self._attend_decode(grouped, key, value, form).reshape(rows, 1, heads, value.shape[3])

    def _attend_decode(self, query: Tensor, key: Tensor, value: Tensor, form: Form) -> Tensor:
        """[n, K, G, D]: each row attends to its slot, with the new key and value [n, K, 1, D], and to its prompt."""
        slots = self._buffers[self._layer]
        if form.linear and takes(query, *slots):
            before = self.prompts.of_rows(self._layer) if self.prompts.asked else None
            return decode_attention(query, *slots, self._lengths, form.scaling, form.window, before, (key, value))
        key, value = self._written(key, value)
        bias = self._bias(form.window, query)
        if not self.prompts.asked:
            return attention(query, key, value, form, bias)
        own = attention_and_sums(query, key, value, form.scaling, bias)
        return self.prompts.merged(self._layer, query, *own, form.scaling)

    def _attend_prefill(self, query: Tensor, key: Tensor, value: Tensor, form: Form) -> Tensor:
        assert self._segments is not None
        group = query.shape[1] // key.shape[1]
        parts: list[Tensor] = []
        for segment in self._segments:
            within = slice(segment.start, segment.end)
            keys, values = (t[:, :, within] for t in (key, value))
            if group > 1:
                keys, values = (t.repeat_interleave(group, dim=1) for t in (keys, values))
            bias = _causal_bias(segment.end - segment.start, form, query)
            parts.append(attention(query[:, :, within], keys, values, form, bias))
        return torch.cat(parts, dim=2).transpose(1, 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not one number here: positions are always given to the model."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """For models that build a mask all the same; it does not reach the attention."""
        return query_length, 0


def _causal_bias(length: int, form: Form, like: Tensor) -> Tensor | None:
    """[1, 1, length, length], or None where plain causal attention does it."""
    windowed = form.window is not None and form.window < length
    if not windowed and form.softcap is None and form.sinks is None:
        return None
    places = torch.arange(length, device=like.device)
    behind = places[:, None] - places
    hidden = behind < 0
    if form.window is not None:
        hidden |= behind >= form.window
    bias = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return bias.masked_fill_(hidden, float("-inf"))[None, None]


def attention(query: Tensor, key: Tensor, value: Tensor, form: Form, bias: Tensor | None) -> Tensor:
    """[B, heads, queries, D]; causal where there is no bias. Soft caps and sinks need explicit probabilities."""
    if form.linear:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=bias, is_causal=bias is None, scale=form.scaling
        )
    assert bias is not None
    scores = torch.matmul(query, key.transpose(-1, -2)) * form.scaling
    if form.softcap is not None:
        scores = torch.tanh(scores / form.softcap) * form.softcap
    scores = (scores + bias).float()
    if form.sinks is not None:
        # Sinks are one per query head: in a decode step, heads are [key heads, queries of each].
        shape = (1, *query.shape[1:3], 1) if form.sinks.numel() != query.shape[1] else (1, query.shape[1], 1, 1)
        sinks = form.sinks.float().view(shape).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    probs = torch.softmax(scores, dim=-1)[..., : key.shape[2]]
    return torch.matmul(probs.to(value.dtype), value)


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    slots: SlotCache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function by transformers' interface; [rows, query positions, H, D]."""
    if slots is None:
        raise TypeError("the model does not pass keywords on to its attention")
    scale = float(query.shape[-1]) ** -0.5 if scaling is None else float(scaling)
    return slots.attend(query, key, value, Form(scale, sliding_window, softcap, s_aux)), None


AttentionInterface.register(NAME, slot_attention)


def attention_configs(model: nn.Module) -> list[PreTrainedConfig]:
    """The distinct configs from which the parts of a model read which attention to use."""
    found = [getattr(part, "config", None) for part in model.modules()]
    return list({id(config): config for config in found if isinstance(config, PreTrainedConfig)}.values())


@contextlib.contextmanager
def slot_attention_in(configs: Sequence[PreTrainedConfig]) -> Iterator[None]:
    """The model attends by slots inside, and as before outside: it may be the trainer's."""
    before = [config._attn_implementation_internal for config in configs]
    for config in configs:
        config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name

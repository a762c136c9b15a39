"""What crosses between program and judge: every plain value, exactly; any other bytes are refused, and nothing more."""

import io
import math
import random
import struct

import pytest

from gruppo.rewards.sandbox import wire
from gruppo.rewards.sandbox.wire import Channel, WireError, decode, encode

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**63,
    -(2**200) - 7,
    1.5,
    -0.0,
    math.inf,
    5e-324,
    1j,
    complex(-0.0, 2),
    "",
    "déjà vu 😀 \x00",
    "\ud800",
    b"",
    bytes(range(256)),
    (),
    ((),),
    (1, 2, 3, 4, 5),
    (1, 2, 3, 2**70, 5),
    (1.0, 2.5, -0.0, math.inf),
    (1, 2.0, "x", b"y", None, (True, (False,))),
    (True, False, True, True, True),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_round_trip(value: object) -> None:
    back = decode(encode(value))
    assert repr(back) == repr(value)
    assert type(back) is type(value)


def test_nan_keeps_its_bits() -> None:
    odd = struct.unpack(">d", bytes.fromhex("7ff8000000001234"))[0]
    assert struct.pack(">d", decode(encode(odd))).hex() == "7ff8000000001234"


def test_the_bytes_are_these() -> None:
    assert encode((1, "a", None)).hex() == "2800000003" + "690000000000000001" + "730000000161" + "4e"
    assert encode((1, 2, 3, 4)).hex() == "7100000004" + "".join(f"{n:016x}" for n in (1, 2, 3, 4))


def random_value(rng: random.Random, depth: int = 4) -> object:
    kind = rng.randrange(9 if depth else 8)
    if kind == 8:
        return tuple(random_value(rng, depth - 1) for _ in range(rng.randrange(7)))
    makers = [
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.randrange(-(2**40), 2**40),
        lambda: rng.getrandbits(rng.randrange(1, 900)) - 2**300,
        lambda: rng.gauss(0, 1e9),
        lambda: complex(rng.random(), -rng.random()),
        lambda: "".join(chr(rng.randrange(0x11000)) for _ in range(rng.randrange(20))),
        lambda: rng.randbytes(rng.randrange(50)),
    ]
    return makers[kind]()


def test_random_values_come_back() -> None:
    rng = random.Random(7)
    for _ in range(2000):
        value = random_value(rng)
        assert decode(encode(value)) == value


def test_any_bytes_are_a_value_or_refused() -> None:
    """Noise, and values with a byte changed, cut or added: a plain value or WireError, nothing else."""
    rng = random.Random(11)
    refused = 0
    for index in range(6000):
        data = bytearray(rng.randbytes(rng.randrange(40)) if index % 2 else encode(random_value(rng)))
        for _ in range(rng.randrange(1, 4)):
            change = rng.randrange(3)
            if change == 0 and data:
                data[rng.randrange(len(data))] = rng.choice(b"NTFiIfcsb(qd\x00\xff")
            elif change == 1:
                del data[rng.randrange(len(data) + 1) :]
            else:
                data += rng.randbytes(2)
        try:
            value = decode(bytes(data))
        except WireError:
            refused += 1
        else:
            assert repr(decode(encode(value))) == repr(value)
    assert 4500 < refused < 6000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"i\x00",
        b"(\xff\xff\xff\xff",
        b"q\x7f\xff\xff\xff",
        b"d\x00\x00\x00\x02" + bytes(15),
        b"s\xff\xff\xff\xffabc",
        b"s\x00\x00\x00\x02\xff\xfe",
        b"I\x7f\xff\xff\xff\x01",
        b"NN",
        b"(\x00\x00\x00\x01" * 5000 + b"N",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [[1], {1: 2}, {1}, object(), Text("x"), 1 << (8 * wire.MAX_INT_BYTES), "x" * (wire.MAX_FRAME + 1)],
    ids=lambda value: type(value).__name__ + str(len(repr(value)) if not isinstance(value, int) else ""),
)
def test_what_may_not_cross_is_refused(value: object) -> None:
    with pytest.raises(WireError):
        encode(value)


def test_depth_is_bounded_on_both_sides() -> None:
    value: object = None
    for _ in range(wire.MAX_DEPTH):
        value = (value,)
    assert decode(encode(value)) == value
    with pytest.raises(WireError, match="200 deep"):
        encode((value,))
    with pytest.raises(WireError, match="200 deep"):
        decode(b"(\x00\x00\x00\x01" + encode(value))


def test_a_short_frame_asks_for_little_memory() -> None:
    """Counts are believed only as far as there are bytes for them."""
    import tracemalloc

    tracemalloc.start()
    for tag in b"(qdsbI":
        with pytest.raises(WireError):
            decode(bytes([tag]) + b"\x00\xff\xff\xff" + bytes(100))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def channel_of(data: bytes, step: int = 3) -> Channel:
    file = io.BytesIO(data)
    return Channel(lambda size: file.read(min(size, step)), lambda data: None)


def test_frames_arrive_in_pieces() -> None:
    out: list[bytes] = []
    sender = Channel(lambda size: b"", out.append)
    sender.send((1, "two"))
    sender.send(None)
    channel = channel_of(b"".join(out), step=1)
    assert channel.receive() == (1, "two")
    assert channel.receive() is None
    with pytest.raises(EOFError):
        channel.receive()


def test_a_frame_too_long_or_cut_off() -> None:
    with pytest.raises(WireError, match="may cross"):
        channel_of(b"\xff\xff\xff\xff").receive()
    with pytest.raises(EOFError):
        channel_of(b"\x00\x00\x00\x05NN").receive()


def test_nothing_is_sent_of_what_is_refused() -> None:
    out: list[bytes] = []
    with pytest.raises(WireError):
        Channel(lambda size: b"", out.append).send(([],))
    assert out == []

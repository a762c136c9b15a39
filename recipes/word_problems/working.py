"""Arithmetic worked digit by digit, every digit copied before it is used.

One operation is one step. Columns run from the right; a column's result is carry (or borrow) and digit:

    4+5=9                                      one digit each: known by heart
    47+85:7+5=12,4+8+1=13=132
    52-17:2-7=15,5-1-1=03=35                 2-7 borrows 1 and leaves 5
    24*3:4*3=12,2*3+1=07=72
    24*35:35*4:...=140,35*2:...=70,140+700:...=840=840
    53/8=6r5                                   one digit of quotient: known by heart
    84/3:8=2r2,24=8r0=28r0                     long division from the left

Decimals are written with equally many places and worked as if the point were not there.
"""

from decimal import Decimal
from math import gcd


def plain(value: Decimal) -> str:
    """The digits of a number, its places kept: 12.30 stays 12.30, 1E+2 is 100."""
    return format(value, "f")


def _scaled(value: Decimal, places: int) -> int:
    return int(value.scaleb(places))


def _places(*values: Decimal) -> int:
    return max(max(0, -int(value.as_tuple().exponent)) for value in values)


def _carried(sign: str, carry: int) -> str:
    return f"{sign}{carry}" if carry else ""


def add(a: Decimal, b: Decimal) -> str:
    """`47+85:7+5=12,4+8+1=13=132`."""
    places = _places(a, b)
    x, y = _scaled(a, places), _scaled(b, places)
    head = f"{a:.{places}f}+{b:.{places}f}"
    result = f"{a + b:.{places}f}"
    if x < 10 and y < 10:
        return f"{head}={result}"
    columns, carry = [], 0
    for i in range(max(len(str(x)), len(str(y)))):
        p, q = x // 10**i % 10, y // 10**i % 10
        total = p + q + carry
        columns.append(f"{p}+{q}{_carried('+', carry)}={total:02d}")
        carry = total // 10
    return f"{head}:{','.join(columns)}={result}"


def subtract(a: Decimal, b: Decimal) -> str:
    """`52-17:2-7=15,5-1-1=03=35`, for a >= b."""
    places = _places(a, b)
    x, y = _scaled(a, places), _scaled(b, places)
    head = f"{a:.{places}f}-{b:.{places}f}"
    result = f"{a - b:.{places}f}"
    if x < 10 and y < 10:
        return f"{head}={result}"
    columns, borrow = [], 0
    for i in range(len(str(x))):
        p, q = x // 10**i % 10, y // 10**i % 10
        left = p - q - borrow
        columns.append(f"{p}-{q}{_carried('-', borrow)}={int(left < 0)}{left % 10}")
        borrow = int(left < 0)
    return f"{head}:{','.join(columns)}={result}"


def multiply(a: Decimal, b: Decimal) -> str:
    """`24*3:4*3=12,2*3+1=07=72`; with two long factors one line per digit of the shorter, and their sum."""
    head, result = f"{plain(a)}*{plain(b)}", plain(a * b)
    x, y = _scaled(a, _places(a)), _scaled(b, _places(b))
    long, short = (x, y) if x >= y else (y, x)
    if long < 10 or str(short).strip("0") in ("", "1") or str(long).strip("0") == "1":
        return f"{head}={result}"
    if short < 10:
        columns, carry = [], 0
        for digit in reversed(str(long)):
            product = int(digit) * short + carry
            columns.append(f"{digit}*{short}{_carried('+', carry)}={product:02d}")
            carry = product // 10
        return f"{head}:{','.join(columns)}={result}"
    return f"{head}:{_partial_products(long, short)}={result}"


def _partial_products(long: int, short: int) -> str:
    lines, total = [], 0
    for i, digit in enumerate(reversed(str(short))):
        if digit == "0":
            continue
        lines.append(multiply(Decimal(long), Decimal(digit)))
        part = long * int(digit) * 10**i
        if total:
            lines.append(add(Decimal(total), Decimal(part)))
        total += part
    return ",".join(lines)


def divide(a: int, b: int) -> str:
    """`53/8=6r5`, `84/3:8=2r2,24=8r0=28r0`."""
    quotient, remainder = divmod(a, b)
    if quotient < 10:
        return f"{a}/{b}={quotient}r{remainder}"
    lines, left = [], 0
    for digit in str(a):
        left = left * 10 + int(digit)
        if left >= b or lines:
            lines.append(f"{left}={left // b}r{left % b}")
            left %= b
    return f"{a}/{b}:{','.join(lines)}={quotient}r{remainder}"


def greatest_common_divisor(a: int, b: int) -> str:
    """Euclid's: `gcd(72,48):72/48=1r24,48/24=2r0=24`."""
    lines, x, y = [], max(a, b), min(a, b)
    while y:
        lines.append(divide(x, y))
        x, y = y, x % y
    return f"gcd({a},{b}):{','.join(lines)}={x}"


def least_common_multiple(a: int, b: int) -> str:
    """By the greatest common divisor: `gcd(6,8):...=2;6/2=3r0;3*8=24`."""
    divisor = gcd(a, b)
    return ";".join(
        (
            greatest_common_divisor(a, b),
            divide(a, divisor),
            multiply(Decimal(a // divisor), Decimal(b)),
        )
    )

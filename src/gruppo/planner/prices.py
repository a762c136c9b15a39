"""What an hour costs, in US dollars: list prices with the day they were read, and a file of one's own over them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from gruppo.errors import ConfigError

DATE = "2026-11-27"
"""When the prices below were last compared with their sources."""

_JOBS = "Hugging Face Jobs, its page jobs-pricing"
_RENTED = "on demand, the provider's page"


@dataclass(frozen=True, slots=True)
class Price:
    """What one hour costs."""

    usd: float
    per_gpu: bool
    """Of one GPU; else of the whole flavour."""
    source: str
    date: str = DATE


def _flavours(**prices: float) -> dict[str, Price]:
    return {name.replace("_", "-"): Price(usd, False, _JOBS) for name, usd in prices.items()}


PRICES: Mapping[str, Price] = {
    **_flavours(t4_small=0.40, t4_medium=0.60, l4x1=0.80, l4x4=3.80, a10g_small=1.00, a10g_large=1.50),
    **_flavours(a10g_largex2=3.00, a10g_largex4=5.00, l40sx1=1.80, l40sx4=8.30, l40sx8=23.50),
    **_flavours(a100_large=2.50, a100x4=10.00, a100x8=20.00, h200x2=10.00, h200x4=20.00, h200x8=40.00),
    "t4": Price(0.40, True, f"{_JOBS} (t4-small)"),
    "l4": Price(0.80, True, f"{_JOBS} (l4x1)"),
    "a10g": Price(1.00, True, f"{_JOBS} (a10g-small)"),
    "l40s": Price(1.80, True, f"{_JOBS} (l40sx1)"),
    "a100-80": Price(2.50, True, f"{_JOBS} (a100-large)"),
    "h200": Price(5.00, True, f"{_JOBS} (h200)"),
    "a100-40": Price(1.99, True, f"Lambda, {_RENTED}"),
    "h100": Price(3.99, True, f"RunPod, {_RENTED}"),
}
"""By the name of a flavour or of a GPU. What is not here has no price until a file gives one."""


@dataclass(frozen=True, slots=True)
class PriceList:
    """The table with one's own prices over it."""

    own: Mapping[str, Price] = field(default_factory=dict[str, Price])

    def of(self, flavour: str, device: str) -> Price | None:
        """The price of a flavour, or of the GPU that it has; None: there is none."""
        names = (flavour, device)
        return next((table[name] for table in (self.own, PRICES) for name in names if name in table), None)


def read_prices(path: Path) -> PriceList:
    """Prices of one's own: a YAML or JSON mapping from a GPU or flavour to dollars an hour, `date` beside them.

    A GPU's price is of one; a flavour's of all that it has.

    Raises:
        ConfigError: the file can't be read, or a price is no number, or of something unknown.
    """
    from gruppo.planner.devices import DEVICES, FLAVOURS

    where = f"--prices: {path}"
    try:
        read: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(read, dict):
        raise ConfigError(f"{where} is no mapping such as `a100-80: 1.79`")
    values = {str(name).lower(): value for name, value in cast(dict[Any, Any], read).items()}
    date = str(values.pop("date", "no date given"))
    own: dict[str, Price] = {}
    for name, value in values.items():
        if name not in DEVICES and name not in FLAVOURS and name != "cpu":
            raise ConfigError(f"{where}: there is no '{name}'; wanted cpu or {', '.join([*DEVICES, *FLAVOURS])}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ConfigError(f"{where}: {name}: got {value!r}, wanted dollars an hour")
        own[name] = Price(float(value), name not in FLAVOURS, str(path), date)
    return PriceList(own)

"""Start the zygote without `gruppo.rewards` and what it imports: it holds the standard library and this folder.

Run: python -P -s -S -B boot.py DESCRIPTOR LEVEL
"""

import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    """Stand in for the packages above, then hand over to the zygote."""
    here = Path(__file__).resolve().parent
    for name, folder in {
        "gruppo": here.parents[1],
        "gruppo.rewards": here.parent,
        "gruppo.rewards.sandbox": here,
    }.items():
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    from gruppo.rewards.sandbox.zygote import main as zygote

    zygote(int(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    main()

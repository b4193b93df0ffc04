"""Lets tests in this folder import the independent oracles in `tests/oracles`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "oracles"))

"""Make the README's pictures again, with the commands that anybody would type: `python docs/make_pictures.py`."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"

COMMANDS = {
    "ppo-cart-pole.png": (
        ["train", "ppo", "CartPole-v1", "--seeds", "10", "--quiet"],
        "report/learning_curve.png",
    ),
    "grid-world.png": (["solve", "grid-world", "--discount", "0.9", "--noise", "0.2"], "solution.png"),
    "two-exits-routes.png": (
        ["solve", "two-exits", "--discount", "0.1,0.9", "--noise", "0,0.5"],
        "routes.png",
    ),
}


def main() -> None:
    bellmark = Path(sys.executable).parent / "bellmark"
    for name, (arguments, picture) in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            subprocess.run([bellmark, *arguments, "--directory", run], check=True)
            shutil.copyfile(run / picture, PICTURES / name)
            print(f"wrote {PICTURES / name}")


if __name__ == "__main__":
    main()

"""Make the README's pictures again, with the commands that anybody would type: `python docs/make_pictures.py`."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import bellmark as bm
from bellmark.report.evaluate import play_frames

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


def crawler() -> None:
    """Every third step of two strokes of the robot, of a run with its preset, after it has found its gait."""
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        bm.train("q_learning", "crawler", directory=run, progress=False, episodes=1)
        frames = list(play_frames(run, 1, 0, steps=82))[60:82:3]
    # nothing happens in the upper half
    frames = [frame[frame.shape[0] // 2 - 30 :] for frame in frames]
    rows = [np.concatenate(frames[place : place + 2], axis=1) for place in range(0, len(frames), 2)]
    Image.fromarray(np.concatenate(rows)).quantize(64, dither=Image.Dither.NONE).save(
        PICTURES / "crawler.png"
    )


def main() -> None:
    crawler()
    bellmark = Path(sys.executable).parent / "bellmark"
    for name, (arguments, picture) in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            subprocess.run([bellmark, *arguments, "--directory", run], check=True)
            shutil.copyfile(run / picture, PICTURES / name)
            print(f"wrote {PICTURES / name}")


if __name__ == "__main__":
    main()

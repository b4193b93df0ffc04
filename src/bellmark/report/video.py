"""Moving pictures of an agent: frames in, one whole file out.

    write_video    frames uint8 [height, width, 3] to .gif (nothing extra needed) or .mp4 (H.264, the extra
    `video`) caption        a strip of text below a frame

A film is written frame by frame: frames may come from a generator and are never all held as they are.
"""

import functools
import importlib.util
import itertools
import math
import os
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.errors import BadInput, BellmarkError
from bellmark.run import disk

FORMATS = (".gif", ".mp4")
INSTALL = "pip install 'bellmark[video]'"

_GIF_RATE = (
    25  # frames per second: a GIF counts in hundredths of a second, and viewers slow down what is faster
)
_GIF_WIDTH = 640
_TRANSPARENT = 255


def write_video(frames: Iterable[np.ndarray], path: str | os.PathLike[str], fps: float = 30) -> Path:
    """Write `frames`, uint8 [height, width, 3] of one size, and return the path of the film.

    Without an ending in `path` it becomes .mp4 where the extra `video` is installed, .gif elsewhere.  An MP4
    gets even sides (the last row or column is repeated; H.264 stores colour at half resolution).  A GIF shows
    at most 25 frames per second, leaving frames out to keep time, is at most 640 wide, loops, and rests on
    its last frame.

    Raises: `BadInput` for another ending, a missing extra or folder (before the first frame is taken), no
    frames, or a frame of the wrong type or shape; `BellmarkError` where the disk or the encoder refuses.  The
    old file stays then.
    """
    path = film_path(path)
    if not 0 < fps <= 1000:
        raise BadInput(f"fps is {fps}; allowed: above 0, up to 1000")
    (_write_gif if path.suffix.lower() == ".gif" else _write_mp4)(_checked(frames), path, fps)
    return path


def film_path(path: str | os.PathLike[str]) -> Path:
    """The file that `write_video` will write for `path`, or `BadInput` saying why it cannot: ask before
    playing.
    """
    path = Path(path).expanduser()
    encoder = importlib.util.find_spec("imageio_ffmpeg") is not None
    if not path.suffix:
        path = path.with_suffix(".mp4" if encoder else ".gif")
    if path.suffix.lower() not in FORMATS:
        raise BadInput(f"cannot write a film as {path.name!r}; allowed endings: {', '.join(FORMATS)}")
    if path.suffix.lower() == ".mp4" and not encoder:
        raise BadInput(f"{path.name} needs an encoder that is not installed: {INSTALL}, or name a .gif")
    if not path.parent.is_dir():
        raise BadInput(f"{path.parent} is not a folder; make it first, or name a file elsewhere")
    if path.is_dir():
        raise BadInput(f"{path} is a folder; allowed: a file's name")
    if not os.access(path.parent, os.W_OK):
        raise BadInput(f"{path.parent} cannot be written to; name a file elsewhere")
    return path


def caption(frame: np.ndarray, text: str) -> np.ndarray:
    """`frame` with a dark strip below that shows `text`; uint8 [height, width, 3] to [height + strip, width,
    3].

    Frames narrower than 240 are first enlarged by a whole factor, so that the text can be read.
    """
    from PIL import Image, ImageDraw

    factor = -(-240 // frame.shape[1])
    frame = frame.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else frame
    size = max(12, frame.shape[1] // 36)
    strip = Image.new("RGB", (frame.shape[1], 2 * size), (31, 41, 51))
    ImageDraw.Draw(strip).text((size, size), text, fill=(255, 255, 255), font=_font(size), anchor="lm")
    return np.concatenate([frame, np.asarray(strip)])


@functools.lru_cache(maxsize=8)
def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, each of them proved to be a picture of the first one's size."""
    shape: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        if (
            not isinstance(frame, np.ndarray)
            or frame.dtype != np.uint8
            or frame.ndim != 3
            or frame.shape[2] != 3
        ):
            given = (
                f"{frame.dtype} {list(frame.shape)}"
                if isinstance(frame, np.ndarray)
                else type(frame).__name__
            )
            raise BadInput(f"frame {number} is {given}; allowed: uint8 [height, width, 3]")
        if shape is not None and frame.shape != shape:
            raise BadInput(
                f"frame {number} has shape {list(frame.shape)}, the first {list(shape)}; allowed: one size"
            )
        shape = frame.shape
        yield frame
    if shape is None:
        raise BadInput("there is no frame to write; allowed: one or more")


def _write_gif(frames: Iterator[np.ndarray], path: Path, fps: float) -> None:
    """One palette for the whole film (no flicker), and of each frame only the pixels that changed.

    The palette is chosen from frames of the whole film, so they wait, compressed, until the last has come.
    """
    from PIL import GifImagePlugin, Image

    step = max(1, math.ceil(fps / _GIF_RATE))
    film: list[bytes] = []
    size = (0, 0)
    last = None
    for number, frame in enumerate(frames):
        picture: Any = Image.fromarray(frame)
        if picture.width > _GIF_WIDTH:
            height = max(1, round(picture.height * _GIF_WIDTH / picture.width))
            picture = picture.resize((_GIF_WIDTH, height), Image.Resampling.LANCZOS)
        size = picture.size
        last = picture.tobytes()
        if number % step == 0:
            film.append(zlib.compress(last, 1))
            last = None
    if last is not None:  # how it ended must not be left out
        film.append(zlib.compress(last, 1))

    def unpacked(number: int) -> Any:
        return Image.frombytes("RGB", size, zlib.decompress(film[number]))

    sample = [unpacked(number) for number in np.unique(np.linspace(0, len(film) - 1, 12).astype(int))]
    palette = _palette(sample)
    chosen = Image.new("P", (1, 1))
    chosen.putpalette(palette.tobytes())
    exact = np.full(1 << 24, _TRANSPARENT, np.uint8)
    exact[_codes(palette[::-1])] = np.arange(_TRANSPARENT)[::-1]
    content = [
        b"GIF89a"
        + size[0].to_bytes(2, "little")
        + size[1].to_bytes(2, "little")
        + b"\xf7\0\0"
        + palette.tobytes()
        + bytes(3),
        b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0",  # for ever
    ]
    before = np.full(size[::-1], -1)
    clock = 0.0
    for number in range(len(film)):
        frame = unpacked(number)
        # Pillow's own search confuses neighbours by up to three levels: white would turn grey.
        now = exact[_codes(np.asarray(frame))]
        nearest = np.asarray(frame.quantize(palette=chosen, dither=Image.Dither.NONE))
        now = np.where(now == _TRANSPARENT, np.minimum(nearest, _TRANSPARENT - 1), now)
        changed = now != before
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        top, bottom = (rows[0], rows[-1] + 1) if len(rows) else (0, 1)
        left, right = (columns[0], columns[-1] + 1) if len(columns) else (0, 1)
        part = np.where(changed, now, _TRANSPARENT)[top:bottom, left:right].astype(np.uint8)
        before = now
        # Hundredths are handed out so that rounding never adds up over a long film.
        until = 100.0 * step / fps * (number + 1)
        hundredths = 100 if number == len(film) - 1 else round(until) - round(clock)
        clock = until
        image = Image.fromarray(part, "P")
        content += GifImagePlugin.getdata(
            image, (int(left), int(top)), duration=10 * hundredths, transparency=_TRANSPARENT, disposal=1
        )
    disk.write_atomic(path, b"".join([*content, b";"]))


def _palette(sample: list[Any]) -> np.ndarray:
    """255 colours for the pictures of `sample`, uint8 [255, 3].

    All of theirs if they have no more.  Otherwise those of large flat surfaces as they are, which a median
    cut would tint, and a median cut for the rest.
    """
    from PIL import Image

    width, height = sample[0].size
    montage = Image.new("RGB", (width, height * len(sample)))
    for place, picture in enumerate(sample):
        montage.paste(picture, (0, place * height))
    pixels = width * height * len(sample)
    found: Any = montage.getcolors(pixels)
    if len(found) > _TRANSPARENT:
        found = sorted((count, colour) for count, colour in found if 500 * count > pixels)[-64:]
    colours = [colour for _, colour in found]
    if len(colours) < _TRANSPARENT:
        rest = montage.quantize(_TRANSPARENT - len(colours), dither=Image.Dither.NONE).getpalette() or []
        colours += [tuple(rest[place : place + 3]) for place in range(0, len(rest), 3)]
    colours += [colours[0]] * _TRANSPARENT
    return np.array(colours[:_TRANSPARENT], np.uint8)


def _codes(colours: np.ndarray) -> np.ndarray:
    """Each colour `[..., 3]` as one number below 2²⁴."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def _write_mp4(frames: Iterator[np.ndarray], path: Path, fps: float) -> None:
    """Pipe raw frames into ffmpeg, and believe the film only when ffmpeg has ended well."""
    import imageio_ffmpeg  # type: ignore[import-untyped]

    first = next(frames)
    height, width = first.shape[0] + first.shape[0] % 2, first.shape[1] + first.shape[1] % 2
    border = ((0, height - first.shape[0]), (0, width - first.shape[1]), (0, 0))
    temporary = path.parent / disk.temporary_name(path.name)
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps}", "-i", "-"]
    # crf 18 cannot be told from the original by eye; faststart lets a browser begin before it has everything.
    film = ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *source, "-an", *film, str(temporary)]
    try:
        with tempfile.TemporaryFile() as complaints:
            # A session of its own: Ctrl-C is for us, who then end the encoder.
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=complaints, start_new_session=True
            ) as encoder:
                assert encoder.stdin is not None
                try:
                    for frame in itertools.chain([first], frames):
                        # Past the buffer, which could not be emptied into an encoder that has gone.
                        even = memoryview(np.pad(frame, border, mode="edge").tobytes())
                        disk.write_all(encoder.stdin.fileno(), even)
                    encoder.stdin.close()
                except BrokenPipeError:
                    pass  # the encoder ended early: its status and words are below
                except BaseException:
                    encoder.kill()
                    raise
            if encoder.returncode != 0 or not temporary.is_file():
                complaints.seek(0)
                words = complaints.read().decode(errors="replace").strip().splitlines()
                why = words[-1] if words else f"the encoder ended with status {encoder.returncode}"
                raise BellmarkError(f"{path} was not written: {why}")
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        disk.fsync_folder(path.parent)
    except OSError as error:
        raise BellmarkError(f"{path} was not written: {disk.reason(error)}") from None
    finally:
        disk.remove(temporary)

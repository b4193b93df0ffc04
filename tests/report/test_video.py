"""Films: read back, they are what was put in; bad input leaves nothing behind."""

import importlib.util
import itertools
import subprocess

import numpy as np
import pytest
from PIL import Image

from bellmark.errors import BadInput, BellmarkError
from bellmark.report import video
from bellmark.report.video import caption, film_path, write_video

needs_encoder = pytest.mark.skipif(
    importlib.util.find_spec("imageio_ffmpeg") is None, reason="the extra `video` is not installed"
)


def drawn(count, height=40, width=60):
    """A red square that moves over white, as a renderer draws: few colours."""
    for number in range(count):
        frame = np.full((height, width, 3), 255, np.uint8)
        frame[10:20, number : number + 10] = (214, 39, 40)
        yield frame


def photographed(count, height=48, width=64):
    """A moving gradient with noise: far more than 255 colours."""
    generator = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    for number in range(count):
        picture = (
            np.stack([x, y, (x + y + number / count) % 1], axis=-1) * 240
            + generator.random((height, width, 3)) * 8
        )
        yield picture.astype(np.uint8)


def read_gif(path):
    with Image.open(path) as film:
        frames, durations = [], []
        for number in range(film.n_frames):
            film.seek(number)
            frames.append(np.asarray(film.convert("RGB")))
            durations.append(film.info["duration"])
        return np.stack(frames), durations


def test_a_gif_of_few_colours_is_exact(tmp_path):
    assert write_video(drawn(30), tmp_path / "film.gif", fps=25) == tmp_path / "film.gif"
    frames, durations = read_gif(tmp_path / "film.gif")
    np.testing.assert_array_equal(frames, np.stack(list(drawn(30))))
    assert durations == [40] * 29 + [1000]
    assert (tmp_path / "film.gif").stat().st_size < 6_000


def test_a_gif_of_many_colours_is_near(tmp_path):
    write_video(photographed(12), tmp_path / "film.gif", fps=10)
    frames, _ = read_gif(tmp_path / "film.gif")
    original = np.stack(list(photographed(12)))
    # What a median cut of the entire film loses; 255 colours cannot do much better for a cube full of them.
    film = Image.fromarray(original.reshape(-1, 64, 3))
    cut = np.asarray(film.quantize(255, dither=Image.Dither.NONE).convert("RGB")).reshape(original.shape)
    allowed = 1.1 * np.abs(cut.astype(int) - original).mean()
    assert np.abs(frames.astype(int) - original).mean() < allowed


def test_neighbouring_colours_stay_apart_and_white_stays_white(tmp_path):
    greys = np.arange(1, 256, dtype=np.uint8)[None, :, None].repeat(20, axis=0).repeat(3, axis=2)
    write_video([greys, greys[:, ::-1]], tmp_path / "greys.gif", fps=10)
    np.testing.assert_array_equal(read_gif(tmp_path / "greys.gif")[0], [greys, greys[:, ::-1]])
    # More than 255 colours in all, but a background that must not be tinted by the others.
    page = np.full((60, 60, 3), 255, np.uint8)
    page[:20, :20] = np.random.default_rng(0).integers(200, 256, (20, 20, 3))
    write_video([page], tmp_path / "page.gif")
    frame = read_gif(tmp_path / "page.gif")[0][0]
    assert (frame[20:] == 255).all()


@pytest.mark.parametrize(
    ("fps", "shown"), [(12, range(50)), (30, [*range(0, 50, 2), 49]), (60, [*range(0, 50, 3), 49])]
)
def test_a_gif_leaves_frames_out_to_keep_time_but_never_the_last(tmp_path, fps, shown):
    write_video(drawn(50), tmp_path / "film.gif", fps=fps)
    frames, durations = read_gif(tmp_path / "film.gif")
    np.testing.assert_array_equal(frames, np.stack(list(drawn(50)))[list(shown)])
    assert min(durations) >= 40
    assert sum(durations[:-1]) == pytest.approx(1000 * 49 / fps, abs=40)


def test_frames_that_do_not_change_and_films_of_one_frame(tmp_path):
    still = next(drawn(1))
    write_video(itertools.repeat(still, 5), tmp_path / "film.gif", fps=5)
    assert len(read_gif(tmp_path / "film.gif")[0]) == 5
    write_video([still], tmp_path / "one.gif")
    np.testing.assert_array_equal(read_gif(tmp_path / "one.gif")[0], [still])


def test_a_wide_gif_is_made_smaller(tmp_path):
    write_video(drawn(3, height=300, width=1280), tmp_path / "film.gif")
    assert read_gif(tmp_path / "film.gif")[0].shape[1:3] == (150, 640)


@needs_encoder
def test_an_mp4_has_even_sides_and_every_frame(tmp_path):
    import imageio_ffmpeg

    write_video(drawn(24, height=41, width=61), tmp_path / "film.mp4", fps=24)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    about = subprocess.run([ffmpeg, "-i", tmp_path / "film.mp4"], capture_output=True, text=True).stderr
    assert "Video: h264" in about
    assert "yuv420p" in about
    assert "62x42" in about
    assert "24 fps" in about
    raw = [ffmpeg, "-v", "error", "-i", tmp_path / "film.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    decoded = subprocess.run(raw, capture_output=True, check=True).stdout
    frames = np.frombuffer(decoded, np.uint8).reshape(-1, 42, 62, 3)
    assert len(frames) == 24
    assert np.abs(frames[12][:41, :61].astype(int) - list(drawn(24, height=41, width=61))[12]).mean() < 6
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize("name", ["film.gif", pytest.param("film.mp4", marks=needs_encoder)])
def test_what_fails_half_way_leaves_the_old_film(tmp_path, name):
    (tmp_path / name).write_bytes(b"old")

    def breaks():
        yield from drawn(3)
        raise RuntimeError("the environment broke")

    with pytest.raises(RuntimeError, match="the environment broke"):
        write_video(breaks(), tmp_path / name)
    with pytest.raises(BadInput, match="there is no frame to write"):
        write_video([], tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"


@needs_encoder
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 3", "the encoder ended with status 3"),
        (
            'for last; do :; done; head -c 900 > "$last"; echo one >&2; echo disk gone >&2; exit 1',
            "disk gone",
        ),
        ("cat > /dev/null", "the encoder ended with status 0"),  # and made no file
    ],
)
def test_an_encoder_that_fails_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, script, reason):
    encoder = tmp_path / "encoder"
    encoder.write_text(f"#!/bin/sh\n{script}\n")
    encoder.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(encoder))
    with pytest.raises(BellmarkError) as caught:
        write_video(drawn(30), tmp_path / "film.mp4")
    assert str(caught.value) == f"{tmp_path / 'film.mp4'} was not written: {reason}"
    assert list(tmp_path.iterdir()) == [encoder]


def test_bad_input_is_found_before_the_first_frame(tmp_path, monkeypatch):
    def never():
        pytest.fail("a frame was taken")
        yield

    (tmp_path / "folder.gif").mkdir()
    for path, message in [
        (tmp_path / "film.avi", r"'film.avi'; allowed endings: .gif, .mp4"),
        (tmp_path / "nowhere" / "film.gif", r"nowhere is not a folder"),
        (tmp_path / "folder.gif", r"folder.gif is a folder"),
    ]:
        with pytest.raises(BadInput, match=message):
            write_video(never(), path)
    with pytest.raises(BadInput, match="fps is 0; allowed: above 0"):
        write_video(never(), tmp_path / "film.gif", fps=0)
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        BadInput, match=r"film.mp4 needs an encoder .* pip install 'bellmark\[video\]', or name a .gif"
    ):
        write_video(never(), tmp_path / "film.mp4")
    assert film_path(tmp_path / "film") == tmp_path / "film.gif"
    assert write_video(drawn(2), tmp_path / "film") == tmp_path / "film.gif"


@needs_encoder
def test_without_an_ending_the_better_format_is_taken(tmp_path):
    assert film_path(tmp_path / "film") == tmp_path / "film.mp4"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((40, 60, 3)), r"frame 2 is float64 \[40, 60, 3\]; allowed: uint8"),
        (np.zeros((40, 60), np.uint8), r"frame 2 is uint8 \[40, 60\]"),
        (None, "frame 2 is NoneType"),
        (np.zeros((40, 62, 3), np.uint8), r"frame 2 has shape \[40, 62, 3\], the first \[40, 60, 3\]"),
    ],
)
def test_a_frame_that_is_not_a_picture_is_named(tmp_path, wrong, message):
    with pytest.raises(BadInput, match=message):
        write_video([*drawn(2), wrong], tmp_path / "film.gif")
    assert list(tmp_path.iterdir()) == []


def test_a_caption_is_a_strip_below_the_untouched_frame():
    frame = next(drawn(1, height=200, width=300))
    with_text = caption(frame, "step 12   return 34.5")
    assert with_text.dtype == np.uint8
    assert with_text.shape == (224, 300, 3)
    np.testing.assert_array_equal(with_text[:200], frame)
    assert (with_text[200:] > 128).all(axis=-1).sum() > 50  # letters
    assert (caption(frame, "")[200:] == (31, 41, 51)).all()
    assert not np.array_equal(caption(frame, "step 13"), caption(frame, "step 14"))


def test_small_frames_are_enlarged_by_a_whole_factor():
    frame = next(photographed(1, height=10, width=100))
    large = caption(frame, "x")
    np.testing.assert_array_equal(large[:30:3, :300:3], frame)
    np.testing.assert_array_equal(large[2:30:3, 1:300:3], frame)

"""What a person sees: nothing too wide, nothing too often, and nothing that could stop a run."""

import io
import re
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from bellmark.run.progress import Display, Lines, make_progress
from bellmark.run.progress_layout import View, duration, number, percent, plain_line, spark, view_lines

FULL = View(
    title="ppo on CartPole-v1",
    note="compiled twin of Gymnasium's",
    seeds=10,
    steps=1_000_000,
    step=620_000,
    steps_per_second=489_123.4,
    seconds=12.3,
    seconds_left=8.0,
    returns=(380.0, 470.0, 423.3),
    history=tuple(float(i) for i in range(50)),
    episodes=12_345,
    shares={"compile": 2.0, "train": 7.0, "checkpoint": 1.0},
    metrics={"loss/policy": -0.01234, "loss/value": 12.34, "entropy": 0.5},
    message="checkpoint saved at step 600,000",
    moving=True,
)


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


class TestLayout:
    def test_eighty_columns(self):
        assert [line.plain for line in view_lines(FULL, 0.0, 80)] == [
            "ppo on CartPole-v1 · 10 seeds · compiled twin of Gymnasium's",
            "━━━━━━━━━━━━━━━━━━━━━━━━━━╸────────────────  62 %   620,000 of 1,000,000 steps",
            "return   424.4 ± 45.0   (380.0 to 470.0)   12,345 episodes   ▁▁▂▂▃▃▄▄▅▅▆▆▇▇██",
            "speed    489,123 steps/s   0:08 left   0:12 so far",
            "time     train 70 %   compile 20 %   checkpoint 10 %",
            "loss     policy -0.0123   value 12.3   entropy 0.5",
            "checkpoint saved at step 600,000",
        ]

    def test_forty_columns_keep_what_matters_most(self):
        assert [line.plain for line in view_lines(FULL, 0.0, 40)] == [
            "ppo on CartPole-v1 · 10 seeds",
            "━━━━━━━━━━━━━━━━━━━━━─────────────  62 %",
            "return   424.4 ± 45.0   (380.0 to 470.0)",
            "speed    489,123 steps/s   0:08 left",
            "time     train 70 %   compile 20 %",
            "loss     policy -0.0123   value 12.3",
            "checkpoint saved at step 600,000",
        ]

    @pytest.mark.parametrize("width", range(12, 140))
    def test_no_line_is_ever_wider_than_the_terminal(self, width):
        for unicode in (True, False):
            lines = [line.plain for line in view_lines(FULL, 0.0, width, unicode)]
            assert max(map(cell_len, lines)) <= width
            if not unicode:
                assert all(line.isascii() for line in lines if "…" not in line)

    @pytest.mark.parametrize("step", [0, 1, 500_000, 999_999, 1_000_000, 1_000_512])
    def test_the_bar_keeps_its_length_and_is_full_only_at_the_end(self, step):
        view = View(steps=1_000_000, step=step, moving=True)
        bar = view_lines(view, 0.0, 80)[1].plain
        assert len(re.match("[━╸─]+", bar).group()) == 43
        assert ("─" not in bar and "╸" not in bar) == (step >= 1_000_000)
        assert ("100 %" in bar) == (step >= 1_000_000)

    def test_nothing_known_yet(self):
        lines = [line.plain for line in view_lines(View(title="ppo", moving=True, steps=10), 0.0, 80)]
        assert "return   no episode has ended yet" in lines

    def test_one_seed_shows_the_spread_over_its_episodes(self):
        view = View(returns=(20.0,), return_std=3.0, moving=True)
        assert "return   20.0 ± 3.0" in [line.plain for line in view_lines(view, 0.0, 80)]

    def test_compiling_shows_that_time_passes(self):
        view = View(title="ppo", phase="compiling the training loop", phase_began=100.0)
        first, second = (view_lines(view, now, 80)[-1].plain for now in (101.0, 103.2))
        assert first[2:] == "compiling the training loop 0:01"
        assert second[2:] == "compiling the training loop 0:03"
        assert len({view_lines(view, 100 + i / 4, 80)[-1].plain[0] for i in range(10)}) > 2

    def test_a_line_for_logs(self):
        assert plain_line(FULL) == (
            "620,000 of 1,000,000 steps (62 %), 489,123 steps/s, return 424.4 ± 45.0, 0:08 left"
        )

    def test_durations(self):
        assert [duration(s) for s in (0, 59.4, 61, 3600, 86_399, 90_061, float("inf"), -1)] == [
            "0:00",
            "0:59",
            "1:01",
            "1:00:00",
            "23:59:59",
            "1 d 01:01",
            "0:00",
            "0:00",
        ]

    def test_numbers(self):
        values = (0.0, 500.0, -0.01234, 1234.5, 1.5e6, 1e-7, 3.14159, float("nan"), float("-inf"))
        assert [number(value) for value in values] == [
            "0",
            "500.0",
            "-0.0123",
            "1,234",
            "1.5e+06",
            "1.0e-07",
            "3.14",
            "nan",
            "-inf",
        ]

    def test_percentages_never_promise_the_end(self):
        assert [percent(x) for x in (0, 0.29, 0.9999, 1, 1.2, -1)] == [
            "0 %",
            "29 %",
            "99 %",
            "100 %",
            "100 %",
            "0 %",
        ]

    def test_curves(self):
        assert spark([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
        assert spark([0, 0, 7, 7], 2) == "▁█"
        assert spark([1, 1, 1], 3) == spark([1], 5) == spark([1, 2], 0) == ""


def play(progress, clock=None, updates=40, pause=0.5):
    """A run of 40 updates, half a second apart by `clock`."""
    progress.started("ppo on CartPole-v1", "compiled twin", 2, 4000)
    progress.phase("compiling the training loop")
    for i in range(1, updates + 1):
        if clock is not None:
            clock.now += pause
        progress.update(100 * i, 1000.0, i * pause, [float(i), None], None, i, {"train": 1.0}, {"loss": 0.1})
    progress.message("checkpoint saved at step 4,000")
    progress.warning("look here")
    progress.finished("solved\nbellmark watch runs/x")


class TestLines:
    def test_the_first_the_last_and_one_every_five_seconds(self):
        stream, clock = io.StringIO(), Clock()
        play(Lines(stream, clock=clock), clock)
        lines = stream.getvalue().splitlines()
        assert lines[:3] == [
            "ppo on CartPole-v1: 2 seeds, 4,000 steps each (compiled twin)",
            "compiling the training loop …",
            "100 of 4,000 steps (2 %), 1,000 steps/s, return 1",
        ]
        assert [line.split(" of ")[0] for line in lines[3:6]] == ["1,100", "2,100", "3,100"]
        assert lines[6:] == [
            "checkpoint saved at step 4,000",
            "warning: look here",
            "4,000 of 4,000 steps (100 %), 1,000 steps/s, return 40.0",
            "trained for 0:20",
            "solved",
            "bellmark watch runs/x",
        ]

    def test_quiet_says_warnings_only(self):
        stream = io.StringIO()
        play(make_progress(stream, quiet=True))
        assert stream.getvalue() == "warning: look here\n"

    def test_a_broken_pipe_stops_nothing(self):
        play(Lines(Broken()))

    def test_an_encoding_without_these_letters_stops_nothing(self):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        play(Lines(stream))
        stream.seek(0)
        assert "compiling the training loop ?" in stream.read()


class TestChoice:
    def test_a_terminal_gets_the_display(self):
        assert isinstance(make_progress(Terminal()), Display)

    def test_everything_else_gets_lines(self, monkeypatch):
        assert isinstance(make_progress(io.StringIO()), Lines)
        monkeypatch.setenv("FORCE_COLOR", "1")
        assert isinstance(make_progress(io.StringIO()), Lines)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(make_progress(Terminal()), Lines)


class TestDisplay:
    def shown(self, monkeypatch, **environment) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        stream = Terminal()
        with make_progress(stream) as progress:
            play(progress)
        return stream.getvalue()

    def test_it_draws_and_leaves_the_last_frame_and_the_cursor(self, monkeypatch):
        output = self.shown(monkeypatch, COLUMNS="80")
        assert "\x1b[?25l" in output
        assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)
        last = plain[plain.rindex("ppo on CartPole-v1") :].replace("\r", "").split("\n")
        assert last[1].endswith("100 %   4,000 of 4,000 steps")
        assert last[-3:] == ["solved", "bellmark watch runs/x", ""]
        assert "warning look here" in plain
        assert "left" not in plain[plain.rindex("ppo on") :]

    def test_no_color(self, monkeypatch):
        coloured = r"\x1b\[[0-9;]*(3[0-9]|9[0-9])[0-9;]*m"
        assert re.search(coloured, self.shown(monkeypatch))
        assert not re.search(coloured, self.shown(monkeypatch, NO_COLOR="1"))

    def test_an_exception_gives_the_cursor_back(self):
        stream = Terminal()

        def fail():
            with make_progress(stream) as progress:
                progress.started("ppo", "", 1, 10)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")

    def test_a_narrower_terminal_is_cleaned_of_the_lines_that_it_folded(self):
        console = Console(file=Terminal(), width=80, height=20, force_terminal=True)
        progress = Display(console)
        progress.started("ppo on CartPole-v1", "", 2, 4000)
        progress.update(1000, 1.0, 1.0, [1.0, 2.0])
        progress._live.stop()
        progress._live.start(True)
        wide = [line.cell_len for line in progress._frame().renderables]
        console.width = 40
        progress._frame()
        assert progress._live._live_render._shape == (40, sum(-(-cells // 40) for cells in wide))
        assert max(line.cell_len for line in progress._frame().renderables) <= 40
        progress.close()

    def test_updates_cost_less_than_a_millisecond(self):
        progress = Display(Console(file=Terminal(), width=80))
        progress.started("ppo", "", 10, 10_000)
        start = time.perf_counter()
        for i in range(2000):
            progress.update(i, 1000.0, 1.0, [1.0] * 10, 1.0, i, {"train": 1.0}, {"loss": 0.1})
        each = (time.perf_counter() - start) / 2000
        progress.close()
        assert each < 1e-3

    def test_a_terminal_that_breaks_stops_nothing(self):
        class Breaking(Terminal):
            broken = False

            def write(self, text):
                if self.broken:
                    raise OSError("terminal gone")
                return super().write(text)

        stream = Breaking()
        progress = make_progress(stream)
        progress.started("ppo", "", 1, 10)
        stream.broken = True
        progress.warning("unseen")
        progress.update(5, 1.0, 1.0)
        progress.finished("done")


class TestTimeLeft:
    def test_it_follows_the_recent_pace_not_the_compilation(self):
        clock = Clock()
        progress = Lines(io.StringIO(), clock=clock)
        progress.started("ppo", "", 1, 1000)
        clock.now = 60.0
        for i in range(1, 6):
            clock.now += 1.0
            progress.update(100 * i, 100.0, float(i))
        assert progress._recorder.view.seconds_left == pytest.approx(5.0)

    def test_a_slower_pace_shows_within_ten_seconds(self):
        clock = Clock()
        progress = Lines(io.StringIO(), clock=clock)
        progress.started("ppo", "", 1, 10_000)
        step = 0
        for speed in [100] * 20 + [10] * 12:
            clock.now += 1.0
            step += speed
            progress.update(step, speed, clock.now)
        assert progress._recorder.view.seconds_left == pytest.approx((10_000 - step) / 10)

    def test_the_learning_curve_stays_bounded_and_whole(self):
        progress = Lines(io.StringIO())
        progress.started("ppo", "", 1, 10_000)
        for i in range(5000):
            progress.update(i, 1.0, 1.0, [float(i)])
        history = progress._recorder.view.history
        assert 64 <= len(history) < 128
        assert history[0] < 100
        assert history[-1] > 4800
        assert list(history) == sorted(history)

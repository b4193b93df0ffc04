"""The pictures: what is drawn is what was measured, files are whole, and nothing of the user's plotting is
touched.
"""

import subprocess
import sys
import xml.etree.ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from bellmark.errors import BadInput
from bellmark.report import plots
from bellmark.report.plots import Run, comparison, evaluation_histogram, learning_curve
from bellmark.report.statistics import interquartile_mean, learning, trailing_mean

NAN = np.nan
CONFIG = {
    "algorithm": {"name": "ppo", "fields": {}},
    "environment": {"id": "CartPole-v1", "threshold": 475.0},
    "seeds": [0, 1, 2, 3],
}


def columns(rows=40, seeds=4, final=500.0, seed=0):
    """A run that learns: the return rises to `final`, noisy, with a seed that ends no episode at first."""
    generator = np.random.default_rng(seed)
    share = np.arange(1, rows + 1)[:, None] / rows
    returns = final / (1 + np.exp(10 * (0.4 - share + 0.1 * generator.normal(size=seeds))))
    returns[:3, 0] = NAN
    step = np.arange(1, rows + 1) * 1024
    return {
        "iteration": np.arange(1, rows + 1),
        "step": step,
        "seconds": step / 50_000,
        "episode/return": returns,
        "episode/count": np.where(np.isnan(returns), 0.0, 1 + generator.integers(9, size=returns.shape)),
        "loss/policy": generator.normal(size=returns.shape),
        "policy/kl": generator.random(returns.shape),
        "policy/never": np.full_like(returns, NAN),
    }


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, still as Matplotlib's objects."""
    saved = []
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: saved.append(figure) or save(figure, path))
    return saved


def texts(figure):
    found = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    return [text for text in found if text]


def test_the_thick_line_is_the_interquartile_mean_of_the_smoothed_seeds(tmp_path, figures):
    data = columns()
    assert learning_curve(data, CONFIG, tmp_path / "curve.png") == tmp_path / "curve.png"
    axes = figures[0].axes[0]
    thick = max(axes.lines, key=lambda line: line.get_linewidth())
    smooth = trailing_mean(data["episode/return"], 2, data["episode/count"])  # 5 % of 40 rows
    np.testing.assert_allclose(thick.get_xdata(), data["step"])
    np.testing.assert_allclose(thick.get_ydata(), interquartile_mean(smooth))
    faint = [line for line in axes.lines if line.get_alpha()]
    assert len(faint) == 4
    np.testing.assert_allclose(faint[2].get_ydata(), smooth[:, 2])
    assert len(axes.collections) == 1  # the band


def test_the_title_names_algorithm_environment_and_seeds_and_the_threshold_is_labelled(tmp_path, figures):
    learning_curve(columns(), CONFIG, tmp_path / "curve.png")
    shown = texts(figures[0])
    assert "PPO on CartPole-v1" in shown
    assert any(text.startswith("4 seeds, interquartile mean with 95 % bootstrap band") for text in shown)
    assert "threshold 475" in shown
    dashed = [line for line in figures[0].axes[0].lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == [475.0]


def test_small_panels_show_what_the_run_measured_and_skip_what_it_did_not(tmp_path, figures):
    learning_curve(columns(), CONFIG, tmp_path / "curve.png")
    assert [axes.get_title(loc="left") for axes in figures[0].axes[1:]] == ["KL", "policy loss"]
    learning_curve(columns(), CONFIG, tmp_path / "curve.png", diagnostics=0)
    assert len(figures[1].axes) == 1


def test_one_seed_has_no_band_and_claims_none(tmp_path, figures):
    learning_curve(columns(seeds=1), {**CONFIG, "seeds": [0]}, tmp_path / "curve.png")
    assert not any("bootstrap" in text for text in texts(figures[0]))
    assert all(
        np.isnan(path.vertices).any() or not len(path.vertices)
        for path in figures[0].axes[0].collections[0].get_paths()
    )


def test_a_run_without_a_finished_episode_or_without_any_row_is_drawn_and_says_so(tmp_path, figures):
    silent = {**columns(), "episode/return": np.full((40, 4), NAN)}
    none = {name: column[:0] for name, column in columns().items()}
    bare = {"iteration": np.zeros(0), "step": np.zeros(0), "seconds": np.zeros(0)}
    single = {name: column[5:6] for name, column in columns().items()}
    for data in (silent, none, bare):
        learning_curve(data, CONFIG, tmp_path / "curve.png")
        assert "no episode has ended yet" in texts(figures[-1])
    learning_curve(single, CONFIG, tmp_path / "curve.png")
    assert "no episode has ended yet" not in texts(figures[-1])


def test_comparison_labels_every_run_on_every_axis(tmp_path, figures):
    runs = [
        Run("PPO", columns(), "CartPole-v1", 475.0),
        Run("slower", {**columns(seed=1), "seconds": columns()["seconds"] * 3}, "CartPole-v1", 475.0),
    ]
    comparison(runs, tmp_path / "both.png")
    steps, seconds = figures[0].axes
    assert {"PPO", "slower", "Return on CartPole-v1", "threshold 475"} <= set(texts(figures[0]))
    longest = max(line.get_xdata()[-1] for line in seconds.lines if line.get_linewidth() > 2)
    assert longest == pytest.approx(3 * 40 * 1024 / 50_000)
    curve = learning(runs[1].columns)
    drawn = [line for line in steps.lines if line.get_linewidth() > 2][1]
    np.testing.assert_array_equal(drawn.get_ydata(), curve.centre)
    for axis in ("steps", "seconds"):
        comparison(runs, tmp_path / f"{axis}.png", axis=axis)
        assert len(figures[-1].axes) == 1


def test_comparison_draws_a_threshold_only_where_all_share_it_and_tells_many_runs_apart(tmp_path, figures):
    runs = [Run(f"run {i}", columns(seed=i), f"Environment-v{i}", 100.0 * i) for i in range(9)]
    comparison(runs, tmp_path / "many.png", axis="steps")
    lines = [line for line in figures[0].axes[0].lines if line.get_linewidth() > 2]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9
    assert not any("threshold" in text for text in texts(figures[0]))


def test_labels_are_pushed_apart_and_stay_inside():
    assert plots._apart([5.0, 1.0, 9.0], 1.0, 0.0, 10.0) == [5.0, 1.0, 9.0]
    np.testing.assert_allclose(plots._apart([5.0, 5.0], 1.0, 0.0, 10.0), [4.5, 5.5])
    np.testing.assert_allclose(plots._apart([10.0, 10.0, 10.0, 2.0], 1.0, 0.0, 10.0), [8.0, 9.0, 10.0, 2.0])
    np.testing.assert_allclose(plots._apart([0.0, 0.2], 1.0, 0.0, 10.0), [0.0, 1.0])
    crowd = np.sort(plots._apart(np.random.default_rng(0).normal(size=12).tolist(), 0.3, -3.0, 3.0))
    assert np.diff(crowd).min() >= 0.3 - 1e-12
    assert plots._apart([], 1.0, 0.0, 1.0) == []


@pytest.mark.parametrize(
    "returns", [np.full((3, 5), 500.0), [[1.0, 2.0, 4.0]], [[-3.5], [2.0]], [[NAN, 7.0]]]
)
def test_histogram_counts_every_episode(tmp_path, figures, returns):
    evaluation_histogram(returns, tmp_path / "histogram.png", threshold=475.0)
    bars = figures[0].axes[0].patches
    heights = [bar.get_height() for bar in bars if isinstance(bar, matplotlib.patches.Rectangle)]
    expected = np.isfinite(returns).sum()
    assert sum(heights[: plots._bins(np.asarray(returns)[np.isfinite(returns)])]) == expected


def test_files_are_what_their_names_say_whole_and_the_same_each_time(tmp_path):
    for suffix in ("png", "svg", "pdf"):
        first = learning_curve(columns(), CONFIG, tmp_path / f"a.{suffix}").read_bytes()
        assert learning_curve(columns(), CONFIG, tmp_path / f"b.{suffix}").read_bytes() == first
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.size == (1200, 675)
    assert xml.etree.ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{n}.{s}" for n in "ab" for s in ("png", "svg", "pdf")
    )


def test_bad_input_is_one_line_and_writes_nothing(tmp_path):
    with pytest.raises(BadInput, match=r"'curve.jpeg'; allowed endings: .png, .svg, .pdf"):
        learning_curve(columns(), CONFIG, tmp_path / "curve.jpeg")
    with pytest.raises(
        BadInput, match=r"unknown metric 'episode/retrun' \(did you mean 'episode/return'\?\)"
    ):
        comparison([Run("a", columns())], tmp_path / "c.png", metric="episode/retrun")
    with pytest.raises(BadInput, match=r"unknown axis 'hours'; allowed: steps, seconds"):
        comparison([Run("a", columns())], tmp_path / "c.png", axis="hours")
    with pytest.raises(BadInput, match="no run to compare"):
        comparison([], tmp_path / "c.png")
    with pytest.raises(BadInput, match="no finite number"):
        evaluation_histogram([[NAN]], tmp_path / "c.png")
    with pytest.raises(BadInput, match="missing is not a folder; make it first"):
        learning_curve(columns(), CONFIG, tmp_path / "missing" / "curve.png")
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_plotting_is_left_alone(tmp_path):
    before = dict(matplotlib.rcParams)  # touching every entry settles the lazy ones
    learning_curve(columns(), CONFIG, tmp_path / "curve.svg")
    assert dict(matplotlib.rcParams) == before


def test_neither_matplotlib_nor_jax_is_imported_before_it_is_needed():
    code = (
        "import sys, bellmark.report.plots, bellmark.report.statistics, bellmark.report.video;"
        "print([m for m in ('jax', 'matplotlib', 'PIL', 'imageio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (500.0, "500"),
        (499.96, "500"),
        (-171.24, "−171.2"),
        (0.12345, "0.123"),
        (12_345.6, "12,346"),
        (NAN, "?"),
        (-0.00025, "−0.00025"),
    ],
)
def test_numbers_read_well(value, text):
    assert plots.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (5120, "5.12k"), (100_000, "100k"), (1.5e6, "1.5M"), (2e9, "2G"), (0.25, "0.25")],
)
def test_steps_read_well(value, text):
    assert plots.compact(value) == text


def test_the_exact_gap_is_drawn_without_being_asked_for(tmp_path, figures):
    """Wherever it was measured; rows in which a policy never ends are left out, and 0 has its place."""
    table = columns()
    greedy = np.linspace(1.0, 0.0, 40)[:, None] * np.ones(4)
    greedy[:2], greedy[-6:] = np.inf, 0.0
    table |= {"gap/greedy": greedy, "gap/behaviour": greedy + 0.5}
    learning_curve(
        table,
        {**CONFIG, "algorithm": {"name": "q_learning", "fields": {"discount": 0.9}}},
        tmp_path / "a.png",
    )
    (figure,) = figures
    words = " ".join(texts(figure))
    for expected in ("exact gap to the optimum, discount 0.9", "greedy policy  0", "policy that acts  0.5"):
        assert expected in words
    (axes,) = [axes for axes in figure.axes if "exact gap" in axes.get_title(loc="left")]
    assert axes.get_yscale() == "symlog"
    lines = [line.get_ydata() for line in axes.lines]
    assert len(lines) == 2
    assert np.nanmin(lines[0]) == 0.0
    learning_curve(columns(), CONFIG, tmp_path / "b.png")
    assert not any("exact gap" in axes.get_title(loc="left") for axes in figures[1].axes)

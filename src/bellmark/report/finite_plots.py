"""Pictures of solved finite models: values and policies, action values, converging bounds, routes, sweeps
in motion.

Everything is drawn on figures of its own (Agg, no pyplot), so it works without a display and leaves no
state behind.

    solution_figure      values with the policy, action values, and how the bounds closed, on one sheet
    route_figure         the same world under several parameters, side by side, each with its likely route
    animate_sweeps       the values of every sweep as a GIF

The `draw_…` functions put one of these on axes of yours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from numpy.typing import NDArray

from bellmark.errors import BadInput
from bellmark.mdp import FiniteMDP, GridLayout
from bellmark.mdp.routes import likely_route, settled, visited
from bellmark.report.numbers import number

INK, FAINT, WALL, ROUTE = "#1f2933", "#8a94a0", "#4a4e56", "#c2410c"
DIVERGING = LinearSegmentedColormap.from_list(
    "loss-gain", ["#b4472f", "#eaa98f", "#faf8f4", "#8fcabc", "#16756b"]
)
RISING = LinearSegmentedColormap.from_list(
    "low-high", ["#f7f5ef", "#cfe5dc", "#7fc0b3", "#2f8f86", "#0f5a58"]
)
_centred: Any = {"ha": "center", "va": "center"}
MOST_LABELLED, MOST_ARROWS = 130, 1200
"""Above this many cells numbers are left out, and above that the arrows too: nobody could read them."""


@dataclass(frozen=True)
class Case:
    """One solved model of a side-by-side comparison."""

    label: str
    mdp: FiniteMDP
    solution: Any


# -------------------------------------------------------------------------------------------------------
# sheets


def solution_figure(mdp: FiniteMDP, solution: Any) -> Figure:
    """The whole answer on one sheet: for grids as maps, for other models as a table or, if large, as a
    profile."""
    layout = picture_layout(mdp)
    if layout is None:
        return _other_figure(mdp, solution)
    rows, columns = layout.shape
    triangles = _shows_triangles(mdp, layout)
    panels = 2 if triangles or not layout.directions else 1
    across = panels if columns <= 1.7 * rows else 1  # wide worlds are stacked, so that their cells stay large
    down = panels // across
    cell = min(1.15, 15.0 / (across * columns), 9.0 / (down * rows))
    width, height = max(across * columns * cell + 0.5 * across, 7.5), max(rows * cell, 1.6) + 0.35
    figure = _figure(width, down * height + 3.4, _headline(mdp, solution))
    grid = figure.add_gridspec(down + 1, 2, height_ratios=[height] * down + [2.4])
    places = [grid[0, 0], grid[0, 1]] if across == 2 else [grid[row, :] for row in range(down)]
    draw_values(figure.add_subplot(places[0]), mdp, solution.values, solution.policy, _ties(solution))
    if triangles:
        draw_action_values(figure.add_subplot(places[1]), mdp, solution.action_values, solution.policy)
    elif panels == 2:
        draw_policy(figure.add_subplot(places[1]), mdp, solution.policy)
    draw_bounds(figure.add_subplot(grid[down, 0]), mdp, solution)
    draw_gap(figure.add_subplot(grid[down, 1]), solution)
    return figure


def _other_figure(mdp: FiniteMDP, solution: Any) -> Figure:
    short = mdp.num_states <= 40 and mdp.num_actions <= 8
    height = 0.26 * (mdp.num_states + 2) if short else 3.6
    width = 8.5 if short else 10.0
    figure = _figure(width, height + 3.7, _headline(mdp, solution))
    grid = figure.add_gridspec(2, 2, height_ratios=[max(height, 1.2), 2.4])
    top = figure.add_subplot(grid[0, :])
    if short:
        draw_table(top, mdp, solution)
    else:
        draw_profile(top, mdp, solution)
    draw_bounds(figure.add_subplot(grid[1, 0]), mdp, solution)
    draw_gap(figure.add_subplot(grid[1, 1]), solution)
    return figure


def route_figure(cases: Sequence[Case], columns: int | None = None, title: str = "") -> Figure:
    """One map per case with its likely route from the start; colours are shared within a panel only.

    **Raises** `BadInput` for a model without a grid, which has no route to draw.
    """
    for case in cases:
        if case.mdp.layout is None:
            raise BadInput(f"{case.mdp.name or 'this model'} has no grid to draw a route on")
    across = min(columns or int(np.ceil(len(cases) ** 0.5)), len(cases))
    down = -(-len(cases) // across)
    shape = cases[0].mdp.layout.shape  # type: ignore[union-attr]
    cell = min(0.95, 15.0 / (across * shape[1]), 12.0 / (down * shape[0]))
    size = (max(across * (shape[1] * cell + 0.4), 5.0), down * (shape[0] * cell + 0.55) + 0.6)
    figure = _figure(*size, (title or cases[0].mdp.name, ""))
    for index, case in enumerate(cases):
        axes = figure.add_subplot(down, across, index + 1)
        draw_values(axes, case.mdp, case.solution.values, case.solution.policy, numbers=False)
        draw_route(axes, case.mdp, likely_route(case.mdp, case.solution.policy, case.solution.values))
        start = float(case.mdp.initial_distribution @ case.solution.values)
        axes.set_title(f"{case.label}   worth {number(start)}", fontsize=10, color=INK, loc="left")
    return figure


def animate_sweeps(
    mdp: FiniteMDP,
    sweeps: Sequence[NDArray[np.float64]],
    discount: float,
    path: Path,
    most_frames: int = 48,
    seconds: float = 8.0,
) -> Path:
    """Write a GIF of the values after each sweep, [sweeps, S], with the greedy policy of that moment.

    Early sweeps, which change most, are shown more densely than late ones; the last frame rests.
    **Raises** `BadInput` for a model without a grid, or when there is nothing to show.
    """
    from PIL import Image

    layout = picture_layout(mdp)
    if layout is None:
        raise BadInput(f"{mdp.name or 'this model'} has no grid to animate")
    if len(sweeps) == 0:
        raise BadInput("no sweeps were recorded; solve with record=True")
    rows, columns = layout.shape
    cell = min(0.9, 9.0 / columns, 7.0 / rows)
    shown = _frames(sweeps, most_frames)
    norm = _norm(np.concatenate([sweeps[index] for index in shown]))
    frames = []
    for sweep in shown:
        figure = _figure(
            max(columns * cell + 0.3, 4.5), rows * cell + 0.7, (mdp.name, f"sweep {sweep + 1}"), dpi=90
        )
        axes = figure.add_subplot()
        policy = np.where(mdp.available, backup(mdp, sweeps[sweep], discount), -np.inf).argmax(axis=1)
        draw_values(axes, mdp, sweeps[sweep], policy, norm=norm)
        axes.set_title("", loc="left")
        canvas = figure.canvas
        assert isinstance(canvas, FigureCanvasAgg)
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    # One palette for the whole film, from its beginning, middle and end: colours must not drift.
    strip = Image.new("RGB", (frames[0].width, 3 * frames[0].height))
    for place, frame in enumerate((frames[0], frames[len(frames) // 2], frames[-1])):
        strip.paste(frame, (0, place * frame.height))
    palette = strip.quantize(colors=224)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    each = max(60, min(500, int(1000 * seconds / len(frames))))
    durations = [each] * (len(frames) - 1) + [2500]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return path


def sweeps_from_zero(mdp: FiniteMDP, discount: float, most: int = 1000) -> list[NDArray[np.float64]]:
    """Value iteration as it is taught, v ← max_a (r + γ P v) from v = 0, until a sweep changes next to nothing.

    For looking at: values spread from where rewards are. (`solve` starts elsewhere, and proves.)
    """
    sweeps = [np.zeros(mdp.num_states)]
    while len(sweeps) <= most:
        q = np.where(mdp.available, backup(mdp, sweeps[-1], discount), -np.inf)
        sweeps.append(np.where(mdp.terminal, 0.0, q.max(axis=1)))
        if np.abs(sweeps[-1] - sweeps[-2]).max() <= 2e-4 * np.abs(sweeps[-1]).max():
            break
    return sweeps[1:]


def _frames(sweeps: Sequence[NDArray[np.float64]], most: int) -> list[int]:
    """Indices of sweeps to show: all of them if they are few, else equally spaced in log(1 + sweep)."""
    if len(sweeps) <= most:
        return list(range(len(sweeps)))
    spaced = np.unique(np.round(np.expm1(np.linspace(0, np.log1p(len(sweeps) - 1), most))).astype(int))
    return [int(index) for index in spaced]


# --------------------------------------------------------------------------------------------------------
# maps


def draw_values(
    axes: Axes,
    mdp: FiniteMDP,
    values: NDArray[np.float64],
    policy: NDArray[np.int64] | None = None,
    ties: dict[int, tuple[int, ...]] | None = None,
    norm: Normalize | None = None,
    numbers: bool = True,
) -> None:
    """Values as a heat map; a solid triangle points where the policy goes, pale ones at actions just as good.

    States in which nothing is ever decided, such as a cliff, are left blank. With `numbers` off, only
    marks are written.
    """
    layout = _layout(mdp)
    drawn = (layout.rows >= 0) & visited(mdp)
    norm = norm or _norm(values[drawn])
    picture = np.full(layout.shape, np.nan)
    picture[layout.rows[drawn], layout.columns[drawn]] = values[drawn]
    colours = _colours(norm)
    masked = np.ma.masked_invalid(picture)
    image = axes.imshow(masked, cmap=colours, norm=norm, aspect="equal", interpolation="nearest")
    _furnish(axes, layout)
    size = _font(axes, layout)
    labelled = _labelled(layout) and numbers
    for state in np.flatnonzero(drawn).tolist() if labelled else ():
        place = int(layout.columns[state]), int(layout.rows[state])
        axes.text(
            *place, number(values[state]), **_centred, fontsize=size, color=_on(colours(norm(values[state])))
        )
    for state, mark in layout.marks.items() if _labelled(layout) else ():
        x, y = int(layout.columns[state]), int(layout.rows[state])
        colour = _on(colours(norm(values[state]))) if drawn[state] else INK
        if labelled and drawn[state]:
            axes.text(
                x - 0.44,
                y - 0.33,
                mark.replace("-", "−"),
                ha="left",
                va="center",
                fontsize=0.7 * size,
                color=colour,
                alpha=0.8,
            )
        else:
            aside = 0.27 if mark == "S" and not numbers else 0.0  # a route begins in the middle
            axes.text(
                x - aside, y - aside, mark.replace("-", "−"), **_centred, fontsize=1.1 * size, color=colour
            )
    if policy is not None and layout.directions and drawn.sum() <= MOST_ARROWS:
        for state in np.flatnonzero(drawn & ~settled(mdp)).tolist():
            best = int(policy[state])
            colour = _on(colours(norm(values[state])))
            for action in (ties or {}).get(int(state), (best,)):
                pale = action != best or not numbers
                _point(axes, layout, int(state), action, colour, pale, inner=not _labelled(layout))
    if not labelled and numbers:
        _bar(axes, image, "")
    axes.set_title(
        "Values and policy" if policy is not None else "Values", fontsize=10, color=INK, loc="left"
    )


def draw_action_values(
    axes: Axes, mdp: FiniteMDP, action_values: NDArray[np.float64], policy: NDArray[np.int64]
) -> None:
    """Four triangles per cell, one for the value of each move; the policy's own is in bold."""
    layout = _layout(mdp)
    drawn = (layout.rows >= 0) & visited(mdp)
    norm = _norm(_without_outliers(action_values[drawn]))
    colours, ends = _colours(norm), settled(mdp)
    size = _font(axes, layout) * 0.74
    corners = {
        (-1, 0): ((-1, -1), (1, -1)),
        (0, 1): ((1, -1), (1, 1)),
        (1, 0): ((1, 1), (-1, 1)),
        (0, -1): ((-1, 1), (-1, -1)),
    }
    shapes, fills = [], []
    for state in np.flatnonzero(drawn):
        x, y = float(layout.columns[state]), float(layout.rows[state])
        if ends[state]:
            worth = action_values[state].max() if mdp.available[state].any() else 0.0
            shapes.append([(x - 0.5, y - 0.5), (x + 0.5, y - 0.5), (x + 0.5, y + 0.5), (x - 0.5, y + 0.5)])
            fills.append(colours(norm(worth)))
            axes.text(
                x, y, number(worth), ha="center", va="center", fontsize=1.3 * size, color=_on(fills[-1])
            )
            continue
        for action, way in enumerate(layout.directions):
            q = action_values[state, action]
            if way is None or not np.isfinite(q):
                continue
            shapes.append([(x, y), *((x + 0.5 * right, y + 0.5 * down) for right, down in corners[way])])
            fills.append(colours(norm(q)))
            chosen = action == policy[state]
            axes.text(
                x + 0.315 * way[1],
                y + 0.345 * way[0],
                number(q),
                **_centred,
                fontsize=size * min(1.0, 5.2 / len(number(q))),
                color=_on(fills[-1]),
                fontweight="bold" if chosen else "normal",
                alpha=1.0 if chosen else 0.72,
            )
    axes.add_collection(
        PolyCollection(shapes, facecolors=fills, edgecolors="#ffffff", linewidths=0.8, zorder=0.5)
    )
    axes.set_xlim(-0.5, layout.shape[1] - 0.5)
    axes.set_ylim(layout.shape[0] - 0.5, -0.5)
    axes.set_aspect("equal")
    _furnish(axes, layout)
    axes.set_title("Action values", fontsize=10, color=INK, loc="left")


def draw_policy(axes: Axes, mdp: FiniteMDP, policy: NDArray[np.int64]) -> None:
    """For models whose states fill a rectangle but whose actions point nowhere: the action's name in
    each cell."""
    layout = _layout(mdp)
    picture = np.full(layout.shape, np.nan)
    picture[layout.rows, layout.columns] = policy
    colours = LinearSegmentedColormap.from_list("actions", ["#e9c46a", "#f7f5ef", "#5b8fb9"])
    norm = Normalize(0, max(mdp.num_actions - 1, 1))
    axes.imshow(
        np.ma.masked_invalid(picture), cmap=colours, norm=norm, aspect="equal", interpolation="nearest"
    )
    _furnish(axes, layout)
    if layout.shape[0] * layout.shape[1] <= 4 * MOST_LABELLED:
        for state in range(mdp.num_states):
            text = str(mdp.actions[int(policy[state])])
            place = int(layout.columns[state]), int(layout.rows[state])
            axes.text(
                *place, text, ha="center", va="center", fontsize=min(9.0, 100 / max(layout.shape)), color=INK
            )
    axes.set_title("Policy", fontsize=10, color=INK, loc="left")


def draw_route(axes: Axes, mdp: FiniteMDP, route: Sequence[int]) -> None:
    """A line through the cells of `route`, with an arrowhead at its end."""
    layout = _layout(mdp)
    points = [(float(layout.columns[s]), float(layout.rows[s])) for s in route if layout.rows[s] >= 0]
    if len(points) < 2:
        return
    # The last stretch stops short of the cell's middle, where the exit says what it pays.
    (x, y), (right, down) = points[-1], np.subtract(points[-1], points[-2])
    points[-1] = (x - 0.3 * float(np.sign(right)), y - 0.3 * float(np.sign(down)))
    width = min(4.0, 24.0 / max(layout.shape))
    xs, ys = zip(*points, strict=True)
    axes.plot(
        xs, ys, color=ROUTE, linewidth=width, solid_joinstyle="round", solid_capstyle="round", alpha=0.85
    )
    axes.plot(xs[:1], ys[:1], "o", color=ROUTE, markersize=1.9 * width)
    head = FancyArrowPatch(
        points[-2],
        points[-1],
        arrowstyle="-|>",
        mutation_scale=4.5 * width,
        color=ROUTE,
        linewidth=0,
        shrinkA=0,
        shrinkB=0,
    )
    axes.add_patch(head)


# ------------------------------------------------------------------------------------------ curves and tables


def draw_bounds(axes: Axes, mdp: FiniteMDP, solution: Any) -> None:
    """The value of the start, sweep by sweep, and the proved interval around it as soon as there is one."""
    lower, upper = _history(solution)
    if len(lower) == 1:
        _draw_distribution(axes, solution.values)
        return
    start = mdp.initial_distribution
    begins = start > 0.0
    low, high = lower[:, begins] @ start[begins], upper[:, begins] @ start[begins]
    final = float(start @ solution.values) if solution.gain is None else solution.gain
    sweeps = np.arange(1, len(low) + 1)
    shown = np.isfinite(low) & np.isfinite(high)
    axes.axhline(final, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
    # The first bounds can be a thousand times wider than anything of interest.
    late = sweeps >= 1 + len(low) // 10
    room = 2e-3 * max(abs(final), 1e-3)
    bottom, top = final - room, final + room
    if shown.sum() > 2:
        axes.fill_between(sweeps[shown], low[shown], high[shown], color="#7fc0b3", alpha=0.45, linewidth=0)
        axes.plot(sweeps[shown], high[shown], color="#0f5a58", linewidth=1.3)
        axes.plot(sweeps[shown], low[shown], color="#2f8f86", linewidth=1.3)
        bottom = float(low[shown & late].min(initial=bottom))
        top = float(high[shown & late].max(initial=top))
        title = "Value of the start between its bounds"
    else:
        record = getattr(solution, "record", None)
        values = np.array([*record.values] if record is not None else [])
        estimates = values @ start if len(values) else np.zeros(0)
        axes.plot(
            sweeps[: len(estimates)], estimates, color="#2f8f86", linewidth=1.3, marker="o", markersize=3
        )
        axes.plot(sweeps[shown], high[shown], "o", color="#0f5a58", markersize=6)
        bottom, top = float(estimates.min(initial=bottom)), float(estimates.max(initial=top))
        title = "Value of the start; proved at the last"
    axes.set_ylim(bottom - 0.06 * (top - bottom), top + 0.06 * (top - bottom))
    if solution.gain is not None:
        title = title.replace("Value of the start", "Average reward per step")
    _plain(axes, title, "iteration")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlim(0.5, max(len(low), 2) + 0.5)


def _draw_distribution(axes: Axes, values: NDArray[np.float64]) -> None:
    """How the values are spread; for models of which no sweep was kept."""
    axes.hist(values, bins=60, color="#7fc0b3")
    _plain(axes, "How many states have which value", "value")


def draw_gap(axes: Axes, solution: Any) -> None:
    """The proved error, max over states of upper − lower, on a log scale, with the tolerance asked for.

    A method that proves nothing before its end has its largest changes drawn instead.
    """
    lower, upper = _history(solution)
    with np.errstate(invalid="ignore"):
        gap = (upper - lower).max(axis=1)
    residuals = np.asarray(getattr(solution, "residuals", ()))
    last = max(len(gap), len(residuals))
    sweeps = np.arange(last - len(gap) + 1, last + 1)
    shown = np.isfinite(gap) & (gap > 0)
    few = shown.sum() <= 2
    if few and (residuals > 0).any():
        moved = np.flatnonzero(residuals > 0)
        axes.semilogy(moved + 1, residuals[moved], color=FAINT, linewidth=1.3, marker="o", markersize=3)
    axes.semilogy(sweeps[shown], gap[shown], color="#0f5a58", linewidth=1.5, marker="o" if few else "")
    if getattr(solution, "tolerance", 0) > 0:
        axes.axhline(solution.tolerance, color=ROUTE, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.text(
            0.01,
            solution.tolerance,
            "tolerance",
            color=ROUTE,
            fontsize=8,
            ha="left",
            va="bottom",
            transform=axes.get_yaxis_transform(),
        )
    _plain(axes, "Largest change, and the proved error at the last" if few else "Proved error", "iteration")
    axes.set_xlim(0.5, max(last, 2) + 0.5)


def draw_table(axes: Axes, mdp: FiniteMDP, solution: Any) -> None:
    """State, value, best action and every action's value, as rows; the best one of each row is shaded."""
    axes.axis("off")
    q = solution.action_values
    header = ["state", "value", "best", *(str(action) for action in mdp.actions)]
    body = []
    for state in range(mdp.num_states):
        best = "·" if mdp.terminal[state] else str(mdp.actions[int(solution.policy[state])])
        entries = [number(entry) if np.isfinite(entry) else "" for entry in q[state]]
        body.append([_short(mdp.states[state]), number(solution.values[state]), best, *entries])
    table = axes.table(body, colLabels=header, loc="upper center", cellLoc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.scale(1.0, 1.25)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor("#e3e3de")
        cell.get_text().set_color(INK)
        if row == 0:
            cell.set_facecolor("#eef1f0")
            cell.get_text().set_fontweight("bold")
        elif column >= 3 and column - 3 == solution.policy[row - 1] and not mdp.terminal[row - 1]:
            cell.set_facecolor("#d5ebe4")
            cell.get_text().set_fontweight("bold")


def draw_profile(axes: Axes, mdp: FiniteMDP, solution: Any) -> None:
    """Values by state index, coloured by the best action: the shape of a model too large for a table."""
    alive = ~mdp.terminal
    index = np.flatnonzero(alive)
    if len(index) > 20_000:
        index = index[np.linspace(0, len(index) - 1, 20_000).astype(int)]
    actions = solution.policy[index]
    size = float(np.clip(4000 / len(index), 1.5, 22))
    used = np.unique(actions)
    palette = LinearSegmentedColormap.from_list(
        "actions", ["#c2410c", "#d9a441", "#5f9e6e", "#2f7f9e", "#5a4b9c"]
    )
    if len(used) <= 8:
        for order, action in enumerate(used):
            own = actions == action
            colour = palette(order / max(len(used) - 1, 1))
            label = str(mdp.actions[int(action)])
            axes.scatter(
                index[own], solution.values[index[own]], s=size, color=colour, label=label, linewidths=0
            )
        axes.legend(
            fontsize=8, frameon=False, ncols=min(len(used), 4), markerscale=max(1.0, 4 / size), loc="best"
        )
    else:
        dots = axes.scatter(index, solution.values[index], s=size, c=actions, cmap=palette, linewidths=0)
        bar = _bar(axes, dots, "best action")
        ticks = np.linspace(used[0], used[-1], 6).round().astype(int)
        bar.set_ticks(ticks, labels=[_short(mdp.actions[int(tick)]) for tick in ticks])
    part = f" ({len(index):,} of {alive.sum():,} states)" if len(index) < alive.sum() else ""
    _plain(axes, f"Values by state, coloured by the best action{part}", "state")


# ------------------------------------------------------------------------------------------------ small parts


def backup(mdp: FiniteMDP, values: NDArray[np.float64], discount: float) -> NDArray[np.float64]:
    """[S, A]: r + γ P v, in plain NumPy; only pictures use it."""
    from bellmark.mdp.validation import row_sums

    onward = row_sums(mdp.continuation * values[mdp.successors], mdp.offsets)
    return mdp.rewards + discount * onward.reshape(mdp.rewards.shape)


def picture_layout(mdp: FiniteMDP) -> GridLayout | None:
    """The model's own layout, or a rectangle if its states are named by pairs that fill one; else None."""
    if mdp.layout is not None:
        return mdp.layout
    if isinstance(mdp.states, range) or not all(
        isinstance(name, tuple) and len(name) == 2 and all(isinstance(part, int) for part in name)
        for name in mdp.states
    ):
        return None
    rows, columns = np.array(mdp.states, np.int64).T
    shape = (int(rows.max()) + 1, int(columns.max()) + 1)
    full = min(rows.min(), columns.min()) == 0 and shape[0] * shape[1] == mdp.num_states and min(shape) > 1
    return GridLayout(shape, rows, columns) if full else None


def save(figure: Figure, path: Path) -> Path:
    """Write the figure as PNG (or whatever the suffix says)."""
    figure.savefig(path, facecolor="white")
    return path


def _figure(width: float, height: float, headline: tuple[str, str], dpi: int = 130) -> Figure:
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    title, details = headline
    figure.suptitle(
        f"{title}   {details}" if len(details) < 16 else f"{title}\n{details}", fontsize=12, color=INK
    )
    return figure


def _headline(mdp: FiniteMDP, solution: Any) -> tuple[str, str]:
    error = float(np.max(solution.upper - solution.lower, initial=0.0))
    sweeps = f"{solution.iterations} iterations"
    how = f"discount {solution.discount:g}, {solution.method}" if solution.gain is None else "average reward"
    details = f"{how}, {sweeps}, error ≤ {error:.1e}"
    return mdp.name or "solution", details


def _history(solution: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bounds, [sweeps, S]; just the final ones when the sweeps were not recorded."""
    record = getattr(solution, "record", None)
    if record is None or len(record.lower) == 0:
        return solution.lower[None], solution.upper[None]
    lower, upper = [*record.lower], [*record.upper]
    if not np.array_equal(lower[-1], solution.lower) or not np.array_equal(upper[-1], solution.upper):
        lower.append(solution.lower)
        upper.append(solution.upper)
    return np.array(lower), np.array(upper)


def _ties(solution: Any) -> dict[int, tuple[int, ...]]:
    return getattr(solution, "ties", None) or {}


def _layout(mdp: FiniteMDP) -> GridLayout:
    layout = picture_layout(mdp)
    if layout is None:
        raise BadInput(f"{mdp.name or 'this model'} has no grid to draw")
    return layout


def _labelled(layout: GridLayout) -> bool:
    return layout.shape[0] * layout.shape[1] <= MOST_LABELLED


def _shows_triangles(mdp: FiniteMDP, layout: GridLayout) -> bool:
    cardinal = {(-1, 0), (0, 1), (1, 0), (0, -1)}
    return len(layout.directions) == 4 and set(layout.directions) == cardinal and _labelled(layout)


def _norm(values: NDArray[np.float64]) -> Normalize:
    """Zero is the colour's middle where values have both signs, so that gain and loss are told apart at
    a glance."""
    low, high = float(np.min(values, initial=0.0)), float(np.max(values, initial=0.0))
    if low < 0.0 < high:
        return TwoSlopeNorm(0.0, low, high)
    low, high = float(values.min()), float(values.max())
    return Normalize(low, high if high > low else low + 1.0)


def _without_outliers(action_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The finite entries, of which none lies further below the best actions' range than that range is
    wide."""
    best = action_values.max(axis=1)
    best = best[np.isfinite(best)]
    q = action_values[np.isfinite(action_values)]
    return np.maximum(q, best.min() - max(float(best.max() - best.min()), 1e-9))


def _colours(norm: Normalize) -> LinearSegmentedColormap:
    return DIVERGING if isinstance(norm, TwoSlopeNorm) else RISING


def _on(colour: Any) -> str:
    """Ink or white, whichever is readable on this background."""
    red, green, blue = colour[:3]
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "#ffffff"


def _font(axes: Axes, layout: GridLayout) -> float:
    box = axes.get_position()
    figure = axes.get_figure()
    assert figure is not None
    width, height = figure.get_size_inches()  # type: ignore[union-attr]
    cell = min(box.width * width / layout.shape[1], box.height * height / layout.shape[0])
    return float(np.clip(13.5 * cell, 4.5, 12.0))


def _point(
    axes: Axes, layout: GridLayout, state: int, action: int, colour: str, pale: bool, inner: bool
) -> None:
    way = layout.directions[action]
    if way is None or way == (0, 0):
        return
    down, right = np.array(way) / np.hypot(*way)
    base = 0.0 if inner else 0.33
    x, y = layout.columns[state] + base * right, layout.rows[state] + base * down
    length, half = (0.28, 0.16) if inner else (0.12, 0.10)
    tip = (x + length * right, y + length * down)
    side = (half * down, -half * right)
    back = (x - (length * right if inner else 0), y - (length * down if inner else 0))
    triangle = [tip, (back[0] + side[0], back[1] + side[1]), (back[0] - side[0], back[1] - side[1])]
    axes.add_collection(
        PolyCollection(
            [triangle], facecolors=colour, edgecolors="none", alpha=0.28 if pale else 0.95, zorder=2
        )
    )


def _furnish(axes: Axes, layout: GridLayout) -> None:
    """Walls, cliffs and grid lines."""
    for row, column in layout.walls:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=WALL, linewidth=0))
    for state in layout.cliffs:
        corner = (float(layout.columns[state]) - 0.5, float(layout.rows[state]) - 0.5)
        axes.add_patch(
            Rectangle(
                corner, 1, 1, facecolor="none", edgecolor="#b4472f", hatch="////", linewidth=0, alpha=0.45
            )
        )
    rows, columns = layout.shape
    if rows * columns <= MOST_ARROWS:
        axes.set_xticks(np.arange(-0.5, columns), minor=True)
        axes.set_yticks(np.arange(-0.5, rows), minor=True)
        axes.grid(which="minor", color="#ffffff", linewidth=1.0)
    axes.tick_params(which="both", length=0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#d5d5cf")


def _bar(axes: Axes, drawn: Any, label: str) -> Any:
    """A slim colour bar beside the axes."""
    bar = axes.figure.colorbar(drawn, ax=axes, pad=0.015, fraction=0.03)
    bar.set_label(label, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)
    return bar


def _plain(axes: Axes, title: str, x: str) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x, fontsize=8.5, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#ecece7", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=6, integer=x != "value")


def _short(name: Any) -> str:
    text = str(name)
    return text if len(text) <= 22 else text[:21] + "…"

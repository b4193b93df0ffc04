"""Discount and noise on the gridworld: which of four routes is best, everywhere in between.

Our two-exits world, made after the discount grid of Berkeley's CS188: exact solutions only, nothing is learnt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bellmark.algorithms.exact import solve
from bellmark.mdp.examples import two_exits
from bellmark.mdp.model import FiniteMDP
from bellmark.mdp.occupancy import policy_matrix
from bellmark.mdp.routes import likely_route
from bellmark.report.finite_plots import draw_route, draw_values

from .base import Experiment, Findings, Float, Table, Verdict, verdict
from .drawing import COLOURS, INK, Sheet, tinted

DISCOUNTS, NOISES = np.linspace(0.02, 0.98, 49), np.linspace(0.0, 0.6, 41)
NEAR_RISKY, NEAR_SAFE, FAR_RISKY, FAR_SAFE, NOWHERE = range(5)
NAMES = (
    "near exit, risky path",
    "near exit, safe path",
    "far exit, risky path",
    "far exit, safe path",
    "no exit",
)
CORNERS = {(0.1, 0.0): NEAR_RISKY, (0.1, 0.5): NEAR_SAFE, (0.9, 0.0): FAR_RISKY, (0.9, 0.5): FAR_SAFE}
PALETTE = (COLOURS[5], COLOURS[2], COLOURS[1], COLOURS[0], COLOURS[6])
ENTRANCES = {
    NEAR_RISKY: ((3, 2), (2, 2)),
    NEAR_SAFE: ((1, 2), (2, 2)),
    FAR_RISKY: ((3, 4), (2, 4)),
    FAR_SAFE: ((1, 4), (2, 4)),
}
"""The last step of each route, from a cell into an exit: from below the path lies between the chasms."""
RARE = 1e-3


def best_route(discount: float, noise: float) -> tuple[int, FiniteMDP, Any]:
    """The route that the optimal policy most probably ends by, the world, and its solution."""
    mdp = two_exits(noise=noise)
    # which way to go can hang on differences far below any tolerance: solved to the last digit
    solution = solve(mdp, discount, method="policy_iteration")
    chain, _ = policy_matrix(mdp, solution.policy)
    chain = chain.toarray()
    # an episode that would never end is cut after about a million steps
    visits = np.linalg.solve(np.eye(mdp.num_states) - (1 - 1e-6) * chain.T, mdp.initial_distribution)
    flow = [
        visits[mdp.index(cell)] * chain[mdp.index(cell), mdp.index(end)] for cell, end in ENTRANCES.values()
    ]
    kind = int(np.argmax(flow)) if max(flow) > RARE else NOWHERE
    return kind, mdp, solution


def measure(seeds: Sequence[int]) -> Findings:
    del seeds
    rows = {
        f"{discount:.2f}": np.array([[float(best_route(discount, noise)[0]) for noise in NOISES.tolist()]])
        for discount in DISCOUNTS.tolist()
    }
    corners = {f"γ = {g:g}, noise = {n:g}": float(best_route(g, n)[0]) for g, n in CORNERS}
    return Findings([0], {"routes": Table("noise", NOISES, "route", rows)}, corners)


def judge(findings: Findings) -> Verdict:
    found = {(g, n): int(findings.exact[f"γ = {g:g}, noise = {n:g}"]) for g, n in CORNERS}
    routes = grid(findings)
    share = [100.0 * float(np.mean(routes == kind)) for kind in range(5)]
    parts = {
        f"at γ = {g:g} and noise {n:g} the {NAMES[kind]} is best": found[g, n] == kind
        for (g, n), kind in CORNERS.items()
    }
    figures = (
        ", ".join(
            f"γ = {g:g} with noise {n:g} makes the {NAMES[kind]} best" for (g, n), kind in found.items()
        )
        + "; of the whole plane "
        + ", ".join(
            f"{part:.0f} % belong to the {name}" for name, part in zip(NAMES, share, strict=True) if part
        )
    )
    return verdict(parts, figures)


def grid(findings: Findings) -> Float:
    """Route codes [discounts, noises]."""
    return np.concatenate(list(findings.tables["routes"].curves.values()))


def draw(findings: Findings, path: Path) -> Path:
    from matplotlib.colors import ListedColormap

    codes = grid(findings)
    with Sheet(
        path,
        "Discount and noise decide where to go",
        f"exact optimal policies of the two-exits world at {codes.size:,} points; right: the four "
        f"corners, with their routes",
        panels=(1.0, 1.0),
        size=(10.0, 4.9),
        right=0.985,
        left=0.07,
        bottom=0.115,
        wspace=0.1,
    ) as sheet:
        left, right = sheet.panels
        shades = ListedColormap([tinted(colour, 0.75) for colour in PALETTE])
        half = (NOISES[1] - NOISES[0]) / 2, (DISCOUNTS[1] - DISCOUNTS[0]) / 2
        extent = (NOISES[0] - half[0], NOISES[-1] + half[0], DISCOUNTS[0] - half[1], DISCOUNTS[-1] + half[1])
        left.imshow(codes, cmap=shades, vmin=-0.5, vmax=4.5, origin="lower", aspect="auto", extent=extent)
        left.grid(False)
        left.set_xlabel("noise")
        left.set_ylabel("discount γ")
        for kind in range(5):
            rows, columns = np.nonzero(codes == kind)
            if len(rows) < 0.01 * codes.size:
                continue
            words, middle = NAMES[kind].replace(", ", ",\n"), DISCOUNTS[rows].mean()
            if np.ptp(NOISES[columns]) > 0.15:
                left.text(
                    NOISES[columns].mean(), middle, words, ha="center", va="center", fontsize=9, color=INK
                )
                continue
            left.annotate(
                words,
                (NOISES[columns].mean(), middle),
                xytext=(NOISES[columns].max() + 0.04, middle),
                va="center",
                fontsize=9,
                color=INK,
                arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.8},
            )
        right.set_axis_off()
        box = right.get_position()
        for discount, noise in CORNERS:
            left.plot(
                noise,
                discount,
                "o",
                color=INK,
                markersize=6,
                markeredgecolor="white",
                clip_on=False,
                zorder=6,
            )
            across, up = int(noise > 0), int(discount > 0.5)
            width, height = 0.5 * box.width, 0.5 * (box.height + 0.045)
            spot = (
                box.x0 + across * width + 0.012,
                box.y0 + up * height - 0.02,
                width - 0.02,
                height - 0.065,
            )
            axes = sheet.figure.add_axes(spot)
            _, mdp, solution = best_route(discount, noise)
            draw_values(axes, mdp, solution.values, solution.policy, numbers=False)
            draw_route(axes, mdp, likely_route(mdp, solution.policy, solution.values))
            axes.set_title(f"γ = {discount:g}, noise {noise:g}", loc="left", fontsize=9.5, color=INK, pad=4)
            axes.grid(which="major", visible=False)
    return path


EXPERIMENT = Experiment(
    name="discount-noise",
    title="Discount and noise decide where to go",
    about=(
        "A near exit pays 1 and a far one 10; to each leads a short path between chasms and a long safe one. A small "
        "discount makes the far exit worthless by the time one is there, noise makes the short paths dangerous. Every "
        "point is solved exactly; nothing is learnt and no seed is drawn."
    ),
    claim=(
        "γ = 0.1 chooses the near exit and γ = 0.9 the far one; noise 0 chooses the risky path and "
        "noise 0.5 the safe one."
    ),
    source="after the discount grid of Berkeley's CS188; ours",
    seeds=1,
    measure=measure,
    judge=judge,
    draw=draw,
    least=0,
)

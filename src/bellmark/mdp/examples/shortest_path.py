"""Shortest paths on a graph, as a deterministic decision process: values are minus the distances.

Source: Dijkstra, *A note on two problems in connexion with graphs*, 1959; the default graph is figure 22.6
of Cormen, Leiserson, Rivest & Stein, *Introduction to Algorithms*, 4th ed., 2022 (distances from s: t 8, x
9, y 5, z 7).
"""

from collections.abc import Iterator, Mapping

from bellmark.errors import BadInput
from bellmark.mdp.examples.table import tabulate
from bellmark.mdp.model import FiniteMDP, Transition

TEXTBOOK = {
    ("s", "t"): 10.0,
    ("s", "y"): 5.0,
    ("t", "x"): 1.0,
    ("t", "y"): 2.0,
    ("x", "z"): 4.0,
    ("y", "t"): 3.0,
    ("y", "x"): 9.0,
    ("y", "z"): 2.0,
    ("z", "s"): 7.0,
    ("z", "x"): 6.0,
}


def shortest_path(
    start: str = "s",
    target: str = "x",
    discount: float = 1.0,
    edges: Mapping[tuple[str, str], float] = TEXTBOOK,
) -> FiniteMDP:
    """From `start` to `target` along directed edges {(from, to): length}; actions are named after where
    they lead."""
    nodes = sorted({node for edge in edges for node in edge})
    for name, node in (("start", start), ("target", target)):
        if node not in nodes:
            raise BadInput(f"{name} is {node!r}; the graph has {nodes}")
    if negative := [edge for edge, length in edges.items() if not length >= 0.0]:
        raise BadInput(
            f"the edge {negative[0]} has length {edges[negative[0]]}; lengths must not be negative"
        )

    def outcomes(node: str, towards: str) -> Iterator[Transition]:
        if node != target and (node, towards) in edges:
            yield 1.0, towards, -edges[node, towards], False

    initial = {start: 1.0}
    return tabulate(nodes, nodes, outcomes, initial=initial, name="shortest-path", discount=discount)

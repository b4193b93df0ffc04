"""A queue before one server: whom to admit, and how fast to work.

The queue is M/M/1 in continuous time, looked at through uniformisation (Lippman, 1975): with arrival rate
λ, service rate μ(speed) and clock rate Λ = λ + fastest μ, each tick is an arrival with probability λ / Λ, a
completion with μ / Λ, and otherwise nothing. Source: Naor, *The regulation of queue size by levying tolls*,
Econometrica 37, 1969, who shows that the best admission rule is a threshold; with speeds to choose,
Crabill, 1972: work faster when the queue is longer.
"""

from collections.abc import Iterator

from bellmark.errors import BadInput
from bellmark.mdp.examples.table import at_least, tabulate
from bellmark.mdp.model import FiniteMDP, Transition


def server_queue(
    capacity: int = 20,
    arrival_rate: float = 0.8,
    slow_rate: float = 0.6,
    fast_rate: float = 1.0,
    fast_cost: float = 1.0,
    reward: float = 5.0,
    holding_cost: float = 0.4,
    discount: float = 0.99,
) -> FiniteMDP:
    """States 0 … capacity of customers; actions admit or refuse the next one, and serve slowly or fast.

    `reward` is paid per customer admitted; holding and fast service cost per unit of time. Equal rates and
    no `fast_cost` give Naor's problem of admission alone.
    """
    at_least(capacity, 1, "capacity")
    for name, rate in (("arrival_rate", arrival_rate), ("slow_rate", slow_rate), ("fast_rate", fast_rate)):
        if not rate > 0.0:
            raise BadInput(f"{name} is {rate}; rates must be positive")
    fastest = max(slow_rate, fast_rate)
    clock = arrival_rate + fastest

    def outcomes(customers: int, action: str) -> Iterator[Transition]:
        admits, fast = action.startswith("admit"), action.endswith("fast")
        if admits and customers == capacity:
            return
        served = (fast_rate if fast else slow_rate) if customers else 0.0
        cost = (holding_cost * customers + fast_cost * fast) / clock
        yield arrival_rate / clock, customers + admits, reward * admits - cost, False
        yield served / clock, max(customers - 1, 0), -cost, False
        yield (fastest - served) / clock, customers, -cost, False

    actions = ["admit, slow", "admit, fast", "refuse, slow", "refuse, fast"]
    initial = {0: 1.0}
    return tabulate(
        range(capacity + 1), actions, outcomes, initial=initial, name="server-queue", discount=discount
    )

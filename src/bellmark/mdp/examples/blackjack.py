"""Blackjack against a dealer who draws to 17, from an infinite deck.

Source: Sutton & Barto, 2018, example 5.1; observations as in Gymnasium's Blackjack-v1: (sum, dealer's card,
usable ace). A first hand of 21 (a *natural*) wins unless the dealer has one too; it is a state of its own,
with sum "natural", because the table must know.
"""

from collections.abc import Iterator
from functools import cache

from bellmark.mdp.examples.table import tabulate
from bellmark.mdp.model import FiniteMDP, Transition

CARDS = {card: (4.0 if card == 10 else 1.0) / 13.0 for card in range(1, 11)}
"""An ace is 1; ten, jack, queen and king are all 10."""
State = tuple[int | str, int, bool]


def blackjack(discount: float = 1.0) -> FiniteMDP:
    """Actions stick and hit (0 and 1, as in Gymnasium); +1 for a win, 0 for a draw, −1 for a loss, at
    the end."""
    totals = [(total, False) for total in range(4, 22)] + [(total, True) for total in range(12, 22)]
    states: list[State] = [(total, dealer, ace) for total, ace in totals for dealer in CARDS]
    states += [("natural", dealer, True) for dealer in CARDS]

    def outcomes(state: State, action: str) -> Iterator[Transition]:
        total, dealer, ace = state
        if action == "stick":
            for final, chance in _dealer(dealer, dealer == 1, 1).items():
                yield chance, state, _compare(total, final), True
            return
        for card, chance in CARDS.items():
            reached, usable = _draw(21 if total == "natural" else int(total), ace, card)
            if reached > 21:
                yield chance, state, -1.0, True
            else:
                yield chance, (reached, dealer, usable), 0.0, False

    return tabulate(states, ["stick", "hit"], outcomes, initial=_deal(), name="blackjack", discount=discount)


def _draw(total: int, ace: bool, card: int) -> tuple[int, bool]:
    """The sum after one more card, counting one ace as 11 where that does not break the hand."""
    low = total - 10 * ace + card
    ace = (ace or card == 1) and low + 10 <= 21
    return low + 10 * ace, ace


@cache
def _dealer(total: int, ace: bool, cards: int) -> dict[int | str, float]:
    """{final sum, "natural" or 22 for a bust: chance}, for a dealer who holds `total` (an ace counted
    low first)."""
    if ace and cards == 1:
        total = 11
    if cards > 1 and total >= 17:
        return {"natural" if cards == 2 and total == 21 else min(total, 22): 1.0}
    finals: dict[int | str, float] = {}
    for card, chance in CARDS.items():
        for final, later in _dealer(*_draw(total, ace, card), cards + 1).items():
            finals[final] = finals.get(final, 0.0) + chance * later
    return finals


def _compare(player: int | str, dealer: int | str) -> float:
    if player == "natural":
        return 0.0 if dealer == "natural" else 1.0
    points = 21 if dealer == "natural" else int(dealer)
    if points > 21 or int(player) > points:
        return 1.0
    return 0.0 if player == points else -1.0


def _deal() -> dict[State, float]:
    """Two cards for the player, one shown by the dealer."""
    start: dict[State, float] = {}
    for first, p in CARDS.items():
        for second, q in CARDS.items():
            total, ace = _draw(*_draw(0, False, first), second)
            for dealer, shown in CARDS.items():
                state: State = ("natural" if total == 21 else total, dealer, ace)
                start[state] = start.get(state, 0.0) + p * q * shown
    return start

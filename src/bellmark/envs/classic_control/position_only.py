"""Classic control with the velocities hidden: where things are is shown, how fast they move has to be remembered."""

from bellmark.envs.classic_control.cart_pole import CartPole
from bellmark.envs.wrappers.mask_observation import MaskObservation


def position_only_cart_pole() -> MaskObservation:
    """CartPole that shows the cart's position and the pole's angle."""
    return MaskObservation(CartPole(), keep=(0, 2))

"""The optimiser that the gradient learners share: clipped by its global norm, scaled, on one flat vector."""

from typing import Literal

import optax

Scaling = Literal["adam", "radam", "rmsprop"]


def clipped_descent(max_gradient_norm: float, scaling: Scaling = "adam") -> optax.GradientTransformation:
    """g ← g · min(1, c/‖g‖), scaled by Adam (ε = 1e-5), RAdam or RMSProp; the learning rate is the caller's.

    RMSProp is TensorFlow's, as V. Mnih et al. (2016) used it: ε inside the root and averages that begin at 1, so that
    the first steps are small ones.  RAdam corrects Adam's first steps for how little its variance is known (L. Liu et
    al., "On the variance of the adaptive learning rate and beyond", 2020).
    """
    if scaling == "adam":
        scale = optax.scale_by_adam(eps=1e-5)
    elif scaling == "radam":
        scale = optax.scale_by_radam(eps=1e-5)
    else:
        scale = optax.scale_by_rms(decay=0.99, eps=1e-5, initial_scale=1.0)
    # one flat vector: a dozen small leaves cost more in kernel launches than in arithmetic
    return optax.flatten(optax.chain(optax.clip_by_global_norm(max_gradient_norm), scale))

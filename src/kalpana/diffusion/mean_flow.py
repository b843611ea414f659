"""Mean flow: networks that cross a whole interval of time in one step (MeanFlow, Geng et al. 2025).

A two-time network predicts the mean velocity u(x_t, t, s) of the path from time t down to s, in the
form of the point where a straight line of that velocity meets time 0: ``x0 = x_t - t u``. For s = t
this is the ordinary estimate of x0. The step along the mean velocity, ``x_s = x_t - (t - s) u``, is
the Euler step of the flow schedule with this x0, so that samplers, previews and editing need no
code of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from kalpana.types import Cond

Network = Callable[[Tensor, Tensor, Cond], Tensor]


def to_next(network: Network, timesteps: Tensor) -> Network:
    """A two-time network as one of a single time, for the sampling by ``timesteps``: from each time
    it steps to the next of them, which it reads as ``cond.until``."""

    def ahead(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        below = timesteps.to(t)  # in the precision of t, so that t is not below itself
        until = below[below < t[0]].amax(0, keepdim=True)
        return network(x_t, t, replace(cond, until=until))

    return ahead


def mean_velocity(x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Mean velocity (x_t - x0) / t of a prediction ``x0`` at times t (b,); for an estimate of the
    clean latents it is the velocity."""
    return (x_t - x0) / t.reshape(-1, *[1] * (x_t.ndim - 1))


def split_target(
    velocity: Tensor,
    mean_velocity_at: Callable[[Tensor, Tensor, Tensor], Tensor],
    x_t: Tensor,
    t: Tensor,
    s: Tensor,
    share: float,
) -> Tensor:
    """Target of the mean velocity from times t to s (b,), by additivity of the integral over the
    two parts of the interval (SplitMeanFlow, Guo et al. 2025).

    In the first part, a ``share`` below 1 of the interval, the ``velocity`` at t counts as
    constant; the second is that of ``mean_velocity_at(x, t, s)``. For a path that is straight over
    the first part the mean velocity satisfies it exactly; else the error is of second order in
    ``share``.
    """
    middle = t - share * (t - s)
    x = x_t - (t - middle).reshape(-1, *[1] * (x_t.ndim - 1)) * velocity
    return share * velocity + (1 - share) * mean_velocity_at(x, middle, s)

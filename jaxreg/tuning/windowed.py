"""A schedule that is on between two steps, or at every k-th step between them."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxreg.arguments import check_every, check_rate, check_window
from jaxreg.transforms.new_parameters import rate_at


def windowed(
    schedule: Any, *, begin_step: Any = 0, end_step: Any = None, every: Any = 1
) -> Callable[[Any], Any]:
    r"""Switch a number or a schedule on at some steps only, and to 0 at the others.

    .. math::
        c_k = \begin{cases} s(k) & b \le k < e \text{ and } k - b \text{ a multiple of every} \\
        0 & \text{otherwise} \end{cases}

    optax has warm-ups, decays and joins of schedules; this is what it lacks for the start, end and frequency
    of a regularizer.

    Args:
        schedule: s, a non-negative number or an optax schedule, which is given k itself.
        begin_step: b, the first step that counts, a non-negative whole number, which may be traced.
        end_step: e, the first step that counts no longer, larger than ``begin_step``; None for never.
        every: only each so-manieth step counts, from ``begin_step`` on; a positive whole number,
            which may be traced.

    Returns:
        A schedule, for :func:`jaxreg.scheduled`, for ``strength_schedule`` of :func:`jaxreg.proximal`, or for
        a learning rate.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jaxreg
        >>> schedule = jaxreg.windowed(0.5, begin_step=2, end_step=7, every=2)
        >>> [float(schedule(count)) for count in range(9)]
        [0.0, 0.0, 0.5, 0.0, 0.5, 0.0, 0.5, 0.0, 0.0]

    References:
        Distiller's policies and scheduling (starting_epoch, ending_epoch, frequency), 2019,
        https://intellabs.github.io/distiller/schedule.html
    """
    check_rate(schedule, "schedule", "windowed")
    check_window(begin_step, end_step, "windowed")
    check_every(every, "windowed")

    def value(count: Any) -> Any:
        past = count - begin_step
        counts = (past >= 0) & (past % every == 0)
        if end_step is not None:
            counts &= count < end_step
        return jnp.where(counts, rate_at(schedule, count, "windowed", "schedule"), 0.0)

    return value

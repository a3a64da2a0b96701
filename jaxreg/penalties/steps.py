"""Where a prox needs one step size for several elements or leaves."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

SCALAR = "Take a scalar step size: prox_sgd, fista, or jaxreg.proximal last in a chain."


def one_step(steps: Sequence[Any]) -> bool:
    """Whether all steps are one and the same number."""
    return all(jnp.ndim(step) == 0 and step is steps[0] for step in steps)


def require_one_step(
    subject: str, steps: Sequence[Any], *, why: str = "it has no closed form", remedy: str = SCALAR
) -> None:
    if not one_step(steps):
        raise ValueError(
            f"The {subject} needs one step size for each leaf, and the same for leaves whose groups are "
            f"joined: with a step size per element, as in prox_adam, {why}. {remedy}"
        )

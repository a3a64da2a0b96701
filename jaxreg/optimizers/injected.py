"""The learning rate that ``optax.inject_hyperparams`` holds."""

from typing import Any

import jax


def learning_rate_of(state: Any) -> Any:
    """The learning rate in an optimizer's state, where ``optax.inject_hyperparams`` put it.

    It is the rate of the update just made, be it a number, one that was set by hand, or the value of a
    schedule: the one place to read it from, as a step size of :func:`jaxreg.proximal_optimizer`.

    Args:
        state: the state of an optimizer that holds exactly one ``optax.inject_hyperparams`` with
            a ``learning_rate``, at any depth (in a chain, in ``optax.MultiSteps``).

    Returns:
        A scalar array.

    Raises:
        ValueError: if there is none, or more than one.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(1.0, 0.0, 4))
        >>> optimizer = jaxreg.proximal_optimizer(sgd, jaxreg.l1(0.5), jaxreg.learning_rate_of)
        >>> params = jnp.array([2.0, 0.25])
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(jnp.zeros(2), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> print(params, jaxreg.learning_rate_of(state))  # 2 - 0.5 (1 + 0.75)
        [1.125 0.   ] 0.75

    Notes:
        With momentum or a preconditioner the step size is larger than the rate: there use
        ``optax.inject_hyperparams(jaxreg.prox_adam, static_args=("penalty",))`` and its siblings,
        which take one learning rate for both.
    """
    nodes = jax.tree.leaves(state, is_leaf=_holds_rate)
    found = [node.hyperparams["learning_rate"] for node in nodes if _holds_rate(node)]
    if len(found) != 1:
        raise ValueError(
            "learning_rate_of needs the state of an optimizer with exactly one learning_rate in "
            f"optax.inject_hyperparams. Got {len(found)} in a state of type {type(state).__name__}."
        )
    return found[0]


def _holds_rate(node: Any) -> bool:
    return "learning_rate" in (getattr(node, "hyperparams", None) or ())

"""What the proximal forms of optax's adaptive optimizers share: their checks, and their own step sizes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxreg.arguments import check_flag, check_number, check_rate
from jaxreg.penalties import Penalty
from jaxreg.transforms.new_parameters import rate_at, require_penalty_or_schedule
from jaxreg.transforms.penalty_schedule import PenaltySchedule
from jaxreg.tree import PyTree, upcast

MOMENTUM = {"b1", "b2", "adam_b1", "adam_b2", "beta", "decay"}
NON_NEGATIVE = {"eps", "eps_root", "adam_eps_root", "adam_weight_decay"}
NON_NEGATIVE |= {"initial_scale", "initial_accumulator_value"}


def check_options(owner: str, learning_rate: Any, penalty: Penalty | PenaltySchedule, **options: Any) -> None:
    """Refuse what optax would take without a word; the bound follows from an option's name and kind."""
    require_penalty_or_schedule(penalty, owner)
    check_rate(learning_rate, "learning_rate", owner)
    for name, value in options.items():
        if name in MOMENTUM:
            check_number(value, name, owner, high=1.0, open_high=True)
        elif name == "weight_decay":
            check_rate(value, name, owner)
        elif name in NON_NEGATIVE:
            check_number(value, name, owner)
        else:
            check_flag(value, name, owner)


def momentum_gain(momentum: Any, nesterov: bool, owner: str) -> Any:
    """The sum that ``optax.trace`` makes of a constant gradient of 1; 1 without momentum."""
    if momentum is None:
        if check_flag(nesterov, "nesterov", owner):
            raise ValueError(f"The 'nesterov' parameter of {owner} needs a momentum. Got momentum=None.")
        return 1.0
    return 1 / (1 - check_number(momentum, "momentum", owner, high=1.0, open_high=True))


def current_rate(learning_rate: Any, state: Any, owner: str) -> Any:
    """The rate of the update just made, by a chain that ends in ``optax.scale_by_learning_rate``."""
    if not callable(learning_rate):
        return learning_rate
    # optax evaluates a schedule at the count before the update.
    return rate_at(learning_rate, state[-1].count - 1, owner, "learning_rate")


def preconditioned(
    learning_rate: Any, owner: str, steps_at: Callable[[Any, Any], PyTree]
) -> Callable[[Any], PyTree]:
    """Step sizes from the learning rate and the chain's first state: the rate over optax's denominators."""

    def step_size(state: Any) -> PyTree:
        return steps_at(current_rate(learning_rate, state, owner), state[0])

    return step_size


def wide(moments: PyTree) -> PyTree:
    """Second moments in computing precision; those of complex parameters are complex in optax, but real."""
    return jax.tree.map(lambda moment: upcast(moment).real, moments)


def adam_steps(b2: Any, eps: Any, eps_root: Any) -> Callable[[Any, Any], PyTree]:
    """``rate / (sqrt(nu_hat + eps_root) + eps)``, from the state of ``optax.scale_by_adam``."""

    def steps_at(rate: Any, adam: Any) -> PyTree:
        corrected = optax.tree.bias_correction(wide(adam.nu), b2, adam.count)
        return jax.tree.map(lambda nu: rate / (jnp.sqrt(nu + eps_root) + eps), corrected)

    return steps_at

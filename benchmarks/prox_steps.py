"""Each optimizer of the prox_* family with an l1 penalty, next to the optimizer of optax that it wraps.

One jitted step on 12 million float32 parameters (3 kernels of 2000 x 2000), gradients given, parameters and
state donated, through optax's contract and through `jaxreg.step`. Their states are equal but for a count.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import optax

import jaxreg
from benchmarks.runner import Comparison
from benchmarks.training_steps import Kernels, contract, direct

RATE = 1e-4
PENALTY = jaxreg.l1(1e-4)
PAIRS: list[tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = [
    (jaxreg.prox_sgd, optax.sgd, {}),
    (jaxreg.prox_sgd, optax.sgd, {"momentum": 0.9}),
    (jaxreg.prox_adam, optax.adam, {}),
    (jaxreg.prox_adamw, optax.adamw, {}),
    (jaxreg.prox_nadam, optax.nadam, {}),
    (jaxreg.prox_amsgrad, optax.amsgrad, {}),
    (jaxreg.prox_adabelief, optax.adabelief, {}),
    (jaxreg.prox_rmsprop, optax.rmsprop, {}),
    (jaxreg.prox_rmsprop, optax.rmsprop, {"momentum": 0.9, "centered": True}),
    (jaxreg.prox_adagrad, optax.adagrad, {}),
    (jaxreg.prox_lion, optax.lion, {}),
]


def build(*, quick: bool) -> Iterator[Comparison]:
    kernels = Kernels(*((2, 200) if quick else (3, 2000)))
    for ours, theirs, options in PAIRS:
        penalised = ours(RATE, PENALTY, **options)
        given = ", ".join(f"{name}={value}" for name, value in options.items())
        yield Comparison(
            f"{name_of(ours)}({given})",
            [
                kernels.program(f"optax.{name_of(theirs)}", theirs(RATE, **options), contract),
                kernels.program("contract", penalised, contract, limit=1.1),
                kernels.program("jaxreg.step", penalised, direct, limit=1.1),
            ],
            rounds=51,
        )


def name_of(function: Any) -> str:
    # optax.nadam is a partial of adam.
    return "nadam" if isinstance(function, functools.partial) else function.__name__

"""A path of 32 strengths on scikit-learn's digits: for each an MLP, trained by `prox_adam` for 300 steps.

From scratch counts compilation, as in a first run: strengths that are Python numbers are constants of the
program, and each of them compiles another one. Compiled is the time of a second path with other strengths.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import jaxreg
from benchmarks.runner import Comparison, Program, Repeated

HIDDEN, BATCH = 64, 64


def build(*, quick: bool) -> Iterator[Comparison]:
    number, steps = (4, 20) if quick else (32, 300)
    strengths = np.geomspace(1e-2, 1e-5, number)
    train = training(steps)
    whole = f"{number} strengths, digits MLP, {steps} steps"

    def afresh(program: Callable[[], Any]) -> Callable[[], dict[str, float]]:
        measured = Repeated(program)
        measured.calls = 1  # no warm-up: compiling is part of it

        def measure() -> dict[str, float]:
            jax.clear_caches()
            return dict(measured())

        return measure

    def separately() -> list[Any]:
        return [jax.jit(lambda strength=float(s): train(strength))() for s in strengths]

    def path() -> Any:
        return jaxreg.regularization_path(train, strengths)

    one = jax.jit(train)

    def calls() -> list[Any]:
        return [one(strength) for strength in jnp.asarray(strengths)]

    yield Comparison(
        f"{whole}, from scratch",
        [
            Program("separately jitted, Python numbers", afresh(separately)),
            Program("regularization_path", afresh(path), limit=0.2),
        ],
        rounds=3,
    )
    yield Comparison(
        f"{whole}, compiled",
        [
            Program("calls of one compiled function", Repeated(calls)),
            Program("regularization_path", Repeated(path), limit=1.0),
        ],
        rounds=11,
    )


def training(steps: int) -> Callable[[Any], Any]:
    x, y = datasets.load_digits(return_X_y=True)
    x, y = jnp.asarray(x / 16, jnp.float32), jnp.asarray(y, jnp.int32)
    keys = jax.random.split(jax.random.key(0), 2)
    start = {
        "hidden": {"kernel": jax.random.normal(keys[0], (64, HIDDEN)) / 8, "bias": jnp.zeros(HIDDEN)},
        "classes": {"kernel": jax.random.normal(keys[1], (HIDDEN, 10)) / 8, "bias": jnp.zeros(10)},
    }
    batches = jax.random.randint(jax.random.key(1), (steps, BATCH), 0, len(y))

    def loss(params: Any, rows: Any) -> Any:
        hidden = jax.nn.relu(x[rows] @ params["hidden"]["kernel"] + params["hidden"]["bias"])
        logits = hidden @ params["classes"]["kernel"] + params["classes"]["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean()

    def train(strength: Any) -> Any:
        optimizer = jaxreg.prox_adam(1e-3, jaxreg.l1(strength, mask=jaxreg.masks.name("kernel")))

        def body(carry: Any, rows: Any) -> tuple[Any, None]:
            params, state = carry
            return jaxreg.step(optimizer, jax.grad(loss)(params, rows), state, params), None

        return jax.lax.scan(body, (start, optimizer.init(start)), batches)[0][0]

    return train

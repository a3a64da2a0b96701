"""Recurrent networks: the state's units are the gates' units, and the steps are a scan."""

import jax
import jax.numpy as jnp
from structures.models.case import Case, Made, dense, draw, filled, shape, unit
from structures.models.plain import affine


def _over_time(step, gates):
    def apply(params, x):
        start = jnp.zeros((x.shape[0], 5)), jnp.zeros((x.shape[0], 5))
        (state, *_), _ = jax.lax.scan(
            lambda carry, now: (step(params, carry, now), None), start, x.swapaxes(0, 1)
        )
        return affine(params["out"], state)

    shapes = {"input": dense(3, gates * 5), "recurrent": shape(5, gates * 5), "out": dense(5, 2)}
    return lambda: Made(apply, filled(shapes), (draw(4, 6, 3),))


def _lstm(params, carry, now):
    hidden, cell = carry
    gates = affine(params["input"], now) + hidden @ params["recurrent"]
    enter, forget, put_out, new = jnp.split(gates, 4, axis=-1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
    return jax.nn.sigmoid(put_out) * jnp.tanh(cell), cell


def _gru(params, carry, now):
    hidden, unused = carry
    reset, update, new = jnp.split(affine(params["input"], now), 3, axis=-1)
    reset_by, update_by, new_by = jnp.split(hidden @ params["recurrent"], 3, axis=-1)
    update = jax.nn.sigmoid(update + update_by)
    new = jnp.tanh(new + jax.nn.sigmoid(reset + reset_by) * new_by)
    return (1 - update) * new + update * hidden, unused


def _elman(params, carry, now):
    """Nothing but the carry says that what is read next is what was made last."""
    hidden, unused = carry
    return jnp.tanh(affine(params["input"], now) + hidden @ params["recurrent"]), unused


def _units(gates):
    factors = f"({gates},5*)"
    produced = f"input/kernel@1{factors} input/bias@0{factors} recurrent@1{factors}"
    return (unit(5, produced, "recurrent@0 out/kernel@0"),)


CASES = [
    Case("lstm", _over_time(_lstm, 4), _units(4)),
    Case("elman", _over_time(_elman, 1), _units(1)),
    Case("gru", _over_time(_gru, 3), _units(3)),
]

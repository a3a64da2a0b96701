"""What is judged exact is exact, operation by operation; and what is said to be constant is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures.test_rules import CASES, traced

import jaxreg
from jaxreg import structures
from jaxreg.structures import facts
from jaxreg.structures.exactness import Exactness
from jaxreg.structures.removal import Removal
from jaxreg.structures.replay import replay
from jaxreg.structures.tracing import find_groups, retrace

# What a zero does not pass through, so that no unit may go although all of its elements are zero.
REFUSED = {"largest"}


def judged(function, params):
    graph, _ = traced(function, [np.shape(array) for array in params.values()])
    trace = retrace(graph.recipe, params)
    units = [unit for unit, _ in find_groups(trace)[0]]
    walk = Exactness(trace.program, units, Removal({}).kept)
    return trace, walk, walk.run(walk.known(list(params.values())))


def planted(function, shapes, everywhere):
    """Parameters in which the first unit of each group is zero, in all arrays or in the first of them."""
    graph, params = traced(function, shapes)
    params = {name: array.copy() for name, array in params.items()}
    for group in graph.groups:
        chosen = group.members if everywhere else group.members[:1]
        for member in chosen:
            np.moveaxis(params[member.path], member.axis, 0)[member.indices[0]] = 0.0
    return params


@pytest.mark.parametrize("everywhere", [True, False], ids=["everywhere", "in one array"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_judged_exact_is_exact(name, everywhere):
    function, shapes, _ = CASES[name]
    params = planted(function, shapes, everywhere)
    trace, walk, verdicts = judged(function, params)
    left = {unit: np.flatnonzero(~verdict.exact) for unit, verdict in verdicts.items()}
    # Where nothing sums over a group all of it may go; of those the first unit goes.
    left = {unit: kept if len(kept) else np.arange(1, unit.size) for unit, kept in left.items()}
    assert not everywhere or name in REFUSED or any(len(kept) < unit.size for unit, kept in left.items())
    removal = Removal(left)
    values = trace.program.inputs
    small = [removal.take(value, array) for value, array in zip(values, params.values(), strict=True)]
    found = jax.jit(lambda arrays: replay(trace.program, removal, arrays))(small)
    wanted = jax.tree.leaves(jax.jit(function)(*params.values()))
    known = walk.walk(
        trace.program,
        [facts.of_array(v, a, walk.tracked, walk.kept) for v, a in zip(values, params.values(), strict=True)],
    )
    for value, fact, ours, theirs in zip(trace.program.outputs, known, found, wanted, strict=True):
        theirs = np.asarray(theirs)
        np.testing.assert_allclose(ours, removal.take(value, theirs), rtol=1e-6, atol=1e-6)
        assert fact.whole is None or (theirs == fact.whole).all()
        for axis, mine in enumerate(fact.axes):
            for unit, claim in mine.items():
                places = facts.indices(value.dims[axis], unit)
                for index in np.flatnonzero(claim.mask):
                    np.testing.assert_array_equal(np.take(theirs, places[index], axis), claim.values[index])


def pooled(x, padding="VALID", **dilations):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2, 1), (1, 1), padding, **dilations)


def divided(x):
    divisor = jnp.broadcast_to(x.sum().astype(jnp.int32), x.shape)
    return jax.lax.div(x.astype(jnp.int32), divisor).astype(jnp.float32)


def rows(x):
    """Some of which there are not: those are NaN."""
    return jnp.take(x, jnp.array([0, 9]), axis=0)


@pytest.mark.parametrize(
    ("function", "exact"),
    [
        (lambda x, w: jnp.tanh(x) @ w, True),
        (lambda x, w: jax.nn.sigmoid(x) @ w, False),
        (lambda x, w: jax.nn.softmax(x) @ w, False),
        (lambda x, w: (x - x.mean(-1, keepdims=True)) @ w, False),
        (lambda x, w: (x - x.mean(0)) @ w, True),
        (lambda x, w: (x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True))) @ w, True),
        (lambda x, w: (x / jnp.linalg.norm(x, axis=0)) @ w, False),
        (lambda x, w: jnp.exp(x).sum(-1) + (x @ w)[:, 0], False),
        (lambda x, w: jnp.maximum(x, 0.1) @ w, False),
        (lambda x, w: jnp.where(x > 2, x, 0.0) @ w, True),
        (lambda x, w: jax.checkpoint(jnp.cos)(x) @ w, False),
        (lambda x, w: jax.lax.cond(w.sum() > 9, jnp.sin, jnp.cos, x) @ w, False),
        (lambda x, w: jax.lax.fori_loop(0, 3, lambda _, y: y * 2, x) @ w, True),
        (lambda x, w: jax.lax.fori_loop(0, 3, lambda _, y: y + 1, x) @ w, False),
        (lambda x, w: jnp.prod(x, axis=-1) + (x @ w)[:, 0], False),
        (lambda x, w: jnp.cumsum(x, 0) @ w, True),
        (lambda x, w: (x @ w) @ w.T @ w, False),
        (lambda x, w: x.at[:2].set(0.0) @ w, True),
        (lambda x, w: x.at[:2].set(1.0) @ w, False),
        (lambda x, w: x.at[:2].add(x[1:3]) @ w, True),
        (lambda x, w: x.at[:2].apply(jnp.cos) @ w, False),
        (lambda x, w: jnp.tanh(pooled(x, padding=((1, 1), (0, 0)))) @ w, True),
        (lambda x, w: jnp.tanh(pooled(x, padding=((2, 0), (0, 0)))) @ w, False),
        (lambda x, w: jnp.tanh(pooled(x, base_dilation=(2, 1))) @ w, True),
        (lambda x, w: jnp.tanh(pooled(x, base_dilation=(3, 1))) @ w, False),
        (lambda x, w: jnp.tanh(pooled(x, base_dilation=(2, 1), window_dilation=(2, 1))) @ w, False),
        (lambda x, w: jnp.arctan2(x, 1.0) @ w, True),
        (
            lambda x, w: (jnp.arctan2(x, -1.0) - jnp.pi) @ w,
            False,
        ),  # of zero it depends on the sign of the zero
        (lambda x, w: jnp.exp(-1 / x) @ w, False),
        (lambda x, w: (x / x.sum()) @ w, True),
        (lambda x, w: divided(x) @ w, False),
        (lambda x, w: rows(x) @ w, True),
        (lambda x, w: jax.nn.leaky_relu(rows(x)) @ w, True),
        (lambda x, w: (jax.nn.softplus(rows(x)) - jax.nn.softplus(0.0)) @ w, True),
        (lambda x, w: (jnp.logaddexp(rows(x), x[:2]) - jax.nn.softplus(0.0)) @ w, True),
        (lambda x, w: jnp.where(jnp.isnan(rows(x)), 0.0, rows(x)) @ w, True),
        (lambda x, w: jnp.where(jnp.isnan(rows(x)), 0.3, rows(x)) @ w, False),
        (lambda x, w: jnp.where(rows(x) < 1, rows(x), 0.3) @ w, False),
        (lambda x, w: jnp.nan_to_num(rows(x) @ (w @ w.T * x[0]), nan=0.3) @ w, False),
        (lambda x, w: jnp.nan_to_num(x.at[jnp.array([0, 9])].get(mode="clip"), nan=0.3) @ w, True),
        (lambda x, w: jnp.expm1(jnp.take(x, jnp.array([0, 9]), 0, fill_value=-jnp.inf)) @ w, False),
    ],
)
def test_what_becomes_of_a_zero_on_the_way_decides(function, exact):
    rng = np.random.default_rng(3)
    params = {
        "p0": rng.normal(size=(4, 6)).astype(np.float32),
        "p1": rng.normal(size=(6, 2)).astype(np.float32),
    }
    params["p0"][:, 2] = 0.0
    _, _, verdicts = judged(function, params)
    (verdict,) = [verdict for unit, verdict in verdicts.items() if unit.size == 6]
    assert verdict.exact.tolist() == [exact and unit == 2 for unit in range(6)]
    assert bool(verdict.reasons(2)) != exact
    assert verdict.reasons(0)


def test_constants_are_worked_out_by_the_real_primitives():
    x = np.random.default_rng(4).normal(size=(4, 6)).astype(np.float32)
    x[:, 1], x[:, 3] = 0.0, 2.0
    trace, walk, _ = judged(lambda x: jax.nn.silu(x) * 3 + 1, {"p0": x})
    (output,) = walk.walk(
        trace.program, [facts.of_array(trace.program.inputs[0], x, walk.tracked, walk.kept)]
    )
    (claim,) = [known for unit, known in output.axes[1].items() if unit.size == 6]
    assert claim.mask.tolist() == [False, True, False, True, False, False]
    np.testing.assert_allclose(claim.values[[1, 3]], [1.0, 6.0 / (1 + np.exp(-2.0)) + 1], rtol=1e-6)


def test_zeros_of_either_sign_are_dead():
    params = {
        "p0": np.random.default_rng(5).normal(size=(4, 6)).astype(np.float32),
        "p1": np.ones((6, 2), np.float32),
    }
    params["p0"][:, 2], params["p0"][:, 3], params["p0"][0, 3] = -0.0, 0.0, -0.0
    _, _, verdicts = judged(lambda x, w: jax.nn.relu(x) @ w, params)
    (verdict,) = [verdict for unit, verdict in verdicts.items() if unit.size == 6]
    assert np.flatnonzero(verdict.exact).tolist() == [2, 3]


def test_a_sum_of_many_terms_overflows_as_it_does():
    params = {"p0": np.ones((3, 6), np.int8), "p1": np.ones((6, 2), np.float32)}
    params["p0"][:, 2] = 0

    def apply(x, w):
        total = jnp.sum(jnp.broadcast_to(x, (300, 3, 6)), axis=0, dtype=jnp.int8)
        return total.astype(jnp.float32) @ w

    _, _, verdicts = judged(lambda x, w: apply(x, w) * (x @ w), params)
    (verdict,) = [verdict for unit, verdict in verdicts.items() if unit.size == 6]
    assert np.flatnonzero(verdict.exact).tolist() == [2]
    assert {int(fold.constants.values[0]) for fold in verdict.folds} == {1, 300 - 256}


@pytest.mark.parametrize("width", [2, 4, 6, 8])
def test_a_function_with_a_rule_may_close_over_one_number_per_unit(width):
    last = width - 1
    shifted = jax.custom_jvp(lambda x: jnp.where(jnp.arange(width) == last, x + 1, x))
    shifted.defjvp(lambda primals, tangents: (shifted(*primals), *tangents))
    params = {
        "e": np.random.default_rng(6).normal(size=(5, width)).astype(np.float32),
        "w": np.arange(2.0 * width, dtype=np.float32).reshape(width, 2) + 1,
        "b": np.ones(2, np.float32),
    }
    params["e"][:, last] = 0

    def apply(params, row):
        return shifted(jnp.take(params["e"], row, axis=0)) @ params["w"] + params["b"]

    small = jaxreg.compact(structures.trace(apply, params, jnp.int32(1)), params)
    np.testing.assert_allclose(small.apply(small.params, 1), apply(params, 1), rtol=1e-5)

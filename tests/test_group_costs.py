"""What structures cost, and how they shard."""

import itertools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxreg
from jaxreg import groups

# Cost: nothing of the size of groups times elements


def sizes(jaxpr):
    """Elements of every intermediate result of a program, sub-programs included."""
    for equation in jaxpr.eqns:
        yield from (math.prod(out.aval.shape) for out in equation.outvars)
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


LARGE = [
    groups.outputs(),
    groups.inputs(),
    groups.layers(),
    groups.blocks((4, 4)),
    groups.blocks((60, 50), ragged=True),
    groups.chunks(8, axis=0),
    groups.strided(32, axis=1),
    groups.by_path({"**": groups.outputs()}),
]


@pytest.mark.parametrize("structure", LARGE, ids=str)
def test_no_mask_of_groups_times_elements_is_built(structure):
    shape = (512, 256)
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    programs = {
        "value": (lambda x: jaxreg.group_lasso(1.0, structure)(x), leaf),
        "gradient": (jax.grad(lambda x: jaxreg.group_lasso(1.0, structure)(x)), leaf),
        "prox": (lambda x: jaxreg.sparse_group_lasso(1.0, structure, 0.5).prox(x, 0.1), leaf),
        "weighted prox": (lambda x, s: jaxreg.group_lasso(1.0, structure).prox(x, s), leaf, leaf),
        "optimality": (lambda x, g: jaxreg.group_lasso(1.0, structure).optimality(x, g), leaf, leaf),
        "sparsity": (lambda x: jaxreg.sparsity(x, structure), leaf),
    }
    for name, (program, *given) in programs.items():
        found = list(sizes(jax.make_jaxpr(program)(*given).jaxpr))
        assert len(found) > 3, name
        assert max(found) <= 1.5 * math.prod(shape), name


def test_the_walk_sees_inside_sub_programs():
    def hidden(x):
        return jax.lax.fori_loop(0, 2, lambda _, y: jax.jit(lambda z: jnp.outer(z, z)[0])(y), x)

    assert max(sizes(jax.make_jaxpr(hidden)(jnp.ones(8)).jaxpr)) == 64


# Sharding: reductions of group-sized vectors, and no parameter is gathered

MESH_AXIS = "x"
SHARDED = [
    (structure, shape, axis)
    for structure, shape in (
        (groups.outputs(), (64, 32)),
        (groups.inputs(), (64, 32)),
        (groups.layers(), (64, 32)),
        (groups.axes(keep=(0, -1)), (8, 24, 16)),
        (None, (64, 32)),
    )
    for axis in range(len(shape))
]


def reduced_sizes(text):
    """Elements of each array that the compiled program reduces over devices."""
    lines = [line for line in text.splitlines() if re.search(r"\ball-reduce(-start)?\(", line)]
    shapes = [re.findall(r"\w+\[([\d,]*)\]", line.split(" all-reduce")[0]) for line in lines]
    return [math.prod(int(n) for n in shape.split(",") if n) for shape in itertools.chain(*shapes)]


@pytest.mark.parametrize(("structure", "shape", "axis"), SHARDED, ids=str)
def test_sharded_leaves_stay_sharded_and_are_never_gathered(structure, shape, axis):
    assert jax.device_count() == 8
    spec = [None] * len(shape)
    spec[axis] = MESH_AXIS
    sharding = NamedSharding(Mesh(np.array(jax.devices()), (MESH_AXIS,)), P(*spec))
    host = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    leaf = jax.device_put(host, sharding)
    penalty = jaxreg.l1(0.2) if structure is None else jaxreg.group_lasso(0.2, structure)
    n_groups = 1
    if structure is not None:
        ones = jaxreg.group_lasso(1.0, structure, size_weights=False)(jnp.ones(shape))
        n_groups = round(float(ones) ** 2 / math.prod(shape))  # sum sqrt(|g|) = sqrt(groups * elements)

    @jax.jit
    def program(x, steps):
        return penalty.prox(x, 0.5), penalty.prox(x, steps), jax.grad(penalty)(x), penalty(x)

    text = program.lower(leaf, jnp.abs(leaf)).compile().as_text()
    for collective in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert collective not in text
    assert all(size <= n_groups for size in reduced_sizes(text))
    out = program(leaf, jnp.abs(leaf))
    expected = program(jnp.asarray(host), jnp.abs(host))
    chex.assert_trees_all_close(jax.device_get(out), jax.device_get(expected), rtol=1e-5, atol=1e-6)
    assert all(x.sharding.is_equivalent_to(sharding, leaf.ndim) for x in out[:3])


def test_reductions_over_devices_are_found():
    mesh = Mesh(np.array(jax.devices()), (MESH_AXIS,))
    leaf = jax.device_put(jnp.ones((64, 32)), NamedSharding(mesh, P(MESH_AXIS)))
    text = jax.jit(lambda x: x.sum(0)).lower(leaf).compile().as_text()
    assert reduced_sizes(text) == [32]

"""Shares of exact zeros."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import jaxreg
from jaxreg import groups, masks

PARAMS = {
    "layer": {"kernel": jnp.array([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]]), "bias": jnp.zeros(3)},
    "hole": None,
    "masked": optax.MaskedNode(),
    "steps": jnp.zeros(100, jnp.int32),
}


def test_elements_of_floating_leaves_are_counted():
    np.testing.assert_allclose(jaxreg.sparsity(PARAMS), 6 / 9)
    np.testing.assert_allclose(jaxreg.sparsity(PARAMS, mask=masks.weights), 3 / 6)
    np.testing.assert_allclose(jaxreg.sparsity(PARAMS, mask=masks.biases), 1.0)


def test_groups_are_counted():
    assert jaxreg.sparsity(PARAMS, groups.layers()) == 0.5
    np.testing.assert_allclose(jaxreg.sparsity(PARAMS, groups.outputs(), mask=masks.weights), 1 / 3)
    assert jaxreg.sparsity(PARAMS, groups.inputs(), mask=masks.weights) == 0.0


@hypothesis.given(
    hnp.arrays(np.float32, (5,), elements=st.sampled_from([0.0, -0.0, 1e-30, np.nan, np.inf, 1.0]))
)
def test_only_zeros_are_zeros(leaf):
    expected = sum(value == 0 for value in leaf.tolist()) / 5
    np.testing.assert_allclose(jaxreg.sparsity({"w": leaf}), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64])
def test_it_is_a_float32_scalar_for_every_dtype(dtype):
    params = {"w": jnp.array([[0.0, 1.0], [0.0, 0.0]], dtype)}
    for structure, expected in ((None, 0.75), (groups.outputs(), 0.5)):
        share = jax.jit(lambda tree, structure=structure: jaxreg.sparsity(tree, structure))(params)
        assert share == jaxreg.sparsity(params, structure) == expected
        assert (share.dtype, share.shape) == (jnp.float32, ())


def test_float64(x64):
    del x64
    share = jaxreg.sparsity({"w": jnp.array([0.0, 1e-300])})
    assert (share, share.dtype) == (0.5, jnp.float32)


@pytest.mark.parametrize("structure", [None, groups.outputs()], ids=str)
@pytest.mark.parametrize("params", [{}, {"n": jnp.zeros(3, jnp.int32)}, {"hole": None}], ids=str)
def test_nothing_to_count_is_zero(params, structure):
    share = jaxreg.sparsity(params, structure, mask=masks.weights)
    assert (share, share.dtype, share.shape) == (0.0, jnp.float32, ())


def test_empty_leaves():
    assert jaxreg.sparsity({"w": jnp.zeros((0, 3)), "v": jnp.array([0.0, 1.0])}) == 0.5
    assert jaxreg.sparsity({"w": jnp.zeros((0, 3))}) == 0.0


def test_vmap():
    batch = {"w": jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])}
    np.testing.assert_array_equal(jax.vmap(jaxreg.sparsity)(batch), [1.0, 0.5, 0.0])


def test_models_of_more_elements_than_an_int32_holds():
    leaf = jax.ShapeDtypeStruct((2**10, 2**12), jnp.float32)
    params = {f"layer_{index}": {"kernel": leaf} for index in range(2**10)}
    for structure in (None, groups.blocks((1, 1))):
        share = jax.eval_shape(lambda tree, structure=structure: jaxreg.sparsity(tree, structure), params)
        assert (share.shape, share.dtype) == ((), jnp.float32)


def test_errors():
    with pytest.raises(
        ValueError, match=r"The leaf 'layer/bias' has shape \(3,\).*mask=jaxreg.masks.weights\."
    ):
        jaxreg.sparsity(PARAMS, groups.outputs())
    with pytest.raises(TypeError, match="The 'groups' parameter of sparsity must be a structure from"):
        jaxreg.sparsity(PARAMS, "outputs")
    with pytest.raises(ValueError, match="The mask embeddings selects no leaf"):
        jaxreg.sparsity(PARAMS["layer"], mask=masks.embeddings)
    with pytest.raises(
        TypeError, match="The 'mask' parameter must be a mask, a callable or a pytree of bools"
    ):
        jaxreg.sparsity(PARAMS, mask=0.5)

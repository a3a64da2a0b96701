"""A compacted model leaves the process: saved, loaded without its code, put into its NNX module."""

import subprocess
import sys
import textwrap

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx
from structures.models import CASES
from structures.models.convolutional import LeNet, linen
from structures.models.frameworks import NnxModel
from structures.oracles import Outputs, dead_units, differ, graph_of, leaves_by_path, made_of, with_zeros

import jaxreg
from jaxreg import structures

CASE = {case.name: case for case in CASES}


def whole(output):
    return output


def compacted(name):
    made, graph = made_of(CASE[name]), graph_of(CASE[name])
    return made, jaxreg.compact(graph, with_zeros(made.params, dead_units(graph.groups)))


@pytest.mark.parametrize("name", ["mlp", "gru", "nnx"])
def test_what_is_loaded_is_what_was_saved(name, tmp_path):
    made, small = compacted(name)
    fewer = [x[:2] for x in made.inputs]
    structures.save(tmp_path / "model", small, made.inputs, fewer)
    loaded = structures.load(tmp_path / "model")
    assert loaded.sizes == small.sizes
    expected, found = leaves_by_path(small.params), leaves_by_path(loaded.params)
    assert {path: leaf.tobytes() for path, leaf in found.items()} == {
        path: leaf.tobytes() for path, leaf in expected.items()
    }
    for inputs in (made.inputs, fewer):
        out = np.asarray(loaded.apply(loaded.params, *inputs))
        np.testing.assert_allclose(out, small.apply(small.params, *inputs), atol=1e-5)


def test_a_loaded_model_says_which_inputs_it_takes(tmp_path):
    _, small = compacted("mlp")
    structures.save(tmp_path / "model", small)
    loaded = structures.load(tmp_path / "model")
    with pytest.raises(ValueError, match=r"saved for inputs float32\[16, 5\]\. Got float32\[3, 5\]"):
        loaded.apply(loaded.params, np.ones((3, 5), np.float32))


def test_it_loads_in_a_process_that_never_saw_the_model(tmp_path):
    made, small = compacted("lenet")
    structures.save(tmp_path / "model", small)
    np.save(tmp_path / "input.npy", made.inputs[0])
    program = f"""
        import sys, numpy as np
        from jaxreg import structures
        loaded = structures.load({str(tmp_path / "model")!r})
        out = loaded.apply(loaded.params, np.load({str(tmp_path / "input.npy")!r}))
        assert "flax" not in sys.modules
        np.save({str(tmp_path / "output.npy")!r}, out)
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(program)], check=True)
    expected = small.apply(small.params, *made.inputs)
    np.testing.assert_allclose(np.load(tmp_path / "output.npy"), expected, atol=1e-5)


def test_a_loaded_model_can_be_trained_where_that_was_asked_for(tmp_path):
    made, small = compacted("mlp")
    structures.save(tmp_path / "model", small, vjp_order=1)
    loaded = structures.load(tmp_path / "model")
    gradients = [
        jax.grad(lambda params, apply=apply: apply(params, *made.inputs).sum())(small.params)
        for apply in (loaded.apply, small.apply)
    ]
    found, expected = map(leaves_by_path, gradients)
    for path, gradient in expected.items():
        np.testing.assert_allclose(found[path], gradient, rtol=1e-5, atol=1e-5)


def test_an_nnx_module_is_made_smaller_in_place():
    made, graph = made_of(CASE["nnx"]), graph_of(CASE["nnx"])
    params = with_zeros(made.params, dead_units(graph.groups))
    definition, _ = nnx.split(nnx.eval_shape(lambda: NnxModel(nnx.Rngs(0))))
    module = nnx.merge(definition, params)
    jaxreg.compact(graph, params).update_nnx(module)
    assert module.conv.kernel.shape == (3, 3, 2, 3)
    assert module.norm.var.shape == (3,)
    definition, state = nnx.split(module)
    found = Outputs(lambda state, x: nnx.merge(definition, state)(x), state, made.inputs, whole)(state)
    assert differ(Outputs(made.apply, params, made.inputs, whole)(params), found) < 1e-5


class Block(nnx.Module):
    def __init__(self, rngs):
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(x)


class Nested(nnx.Module):
    """The path of one layer is the end of another's."""

    def __init__(self, rngs, activation=nnx.relu):
        self.inner = nnx.Linear(3, 6, rngs=rngs)
        self.block = Block(rngs)
        self.out = nnx.Linear(3, 3, rngs=rngs)
        self.activation = activation

    def __call__(self, x):
        return self.out(nnx.relu(self.block(self.activation(self.inner(x)))))

    def features(self, x):
        return self.block(self.activation(self.inner(x)))


X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def nested(method=Nested.__call__, wrapped=False):
    """A smaller model, whose second layer lost two inputs, and a module of the same definition."""
    definition, state = nnx.split(Nested(nnx.Rngs(0)))

    def apply(params, x):
        return method(nnx.merge(definition, params["model"] if wrapped else params), x)

    params = {"model": state} if wrapped else state
    graph = structures.trace(apply, params, X)
    params = with_zeros(params, [(group, [1, 2]) for group in graph.groups if group.size == 6])
    module = nnx.merge(definition, params["model"] if wrapped else params)
    return jaxreg.compact(graph, params, inputs=(X,)), module


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_variable_is_known_by_its_whole_path(wrapped):
    small, module = nested(wrapped=wrapped)
    expected = np.asarray(module(X))
    small.update_nnx(module)
    assert module.block.out.kernel.shape == (4, 3)
    assert module.out.kernel.shape == (3, 3)
    np.testing.assert_allclose(module(X), expected, atol=1e-5)


@pytest.mark.parametrize("method", [Nested.__call__, Nested.features])
def test_another_module_is_not_made_smaller(method):
    small, module = nested(method)
    with pytest.raises(ValueError, match="it is not the one that was traced"):
        small.update_nnx(Nested(nnx.Rngs(0), nnx.tanh))
    with pytest.raises(ValueError, match="no variable for 'block/out/bias'"):
        small.update_nnx(module.block)
    small.update_nnx(module)
    assert module.block.out.kernel.shape == (4, 3)


class Rebuilt(nn.Module):
    """LeNet with other widths."""

    widths: tuple[int, int, int]

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.widths[0], (3, 3), name="conv1")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(self.widths[1], (3, 3), name="conv2")(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(self.widths[2], name="dense")(x.reshape(x.shape[0], -1)))
        return nn.Dense(3, name="classes")(x)


def test_a_linen_module_is_rebuilt_from_the_sizes():
    made, small = compacted("lenet")
    widths = tuple(small.sizes[f"params/{name}/kernel"][-1] for name in ("conv1", "conv2", "dense"))
    assert widths == (2, 3, 4)
    rebuilt = Rebuilt(widths)
    assert small.module_difference(rebuilt.apply) is None
    assert "raises" in small.module_difference(LeNet().apply)
    found = Outputs(rebuilt.apply, small.params, made.inputs, whole)(small.params)
    assert differ(found, [np.asarray(small.apply(small.params, *made.inputs))]) < 1e-5


class Normalised(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(name="norm")(nn.Dense(self.width, name="first")(x))
        return nn.Dense(3, name="second")(x)


def test_a_rebuilt_module_that_divides_by_another_width_is_told_apart():
    """Nothing raises, and the outputs are wrong: only the comparison of the two computations sees it."""
    made = linen(Normalised(8), np.ones((4, 5), np.float32) * np.arange(5, dtype=np.float32))
    graph = structures.trace(made.apply, made.params, *made.inputs)
    params = with_zeros(made.params, [(graph.groups[0], [1, 4])])
    small = jaxreg.compact(graph, params, inputs=made.inputs)
    rebuilt = Normalised(6).apply
    expected = Outputs(made.apply, params, made.inputs, whole)(params)
    assert differ(Outputs(rebuilt, small.params, made.inputs, whole)(small.params), expected) > 1e-2
    assert small.module_difference(rebuilt) is not None

"""Which units count as dead, and what ``compact`` is asked and refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures.models import CASES
from structures.models.case import dense
from structures.oracles import Outputs, differ, graph_of, made_of, with_zeros

import jaxreg

CASE = {case.name: case for case in CASES}


def changed(params, layer, **leaves):
    return {**params, layer: {**params[layer], **leaves}}


def sizes_of(name, change):
    made, graph = made_of(CASE[name]), graph_of(CASE[name])
    small = jaxreg.compact(graph, change(made.params), inputs=made.inputs)
    return [len(kept) for kept in small.kept], small


def test_a_unit_with_a_bias_is_not_dead():
    """Its kernel is zero, but it puts a constant out: removing it needs a bias that takes the constant up."""
    kernel = made_of(CASE["mlp"]).params["0"]["kernel"]
    found, small = sizes_of("mlp", lambda params: changed(params, "0", kernel=kernel.at[:, :3].set(0.0)))
    made = made_of(CASE["mlp"])
    assert found == [5, 6]  # folded into the next bias
    assert not np.array_equal(small.params["1"]["bias"], made.params["1"]["bias"])


def test_what_nobody_reads_is_dead():
    kernel = made_of(CASE["mlp"]).params["1"]["kernel"]
    found, small = sizes_of("mlp", lambda params: changed(params, "1", kernel=kernel.at[2:4].set(0.0)))
    assert found == [6, 6]
    assert small.kept[0].tolist() == [0, 1, 4, 5, 6, 7]


def test_what_nobody_reads_is_dead_even_behind_a_softmax_that_does_not_see_it():
    """Query heads whose output is not read may go, although their attention is not zero."""
    made, graph = made_of(CASE["decoder"]), graph_of(CASE["decoder"])
    [number] = [n for n, group in enumerate(graph.groups) if group.size == 3]
    out = np.array(made.params["out"]).reshape(2, 3, 4, 8)
    out[:, 1] = 0
    params = {**made.params, "out": jnp.asarray(out.reshape(24, 8))}
    small = jaxreg.compact(graph, params, inputs=made.inputs)
    assert small.kept[number].tolist() == [0, 2]


def test_what_feeds_only_the_dead_dies_with_it():
    """The second layer's units are dead, all but one; so are most of those that fed them."""

    def change(params):
        kernel = np.array(params["1"]["kernel"])
        kernel[:, 1:] = 0
        kernel[3:, 0] = 0
        bias = np.array(params["1"]["bias"])
        bias[1:] = 0
        return changed(params, "1", kernel=jnp.asarray(kernel), bias=jnp.asarray(bias))

    found, _ = sizes_of("mlp", change)
    assert found == [3, 1]


def test_one_unit_of_a_group_always_stays():
    made, graph = made_of(CASE["mlp"]), graph_of(CASE["mlp"])
    zeros = jax.tree.map(jnp.zeros_like, made.params)
    small = jaxreg.compact(graph, zeros, inputs=made.inputs)
    assert [len(kept) for kept in small.kept] == [1, 1]
    assert [refusal.units for refusal in small.refused] == [(0,), (0,)]


@pytest.mark.parametrize(("round_to", "left"), [(None, [3, 5]), (1, [3, 5]), (2, [4, 6]), (4, [4, 6])])
def test_widths_are_rounded_up_to_what_hardware_wants(round_to, left):
    made, graph = made_of(CASE["mlp"]), graph_of(CASE["mlp"])
    params = with_zeros(made.params, [(graph.groups[0], [0, 2, 4, 6, 7]), (graph.groups[1], [3])])
    small = jaxreg.compact(graph, params, round_to=round_to, inputs=made.inputs)
    assert [len(kept) for kept in small.kept] == left  # no more than there were: 6, not 8
    assert set(small.kept[0].tolist()) >= {1, 3, 5}


def test_the_report_counts_parameters_bytes_and_operations():
    made, graph = made_of(CASE["mlp"]), graph_of(CASE["mlp"])
    small = jaxreg.compact(graph, with_zeros(made.params, [(graph.groups[0], [0, 1])]))
    rows = {layer.layer: (layer.before, layer.after) for layer in small.report.layers}
    before, after = rows["0"]
    assert (before.parameters, after.parameters) == (5 * 8 + 8, 5 * 6 + 6)
    assert (before.bytes, after.bytes) == (4 * before.parameters, 4 * after.parameters)
    assert (before.flops, after.flops) == (2 * 16 * 5 * 8, 2 * 16 * 5 * 6)
    assert small.report.after.parameters == sum(leaf.size for leaf in jax.tree.leaves(small.params))
    assert f"{small.report.after.parameters:,}" in str(small.report)


def test_verification_catches_a_wrong_removal(monkeypatch):
    """As if a unit that lives had been taken for dead."""
    from jaxreg.structures import exactness

    made, graph = made_of(CASE["mlp"]), graph_of(CASE["mlp"])
    honest = exactness.Exactness.run

    def lie(self, arrays):
        verdicts = honest(self, arrays)
        for verdict in verdicts.values():
            verdict.exact[0] = True
        return verdicts

    monkeypatch.setattr(exactness.Exactness, "run", lie)
    with pytest.raises(
        ValueError, match=r"differs from the large one's by .* more than the tolerance of 1e-05"
    ):
        jaxreg.compact(graph, made.params, inputs=made.inputs)
    wrong = jaxreg.compact(graph, made.params, inputs=made.inputs, verify=False)
    assert len(wrong.kept[0]) < 8
    large = Outputs(made.apply, made.params, made.inputs, lambda out: out)(made.params)
    assert differ(large, Outputs(wrong.apply, wrong.params, made.inputs, lambda out: out)(wrong.params)) > 0.1


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"graph": jaxreg.groups.outputs()}, TypeError, "'graph' parameter of compact"),
        ({"round_to": 0}, ValueError, "'round_to' parameter of compact must be at least 1. Got 0"),
        ({"round_to": 1.5}, TypeError, "'round_to' parameter of compact"),
        ({"tolerance": -1.0}, ValueError, "'tolerance' parameter of compact"),
        ({"verify": 1}, TypeError, "'verify' parameter of compact"),
        (
            {"params": {"0": dense(5, 4), "1": dense(4, 6), "2": dense(6, 3)}},
            ValueError,
            "8 units of '0/bias'",
        ),
        ({"opt_state": {"mu": {"0": {"kernel": np.ones((2, 2))}}}}, ValueError, "'opt_state'"),
    ],
)
def test_refused(change, error, words):
    made = made_of(CASE["mlp"])
    arguments = {"graph": graph_of(CASE["mlp"]), "params": made.params, **change}
    if "opt_state" in change:  # a removal, so that there is something to cut
        arguments["params"] = with_zeros(made.params, [(arguments["graph"].groups[0], [0])])
    with pytest.raises(error, match=words):
        jaxreg.compact(**arguments)


def test_shapes_must_not_depend_on_traced_values():
    made, graph = made_of(CASE["mlp"]), graph_of(CASE["mlp"])
    with pytest.raises(TypeError, match="concrete arrays"):
        jax.jit(lambda params: jaxreg.compact(graph, params).params)(made.params)


@pytest.mark.parametrize("dead_in", ["w", "out"])
def test_an_output_that_may_shrink_loses_zeros_alone(dead_in):
    """Whatever else reads it or not."""
    rng = np.random.default_rng(0)
    params = {
        "w": rng.normal(size=(3, 6)).astype(np.float32),
        "out": rng.normal(size=(6, 2)).astype(np.float32),
    }
    np.moveaxis(params[dead_in], 1 if dead_in == "w" else 0, 0)[[2, 4]] = 0

    def apply(params, x):
        hidden = x @ params["w"]
        return hidden, hidden @ params["out"]

    x = rng.normal(size=(4, 3)).astype(np.float32)
    small = jaxreg.compact(jaxreg.structures.trace(apply, params, x, free_outputs=True), params, inputs=[x])
    assert small.apply(small.params, x)[0].shape == ((4, 4) if dead_in == "w" else (4, 6))
    reasons = [str(refusal) for refusal in small.refused]
    expected = ["group 0: 2 units kept: an output of the function holds more than zeros"]
    assert reasons == ([] if dead_in == "w" else expected)

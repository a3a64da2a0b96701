"""Paths against scikit-learn and skglm; one program, in batches, over devices, one after the other."""

import re
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convex_problems import blocks, diabetes
from skglm.datafits import QuadraticGroup
from skglm.solvers import GroupBCD
from sklearn import linear_model

import jaxreg
from jaxreg import groups
from jaxreg.tuning.regularization_path import _mapped

x64 = pytest.mark.usefixtures("x64")


def trained(make, steps=600):
    """A training run on diabetes by strength: FISTA on ``||y - X w||^2 / (2 n) + R(w)``."""
    x, y = diabetes()
    rate = len(y) / np.linalg.norm(x, 2) ** 2

    def train(strength, start=None):
        optimizer = jaxreg.fista(rate, make(strength))
        w = jnp.zeros(x.shape[1]) if start is None else start

        def body(carry, _):
            w, state = carry
            return jaxreg.step(optimizer, x.T @ (x @ w - y) / len(y), state, w), None

        return jax.lax.scan(body, (w, optimizer.init(w)), length=steps)[0][0]

    return train


@x64
def test_a_lasso_path_is_scikit_learns():
    x, y = diabetes()
    strengths = np.geomspace(jaxreg.strength_max(jaxreg.l1(1.0), -x.T @ y / len(y)), 5e-3, 30)
    _, expected, _ = linear_model.lasso_path(x, y, alphas=strengths, tol=1e-12)
    found = jaxreg.regularization_path(trained(jaxreg.l1), strengths)
    np.testing.assert_allclose(found, expected.T, atol=1e-8)
    # The first is the largest, whose zeros are a matter of rounding.
    np.testing.assert_array_equal((found == 0)[1:], (expected.T == 0)[1:])


@x64
def test_an_elastic_net_path_is_scikit_learns():
    strengths = np.geomspace(1.0, 5e-3, 20)
    _, expected, _ = linear_model.enet_path(*diabetes(), l1_ratio=0.6, alphas=strengths, tol=1e-12)
    found = jaxreg.regularization_path(trained(lambda s: jaxreg.elastic_net(s, 0.6)), strengths)
    np.testing.assert_allclose(found, expected.T, atol=1e-8)


@x64
def test_a_group_lasso_path_is_skglms():
    pairs = groups.chunks(2, axis=0)
    strengths = np.geomspace(0.3, 3e-3, 6)
    found = jaxreg.regularization_path(trained(lambda s: jaxreg.group_lasso(s, pairs)), strengths)
    for strength, w in zip(strengths, found, strict=True):
        expected = blocks(strength, 2, GroupBCD, QuadraticGroup, diabetes())
        np.testing.assert_allclose(w, expected, atol=1e-7)


@x64
def test_a_warm_start_follows_the_path_in_a_tenth_of_the_steps():
    strengths = np.geomspace(0.5, 5e-3, 25)
    exact = jaxreg.regularization_path(trained(jaxreg.l1), strengths)
    warm = jaxreg.regularization_path(trained(jaxreg.l1, steps=60), strengths, warm_start=True)
    cold = jaxreg.regularization_path(trained(jaxreg.l1, steps=60), strengths)
    assert np.abs(warm - exact).max() < 0.1 * np.abs(cold - exact).max()
    assert np.abs(warm - exact).max() < 1e-3


class Counted:
    """A training run that counts how often it is traced."""

    def __init__(self):
        self.traces = 0

    def __call__(self, strength, previous=None):
        self.traces += 1
        assert strength.shape == ()
        before = 0.0 if previous is None else previous["sum"]
        return {"sum": before + strength, "row": strength * jnp.arange(3.0)}


def expected(strengths, sums=None):
    strengths = np.asarray(strengths, np.float32)
    return {
        "sum": strengths if sums is None else sums,
        "row": strengths[:, None] * np.arange(3.0, dtype=np.float32),
    }


@pytest.mark.parametrize("batch_size", [None, 3, 8, 100])
@pytest.mark.parametrize("n_devices", [1, 8])
def test_batches_over_devices_are_one_compilation_whatever_the_strengths(batch_size, n_devices):
    train, devices = Counted(), jax.devices()[:n_devices]
    for scale in (1.0, 2.0):
        strengths = scale * np.arange(1, 21)
        found = jaxreg.regularization_path(train, strengths, batch_size=batch_size, devices=devices)
        chex.assert_trees_all_equal(found, expected(strengths))
    assert train.traces == 1


def test_each_device_has_its_share():
    strengths = jnp.arange(1.0, 17.0)
    found = jaxreg.regularization_path(Counted(), strengths)
    assert found["row"].sharding.device_set == set(jax.devices())
    assert {shard.data.shape for shard in found["row"].addressable_shards} == {(2, 3)}
    few = jaxreg.regularization_path(Counted(), strengths[:3])
    chex.assert_trees_all_equal(few, expected(strengths[:3]))


def test_no_device_waits_for_another():
    def halvings(strength):
        return jax.lax.while_loop(lambda c: c[0] > 1, lambda c: (c[0] / 2, c[1] + 1), (strength, 0))[1]

    strengths, devices = 2.0 ** jnp.arange(8), tuple(jax.devices())
    assert len(devices) == 8
    np.testing.assert_array_equal(jaxreg.regularization_path(halvings, strengths), np.arange(8))
    program = _mapped.lower(halvings, devices, strengths).compile().as_text()
    assert "while(" in program
    assert not re.findall(r"all-\w+|collective-\w+|reduce-scatter", program)


def test_a_warm_start_passes_the_result_before_on():
    train = Counted()
    for _ in range(2):
        found = jaxreg.regularization_path(train, [3.0, 2.0, 1.0], warm_start=True)
        chex.assert_trees_all_equal(found, expected([3.0, 2.0, 1.0], np.array([3.0, 5.0, 6.0], np.float32)))
    assert train.traces == 2  # without a result before, and with one


@pytest.mark.parametrize(("options", "total"), [({"batch_size": 8}, 3), ({"warm_start": True}, 20)])
def test_progress(capsys, options, total):
    jaxreg.regularization_path(
        Counted(),
        np.arange(20),
        progress=True,
        **options,
        **({} if "warm_start" in options else {"devices": jax.devices()[:1]}),
    )
    assert f"{total}/{total}" in capsys.readouterr().err
    jaxreg.regularization_path(Counted(), np.arange(20), **options)
    assert not capsys.readouterr().err


def test_progress_without_tqdm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install jaxreg\[all\]"):
        jaxreg.regularization_path(Counted(), [1.0], progress=True)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"strengths": []}, ValueError, "vector of at least one number"),
        ({"strengths": [[1.0]]}, ValueError, r"Got shape \(1, 1\)"),
        ({"strengths": [1.0, -0.5]}, ValueError, r"must hold non-negative numbers. Got -0.5"),
        ({"strengths": [1.0, np.nan]}, ValueError, "Got nan"),
        ({"batch_size": 0}, ValueError, "'batch_size' parameter of regularization_path must be at least 1"),
        ({"batch_size": 2.5}, TypeError, "'batch_size' parameter .* must be a non-negative whole number"),
        ({"batch_size": 2, "warm_start": True}, ValueError, "must be None with warm_start"),
        ({"devices": []}, ValueError, r"'devices' parameter .* must hold at least one device. Got \[\]"),
        (
            {"devices": jax.devices(), "warm_start": True},
            ValueError,
            "'devices' parameter .* must be None with warm_start",
        ),
        ({"progress": 1}, TypeError, "'progress' parameter of regularization_path must be True or False"),
        ({"warm_start": np.zeros(2)}, TypeError, "'warm_start' parameter .* must be True or False"),
        ({"train_fn": 3}, TypeError, "must be a function of a strength. Got 3"),
    ],
)
def test_bad_arguments_are_named(change, error, words):
    given = {"train_fn": Counted(), "strengths": [1.0]} | change
    train_fn, strengths = given.pop("train_fn"), given.pop("strengths")
    with pytest.raises(error, match=words):
        jaxreg.regularization_path(train_fn, strengths, **given)

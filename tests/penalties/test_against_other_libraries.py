"""The table of docs/gallery.md in numbers: prox by prox against pyproximal and jaxopt."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyproximal
import pytest
from jaxopt import projection, prox

import jaxreg
from jaxreg import groups

pytestmark = pytest.mark.usefixtures("x64")

SHAPE = (6, 4)
STEP, SIGMA = 0.7, 0.6
ONE_GROUP = {"groups": groups.layers(), "size_weights": False}

PYPROXIMAL: dict[str, tuple[jaxreg.Penalty, Callable[[], Any]]] = {
    "L1": (jaxreg.l1(SIGMA), lambda: pyproximal.L1(SIGMA)),
    "L2": (jaxreg.l2(SIGMA / 2), lambda: pyproximal.L2(sigma=SIGMA)),
    "Euclidean": (jaxreg.group_lasso(SIGMA, **ONE_GROUP), lambda: pyproximal.Euclidean(SIGMA)),
    "L21": (
        jaxreg.group_lasso(SIGMA, groups.outputs(), size_weights=False),
        lambda: pyproximal.L21(SHAPE[0], SIGMA),
    ),
    "Nuclear": (jaxreg.nuclear_norm(SIGMA), lambda: pyproximal.Nuclear(SHAPE, SIGMA)),
    "SCAD": (jaxreg.scad(SIGMA), lambda: pyproximal.SCAD(SIGMA)),
    "Box": (jaxreg.box(-0.4, 0.9), lambda: pyproximal.Box(-0.4, 0.9)),
    "EuclideanBall": (jaxreg.l2_ball(1.5), lambda: pyproximal.EuclideanBall(0.0, 1.5)),
    "L1Ball": (jaxreg.l1_ball(2.0), lambda: pyproximal.L1Ball(24, 2.0, xtol=1e-12)),
    "L0Ball": (jaxreg.top_k(5), lambda: pyproximal.L0Ball(5)),
}

JAXOPT: dict[str, tuple[jaxreg.Penalty, Callable[[Any], Any]]] = {
    "prox_lasso": (jaxreg.l1(SIGMA), lambda x: prox.prox_lasso(x, SIGMA, STEP)),
    "prox_elastic_net": (
        jaxreg.elastic_net(SIGMA * 1.5, 1 / 1.5),
        lambda x: prox.prox_elastic_net(x, (SIGMA, 0.5), STEP),
    ),
    "prox_ridge": (jaxreg.l2(SIGMA / 2), lambda x: prox.prox_ridge(x, SIGMA, STEP)),
    "prox_group_lasso": (
        jaxreg.group_lasso(SIGMA, **ONE_GROUP),
        lambda x: prox.prox_group_lasso(x, SIGMA, STEP),
    ),
    "projection_simplex": (
        jaxreg.simplex(1.5),
        lambda x: projection.projection_simplex(x.ravel(), 1.5).reshape(x.shape),
    ),
    "projection_l1_ball": (
        jaxreg.l1_ball(2.0),
        lambda x: projection.projection_l1_ball(x.ravel(), 2.0).reshape(x.shape),
    ),
    "projection_l2_ball": (
        jaxreg.l2_ball(1.5),
        lambda x: projection.projection_l2_ball(x.ravel(), 1.5).reshape(x.shape),
    ),
    "projection_box": (jaxreg.box(-0.4, 0.9), lambda x: projection.projection_box(x, (-0.4, 0.9))),
    "projection_non_negative": (jaxreg.non_negative(), projection.projection_non_negative),
}


def draw(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE) * 1.3


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", PYPROXIMAL)
def test_pyproximal(name: str, seed: int) -> None:
    penalty, make = PYPROXIMAL[name]
    x = draw(seed)
    expected = make().prox(x.ravel(), STEP).reshape(SHAPE)
    np.testing.assert_allclose(penalty.prox(jnp.asarray(x), STEP), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", JAXOPT)
def test_jaxopt(name: str, seed: int) -> None:
    penalty, theirs = JAXOPT[name]
    x = jnp.asarray(draw(seed))
    np.testing.assert_allclose(penalty.prox(x, STEP), theirs(x), rtol=1e-9, atol=1e-12)

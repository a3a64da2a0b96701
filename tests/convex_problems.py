"""Three convex losses in one: each is a leaf with a loss, a strength and a reference of its own.

Least squares on diabetes, logistic regression on breast cancer and multinomial regression on digits,
none with an intercept. The losses are means over the samples and add up, so that every optimizer
that treats leaves on their own solves all three in one run.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from skglm.datafits import LogisticGroup, Quadratic, QuadraticGroup
from skglm.penalties import MCPenalty, WeightedGroupL2
from skglm.solvers import AndersonCD, GroupBCD, GroupProxNewton
from skglm.utils.data import grp_converter
from sklearn import datasets, linear_model

import jaxreg
from jaxreg import groups

Weights = dict[str, jax.Array]
GROUPS = groups.by_path(
    {"diabetes": groups.chunks(2, axis=0), "cancer": groups.chunks(3, axis=0), "digits": groups.inputs()}
)
L1_RATIO = 0.7
GAMMA = 40.0
"""No weight leaves the concave part, where the gradient that Adam divides by is not 0."""


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / x.std(0)


@functools.cache
def diabetes() -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.load_diabetes(return_X_y=True)
    return standardised(x), standardised(y)


@functools.cache
def cancer() -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return standardised(x), 2.0 * y - 1.0


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The first 300 images, centred."""
    x, y = datasets.load_digits(return_X_y=True)
    x = x[:300] / 8
    return x - x.mean(0), y[:300]


def loss(w: Weights) -> jax.Array:
    (x, y), (images, labels) = diabetes(), digits()
    squares = jnp.sum((x @ w["diabetes"] - y) ** 2) / (2 * len(y))
    x, sign = cancer()
    logistic = jnp.mean(jnp.logaddexp(0.0, -sign * (x @ w["cancer"])))
    scores = images @ w["digits"]
    multinomial = jnp.mean(jax.nn.logsumexp(scores, axis=1) - scores[jnp.arange(len(labels)), labels])
    return squares + logistic + multinomial


def zero_weights() -> Weights:
    return {"diabetes": jnp.zeros(10), "cancer": jnp.zeros(30), "digits": jnp.zeros((64, 10))}


@dataclasses.dataclass(frozen=True)
class Penalised:
    """A penalty at one strength per leaf, and what scikit-learn or skglm find at these."""

    make: Callable[[dict[str, float]], jaxreg.Penalty]
    strengths: dict[str, float]
    references: dict[str, Callable[[float], np.ndarray]]
    unique: tuple[str, ...] = ("diabetes", "cancer", "digits")
    """Leaves on which there is one minimiser to find."""


def lasso(strength: float) -> np.ndarray:
    return elastic_net(strength, 1.0)


def elastic_net(strength: float, l1_ratio: float = L1_RATIO) -> np.ndarray:
    model = linear_model.ElasticNet(strength, l1_ratio=l1_ratio, fit_intercept=False, tol=1e-14)
    return model.set_params(max_iter=100_000).fit(*diabetes()).coef_


def logistic(x: np.ndarray, y: np.ndarray, strength: float, l1_ratio: float) -> np.ndarray:
    model = linear_model.LogisticRegression(
        C=1 / (strength * len(y)), l1_ratio=l1_ratio, solver="saga", fit_intercept=False, tol=1e-11
    )
    return model.set_params(max_iter=100_000).fit(x, y).coef_


def blocks(strength: float, size: int, solver: type, datafit: type, data: tuple) -> np.ndarray:
    """skglm's group lasso over chunks of neighbours, weighted by sqrt(size)."""
    x, y = data
    count = x.shape[1] // size
    chunks = [list(range(size * group, size * (group + 1))) for group in range(count)]
    indices, borders = grp_converter(chunks, x.shape[1])
    fit = datafit(borders, indices)
    penalty = WeightedGroupL2(strength, np.full(count, np.sqrt(size)), borders, indices)
    x = np.asfortranarray(x)
    fit.initialize(x, y)
    return solver(tol=1e-11, fit_intercept=False, max_iter=10_000).solve(x, y, fit, penalty)[0]


def concave(strength: float) -> np.ndarray:
    """skglm's minimax concave penalty."""
    x, y = diabetes()
    x, fit = np.asfortranarray(x), Quadratic()
    fit.initialize(x, y)
    solver = AndersonCD(tol=1e-11, fit_intercept=False, max_iter=10_000)
    return solver.solve(x, y, fit, MCPenalty(strength, GAMMA))[0]


PENALISED = {
    "l1": Penalised(
        jaxreg.l1,
        {"diabetes": 0.1, "cancer": 0.3, "digits": 0.085},
        {
            "diabetes": lasso,
            "cancer": lambda s: logistic(*cancer(), s, 1.0)[0],
            "digits": lambda s: logistic(*digits(), s, 1.0).T,
        },
    ),
    "elastic_net": Penalised(
        lambda s: jaxreg.elastic_net(s, L1_RATIO),
        {"diabetes": 0.1, "cancer": 0.1, "digits": 0.05},
        {
            "diabetes": elastic_net,
            "cancer": lambda s: logistic(*cancer(), s, L1_RATIO)[0],
            "digits": lambda s: logistic(*digits(), s, L1_RATIO).T,
        },
    ),
    "group_lasso": Penalised(
        lambda s: jaxreg.group_lasso(s, GROUPS),
        {"diabetes": 0.1, "cancer": 0.1, "digits": 0.02},
        {
            "diabetes": lambda s: blocks(s, 2, GroupBCD, QuadraticGroup, diabetes()),
            "cancer": lambda s: blocks(s, 3, GroupProxNewton, LogisticGroup, cancer()),
        },
    ),
    "sparse_group_lasso": Penalised(
        lambda s: jaxreg.sparse_group_lasso(s, GROUPS, 0.5),
        {"diabetes": 0.1, "cancer": 0.1, "digits": 0.025},
        {},
    ),
    "mcp": Penalised(
        lambda s: jaxreg.mcp(s, GAMMA),
        {"diabetes": 0.1, "cancer": 0.33, "digits": 0.085},
        {"diabetes": concave},
        unique=("diabetes", "cancer"),
    ),
}

"""The cases that are run through all laws: a penalty or an optimizer joins by one row.

The formulas are written in NumPy, one group at a time, and know nothing of jaxreg.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxreg
from jaxreg import groups, masks

SHAPE = (8, 4)
"""Of the leaf "kernel", the one that every penalty of the registry reaches."""

Formula = Callable[[np.ndarray, float], float]


@dataclasses.dataclass(frozen=True)
class PenaltyCase:
    """A penalty on the leaf "kernel" and its formula there."""

    name: str
    make: Callable[[Any], jaxreg.Penalty]
    formula: Formula
    sparse: bool = True
    """Whether its prox makes exact zeros."""
    aligned_axes: tuple[int, ...] = (0, 1)
    """Axes that may be sharded without a group lying across the borders of shards."""
    convex: bool = True
    per_element: bool = True
    """Whether its prox takes one step size per element."""
    homogeneous: bool = True
    """Whether R(c w) is c R(w) for c > 0."""
    flat: bool = False
    """Whether it charges nothing more for what is large or not zero."""

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class TransformCase:
    """A transform or optimizer under the laws of optax's contract."""

    name: str
    make: Callable[..., optax.GradientTransformation]
    """Called without arguments, or by keyword with ``learning_rate`` where that is in ``injected``."""
    injected: Sequence[str] = ("learning_rate",)
    static: Sequence[str] = ("penalty", "mask", "groups")

    def __str__(self) -> str:
        return self.name


def columns() -> list[np.ndarray]:
    return _labels(np.broadcast_to(np.arange(SHAPE[1]), SHAPE))


def rows() -> list[np.ndarray]:
    return _labels(np.broadcast_to(np.arange(SHAPE[0])[:, None], SHAPE))


def tiles(height: int, width: int) -> list[np.ndarray]:
    row, column = np.indices(SHAPE)
    return _labels((row // height) * SHAPE[1] + column // width)


def stripes(stride: int) -> list[np.ndarray]:
    row, column = np.indices(SHAPE)
    return _labels((row % stride) * SHAPE[1] + column)


def _labels(labels: np.ndarray) -> list[np.ndarray]:
    return [labels == label for label in np.unique(labels)]


def absolute(w: np.ndarray) -> float:
    return float(sum(abs(value) for value in w.ravel()))


def squared(w: np.ndarray) -> float:
    return float(sum(abs(value) ** 2 for value in w.ravel()))


def norms(w: np.ndarray, members: list[np.ndarray], weighted: bool = True) -> float:
    return float(sum(np.sqrt(m.sum() if weighted else 1.0) * np.sqrt(squared(w[m])) for m in members))


def times(factor: float, strength: Any) -> Any:
    """A strength, or a tree with one per leaf, times a factor."""
    return jax.tree.map(lambda value: factor * value, strength)


def mcp(r: float, strength: float, gamma: float = 2.5) -> float:
    return strength * r - r**2 / (2 * gamma) if r < gamma * strength else gamma * strength**2 / 2


def scad(r: float, strength: float, gamma: float = 3.7) -> float:
    if r <= strength:
        return strength * r
    if r <= gamma * strength:
        return (2 * gamma * strength * r - r**2 - strength**2) / (2 * (gamma - 1))
    return strength**2 * (gamma + 1) / 2


def huber(r: float, strength: float, delta: float = 0.6) -> float:
    return strength * (r**2 / (2 * delta) if r < delta else r - delta / 2)


ON = masks.name("kernel")


def _radial(
    name: str,
    make: Callable[..., jaxreg.Penalty],
    phi: Callable[[float, float], float],
    structure: groups.Groups | None = None,
    sparse: bool = True,
    convex: bool = True,
    flat: bool = False,
    **options: float,
) -> PenaltyCase:
    """A row for ``sum_g phi(||w_g||; strength sqrt(|g|))``, elements where there is no structure."""
    members = {
        None: _labels(np.arange(32).reshape(SHAPE)),
        groups.outputs(): columns(),
        groups.inputs(): rows(),
    }

    def formula(w: np.ndarray, strength: float) -> float:
        parts = [(np.sqrt(squared(w[m])), strength * np.sqrt(m.sum())) for m in members[structure]]
        return float(sum(phi(r, t) for r, t in parts))

    title = name if structure is None else f"{name}[{structure}]"
    return PenaltyCase(
        title,
        lambda s: make(s, groups=structure, mask=ON, **options),
        formula,
        sparse,
        convex=convex,
        per_element=structure is None,
        homogeneous=False,
        flat=flat,
    )


PENALTIES = [
    PenaltyCase("l1", lambda s: jaxreg.l1(s, mask=ON), lambda w, s: s * absolute(w)),
    PenaltyCase(
        "l2", lambda s: jaxreg.l2(s, mask=ON), lambda w, s: s * squared(w), sparse=False, homogeneous=False
    ),
    PenaltyCase(
        "elastic_net",
        lambda s: jaxreg.elastic_net(s, 0.6, mask=ON),
        lambda w, s: s * (0.6 * absolute(w) + 0.4 / 2 * squared(w)),
        homogeneous=False,
    ),
    PenaltyCase(
        "group_lasso[outputs]",
        lambda s: jaxreg.group_lasso(s, groups.outputs(), mask=ON),
        lambda w, s: s * norms(w, columns()),
    ),
    PenaltyCase(
        "group_lasso[inputs, weights of 1]",
        lambda s: jaxreg.group_lasso(s, groups.inputs(), size_weights=False, mask=ON),
        lambda w, s: s * norms(w, rows(), weighted=False),
    ),
    PenaltyCase(
        "group_lasso[ragged blocks]",
        lambda s: jaxreg.group_lasso(s, groups.blocks((4, 3), ragged=True), mask=ON),
        lambda w, s: s * norms(w, tiles(4, 3)),
        aligned_axes=(0,),
    ),
    PenaltyCase(
        "group_lasso[strided]",
        lambda s: jaxreg.group_lasso(s, groups.strided(2, axis=0), mask=ON),
        lambda w, s: s * norms(w, stripes(2)),
    ),
    PenaltyCase(
        "sparse_group_lasso[outputs]",
        lambda s: jaxreg.sparse_group_lasso(s, groups.outputs(), 0.3, mask=ON),
        lambda w, s: s * (0.3 * absolute(w) + 0.7 * norms(w, columns())),
    ),
    PenaltyCase(
        "sparse_group_lasso[layers]",
        lambda s: jaxreg.sparse_group_lasso(s, groups.layers(), 0.8, mask=ON),
        lambda w, s: s * (0.8 * absolute(w) + 0.2 * np.sqrt(w.size) * np.sqrt(squared(w))),
    ),
    _radial("l0", jaxreg.l0, lambda r, s: s * (r > 0), convex=False, flat=True),
    _radial("l0", jaxreg.l0, lambda r, s: s * (r > 0), groups.outputs(), convex=False, flat=True),
    _radial("l_half", jaxreg.l_half, lambda r, s: s * r**0.5, convex=False),
    _radial("l_half", jaxreg.l_half, lambda r, s: s * r**0.5, groups.inputs(), convex=False),
    _radial("l_two_thirds", jaxreg.l_two_thirds, lambda r, s: s * r ** (2 / 3), convex=False),
    _radial("mcp", jaxreg.mcp, mcp, gamma=2.5, convex=False, flat=True),
    _radial("mcp", jaxreg.mcp, mcp, groups.outputs(), gamma=2.5, convex=False, flat=True),
    _radial("scad", jaxreg.scad, scad, convex=False, flat=True),
    _radial("scad", jaxreg.scad, scad, groups.inputs(), convex=False, flat=True),
    _radial("log_sum", jaxreg.log_sum, lambda r, s: s * np.log1p(r / 0.5), epsilon=0.5, convex=False),
    _radial(
        "log_sum",
        jaxreg.log_sum,
        lambda r, s: s * np.log1p(r / 0.5),
        groups.outputs(),
        epsilon=0.5,
        convex=False,
    ),
    _radial("capped_l1", jaxreg.capped_l1, lambda r, s: s * min(r, 0.7), cap=0.7, convex=False, flat=True),
    _radial("huber", jaxreg.huber, huber, sparse=False, delta=0.6),
    _radial("huber", jaxreg.huber, huber, groups.outputs(), sparse=False, delta=0.6),
    PenaltyCase(
        "l1 + l2",
        lambda s: jaxreg.l1(s, mask=ON) + jaxreg.l2(times(0.5, s), mask=ON),
        lambda w, s: s * (absolute(w) + 0.5 * squared(w)),
        homogeneous=False,
    ),
    PenaltyCase(
        "l1 + elastic_net + l1",
        lambda s: jaxreg.l1(s, mask=ON) + jaxreg.elastic_net(s, 0.5, mask=ON) + jaxreg.l1(s, mask=ON),
        lambda w, s: s * (2.5 * absolute(w) + 0.25 * squared(w)),
        homogeneous=False,
    ),
    PenaltyCase(
        "group_lasso + l2 + l1",
        lambda s: (
            jaxreg.group_lasso(s, groups.outputs(), mask=ON)
            + jaxreg.l2(s, mask=ON)
            + jaxreg.l1(times(0.5, s), mask=ON)
        ),
        lambda w, s: s * (norms(w, columns()) + squared(w) + 0.5 * absolute(w)),
        homogeneous=False,
    ),
]


def parameters(kernel: Any) -> dict[str, Any]:
    """A tree in which every kind of leaf stands beside the regularised one."""
    return {
        "layer": {"kernel": kernel, "bias": jnp.linspace(-1.0, 1.0, SHAPE[1])},
        "hole": None,
        "masked": optax.MaskedNode(),
        "steps": jnp.arange(3),
    }


def _optimizer(name: str, make: Callable[..., Any], **kwargs: Any) -> TransformCase:
    return TransformCase(name, lambda **given: make(**{"learning_rate": 0.1, **kwargs, **given}))


_GROUPED = jaxreg.group_lasso(0.05, groups.outputs(), mask=masks.weights)

TRANSFORMS = [
    TransformCase(
        "add_penalty", lambda **given: jaxreg.add_penalty(**{"penalty": jaxreg.l1(0.1), **given}), injected=()
    ),
    _optimizer("proximal", jaxreg.proximal, penalty=jaxreg.l1(0.1)),
    _optimizer("proximal[groups]", jaxreg.proximal, penalty=_GROUPED),
    _optimizer(
        "proximal[schedules]",
        lambda learning_rate, penalty: jaxreg.proximal(
            penalty, learning_rate, strength_schedule=optax.linear_schedule(0.0, 1.0, 5)
        ),
        penalty=jaxreg.l1(0.1),
    ),
    _optimizer("proximal_l1", jaxreg.proximal_l1, strength=0.1, mask=masks.weights),
    _optimizer(
        "proximal_group_lasso",
        jaxreg.proximal_group_lasso,
        strength=0.1,
        groups=groups.outputs(),
        mask=masks.weights,
    ),
    _optimizer("weight_decay", jaxreg.weight_decay, strength=0.1, mask=masks.weights),
    _optimizer("prox_sgd", jaxreg.prox_sgd, penalty=jaxreg.l1(0.1)),
    _optimizer("prox_sgd[momentum]", jaxreg.prox_sgd, penalty=jaxreg.l1(0.1), momentum=0.9),
    _optimizer("prox_sgd[nesterov]", jaxreg.prox_sgd, penalty=_GROUPED, momentum=0.9, nesterov=True),
    _optimizer("prox_sgd[damped]", jaxreg.prox_sgd, penalty=jaxreg.l1(0.1), momentum=0.9, damped=True),
    _optimizer("prox_adam", jaxreg.prox_adam, penalty=jaxreg.l1(0.1)),
    _optimizer("prox_adam[groups]", jaxreg.prox_adam, penalty=_GROUPED),
    _optimizer("prox_adamw", jaxreg.prox_adamw, penalty=jaxreg.l1(0.1), weight_decay=0.1),
    _optimizer("prox_nadam", jaxreg.prox_nadam, penalty=jaxreg.l1(0.1)),
    _optimizer("prox_amsgrad", jaxreg.prox_amsgrad, penalty=jaxreg.l1(0.1)),
    _optimizer("prox_adabelief", jaxreg.prox_adabelief, penalty=jaxreg.l1(0.1), eps=1e-3),
    _optimizer("prox_adagrad", jaxreg.prox_adagrad, penalty=_GROUPED),
    _optimizer("prox_rmsprop", jaxreg.prox_rmsprop, penalty=jaxreg.l1(0.1)),
    _optimizer("prox_rmsprop[momentum]", jaxreg.prox_rmsprop, penalty=_GROUPED, momentum=0.9),
    _optimizer(
        "prox_rmsprop[centered]", jaxreg.prox_rmsprop, penalty=jaxreg.l1(0.1), centered=True, eps=1e-3
    ),
    _optimizer("prox_lion", jaxreg.prox_lion, penalty=jaxreg.l1(0.1)),
    # With coefficients that are not of the shape of a parameter.
    _optimizer("prox_muon", jaxreg.prox_muon, penalty=_GROUPED, ns_coeffs=((3.4445, -4.775, 2.0315),) * 5),
    _optimizer("fista", jaxreg.fista, penalty=jaxreg.l1(0.1)),
    _optimizer("fista[groups]", jaxreg.fista, penalty=_GROUPED, restart=False),
    _optimizer("linbreg", jaxreg.linbreg, penalty=jaxreg.l1(0.1)),
    _optimizer("linbreg[groups]", jaxreg.linbreg, penalty=_GROUPED, momentum=0.5, delta=2.0),
    _optimizer("adabreg", jaxreg.adabreg, penalty=jaxreg.l1(0.1)),
    _optimizer("hspg", jaxreg.hspg, penalty=_GROUPED, begin_step=1),
    _optimizer("hspg[momentum]", jaxreg.hspg, penalty=_GROUPED, momentum=0.9, begin_step=1, epsilon=0.1),
    _optimizer("ftrl", jaxreg.ftrl, penalty=jaxreg.l1(0.1)),
    _optimizer("ftrl[no beta]", jaxreg.ftrl, penalty=jaxreg.l1(0.1), beta=0.0),
    _optimizer("ftrl[cumulative, groups]", jaxreg.ftrl, penalty=_GROUPED, cumulative=True),
    _optimizer("rda", jaxreg.rda, penalty=jaxreg.l1(0.1)),
    _optimizer("rda[momentum, groups]", jaxreg.rda, penalty=_GROUPED, momentum=0.5, weight_power=0.5),
    _optimizer("ramda", jaxreg.ramda, penalty=jaxreg.l1(0.1), momentum=0.0),
    _optimizer("ramda[momentum, groups]", jaxreg.ramda, penalty=_GROUPED),
    _optimizer(
        "proximal_optimizer",
        lambda learning_rate, penalty: jaxreg.proximal_optimizer(
            optax.sgd(learning_rate), penalty, learning_rate
        ),
        penalty=jaxreg.l1(0.1),
    ),
    _optimizer(
        "freeze_zeros",
        lambda learning_rate, mask: jaxreg.freeze_zeros(optax.adam(learning_rate), mask=mask),
        mask=None,
    ),
    _optimizer(
        "freeze_zeros[begin, end]",
        lambda learning_rate, mask: jaxreg.freeze_zeros(
            optax.adam(learning_rate), mask=mask, begin_step=1, end_step=2
        ),
        mask=masks.weights,
    ),
    _optimizer(
        "freeze_zeros[prox_adam]",
        lambda learning_rate, penalty: jaxreg.freeze_zeros(
            jaxreg.prox_adam(learning_rate, penalty), mask=masks.weights
        ),
        penalty=jaxreg.l1(0.1),
    ),
]

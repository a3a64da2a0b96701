"""The cases that are run through all laws: a penalty or an optimizer joins by one row.

The formulas know nothing of jaxreg.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from formulas import SHAPE, absolute, columns, huber, mcp, norms, rows, scad, squared, stripes, tiles, times

import jaxreg
from jaxreg import groups, masks

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
    pushes_zeros: bool = False
    """Whether its gradient pushes single zeros: it is no function of moduli."""
    reaches_zero: bool = True
    """Whether large steps lead to 0."""
    takes_complex: bool = True
    keeps_weak_types: bool = True
    """Whether its prox leaves weakly typed leaves weak; JAX's scans do not."""
    iterative: bool = False
    """Whether its prox is solved by passes, which steps that lie ten decades apart are too many for."""
    like: str = ""
    """The row that has all its code but a formula; what is no matter of formulas runs there alone."""

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


def refuses(case: PenaltyCase, dtype: Any) -> bool:
    """Whether the case is of real numbers and dtype is not; then it must say so."""
    if case.takes_complex or not jnp.issubdtype(dtype, np.complexfloating):
        return False
    for use in (case.make(0.1), lambda tree: case.make(0.1).prox(tree, 0.1)):
        with pytest.raises(ValueError, match="The leaf 'layer/kernel' is complex"):
            use(parameters(jnp.ones(SHAPE, dtype)))
    return True


ON = masks.name("kernel")


def _radial(
    name: str,
    make: Callable[..., jaxreg.Penalty],
    phi: Callable[[np.ndarray, Any], np.ndarray],
    structure: groups.Groups | None = None,
    sparse: bool = True,
    convex: bool = True,
    flat: bool = False,
    **options: float,
) -> PenaltyCase:
    """A row for ``sum_g phi(||w_g||; strength sqrt(|g|))``, elements where there is no structure."""
    members = {None: None, groups.outputs(): columns(), groups.inputs(): rows()}[structure]

    def formula(w: np.ndarray, strength: float) -> float:
        if members is None:
            return float(np.sum(phi(np.abs(w), strength)))
        sizes = np.array([m.sum() for m in members])
        radii = np.array([np.sqrt(squared(w[m])) for m in members])
        return float(np.sum(phi(radii, strength * np.sqrt(sizes))))

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
        like="" if name in ("l0", "mcp") else f"mcp[{structure}]" if structure else "mcp",
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
        like="l1",
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
        like="group_lasso[outputs]",
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
        like="group_lasso[ragged blocks]",
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
        like="sparse_group_lasso[outputs]",
    ),
    _radial("l0", jaxreg.l0, lambda r, s: s * (r > 0), convex=False, flat=True),
    _radial("l_half", jaxreg.l_half, lambda r, s: s * r**0.5, convex=False),
    _radial("l_half", jaxreg.l_half, lambda r, s: s * r**0.5, groups.inputs(), convex=False),
    _radial("l_two_thirds", jaxreg.l_two_thirds, lambda r, s: s * r ** (2 / 3), convex=False),
    _radial("mcp", jaxreg.mcp, mcp, gamma=2.5, convex=False, flat=True),
    _radial("mcp", jaxreg.mcp, mcp, groups.outputs(), gamma=2.5, convex=False, flat=True),
    _radial("scad", jaxreg.scad, scad, convex=False, flat=True),
    _radial("log_sum", jaxreg.log_sum, lambda r, s: s * np.log1p(r / 0.5), epsilon=0.5, convex=False),
    _radial(
        "capped_l1", jaxreg.capped_l1, lambda r, s: s * np.minimum(r, 0.7), cap=0.7, convex=False, flat=True
    ),
    _radial("huber", jaxreg.huber, huber, sparse=False, delta=0.6),
    _radial("berhu", jaxreg.berhu, lambda r, s: s * np.where(r < 0.6, r, (r**2 + 0.36) / 1.2), delta=0.6),
    _radial("huber", jaxreg.huber, huber, groups.outputs(), sparse=False, delta=0.6),
    PenaltyCase(
        "hierarchical_group_lasso",
        lambda s: jaxreg.hierarchical_group_lasso(
            s, [groups.chunks(2, axis=0), groups.outputs()], level_weights=[0.4, 0.5], mask=ON
        ),
        lambda w, s: s * (0.4 * norms(w, tiles(2, 1)) + 0.5 * norms(w, columns())),
        per_element=False,
    ),
    PenaltyCase(
        "overlapping_group_lasso",
        lambda s: jaxreg.overlapping_group_lasso(s, [groups.outputs(), groups.inputs()], mask=ON),
        lambda w, s: s * (norms(w, columns()) + norms(w, rows())),
        iterative=True,
    ),
    # A reference of 0: others move the whole picture, which tests/penalties/test_reference.py does.
    PenaltyCase("l1_sp[0]", lambda s: jaxreg.l1_sp(s, 0.0, mask=ON), lambda w, s: s * absolute(w)),
    PenaltyCase(
        "l2_sp[0]",
        lambda s: jaxreg.l2_sp(s, 0.0, mask=ON),
        lambda w, s: s * squared(w),
        sparse=False,
        homogeneous=False,
    ),
    PenaltyCase(
        "nuclear_norm",
        lambda s: jaxreg.nuclear_norm(s, mask=ON),
        lambda w, s: s * float(np.linalg.svd(w, compute_uv=False).sum()),
        sparse=False,
        aligned_axes=(),
        per_element=False,
        pushes_zeros=True,
    ),
    PenaltyCase(
        "spectral_norm",
        lambda s: jaxreg.spectral_norm(s, mask=ON),
        lambda w, s: s * float(np.linalg.svd(w, compute_uv=False).max()),
        sparse=False,
        aligned_axes=(),
        per_element=False,
        pushes_zeros=True,
    ),
    PenaltyCase(
        "total_variation",
        lambda s: jaxreg.total_variation(s, axis=1, mask=ON),
        lambda w, s: s * absolute(np.diff(w, axis=1)),
        sparse=False,
        aligned_axes=(0,),
        per_element=False,
        flat=True,
        pushes_zeros=True,
        reaches_zero=False,
        takes_complex=False,
        keeps_weak_types=False,
    ),
    PenaltyCase(
        "fused_lasso",
        lambda s: jaxreg.fused_lasso(s, 0.3, axis=0, mask=ON),
        lambda w, s: s * (0.3 * absolute(w) + 0.7 * absolute(np.diff(w, axis=0))),
        aligned_axes=(1,),
        per_element=False,
        pushes_zeros=True,
        takes_complex=False,
        keeps_weak_types=False,
    ),
    PenaltyCase(
        "group_linf",
        lambda s: jaxreg.group_linf(s, groups.outputs(), mask=ON),
        lambda w, s: s * float(sum(np.abs(w[m]).max() for m in columns())),
        flat=True,
    ),
    PenaltyCase(
        "exclusive_lasso",
        lambda s: jaxreg.exclusive_lasso(s, groups.outputs(), mask=ON),
        lambda w, s: s / 2 * sum(absolute(w[m]) ** 2 for m in columns()),
        homogeneous=False,
        reaches_zero=False,
    ),
    # A cap that is never reached: what it does is in tests/penalties/test_protected.py.
    PenaltyCase(
        "protected[l1]",
        lambda s: jaxreg.protected(jaxreg.l1(s, mask=ON), max_zero_share=1.0),
        lambda w, s: s * absolute(w),
        aligned_axes=(),
    ),
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
        like="l1 + l2",
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


_WEIGHTS = jaxreg.l1(0.1, mask=masks.weights)
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
    _optimizer(
        "target_sparsity", jaxreg.target_sparsity, penalty=_WEIGHTS, target=0.6, begin_step=1, end_step=3
    ),
    _optimizer(
        "target_sparsity[groups, projection]",
        jaxreg.target_sparsity,
        penalty=_GROUPED,
        target=0.5,
        begin_step=0,
        end_step=2,
        method="projection",
    ),
    _optimizer("proximal_l1", jaxreg.proximal_l1, strength=0.1, mask=masks.weights),
    _optimizer(
        "proximal_group_lasso",
        jaxreg.proximal_group_lasso,
        strength=0.1,
        groups=groups.outputs(),
        mask=masks.weights,
    ),
    _optimizer("proximal[compensated]", jaxreg.proximal, penalty=_GROUPED, rounding="compensated"),
    _optimizer("weight_decay", jaxreg.weight_decay, strength=0.1, mask=masks.weights),
    _optimizer("weight_decay[stochastic]", jaxreg.weight_decay, strength=0.1, rounding="stochastic"),
    _optimizer(
        "weight_decay[cautious, norm]",
        jaxreg.weight_decay,
        strength=0.1,
        mask=masks.weights,
        cautious=True,
        target_norm=1.0,
        groups=groups.outputs(),
    ),
    _optimizer("prox_sgd", jaxreg.prox_sgd, penalty=jaxreg.l1(0.1)),
    _optimizer("prox_sgd[momentum]", jaxreg.prox_sgd, penalty=jaxreg.l1(0.1), momentum=0.9),
    _optimizer("prox_sgd[nesterov]", jaxreg.prox_sgd, penalty=jaxreg.l1(0.1), momentum=0.9, nesterov=True),
    _optimizer("prox_adam", jaxreg.prox_adam, penalty=jaxreg.l1(0.1)),
    _optimizer(
        "prox_adam[ramp]",
        jaxreg.prox_adam,
        penalty=jaxreg.sparsity_ramp(_WEIGHTS, 0.6, begin_step=1, end_step=3),
    ),
    _optimizer("prox_adam[groups]", jaxreg.prox_adam, penalty=_GROUPED),
    _optimizer("prox_adamw", jaxreg.prox_adamw, penalty=jaxreg.l1(0.1), weight_decay=0.1),
    _optimizer("prox_nadam", jaxreg.prox_nadam, penalty=jaxreg.l1(0.1)),
    _optimizer("prox_amsgrad", jaxreg.prox_amsgrad, penalty=jaxreg.l1(0.1)),
    _optimizer("prox_adabelief", jaxreg.prox_adabelief, penalty=jaxreg.l1(0.1), eps=1e-3),
    _optimizer("prox_adagrad", jaxreg.prox_adagrad, penalty=jaxreg.l1(0.1)),
    _optimizer("prox_rmsprop", jaxreg.prox_rmsprop, penalty=jaxreg.l1(0.1)),
    _optimizer(
        "prox_rmsprop[centered, momentum]",
        jaxreg.prox_rmsprop,
        penalty=jaxreg.l1(0.1),
        centered=True,
        momentum=0.9,
        eps=1e-3,
    ),
    _optimizer("prox_lion", jaxreg.prox_lion, penalty=jaxreg.l1(0.1)),
    # With coefficients that are not of the shape of a parameter.
    _optimizer(
        "prox_muon", jaxreg.prox_muon, penalty=jaxreg.l1(0.1), ns_coeffs=((3.4445, -4.775, 2.0315),) * 5
    ),
    _optimizer("fista", jaxreg.fista, penalty=jaxreg.l1(0.1)),
    _optimizer("linbreg[groups]", jaxreg.linbreg, penalty=_GROUPED, momentum=0.5, delta=2.0),
    _optimizer("adabreg", jaxreg.adabreg, penalty=jaxreg.l1(0.1)),
    _optimizer("hspg[momentum]", jaxreg.hspg, penalty=_GROUPED, momentum=0.9, begin_step=1, epsilon=0.1),
    _optimizer("ftrl", jaxreg.ftrl, penalty=jaxreg.l1(0.1)),
    _optimizer("ftrl[cumulative, groups]", jaxreg.ftrl, penalty=_GROUPED, cumulative=True),
    _optimizer("rda", jaxreg.rda, penalty=jaxreg.l1(0.1)),
    _optimizer("rda[momentum, groups]", jaxreg.rda, penalty=_GROUPED, momentum=0.5, weight_power=0.5),
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
        "freeze_zeros[begin, end, prox_adam]",
        lambda learning_rate, penalty: jaxreg.freeze_zeros(
            jaxreg.prox_adam(learning_rate, penalty), mask=masks.weights, begin_step=1, end_step=2
        ),
        penalty=jaxreg.l1(0.1),
    ),
]

"""Every penalty and constraint as one small picture: what it charges, and where its prox moves.

Functions of one weight are drawn as curves, their prox at step size 1 beside the identity. The others are
drawn over two weights: lines of equal value (for a constraint: the set), and arrows from points to their
prox at step size 0.4.
"""

import argparse
import inspect
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from common import BLUE, GREY, ORANGE, new_figure, parser, save

import jaxreg
from jaxreg import groups, penalties

COLUMNS = 6
CURVES: dict[str, jaxreg.Penalty] = {
    "l2": jaxreg.l2(0.5),
    "elastic_net": jaxreg.elastic_net(1.0, 0.5),
    "mcp": jaxreg.mcp(1.0, 2.0),
    "scad": jaxreg.scad(0.7, 2.5),
    "log_sum": jaxreg.log_sum(1.0, 0.5),
    "capped_l1": jaxreg.capped_l1(1.0, 1.5),
    "l1_sp": jaxreg.l1_sp(1.0, 0.75),
    "l2_sp": jaxreg.l2_sp(0.5, 0.75),
    "box": jaxreg.box(-0.5, 2.0),
}
USUAL = {"strength": 1.0, "delta": 1.0}


class Plane(NamedTuple):
    """A penalty on two weights, which stand in a leaf of some shape."""

    penalty: jaxreg.Penalty
    place: Callable[[jax.Array], jax.Array] = lambda w: w
    """From the two weights to the leaf."""
    read: Callable[[jax.Array], jax.Array] = lambda leaf: leaf


PAIR = groups.chunks(2, axis=0)
DIAGONAL: dict[str, Any] = {"place": jnp.diag, "read": jnp.diag}
COLUMN: dict[str, Any] = {"place": lambda w: w[:, None], "read": lambda leaf: leaf[:, 0]}
PLANES: dict[str, Plane] = {
    "group_lasso": Plane(jaxreg.group_lasso(1.0, PAIR, size_weights=False)),
    "sparse_group_lasso": Plane(jaxreg.sparse_group_lasso(1.2, PAIR, 0.5, size_weights=False)),
    "group_linf": Plane(jaxreg.group_linf(1.0, PAIR)),
    "exclusive_lasso": Plane(jaxreg.exclusive_lasso(0.5, PAIR)),
    "hierarchical_group_lasso": Plane(
        jaxreg.hierarchical_group_lasso(0.7, [groups.chunks(1, axis=0), PAIR], size_weights=False)
    ),
    "overlapping_group_lasso": Plane(
        jaxreg.overlapping_group_lasso(0.7, [groups.chunks(1, axis=0), PAIR], size_weights=False)
    ),
    "total_variation": Plane(jaxreg.total_variation(1.0)),
    "fused_lasso": Plane(jaxreg.fused_lasso(1.2, 0.4)),
    "slope": Plane(jaxreg.slope(jnp.array([1.2, 0.4]))),
    "nuclear_norm": Plane(jaxreg.nuclear_norm(1.0), **DIAGONAL),
    "spectral_norm": Plane(jaxreg.spectral_norm(1.0), **DIAGONAL),
    "orthogonality": Plane(jaxreg.orthogonality(1.0), **DIAGONAL),
    "hoyer": Plane(jaxreg.hoyer(1.0)),
    "hoyer_square": Plane(jaxreg.hoyer_square(1.0)),
    "top_k": Plane(jaxreg.top_k(1)),
    "n_m_sparsity": Plane(jaxreg.n_m_sparsity(1, 2), **COLUMN),
    "max_norm": Plane(jaxreg.max_norm(1.0, groups.outputs()), **COLUMN),
    "unit_norm": Plane(jaxreg.unit_norm(groups.outputs()), **COLUMN),
    "norm_range": Plane(jaxreg.norm_range(0.5, 1.2, groups.outputs()), **COLUMN),
    "l1_ball": Plane(jaxreg.l1_ball(1.0)),
    "l2_ball": Plane(jaxreg.l2_ball(1.0)),
    "simplex": Plane(jaxreg.simplex(1.0)),
    "spectral_norm_ball": Plane(jaxreg.spectral_norm_ball(1.0), **DIAGONAL),
}


def curves() -> dict[str, jaxreg.Penalty]:
    """Those above, and before them all with no other arguments than the usual ones."""
    found = {}
    for name in sorted(set(penalties.__all__) - {"Penalty", "protected", *CURVES, *PLANES}):
        arguments = inspect.signature(getattr(jaxreg, name)).parameters.values()
        needed = [argument.name for argument in arguments if argument.default is argument.empty]
        unusual = set(needed) - set(USUAL)
        if unusual:
            raise SystemExit(f"{name} needs {', '.join(sorted(unusual))}: give it a line in {__file__}.")
        found[name] = getattr(jaxreg, name)(*(USUAL[argument] for argument in needed))
    return found | CURVES


def draw_curve(axes: Any, name: str, penalty: jaxreg.Penalty, points: int) -> None:
    x = np.linspace(-3, 3, points)
    axes.plot(x, x, color=GREY, linewidth=0.8, linestyle=":")
    value = np.array(jax.jit(jax.vmap(lambda w: penalty(w[None])))(jnp.asarray(x)))
    axes.plot(x, value, color=BLUE, label="value")
    if not np.all(np.isfinite(value)):
        axes.fill_between(x, -3, 3, where=np.isfinite(value), color=BLUE, alpha=0.12, linewidth=0)
    prox = np.array(penalty.prox(jnp.asarray(x), 1.0))
    jumps = np.abs(np.diff(prox)) > 0.2
    prox[1:][jumps] = np.nan  # no line where the prox jumps
    axes.plot(x, prox, color=ORANGE, label="prox")
    axes.set(title=name, xlim=(-3, 3), ylim=(-3, 3), xticks=[-2, 0, 2], yticks=[-2, 0, 2])


def draw_plane(axes: Any, name: str, plane: Plane, points: int) -> None:
    ticks = np.linspace(-2, 2, points)
    grid = jnp.asarray(np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2))
    value = np.array(jax.jit(jax.vmap(lambda w: plane.penalty(plane.place(w))))(grid))
    value = value.reshape(points, points)
    if np.all(np.isfinite(value)):
        levels = np.unique(np.quantile(value, np.linspace(0.05, 0.95, 8)))
        axes.contour(ticks, ticks, value, levels=levels, colors=BLUE, linewidths=0.8)
    elif np.any(np.isfinite(value)):
        axes.contourf(ticks, ticks, np.isfinite(value), levels=[0.5, 1.5], colors=BLUE, alpha=0.25)
    coarse = np.linspace(-1.8, 1.8, 8)
    starts = jnp.asarray(np.stack(np.meshgrid(coarse, coarse), axis=-1).reshape(-1, 2))
    try:
        ends = jax.jit(jax.vmap(lambda w: plane.read(plane.penalty.prox(plane.place(w), 0.4))))(starts)
    except (NotImplementedError, ValueError):  # value only
        axes.set_title(f"{name} (value only)")
    else:
        moves = np.array(ends - starts)
        axes.quiver(
            *np.array(starts).T, *moves.T, angles="xy", scale_units="xy", scale=1, color=ORANGE, width=0.008
        )
        axes.plot(*np.array(ends).T, ".", color=ORANGE, markersize=2)
        axes.set_title(name)
    axes.set(xlim=(-2, 2), ylim=(-2, 2), xticks=[-1, 0, 1], yticks=[-1, 0, 1], aspect="equal")


def draw(output: pathlib.Path, points: int) -> None:
    lines = curves()
    pictures = len(lines) + len(PLANES)
    rows = -(-pictures // COLUMNS)
    figure = new_figure(2.1 * COLUMNS, 2.1 * rows)
    grid = figure.subplots(rows, COLUMNS)
    for axes in grid.flat[pictures:]:
        axes.set_axis_off()
    drawn = iter(grid.flat)
    for name, penalty in lines.items():
        draw_curve(next(drawn), name, penalty, points)
    grid.flat[0].legend(loc="upper left", fontsize=7)
    for name, plane in PLANES.items():
        draw_plane(next(drawn), name, plane, points)
    save(figure, output, "gallery.png")


def main(args: argparse.Namespace) -> None:
    draw(args.output, points=41 if args.quick else 201)


if __name__ == "__main__":
    main(parser(__doc__).parse_args())

"""The box constraint: each weight in an interval."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxreg.arguments import check_number
from jaxreg.masks import as_mask
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.constraint import Piece, TermConstraint, check_ordered
from jaxreg.penalties.projections import interval_distance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Box(TermConstraint):
    """See :func:`box`."""

    kind: ClassVar[str] = "box"
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net"})
    bounds: ClassVar[tuple[str, ...]] = ("low", "high")
    real_only: ClassVar[bool] = True
    low: Any
    high: Any

    def term_project(self, xs: Sequence[Any], steps: Sequence[Any], term: Piece) -> Sequence[Any]:
        low, high = term.strength
        x = xs[0]
        # Not clip, whose derivative at a bound is neither 0 nor 1.
        return [jnp.where(x < low, low, jnp.where(x > high, high, x))]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Piece
    ) -> Sequence[Any]:
        low, high = term.strength
        x = xs[0]
        at_low = x - low <= term.rounding * jnp.abs(x)
        at_high = high - x <= term.rounding * jnp.abs(x)
        return [interval_distance(x, grads[0], soft[0], at_low, at_high)]


def box(low: Any, high: Any, *, mask: Any = None) -> Penalty:
    r"""Keep each weight between ``low`` and ``high``.

    .. math::
        R(w) = \begin{cases} 0 & a \le w_i \le b \text{ for all } i \\ \infty & \text{otherwise}
        \end{cases}, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_{a \le z \le b} \frac{(z - x_i)^2}{2 s_i}
        = \min(\max(x_i, a), b)

    Args:
        low: a, a number, a traced scalar, or a pytree prefix of the parameters with one number per
            leaf; ``-jax.numpy.inf`` for none.
        high: b, likewise, not below ``low`` (not checked where traced); ``jax.numpy.inf`` for none.
        mask: which leaves are constrained, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`: its value is 0 inside (to rounding) and infinity outside, its prox
        the projection.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if a bound is NaN, or ``low`` is above ``high``; when used, for a complex leaf.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> constraint = jaxreg.box(-1.0, 0.5)
        >>> print(constraint.prox(jnp.array([-3.0, 0.2, 2.0]), 0.1))
        [-1.   0.2  0.5]

    Notes:
        Exact after :func:`jaxreg.l1` and :func:`jaxreg.elastic_net`: ``jaxreg.l1(0.1) +
        jaxreg.box(-1.0, 1.0)`` has a prox. The value has gradient 0: use the prox, last in a chain,
        through :func:`jaxreg.proximal`, or in a proximal optimizer such as :func:`jaxreg.prox_adam`. At a
        bound the prox has derivative 1, as inside.

    References:
        Parikh and Boyd, Proximal algorithms, 2014, section 6.2, https://doi.org/10.1561/2400000003
    """
    low, high = _checked_limits(low, "low"), _checked_limits(high, "high")
    check_ordered(low, high, "box")
    return Box(as_mask(mask), low, high)


def _checked_limits(value: Any, name: str) -> Any:
    """A number or a pytree of numbers; infinite on the side where that is no bound."""
    none = -np.inf if name == "low" else np.inf
    entries = jax.tree_util.tree_leaves_with_path(value)
    if not entries:
        raise TypeError(f"The '{name}' parameter of box must be a number. Got {value!r}.")
    for keys, leaf in entries:
        if isinstance(leaf, Tracer) or not (np.ndim(leaf) == 0 and np.all(leaf == none)):
            check_number(leaf, name + jax.tree_util.keystr(keys), "box", low=-np.inf)
    return jax.tree.map(lambda leaf: float(leaf) if isinstance(leaf, int | np.integer) else leaf, value)

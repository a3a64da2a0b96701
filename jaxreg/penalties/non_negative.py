"""The non-negativity constraint."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxreg.masks import as_mask
from jaxreg.penalties.base import Penalty
from jaxreg.penalties.constraint import Piece, TermConstraint
from jaxreg.penalties.projections import interval_distance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NonNegative(TermConstraint):
    """See :func:`non_negative`."""

    kind: ClassVar[str] = "non_negative"
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net"})
    settles: ClassVar[bool] = True
    real_only: ClassVar[bool] = True

    def term_project(self, xs: Sequence[Any], steps: Sequence[Any], term: Piece) -> Sequence[Any]:
        # Not maximum, whose derivative at 0 is neither 0 nor 1.
        return [jnp.where(xs[0] < 0, 0.0, xs[0])]

    def term_distance(
        self, xs: Sequence[Any], grads: Sequence[Any], soft: Sequence[Any], term: Piece
    ) -> Sequence[Any]:
        return [interval_distance(xs[0], grads[0], soft[0], xs[0] == 0, False)]


def non_negative(*, mask: Any = None) -> Penalty:
    r"""Keep each weight at or above 0.

    .. math::
        R(w) = \begin{cases} 0 & w_i \ge 0 \text{ for all } i \\ \infty & \text{otherwise} \end{cases}, \qquad
        \mathrm{prox}(x, s)_i = \operatorname{argmin}_{z \ge 0} \frac{(z - x_i)^2}{2 s_i} = \max(x_i, 0)

    Args:
        mask: which leaves are constrained, as in :func:`jaxreg.l1`. Static.

    Returns:
        A :class:`jaxreg.Penalty`: its value is 0 inside and infinity outside, its prox the projection.

    Raises:
        TypeError: if the mask is none.
        ValueError: when used, for a complex leaf.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> print(jaxreg.non_negative().prox(jnp.array([-3.0, 0.2]), 0.1))
        [0.  0.2]
        >>> sparse = jaxreg.l1(1.0) + jaxreg.non_negative()
        >>> print(sparse.prox(jnp.array([-3.0, 0.2, 2.0]), 0.5))
        [0.  0.  1.5]

    Notes:
        Exact after :func:`jaxreg.l1` and :func:`jaxreg.elastic_net`, the non-negative lasso. The value
        has gradient 0: use the prox, last in a chain, through :func:`jaxreg.proximal`, or in a proximal
        optimizer such as :func:`jaxreg.prox_adam`. At 0 the prox has derivative 1, as inside.

    References:
        Lee and Seung, Learning the parts of objects by non-negative matrix factorization, 1999,
        https://doi.org/10.1038/44565. Prox: Parikh and Boyd, Proximal algorithms, 2014, section 6.3,
        https://doi.org/10.1561/2400000003
    """
    return NonNegative(as_mask(mask))

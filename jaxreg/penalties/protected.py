"""A cap on the zeros of each leaf, around any penalty."""

import dataclasses
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxreg.arguments import check_number
from jaxreg.group_kinds import Groups
from jaxreg.mask_algebra import Mask
from jaxreg.masks import as_mask
from jaxreg.penalties.base import Leaves, Penalty
from jaxreg.penalties.constraint import checked_structure
from jaxreg.penalties.selection import Units, largest, nonzero, units_of
from jaxreg.tree import FlatTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Protected(Penalty):
    """See :func:`protected`."""

    kind: ClassVar[str] = "protected"
    penalty: Penalty
    max_zero_share: Any
    exempt: Mask | None = dataclasses.field(metadata={"static": True})
    groups: Groups | None = dataclasses.field(metadata={"static": True})

    def scale(self, factor: Any) -> Self:
        return dataclasses.replace(self, penalty=self.penalty.scale(factor))

    def units(self, flat: FlatTree) -> list[Units]:
        """The units of a tree, made once for each ``flat``."""
        return flat.once(self, self._units)

    def touched(self, flat: FlatTree) -> tuple[int, ...]:
        return tuple(sorted(index for units in self.units(flat) for index in units.indices))

    def value_of(self, flat: FlatTree, leaves: Leaves) -> Any:
        return self.penalty.value_of(flat, leaves)

    def distance_of(self, flat: FlatTree, leaves: Leaves, grads: Leaves, soft: Leaves) -> Leaves:
        return self.penalty.distance_of(flat, leaves, grads, soft)

    def prox_of(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        out = dict(leaves) | self.penalty.prox_of(flat, leaves, steps)
        present = [units for units in self.units(flat) if all(index in leaves for index in units.indices)]
        budgets = [self._rescued(units, leaves, out) for units in present]
        scores = [units.scores(units.pick(leaves), None) for units in present]
        kept = largest(scores, jnp.array(budgets, jnp.uint32), apart=True)
        for units, keep in zip(present, kept, strict=True):
            for index, stays in zip(units.indices, units.spread(keep), strict=True):
                x = leaves[index]
                out[index] = jnp.where(stays & nonzero(x), x, out[index])
        return out

    def _units(self, flat: FlatTree) -> list[Units]:
        spared = () if self.exempt is None else self.exempt.indices(flat)
        return units_of(flat, [i for i in self.penalty.touched(flat) if i not in spared], self.groups)

    def _rescued(self, units: Units, leaves: Leaves, out: Leaves) -> Any:
        """How many units keep their values: none where few enough of them have become zero."""
        share = jnp.asarray(jax.lax.stop_gradient(self.max_zero_share), jnp.float32)
        number = np.float32(units.number)
        # A share such as 0.9 is not exact in binary: its product with 10 must come out as 9.
        cap = jnp.floor(share * number * np.float32(1 + 4 * np.finfo(np.float32).eps))
        least = units.number - jnp.minimum(cap, jnp.where(share < 1, number - 1, number)).astype(jnp.uint32)
        before = jnp.sum(units.alive(units.pick(leaves)), dtype=jnp.uint32)
        after = jnp.sum(units.alive(units.pick(out)), dtype=jnp.uint32)
        return jnp.where(after < jnp.minimum(least, before), least, 0)


def protected(
    penalty: Penalty, *, max_zero_share: Any, exempt: Any = None, groups: Groups | None = None
) -> Penalty:
    r"""Keep a penalty from emptying a layer: cap the share of each leaf that its prox may set to zero.

    .. math::
        R(w) = P(w), \qquad z = \mathrm{prox}_P(x, s), \qquad
        \mathrm{prox}(x, s)_i = \begin{cases} x_i & i \in \mathrm{top}_m(x) \text{ and fewer than } m
        \text{ of } z \text{ are not zero} \\ z_i & \text{otherwise} \end{cases}

    in each leaf of n elements by itself, with m = n - floor(n max_zero_share) the number that must live and
    :math:`\mathrm{top}_m(x)` the m elements with the largest :math:`|x_i|`: where the penalty would leave
    too few, the largest are not shrunk at all in this step.

    Args:
        penalty: P, any :class:`jaxreg.Penalty`, sums included.
        max_zero_share: the largest share of a leaf's elements (or groups) that may become zero, a number in
            [0, 1]; 1 protects nothing. Below 1 at least one lives. May be traced.
        exempt: leaves that the penalty leaves alone altogether, such as the first and last layer: a mask as
            in :func:`jaxreg.l1`. Default: none. Static.
        groups: a structure of :mod:`jaxreg.groups`: count and save groups instead of elements, the largest
            by norm. Where groups join leaves, the share is that of all of them. Static.

    Returns:
        A :class:`jaxreg.Penalty`. Its value and its optimality are those of P on the leaves that are not
        exempt, so that optimality need not reach 0 where the cap holds. Its prox is exact where the cap
        does not come into play, and the formula above elsewhere.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if ``max_zero_share`` is not in [0, 1]; when used, for a leaf that the groups do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> penalty = jaxreg.protected(jaxreg.l1(1.0), max_zero_share=0.5)
        >>> print(penalty.prox(jnp.array([0.1, -0.7, 0.5, 3.0]), 1.0))
        [ 0.  -0.7  0.   3. ]
        >>> print(penalty.prox(jnp.array([0.1, -1.5, 0.5, 3.0]), 1.0))
        [ 0.  -0.5  0.   2. ]

    Notes:
        Only what is not zero can be saved: an element that is 0 and does not move stays 0 and is no
        larger than any other, so a leaf that starts emptier than the cap stays as it is. Of equals the
        first is saved. Over many steps the cap works like a smaller strength in the leaves that need it:
        these shrink until the cap holds them, grow freely while it does, and shrink again. Saving only
        those that the penalty has zeroed would not do: it holds each of them near the threshold, where a
        layer is as good as empty. A penalty such as :func:`jaxreg.top_k` may end outside of its set.
    """
    if not isinstance(penalty, Penalty):
        raise TypeError(
            "The 'penalty' parameter of protected must be a jaxreg.Penalty, such as jaxreg.l1(1e-4). "
            f"Got {penalty!r}."
        )
    check_number(max_zero_share, "max_zero_share", "protected", high=1.0)
    spared = None if exempt is None else as_mask(exempt)
    return Protected(penalty, max_zero_share, spared, checked_structure(groups, "protected"))

"""N:M sparsity: at most n of every m neighbours are not zero."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreg.masks import as_mask
from jaxreg.penalties.base import Leaves, Penalty
from jaxreg.penalties.constraint import Constraint
from jaxreg.penalties.selection import bits, cost, nonzero
from jaxreg.penalties.shrinkage import l1_distance
from jaxreg.tree import FlatTree, is_complex


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NMSparsity(Constraint):
    """See :func:`n_m_sparsity`."""

    kind: ClassVar[str] = "n_m_sparsity"
    # What it costs to lose an element after these is still its square over twice the step.
    composes_after: ClassVar[frozenset[str]] = frozenset({"l1", "elastic_net", "non_negative"})
    order: ClassVar[int] = 3
    n: int = dataclasses.field(metadata={"static": True})
    m: int = dataclasses.field(metadata={"static": True})
    axis: int = dataclasses.field(metadata={"static": True})

    def touched(self, flat: FlatTree) -> tuple[int, ...]:
        return flat.once(self, self._checked)

    def project(self, flat: FlatTree, leaves: Leaves, steps: Leaves) -> Leaves:
        return {index: self._thin(leaf, steps[index]) for index, leaf in leaves.items()}

    def value_of(self, flat: FlatTree, leaves: Leaves) -> Any:
        outside = [
            jnp.any(self._in_use(leaf) > self.n) | jnp.any(jnp.isnan(leaf)) for leaf in leaves.values()
        ]
        return jnp.where(jnp.any(jnp.array(outside)), jnp.inf, 0.0)

    def distance_of(self, flat: FlatTree, leaves: Leaves, grads: Leaves, soft: Leaves) -> Leaves:
        out = {}
        for index, leaf in leaves.items():
            residual = self._cut(l1_distance(leaf, grads[index], soft.get(index, 0.0)))
            in_use, alive = self._in_use(leaf), self._cut(nonzero(leaf))
            # A zero may not move where n others are in use, and must be at rest where one is free.
            distance = jnp.where(~alive & (in_use == self.n), 0.0, residual)
            out[index] = jnp.where(in_use > self.n, jnp.inf, distance).reshape(leaf.shape)
        return out

    def _checked(self, flat: FlatTree) -> tuple[int, ...]:
        indices = tuple(self.mask.indices(flat))
        for index in indices:
            shape, path = np.shape(flat.leaves[index]), flat.paths[index]
            if not -len(shape) <= self.axis < len(shape):
                raise ValueError(
                    f"The axis {self.axis} of n_m_sparsity is not in the leaf '{path}' of shape {shape}. "
                    "Keep it out with a mask, such as mask=jaxreg.masks.weights."
                )
            if shape[self.axis] % self.m:
                raise ValueError(
                    f"n_m_sparsity({self.n}, {self.m}) needs axis {self.axis} of the leaf '{path}' to be a "
                    f"multiple of {self.m}. Got {shape[self.axis]}. Keep it out with a mask."
                )
        return indices

    def _cut(self, x: Any) -> Any:
        """The axis split into runs of m: one axis more, the runs along ``_along``."""
        axis = self.axis % x.ndim
        return x.reshape(*x.shape[:axis], x.shape[axis] // self.m, self.m, *x.shape[axis + 1 :])

    def _along(self, x: Any) -> int:
        return self.axis % x.ndim + 1

    def _in_use(self, x: Any) -> Any:
        return jnp.sum(self._cut(nonzero(x)), axis=self._along(x), keepdims=True, dtype=jnp.int32)

    def _thin(self, x: Any, step: Any) -> Any:
        score = lax.stop_gradient(jnp.abs(x) if is_complex(x) else x)
        if jnp.ndim(step):
            score = cost(score, lax.stop_gradient(step))
        runs, axis = self._cut(bits(score)), self._along(x)
        # Ranks by comparing each with each, m by m, which XLA adds up without writing it out.
        mine, other = jnp.expand_dims(runs, axis + 1), jnp.expand_dims(runs, axis)
        first, second = (lax.broadcasted_iota(jnp.int32, (self.m, self.m), a) for a in (0, 1))
        before = (second < first).reshape(self.m, self.m, *(1,) * (runs.ndim - axis - 1))
        ahead = jnp.sum((other > mine) | ((other == mine) & before), axis=axis + 1, dtype=jnp.int32)
        keep = (ahead < self.n).reshape(x.shape)
        return jnp.where(keep | jnp.isnan(x), x, 0.0)


def n_m_sparsity(n: int, m: int, axis: int = -2, *, mask: Any = None) -> Penalty:
    r"""Keep the n largest of every m consecutive weights along an axis: n:m sparsity, such as 2:4.

    .. math::
        R(w) = \begin{cases} 0 & \lVert w_b \rVert_0 \le n \text{ in each run } b \text{ of } m \\
        \infty & \text{otherwise} \end{cases}, \qquad
        \mathrm{prox}(x, s)_b =
        \operatorname{argmin}_{\lVert z \rVert_0 \le n} \sum_{i \in b} \frac{(z_i - x_i)^2}{2 s_i}

    which keeps the n elements of each run with the largest :math:`x_i^2 / s_i` as they are.

    Args:
        n: how many of a run may be other than zero, a whole number from 1 to m. Static.
        m: the length of a run, a whole number. Static.
        axis: the axis that is cut into runs, whose length must be a multiple of m. Static. For the sparse
            tensor cores of NVIDIA (2:4) runs lie along the axis that a product sums over: the inputs,
            -2 in Flax kernels ``(..., in, out)``, -1 in PyTorch's and Equinox's ``(out, in)``, 1 in their
            convolutions ``(out, in, height, width)``.
        mask: which leaves take part, as in :func:`jaxreg.l1`; a bias has no axis -2. Static.

    Returns:
        A :class:`jaxreg.Penalty`: its value is 0 inside and infinity outside, its prox the projection.
        Complex weights count by modulus.

    Raises:
        TypeError: if ``n``, ``m`` or ``axis`` is not a whole number.
        ValueError: if ``n`` or ``m`` is out of its range; when used, for a leaf without the axis, or whose
            length along it is not a multiple of m.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> kernel = jnp.array([[0.1, 3.0], [0.4, -2.0], [-0.3, 1.0], [0.2, 1.0]])
        >>> print(jaxreg.n_m_sparsity(2, 4).prox(kernel, 0.1))
        [[ 0.   3. ]
         [ 0.4 -2. ]
         [-0.3  0. ]
         [ 0.   0. ]]

    Notes:
        Of equals the first is kept. What has step 0 keeps its value, costs infinitely much to lose, and so
        is counted first. NaN is kept. The value has gradient 0: use the prox, last in a chain, through
        :func:`jaxreg.proximal`, or in a proximal optimizer. Not convex; :meth:`~jaxreg.Penalty.optimality`
        is 0 where in each run the gradient is 0 on what is kept, and on all of it where fewer than n are
        in use. Exact after :func:`jaxreg.l1`, :func:`jaxreg.elastic_net` and :func:`jaxreg.non_negative`.
        Runs of more than 32 elements take memory and time in proportion to m.

    References:
        Zhou et al., Learning N:M fine-grained structured sparse neural networks from scratch, 2021,
        arXiv:2102.04010. Mishra et al., Accelerating sparse deep neural networks, 2021, arXiv:2104.08378
    """
    for value, name in ((n, "n"), (m, "m"), (axis, "axis")):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(
                f"The '{name}' parameter of n_m_sparsity must be a whole number. "
                f"Got {value!r} of type {type(value).__name__}."
            )
    if m < 1:
        raise ValueError(f"The 'm' parameter of n_m_sparsity must be at least 1. Got {m}.")
    if not 1 <= n <= m:
        raise ValueError(f"The 'n' parameter of n_m_sparsity must be from 1 to m, which is {m}. Got {n}.")
    return NMSparsity(as_mask(mask), int(n), int(m), int(axis))

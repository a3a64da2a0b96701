"""Dense-Sparse-Dense training: prune once, train what is left, then all of it again."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax

from jaxreg.arguments import check_number, check_window
from jaxreg.group_kinds import Groups
from jaxreg.optimizers.freeze_zeros import freeze_zeros
from jaxreg.penalties import top_k
from jaxreg.penalties.base import Leaves
from jaxreg.penalties.top_k import TopK
from jaxreg.transforms.new_parameters import require_optimizer
from jaxreg.transforms.penalty_schedule import PenaltySchedule
from jaxreg.transforms.proximal import proximal
from jaxreg.tree import FlatTree


@dataclasses.dataclass(frozen=True)
class PrunedOnce(PenaltySchedule):
    """``top_k`` in one step, nothing in the others."""

    penalty: TopK
    at_step: Any

    def prox_at(self, count: Any, flat: FlatTree, points: Leaves, steps: Leaves) -> tuple[Leaves, Any]:
        share = jnp.where(count == self.at_step, self.penalty.k, jnp.float32(1.0))
        return dataclasses.replace(self.penalty, k=share).prox_of(flat, points, steps), None


def dense_sparse_dense(
    optimizer: optax.GradientTransformation,
    target: Any,
    *,
    begin_step: Any,
    end_step: Any,
    scope: str = "leaf",
    groups: Groups | None = None,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Train dense, prune the smallest weights and train the others, then let all of them train again.

    .. math::
        w \leftarrow \begin{cases} w + u & k < b \text{ or } k \ge e \\
        \mathrm{top}_{1 - s}(w + u) & k = b \\ w + u \text{ where } w \ne 0, \text{ else } 0 & b < k < e
        \end{cases}

    with k the number of updates made before, and s the target. It is :func:`jaxreg.freeze_zeros` around one
    projection by :func:`jaxreg.top_k`.

    Args:
        optimizer: any optax optimizer.
        target: s, the share of weights that is set to zero, a number in [0, 1), which may be traced.
        begin_step: b, the update that prunes, counted from 0: a non-negative whole number.
        end_step: e, the first update that lets the zeros train again, larger than ``begin_step``.
        scope: ``"leaf"``, as in the paper: the same share of each leaf; ``"global"``: of all. Static.
        groups: a structure of :mod:`jaxreg.groups`, to prune whole groups. Default: elements. Static.
        mask: which leaves are pruned and held, as in :func:`jaxreg.l1`; best ``jaxreg.masks.weights``.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; its state is that of the optimizer and two counts.

    Raises:
        TypeError, ValueError: for bad arguments; at ``update``, if ``params`` is None.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = jaxreg.dense_sparse_dense(optax.sgd(0.5), 0.5, begin_step=1, end_step=3)
        >>> params = jnp.array([2.0, 0.5])
        >>> state = optimizer.init(params)
        >>> for _ in range(4):
        ...     params, state = jaxreg.step(optimizer, jnp.full(2, 0.25), state, params)
        ...     print(params)
        [1.875 0.375]
        [1.75 0.  ]
        [1.625 0.   ]
        [ 1.5   -0.125]

    Notes:
        The authors use a tenth of the learning rate in the last phase (give the optimizer a schedule), and
        shares of 25 to 50 %. The momentum of what was pruned runs on while it is held.

    References:
        Han et al., DSD: Dense-Sparse-Dense training for deep neural networks, 2017, algorithm 1,
        arXiv:1607.04381
    """
    require_optimizer(optimizer, "dense_sparse_dense")
    check_window(begin_step, end_step, "dense_sparse_dense")
    check_number(target, "target", "dense_sparse_dense", high=1.0, open_high=True)
    kept = top_k(1.0 - target, scope=scope, groups=groups, mask=mask)
    assert isinstance(kept, TopK)
    pruned = optax.chain(optimizer, proximal(PrunedOnce(kept, begin_step), 1.0))
    return freeze_zeros(pruned, mask=mask, begin_step=begin_step, end_step=end_step)

"""Decoupled weight decay for the end of any optax chain."""

from typing import Any

import jax.numpy as jnp
import optax

from jaxreg.group_kinds import Groups
from jaxreg.penalties.base import Leaves
from jaxreg.transforms.decay_rule import DecayRule, checked_rule
from jaxreg.transforms.lost_decay import loss_warner
from jaxreg.transforms.new_parameters import (
    DirectTransformation,
    begun,
    parameters_at,
    require_params,
    update_dtype,
)
from jaxreg.transforms.outlook import Outlook
from jaxreg.transforms.proximal import ProximalState
from jaxreg.transforms.rounding import (
    begin_rounding,
    check_rounding,
    is_narrow,
    recall,
    settle,
    updates_landing_on,
)
from jaxreg.tree import FlatTree, PyTree, as_real, cast, flatten, is_complex, is_inexact, upcast


def weight_decay(
    strength: Any,
    *,
    learning_rate: Any = None,
    mask: Any = None,
    multipliers: Any = None,
    cautious: bool = False,
    toward: PyTree = None,
    target_norm: PyTree = None,
    groups: Groups | None = None,
    max_learning_rate: Any = None,
    corrected: Any = None,
    rounding: str | None = None,
    seed: Any = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Shrink weights by a fixed share per step, apart from the gradient. LAST in a chain.

    .. math::
        w \leftarrow w + u - \sigma_k d, \qquad
        \sigma_k = \eta_k \lambda \ (\text{with a learning rate}), \quad
        \sigma_k = \lambda \ (\text{without}), \qquad d = w,

    with u the update that arrives. Options change the share, or the distance d that it is taken of:

    .. math::
        \text{multipliers: } \sigma_k m, \quad
        \text{corrected: } \sigma_k \frac{\eta_k}{\eta_{\max}}, \quad
        \text{toward: } d = w - r, \quad
        \text{target\_norm: } d = w_g \Bigl(1 - \frac{\tau}{\lVert w_g \rVert}\Bigr), \quad
        \text{cautious: } d_i = 0 \text{ where } u_i d_i > 0.

    Args:
        strength: lambda, a non-negative number, a traced scalar, a schedule, or a pytree prefix of the
            parameters with one number per leaf: the share of the distance that goes, per step
            (``learning_rate=None``) or per unit of learning rate.
        learning_rate: eta, a non-negative number or a schedule, evaluated at the count before
            this update; None makes the decay independent of it, as in the paper.
        mask: which leaves decay, as in :func:`jaxreg.l1`.
        multipliers: m, ``{pattern: number}`` with patterns as in :func:`jaxreg.masks.path`; the first
            that matches a leaf decides, each leaf of the mask needs one, and each pattern must
            decide on a leaf, of the mask unless its number is 0.
            :func:`jaxreg.describe_decay` prints who gets what.
        cautious: decay only elements that the update does not move the other way: it would
            otherwise undo part of what the gradient asks for.
        toward: r, a pytree like the parameters (or a prefix of it, or a number) to decay to in place of 0,
            such as pretrained weights or the initial ones.
        target_norm: tau, the norm to decay to in place of 0: a non-negative number, or a pytree prefix
            with one per leaf. A group of zeros stays.
        groups: whose norm ``target_norm`` is, a structure of :mod:`jaxreg.groups`; None for each leaf.
        max_learning_rate: the peak of the learning rate, for the corrected decay of layers that a
            normalisation follows, whose share is then ``learning_rate^2 * strength / max_learning_rate``.
        corrected: which leaves of the mask have that corrected decay, a mask; None for all of them.
        rounding: for parameters narrower than float32. None: the new parameter is the nearest
            number, so that changes of less than half a spacing are lost. ``"stochastic"``: one of the two
            neighbours by chance, such that the mean is right. ``"compensated"``: the nearest, and what
            it leaves is kept in 16 bits per weight and added in the next step (Kahan); with
            bfloat16 that is a float32 master copy in as many bits.
        seed: of stochastic rounding, a non-negative whole number.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; its state is a count, and with rounding a PRNG key or
        the remainders. An update has the wider dtype of parameter and incoming update, with rounding
        float32, computed in at least float32. Leaves out of the mask pass through, also their rounding.

    Raises:
        TypeError, ValueError: for bad arguments; at ``init``, for what does not fit the parameters, by
            path; at ``update``, if ``params`` is None.

    Warns:
        UserWarning: at ``init``, once, if the largest decay (of schedules, at the thousands of steps looked
            at) moves most weights of a leaf by less than half the distance of neighbouring numbers of its
            dtype, so that the decay is lost where the gradient is small.

    Examples:
        The decay of ``optax.adamw(0.1, weight_decay=0.01)``, attached to any optimizer:

        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> optimizer = optax.chain(optax.sgd(0.1), jaxreg.weight_decay(0.01, learning_rate=0.1))
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(params), params)
        >>> print(updates)
        [-0.001  0.002]

        Kernels decay, embeddings half as much, biases not at all:

        >>> params = {"embed": jnp.ones(2), "dense": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
        >>> decay = jaxreg.weight_decay(
        ...     0.1, multipliers={"embed": 0.5, "**/kernel": 1.0, "**/bias": 0.0})
        >>> params, _ = jaxreg.step(
        ...     decay, {"embed": jnp.zeros(2), "dense": {"kernel": jnp.zeros(2), "bias": jnp.zeros(2)}},
        ...     decay.init(params), params)
        >>> print(params["embed"], params["dense"]["kernel"], params["dense"]["bias"])
        [0.95 0.95] [0.9 0.9] [1. 1.]

        A bfloat16 weight that plain decay never moves:

        >>> weight = jnp.ones(1, jnp.bfloat16)
        >>> decay = jaxreg.weight_decay(1e-3, rounding="compensated")
        >>> state = decay.init(weight)
        >>> for _ in range(100):
        ...     weight, state = jaxreg.step(decay, jnp.zeros(1, jnp.bfloat16), state, weight)
        >>> print(weight)  # the nearest number to 0.999^100 = 0.9048
        [0.90625]

    Notes:
        ``optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(lr),
        weight_decay(wd, learning_rate=lr))`` is ``optax.adamw(lr, weight_decay=wd)``. For the
        coupled form, L2 in the loss, put ``add_penalty(l2(wd / 2))`` before the optimizer;
        :func:`jaxreg.decayed_like` does either, as PyTorch and Keras do.
        Place it after momentum's trace as here: a decay that goes through the trace is
        stronger by ``1 / (1 - momentum)``.

        Rounding is of the whole update, so it belongs into the last link only. Biases that should be
        rounded and not decayed stay in the mask, with the multiplier 0. For float32 parameters it does
        nothing. Zeros that get no update stay exact zeros. Of a weight that an earlier link sets to zero,
        the decay is still a share of what it was, and the step ends that share beyond zero, with and
        without rounding; where the decay is 0, as for rounding behind :func:`jaxreg.prox_adam`, it is
        an exact zero.

        A link of the same seed draws the same numbers, apart from what others draw from that seed: replicas
        of a model agree, and so do the members of an ensemble under ``jax.vmap(optimizer.init)``,
        which share their noise unless each is given a (traced) ``seed`` of its own.

        Arrays in ``toward`` become constants of a compiled program, and a training step that donates the
        parameters deletes theirs: give a copy. For ``optax.inject_hyperparams`` pass
        ``static_args=("mask", "corrected")``, those that are given.

    References:
        Loshchilov and Hutter, Decoupled weight decay regularization, 2019, algorithm 2, arXiv:1711.05101.
        Cautious: Chen et al., Cautious weight decay, 2025, arXiv:2510.12402. Toward: Li,
        Grandvalet and Davoine, 2018, arXiv:1802.01483. Norm: Loshchilov, Weight norm control, 2023,
        arXiv:2311.11446. Corrected: Defazio, Why gradients rapidly increase near the end of
        training, 2025, arXiv:2506.02285. Rounding: Zamirai, Zhang, Aberger and De Sa, Revisiting BFloat16
        training, 2020, arXiv:2010.06192
    """
    rule = checked_rule(
        "weight_decay",
        strength,
        learning_rate=learning_rate,
        mask=mask,
        multipliers=multipliers,
        max_learning_rate=max_learning_rate,
        corrected=corrected,
        cautious=cautious,
        toward=toward,
        target_norm=target_norm,
        groups=groups,
    )
    check_rounding(rounding, seed, "weight_decay")
    outlook = Outlook(rule)
    warn_of_loss = loss_warner(outlook, rounding)

    def begin(params: PyTree) -> Any:
        if rounding is None:
            return ProximalState(jnp.zeros([], jnp.int32))
        return begin_rounding(rounding, seed, flatten(params), rule.mask.indices)

    def init(params: PyTree) -> Any:
        flat = flatten(params)
        if flat.has_floating:
            rule.check_fit(flat)
            outlook.check_rates()
            warn_of_loss(flat)
        return begun(begin, params)

    def advance(finish: Any) -> Any:
        def run(updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any) -> tuple[PyTree, Any]:
            del extra_args
            require_params(params)
            flat = flatten(params)
            count = optax.safe_increment(state.count)
            if rounding is None:
                moves, _ = decayed(rule, flat, updates, state.count)
                return finish(flat, moves, {}), ProximalState(count)
            moves, points = decayed(rule, flat, updates, state.count, recall(state, flat, updates))
            points, state = settle(state, flat, points, count)
            return finish(flat, moves, points), state

        return run

    return DirectTransformation.make(init, advance(updates_landing_on), advance(parameters_at))


def decayed(
    rule: DecayRule, flat: FlatTree, updates: PyTree, count: Any, exact: list[Any] | None = None
) -> tuple[list[Any], Leaves]:
    """The updates with the decay in them; with ``exact`` parameters, also where narrow ones should go."""
    moves = flat.align(updates, "updates")
    chosen = [index for index in rule.mask.indices(flat) if is_inexact(moves[index])]
    leaves = flat.leaves if exact is None else exact
    wide = {index: upcast(leaves[index]) for index in chosen}
    shares = rule.shares(flat, chosen, count)
    distances = rule.distances(flat, wide)
    points = {}
    for index in chosen:
        move = moves[index]
        shift = upcast(move)
        share, distance = shares[index], distances[index]
        if not (isinstance(share, float) and share == 0):  # which decays nothing, not even an infinity
            if rule.cautious:
                distance = jnp.where(_opposed(shift, distance), 0.0, distance)
            shift = shift - as_real(share, wide[index]) * distance
            moves[index] = cast(shift, update_dtype(flat.leaves[index], move))
        if exact is not None and is_narrow(flat.leaves[index]):
            points[index] = wide[index] + shift
    return moves, points


def _opposed(move: Any, distance: Any) -> Any:
    """Where a move leads away from where the decay does: its decay would undo it."""
    if is_complex(move):
        return (jnp.conj(move) * distance).real > 0
    return jnp.sign(move) * jnp.sign(distance) > 0  # a product of small ones would underflow

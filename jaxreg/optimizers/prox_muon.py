"""Muon with a prox, in decoupled units."""

from typing import Any

import optax

from jaxreg.arguments import check_rate
from jaxreg.optimizers.adaptive import check_options
from jaxreg.optimizers.proximal_optimizer import proximal_optimizer
from jaxreg.penalties import Penalty
from jaxreg.transforms.penalty_schedule import PenaltySchedule


def prox_muon(
    learning_rate: Any,
    penalty: Penalty | PenaltySchedule,
    ns_coeffs: Any = (3.4445, -4.775, 2.0315),
    ns_steps: Any = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Muon with exact zeros. The strength is in DECOUPLED units, not in the unit of the loss.

    .. math::
        w \leftarrow \mathrm{prox}_{\eta R}(w + u), \qquad
        u: \text{Muon's update, } -\eta \text{ times an orthogonalised momentum}

    Orthogonalisation takes the size out of the gradient, so that no step size makes the
    minimisers of ``loss + penalty`` its fixed points. The penalty is instead a pull beside
    the update, as decoupled weight decay is.

    Args:
        learning_rate: eta, a non-negative number or a schedule.
        penalty: a :class:`jaxreg.Penalty`; its strength is per step of size eta.
        ns_coeffs, ns_steps, beta, eps, weight_decay, weight_decay_mask, mu_dtype: as ``optax.contrib.muon``.
        nesterov, adaptive, adam_b1, adam_b2, adam_eps_root, adam_weight_decay: likewise.
        preconditioning, adam_learning_rate, muon_weight_dimension_numbers, consistent_rms: likewise; a
            value other than the default needs an optax that has the option.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; it replaces ``optax.contrib.muon`` and
        keeps no buffer beyond its own.

    Raises:
        TypeError, ValueError: for bad arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> penalty = jaxreg.group_lasso(2.5, jaxreg.groups.inputs(), size_weights=False)
        >>> optimizer = jaxreg.prox_muon(0.5, penalty)
        >>> params = jnp.array([[3.0, 4.0], [0.01, 0.0]])
        >>> updates, _ = optimizer.update(jnp.zeros((2, 2)), optimizer.init(params), params)
        >>> print(optax.apply_updates(params, updates))
        [[2.25 3.  ]
         [0.   0.  ]]

    Notes:
        Muon hands leaves that are not matrices to Adam, with the same learning rate unless
        ``adam_learning_rate`` says another: there too the threshold is ``eta * strength``, in
        decoupled units. For a strength in the unit of the loss use :func:`jaxreg.prox_adam`.

    References:
        Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024,
        https://kellerjordan.github.io/posts/muon/
    """
    check_options(
        "prox_muon",
        learning_rate,
        penalty,
        beta=beta,
        eps=eps,
        weight_decay=weight_decay,
        nesterov=nesterov,
        adaptive=adaptive,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_eps_root=adam_eps_root,
        adam_weight_decay=adam_weight_decay,
    )
    newer = {
        "preconditioning": None if preconditioning == "frobenius" else preconditioning,
        "adam_learning_rate": adam_learning_rate,
        "muon_weight_dimension_numbers": muon_weight_dimension_numbers,
        "consistent_rms": consistent_rms,
    }
    if adam_learning_rate is not None:
        check_rate(adam_learning_rate, "adam_learning_rate", "prox_muon")
    optimizer = optax.contrib.muon(
        learning_rate,
        ns_coeffs,
        ns_steps,
        beta,
        eps,
        weight_decay,
        weight_decay_mask,
        mu_dtype,
        nesterov=nesterov,
        adaptive=adaptive,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_eps_root=adam_eps_root,
        adam_weight_decay=adam_weight_decay,
        **{name: value for name, value in newer.items() if value is not None},
    )
    return proximal_optimizer(optimizer, penalty, learning_rate)

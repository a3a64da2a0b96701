"""Weight decay as other frameworks define it."""

from typing import Any

import optax

from jaxreg.arguments import check_number, check_rate
from jaxreg.penalties import l2
from jaxreg.transforms.add_penalty import add_penalty
from jaxreg.transforms.new_parameters import require_optimizer
from jaxreg.transforms.weight_decay import weight_decay

COUPLED = {"torch.optim.SGD": 0.5, "torch.optim.Adam": 0.5, "keras.regularizers.L2": 1.0}
"""What is added to the gradient: the strength of ``l2`` for each unit of the framework's number."""
DECOUPLED = ("torch.optim.AdamW", "keras.optimizers")
"""What is taken from the weights, times the learning rate."""


def decayed_like(
    convention: str,
    optimizer: optax.GradientTransformation,
    number: Any,
    *,
    learning_rate: Any = None,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Attach to an optimizer the weight decay that another framework means by a number.

    .. math::
        \text{coupled: } g \leftarrow g + c\,w \text{ before the optimizer}, \qquad
        \text{decoupled: } w \leftarrow w + u - \eta\,c\,w \text{ after it}

    ==========================  ==========================  ======================================
    convention                  what its number c is        the same in jaxreg
    ==========================  ==========================  ======================================
    ``torch.optim.SGD``         ``weight_decay``, coupled   ``add_penalty(l2(c / 2))`` first
    ``torch.optim.Adam``        ``weight_decay``, coupled   ``add_penalty(l2(c / 2))`` first
    ``torch.optim.AdamW``       ``weight_decay``            ``weight_decay(c, learning_rate=lr)`` last
    ``keras.regularizers.L2``   ``l2``, in the loss         ``add_penalty(l2(c))`` first
    ``keras.optimizers``        ``weight_decay`` of any     ``weight_decay(c, learning_rate=lr)`` last
    ==========================  ==========================  ======================================

    Args:
        convention: one of the names above.
        optimizer: any optax optimizer, learning rate included.
        number: c, non-negative.
        learning_rate: the number or schedule that ``optimizer`` has, for the decoupled conventions.
        mask: which leaves decay, as in :func:`jaxreg.l1`. PyTorch decays all of a parameter group, biases
            too; a Keras regularizer belongs to one weight of a layer.

    Returns:
        An ``optax.GradientTransformationExtraArgs``: the optimizer in an ``optax.chain``.

    Raises:
        TypeError, ValueError: for bad arguments, a learning rate that is missing, and one that is
            given to a coupled convention, which has no use for it.

    Examples:
        ``torch.optim.SGD(params, lr=0.1, weight_decay=0.2)``, and the same decay as a Keras regularizer:

        >>> import jax.numpy as jnp
        >>> import jaxreg
        >>> import optax
        >>> params = jnp.array([1.0, -2.0])
        >>> for convention, number in (("torch.optim.SGD", 0.2), ("keras.regularizers.L2", 0.1)):
        ...     optimizer = jaxreg.decayed_like(convention, optax.sgd(0.1), number)
        ...     updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(params), params)
        ...     print(updates)
        [-0.02  0.04]
        [-0.02  0.04]

        For plain SGD decoupled decay is the same, for Adam it is not: coupled, Adam's denominator divides
        the decay by its own size, and all weights lose the same, as under L1:

        >>> decoupled = jaxreg.decayed_like("torch.optim.AdamW", optax.adam(0.1), 0.2, learning_rate=0.1)
        >>> coupled = jaxreg.decayed_like("torch.optim.Adam", optax.adam(0.1), 0.2)
        >>> for optimizer in (decoupled, coupled):
        ...     updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(params), params)
        ...     print([round(float(update), 4) for update in updates])
        [-0.02, 0.04]
        [-0.1, 0.1]

    Notes:
        PyTorch's Adagrad, Adadelta, Adamax and RMSprop couple as its SGD does, and so do its NAdam, RAdam
        and Adam unless they are given ``decoupled_weight_decay=True``, which is AdamW's. Not every
        optimizer of PyTorch couples: its Adafactor and Muon do not. Keras takes its decay before the
        step and PyTorch's AdamW does too; the optimizer's update does not depend on it, so the sum is the
        same as here. With momentum, ``optax.sgd(lr, momentum)`` after the penalty is PyTorch's SGD.

    References:
        Loshchilov and Hutter, Decoupled weight decay regularization, 2019, section 2, arXiv:1711.05101
    """
    if convention not in (*COUPLED, *DECOUPLED):
        raise ValueError(
            f"The 'convention' parameter of decayed_like must be one of {', '.join((*COUPLED, *DECOUPLED))}. "
            f"Got {convention!r}."
        )
    inner = require_optimizer(optimizer, "decayed_like")
    check_number(number, "number", "decayed_like")
    if convention in DECOUPLED:
        if learning_rate is None:
            raise ValueError(
                f"The 'learning_rate' parameter of decayed_like must be given for {convention}, which "
                "multiplies its decay by it. Got None."
            )
        return optax.chain(inner, weight_decay(number, learning_rate=learning_rate, mask=mask))
    if learning_rate is not None:
        check_rate(learning_rate, "learning_rate", "decayed_like")
        raise ValueError(
            f"The 'learning_rate' parameter of decayed_like is not used by {convention}, whose decay is in "
            f"the gradient: leave it out. Got {learning_rate!r}."
        )
    return optax.chain(add_penalty(l2(COUPLED[convention] * number, mask=mask)), inner)

"""Layers of random programs that are rarer, and where a removal is more often wrong than right."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Layer = Callable[[Any, Any], Any]  # of all parameters and what came before

ODD_LAYERS = """
    softmax deviations offset positions repetition interleaving largest_of_pairs sharing tied weight_norm
    branching looping flipping running_sums transposing padding selecting permuting products counting
    strongest centring
""".split()


class OddLayers:
    """Mixed into programs, whose methods and attributes they use."""

    width: int
    shape: tuple[int, ...]
    random: np.random.Generator
    number: Callable[[int, int], int]
    parameter: Callable[..., str]
    linear: Callable[[int, int], Layer]
    add: Callable[..., None]

    def softmax(self) -> None:
        self.add(lambda params, x: jax.nn.softmax(x))

    def deviations(self) -> None:
        """The variance as the mean of squared deviations: a removed unit would have deviated."""

        def layer(params: Any, x: Any) -> Any:
            centred = x - x.mean(-1, keepdims=True)
            return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 0.1)

        self.add(layer)

    def centring(self) -> None:
        self.add(lambda params, x: x - x.mean(-1, keepdims=True))

    def offset(self) -> None:
        """What a dead unit puts out is no longer zero."""
        function = [jnp.cos, lambda x: x + 0.5, lambda x: 1 / (1 + x * x)][self.number(0, 2)]
        self.add(lambda params, x: function(x))

    def positions(self) -> None:
        """Something that differs from channel to channel, of a constant or of a count."""
        fixed = bool(self.number(0, 1))

        def layer(params: Any, x: Any) -> Any:
            count = (
                np.arange(x.shape[-1], dtype=np.float32) if fixed else jnp.arange(x.shape[-1], dtype=float)
            )
            return x * (count + 1) / 4

        self.add(layer)

    def counting(self) -> None:
        """Only some channels pass."""
        self.add(lambda params, x: jnp.where(jnp.arange(x.shape[-1]) % 3 == 1, 0.0, x))

    def repetition(self) -> None:
        repeat = [jnp.repeat, lambda x, n, axis: jnp.concatenate([x] * n, axis)][self.number(0, 1)]
        self.add(lambda params, x: repeat(x, 2, axis=-1), (*self.shape[:-1], 2 * self.width))

    def interleaving(self) -> None:
        """Neighbouring channels, as pairs."""
        if self.width % 2 == 0:
            self.add(
                lambda params, x: x[..., ::2] + jnp.tanh(x[..., 1::2]), (*self.shape[:-1], self.width // 2)
            )

    def largest_of_pairs(self) -> None:
        if self.width % 2 == 0:
            half = (*self.shape[:-1], self.width // 2)
            fast = bool(self.number(0, 1))

            def layer(params: Any, x: Any) -> Any:
                pairs = x.reshape(*x.shape[:-1], -1, 2) if fast else x.reshape(*x.shape[:-1], 2, -1)
                return pairs.max(-1 if fast else -2)

            self.add(layer, half)

    def strongest(self) -> None:
        """Divide by the largest channel."""
        self.add(lambda params, x: x / (1 + jnp.abs(x).max(-1, keepdims=True)))

    def sharing(self) -> None:
        again = self.linear(self.width, self.width)
        self.add(lambda params, x: jnp.tanh(again(params, jnp.tanh(again(params, x)))))

    def tied(self) -> None:
        """There and back through one kernel."""
        kernel, new = (
            self.parameter("kernel", self.width, size := self.number(3, 6)),
            self.parameter("bias", size),
        )

        def layer(params: Any, x: Any) -> Any:
            return x + jax.nn.relu(x @ params[kernel] + params[new]) @ params[kernel].T

        self.add(layer)

    def weight_norm(self) -> None:
        """A kernel whose columns, or whose rows, are scaled to one length."""
        kernel, axis = self.parameter("kernel", self.width, size := self.number(3, 6)), self.number(0, 1)

        def layer(params: Any, x: Any) -> Any:
            weights = params[kernel]
            return x @ (weights / jnp.sqrt(jnp.sum(weights**2, axis, keepdims=True) + 0.1))

        self.add(layer, (*self.shape[:-1], size))

    def branching(self) -> None:
        left, right = self.linear(self.width, self.width), self.linear(self.width, self.width)

        def layer(params: Any, x: Any) -> Any:
            return jax.lax.cond(x.sum() > 0, lambda: left(params, x), lambda: jnp.sin(right(params, x)))

        self.add(layer)

    def looping(self) -> None:
        step = self.linear(self.width, self.width)

        def layer(params: Any, x: Any) -> Any:
            return jax.lax.fori_loop(0, 3, lambda _, x: x + jnp.tanh(step(params, x)), x)

        self.add(layer)

    def flipping(self) -> None:
        self.add(lambda params, x: x + 2 * x[..., ::-1])

    def running_sums(self) -> None:
        self.add(lambda params, x: jnp.cumsum(x, axis=-1) / x.shape[-1])

    def transposing(self) -> None:
        """A layer that has its channels first."""
        kernel = self.parameter("kernel", size := self.number(3, 6), self.width)

        def layer(params: Any, x: Any) -> Any:
            first = jnp.moveaxis(x, -1, 0)
            return jnp.moveaxis(jnp.tensordot(params[kernel], first, 1), 0, -1)

        self.add(layer, (*self.shape[:-1], size))

    def padding(self) -> None:
        """New channels that hold a number."""
        low, high, value = self.number(0, 2), self.number(0, 2), [0.0, 0.7][self.number(0, 1)]

        def layer(params: Any, x: Any) -> Any:
            return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(low, high)], constant_values=value)

        self.add(layer, (*self.shape[:-1], low + self.width + high))

    def selecting(self) -> None:
        other = self.linear(self.width, self.width)
        self.add(lambda params, x: jnp.where(x > 0.1, x, other(params, x)))

    def permuting(self) -> None:
        order = self.random.permutation(self.width)
        self.add(lambda params, x: x[..., order])

    def products(self) -> None:
        """All products of two channels: a unit is a row and a column of them."""
        kernel = self.parameter("kernel", self.width**2, size := self.number(3, 6))

        def layer(params: Any, x: Any) -> Any:
            pairs = x[..., :, None] * x[..., None, :]
            return pairs.reshape(*x.shape[:-1], -1) @ params[kernel]

        self.add(layer, (*self.shape[:-1], size))

"""Random small networks from a grammar of layers, the same ones for the same seed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from structures.models.case import Made, draw, filled, shape
from structures.models.convolutional import conv
from structures.odd_layers import ODD_LAYERS, Layer, OddLayers

ACTIVATIONS = [jax.nn.relu, jnp.tanh, jax.nn.silu, jax.nn.gelu, jax.nn.sigmoid, jnp.abs, jax.nn.elu]
COMMON_LAYERS = "dense residual concatenation splitting gating activation any_odd_layer any_odd_layer".split()
IMAGE_LAYERS = "batch_norm pooling grouped".split()
VECTOR_LAYERS = "norm scaling heads scanning".split()


class Program(OddLayers):
    """Layers chosen one by one; each notes the parameters that it needs and the shape that it leaves."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.shapes: dict[str, Any] = {}
        self.layers: list[Layer] = []
        self.said: list[str] = []
        image = self.random.random() < 0.5
        self.shape: tuple[int, ...] = (6, 6, 3) if image else (5,)  # without the batch
        self.inputs = (draw(6, *self.shape, seed=seed),)
        if image:
            self.convolution()
            for _ in range(self.number(1, 3)):
                self.choose(*IMAGE_LAYERS, *COMMON_LAYERS)
            self.choose("flattening", "averaging")
        self.dense()
        for _ in range(self.number(2, 4)):
            self.choose(*VECTOR_LAYERS, *COMMON_LAYERS)
        self.dense(width=3)

    def made(self, seed: int = 0) -> Made:
        def apply(params: Any, x: Any) -> Any:
            for layer in self.layers:
                x = layer(params, x)
            return x

        return Made(apply, filled(self.shapes, seed), self.inputs)

    def choose(self, *names: str) -> None:
        name = str(self.random.choice(names))
        self.said.append(name)
        getattr(self, name)()

    def any_odd_layer(self) -> None:
        self.choose(*ODD_LAYERS)

    def number(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def parameter(self, kind: str, *lengths: int) -> str:
        name = f"{len(self.shapes)}_{kind}/{kind}"
        self.shapes[name] = shape(*lengths)
        return name

    def add(self, layer: Layer, left: tuple[int, ...] | None = None) -> None:
        self.layers.append(layer)
        self.shape = left or self.shape

    @property
    def width(self) -> int:
        return self.shape[-1]

    def linear(self, inputs: int, outputs: int) -> Layer:
        """A dense layer or a convolution that keeps the image's size, with or without a bias."""
        space = () if len(self.shape) == 1 else ((1, 1), (3, 3))[self.number(0, 1)]
        kernel = self.parameter("kernel", *space, inputs, outputs)
        bias = self.parameter("bias", outputs) if self.number(0, 3) else None

        def layer(params: Any, x: Any) -> Any:
            x = conv(x, params[kernel]) if space else x @ params[kernel]
            return x + params[bias] if bias else x

        return layer

    def dense(self, width: int | None = None) -> None:
        width = width or self.number(4, 8)
        self.add(self.linear(self.width, width), (*self.shape[:-1], width))

    convolution = dense

    def wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As it is, or as a call, or rematerialised."""
        wrap = [lambda function: function, jax.jit, jax.checkpoint][self.number(0, 2)]
        return wrap(function)

    def activation(self) -> None:
        function = ACTIVATIONS[self.number(0, len(ACTIVATIONS) - 1)]
        self.add(lambda params, x: function(x))

    def residual(self) -> None:
        width = self.number(4, 8)
        down, up = self.wrapped(self.linear(self.width, width)), self.linear(width, self.width)
        self.add(lambda params, x: x + up(params, jax.nn.relu(down(params, x))))

    def concatenation(self) -> None:
        width = self.number(3, 5)
        branch, first = self.linear(self.width, width), bool(self.number(0, 1))

        def layer(params: Any, x: Any) -> Any:
            both = (branch(params, x), x) if first else (x, branch(params, x))
            return jnp.concatenate(both, axis=-1)

        self.add(layer, (*self.shape[:-1], self.width + width))

    def splitting(self) -> None:
        """Cut the channels in two, treat the parts differently, and join them the other way round."""
        cut = self.number(1, self.width - 1)
        self.add(lambda params, x: jnp.concatenate([jnp.tanh(x[..., cut:]), x[..., :cut] * 2], axis=-1))

    def gating(self) -> None:
        gate = self.linear(self.width, self.width)
        self.add(lambda params, x: x * jax.nn.sigmoid(gate(params, x)))

    def scaling(self) -> None:
        scale = self.parameter("scale", self.width)
        self.add(lambda params, x: x * params[scale])

    def norm(self) -> None:
        scale, squares = self.parameter("scale", self.width), bool(self.number(0, 1))

        def layer(params: Any, x: Any) -> Any:
            mean = x.mean(-1, keepdims=True)
            second = (x * x).mean(-1, keepdims=True)
            if squares:
                return x * jax.lax.rsqrt(second + 0.1) * params[scale]
            return (x - mean) * jax.lax.rsqrt(second - mean * mean + 0.1) * params[scale]

        self.add(layer)

    def batch_norm(self) -> None:
        names = [self.parameter(kind, self.width) for kind in ("scale", "bias", "mean", "var")]

        def layer(params: Any, x: Any) -> Any:
            scale, bias, mean, var = (params[name] for name in names)
            return (x - mean) / jnp.sqrt(var + 0.1) * scale + bias

        self.add(layer)

    def pooling(self) -> None:
        largest = bool(self.number(0, 1))

        def layer(params: Any, x: Any) -> Any:
            start, combine = (-jnp.inf, jax.lax.max) if largest else (0.0, jax.lax.add)
            return jax.lax.reduce_window(x, start, combine, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")

        height, width, channels = self.shape
        if min(height, width) > 2:
            self.add(layer, (height - 1, width - 1, channels))

    def grouped(self) -> None:
        """A depthwise convolution, or one in two groups."""
        groups = 2 if self.width % 2 == 0 and self.number(0, 1) else self.width
        width = groups * self.number(1, 2)
        kernel = self.parameter("kernel", 3, 3, self.width // groups, width)
        self.add(lambda params, x: conv(x, params[kernel], groups=groups), (*self.shape[:-1], width))

    def flattening(self) -> None:
        self.add(lambda params, x: x.reshape(x.shape[0], -1), (int(np.prod(self.shape)),))

    def averaging(self) -> None:
        self.add(lambda params, x: x.mean((1, 2)), (self.width,))

    def heads(self) -> None:
        """Take the channels as heads, mix within each head, and merge or add the heads up."""
        n_heads, size, new = self.number(2, 3), self.number(2, 4), self.number(2, 4)
        spread = self.linear(self.width, n_heads * size)
        kernel, merge = self.parameter("kernel", n_heads, size, new), bool(self.number(0, 1))

        def layer(params: Any, x: Any) -> Any:
            parts = spread(params, x).reshape(x.shape[0], n_heads, size)
            mixed = jnp.einsum("bhd,hde->bhe", parts, params[kernel])
            return mixed.reshape(x.shape[0], -1) if merge else mixed.sum(1)

        self.add(layer, (n_heads * new if merge else new,))

    def scanning(self) -> None:
        """A few steps of a recurrent layer that reads the same input every time."""
        width = self.number(3, 5)
        enter, again = self.linear(self.width, width), self.linear(width, width)

        def layer(params: Any, x: Any) -> Any:
            def step(state: Any, _: None) -> tuple[Any, None]:
                return jnp.tanh(enter(params, x) + again(params, state)), None

            return jax.lax.scan(step, jnp.zeros((x.shape[0], width)), None, length=3)[0]

        self.add(layer, (width,))

"""A whole regularization path in one compiled program, three times.

1. The lasso path of the diabetes data, next to scikit-learn's ``lasso_path``: equal to 1e-5.
2. Cross-validation on the same data, all folds and strengths at once, next to scikit-learn's ``LassoCV``.
3. A small network on the digits at 24 strengths: how many weights may be zero before accuracy falls.
"""

import argparse
import functools
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import BLUE, GREY, ORANGE, Images, digits, new_figure, parser, print_table, save
from sklearn import datasets, linear_model, model_selection

import jaxreg

jax.config.update("jax_enable_x64", True)  # scikit-learn computes in double precision

FOLDS = 5
KERNELS = jaxreg.masks.name("kernel")


class Lasso:
    """``||y - x w||^2 / (2 n) + strength ||w||_1`` on scikit-learn's diabetes data, inputs standardised."""

    def __init__(self, steps: int):
        x, y = datasets.load_diabetes(return_X_y=True)
        self.x, self.y, self.steps = (x - x.mean(0)) / x.std(0), y - y.mean(), steps
        self.rate = len(y) / np.linalg.norm(self.x, 2) ** 2 / 2

    def train(self, strength: Any, weights: Any) -> jax.Array:
        def loss(w: jax.Array) -> jax.Array:
            return jnp.sum(weights * (self.x @ w - self.y) ** 2) / (2 * jnp.sum(weights))

        optimizer = jaxreg.fista(self.rate, jaxreg.l1(strength))

        def body(carry: Any, _: Any) -> tuple[Any, None]:
            w, state = carry
            return jaxreg.step(optimizer, jax.grad(loss)(w), state, w), None

        start = jnp.zeros(self.x.shape[1])
        return jax.lax.scan(body, (start, optimizer.init(start)), length=self.steps)[0][0]

    def squares(self, w: jax.Array) -> jax.Array:
        return (self.x @ w - self.y) ** 2


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(64, name="hidden1")(x))
        x = nn.relu(nn.Dense(32, name="hidden2")(x))
        return nn.Dense(10, name="classes")(x)


def train_networks(images: Images, steps: int, number: int, seed: int) -> jaxreg.SparsityCurve:
    """An MLP per strength; nothing but the strength differs."""
    x_train, x_test = (x.reshape(len(x), -1) for x in (images.x_train, images.x_test))
    model = MLP()
    start = model.init(jax.random.key(seed), x_train[:1])["params"]
    batches = jax.random.randint(jax.random.key(seed + 1), (steps, 64), 0, len(x_train))
    rate = optax.cosine_decay_schedule(3e-3, steps)

    def train(strength: Any) -> Any:
        optimizer = jaxreg.prox_adam(rate, jaxreg.l1(strength, mask=KERNELS))

        def body(carry: Any, rows: Any) -> tuple[Any, None]:
            def loss(params: Any) -> jax.Array:
                logits = model.apply({"params": params}, jnp.asarray(x_train)[rows])
                labels = jnp.asarray(images.y_train)[rows]
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            params, state = carry
            return jaxreg.step(optimizer, jax.grad(loss)(params), state, params), None

        return jax.lax.scan(body, (start, optimizer.init(start)), batches)[0][0]

    def accuracy(params: Any) -> jax.Array:
        return jnp.mean(model.apply({"params": params}, x_test).argmax(-1) == images.y_test)

    strengths = np.geomspace(1e-5, 3e-2, number)
    path = jaxreg.regularization_path(train, strengths, batch_size=8, progress=True)
    return jaxreg.sparsity_curve(strengths, path, accuracy, mask=KERNELS)


def main(args: argparse.Namespace) -> None:
    number, steps, folds_steps = (12, 200, 200) if args.quick else (60, 2000, 1000)
    lasso = Lasso(2000)
    n = len(lasso.y)
    largest = jaxreg.strength_max(jaxreg.l1(1.0), -lasso.x.T @ lasso.y / n)
    strengths = np.geomspace(largest, largest / 300, number)

    began = time.perf_counter()
    on_all = functools.partial(lasso.train, weights=jnp.ones(n))
    path = jax.block_until_ready(jaxreg.regularization_path(on_all, strengths))
    seconds = time.perf_counter() - began
    _, expected, _ = linear_model.lasso_path(lasso.x, lasso.y, alphas=strengths, tol=1e-10, max_iter=100_000)
    difference = np.abs(path - expected.T).max()
    print(f"{number} strengths in {seconds:.1f} s, compilation included.")
    print(f"Coefficients up to {np.abs(path).max():.0f}, scikit-learn's the same to {difference:.1e}.")
    assert difference < 1e-5

    lasso.steps = folds_steps
    found = jaxreg.cross_validate(lasso.train, lasso.squares, strengths, FOLDS, n_samples=n)
    folds = model_selection.KFold(FOLDS)
    reference = linear_model.LassoCV(alphas=strengths, cv=folds, fit_intercept=False).fit(lasso.x, lasso.y)
    rows = [
        ["smallest error", f"{found.best:.3f}", f"{reference.alpha_:.3f}"],
        ["within one standard error", f"{found.one_standard_error:.3f}", "-"],
    ]
    print_table(["strength by cross-validation", "jaxreg", "LassoCV"], rows)

    curve = train_networks(digits(), steps, 8 if args.quick else 24, args.seed)
    print(f"\n{curve}")
    chosen = curve.sparsest(curve.scores.max() - 0.01)
    print(
        f"\nWithin a point of the best accuracy: strength {curve.strengths[chosen]:.1e}, "
        f"{curve.sparsity[chosen]:.1%} zeros, {curve.scores[chosen]:.1%} correct"
    )
    draw(strengths, path, expected.T, found, curve, args)


def draw(
    strengths: np.ndarray, path: Any, expected: np.ndarray, found: Any, curve: Any, args: argparse.Namespace
) -> None:
    figure = new_figure(10.5, 3.4)
    left, middle, right = figure.subplots(1, 3)
    left.plot(strengths, path, color=BLUE, lw=1.2)
    every = max(1, len(strengths) // 15)
    left.plot(strengths[::every], expected[::every], "o", color=ORANGE, ms=2.5)
    left.plot([], [], color=BLUE, label="jaxreg")
    left.plot([], [], "o", color=ORANGE, ms=2.5, label="scikit-learn")
    left.set(xscale="log", xlabel="strength", ylabel="coefficient", title="Lasso path, diabetes")
    left.invert_xaxis()
    left.legend()
    found.draw(middle)
    middle.invert_xaxis()
    middle.set_title("Cross-validation of the same")
    curve.draw(right, color=BLUE)
    right.axhline(curve.scores.max() - 0.01, color=GREY, ls="--", lw=1, label="best less one point")
    right.set(ylabel="test accuracy", ylim=(curve.scores.max() - 0.15, 1.0), title="An MLP on digits")
    right.legend(loc="lower left")
    save(figure, args.output, "regularization_path.png")


if __name__ == "__main__":
    main(parser(__doc__).parse_args())

"""A wide model of feature crosses: a million weights, of which 3 % are enough.

scikit-learn's breast cancer table has 30 measurements. Each is cut at its quintiles, and every pair and every
triple of the resulting categories is a feature of its own, hashed into 2^20 weights of a logistic regression.
L1 sets nearly all of them to exactly zero while it trains, so that what is kept for inference is a short
list, with the same predictions.
"""

import argparse
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse
import tqdm
from common import BLUE, GREY, ORANGE, new_figure, parser, print_table, save
from jax.experimental import sparse
from sklearn import datasets, model_selection

import jaxreg

BATCH = 32
BINS = 5


class Table(NamedTuple):
    """Which weights are on, (n, features), and the class of each row, (n,)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def crosses(size: int, orders: tuple[int, ...]) -> Table:
    x, y = datasets.load_breast_cancer(return_X_y=True)
    parts = model_selection.train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    borders = np.quantile(parts[0], np.arange(1, BINS) / BINS, axis=0)
    x_train, x_test = (hashed((part[:, None, :] > borders).sum(1), size, orders) for part in parts[:2])
    return Table(x_train, parts[2].astype(np.float32), x_test, parts[3].astype(np.float32))


def hashed(categories: np.ndarray, size: int, orders: tuple[int, ...]) -> np.ndarray:
    """The weights that a row switches on: one per combination of columns, by the categories in these."""
    columns = []
    for order in orders:
        for chosen in itertools.combinations(range(categories.shape[1]), order):
            key = np.zeros(len(categories), np.uint64)
            for column in chosen:  # FNV-1a
                for byte in (column, categories[:, column]):
                    key = (key ^ np.asarray(byte, np.uint64)) * np.uint64(1099511628211)
            columns.append((key ^ (key >> np.uint64(29))) % np.uint64(size))
    return np.stack(columns, axis=1).astype(np.int32)


def train(table: Table, optimizer: Any, size: int, epochs: int, seed: int, progress: Any) -> Any:
    scale = 1 / np.sqrt(table.x_train.shape[1])  # so that a row has norm 1

    def step(params: Any, state: Any, x: jax.Array, y: jax.Array) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            logits = scale * params["weights"][x].sum(1) + params["bias"]
            return optax.sigmoid_binary_cross_entropy(logits, y).mean()

        return jaxreg.step(optimizer, jax.grad(loss)(params), state, params)

    step = jax.jit(step, donate_argnums=(0, 1))
    params = {"weights": jnp.zeros(size), "bias": jnp.zeros(())}
    state, order = optimizer.init(params), np.random.default_rng(seed)
    for _ in range(epochs):
        shuffled = order.permutation(len(table.y_train))
        for start in range(0, len(shuffled) - BATCH + 1, BATCH):
            batch = shuffled[start : start + BATCH]
            params, state = step(params, state, table.x_train[batch], table.y_train[batch])
        progress.update()
    return params


class Served(NamedTuple):
    logits: np.ndarray
    megabytes: float


def serve(params: Any, table: Table) -> dict[str, Served]:
    """The same logits from all weights, and from the non-zero ones alone."""
    weights, bias = np.asarray(params["weights"]), float(params["bias"])
    rows, width = table.x_test.shape
    scale = 1 / np.sqrt(width)
    dense = scale * weights[table.x_test].sum(1) + bias

    on = scipy.sparse.csr_matrix(
        (np.full(rows * width, scale), table.x_test.ravel(), np.arange(0, rows * width + 1, width)),
        shape=(rows, len(weights)),
    )
    column = scipy.sparse.csc_matrix(weights[:, None])
    by_scipy = (on @ column).toarray()[:, 0] + bias
    held = column.data.nbytes + column.indices.nbytes + column.indptr.nbytes

    vector = sparse.BCOO.fromdense(params["weights"])
    # The non-zero ones are in order: where a feature would stand among them is where it is, if it is there.
    places = np.asarray(vector.indices)[:, 0]
    at = np.minimum(np.searchsorted(places, table.x_test), max(len(places) - 1, 0))
    there = places[at] == table.x_test if len(places) else np.zeros(at.shape, bool)
    by_jax = scale * np.where(there, np.asarray(vector.data)[at], 0).sum(1) + bias if len(places) else dense
    return {
        "dense": Served(dense, weights.nbytes / 1e6),
        "SciPy": Served(by_scipy, held / 1e6),
        "BCOO": Served(by_jax, (vector.data.nbytes + vector.indices.nbytes) / 1e6),
    }


def main(args: argparse.Namespace) -> None:
    size, epochs = 2**args.log2_size, args.epochs
    orders = (1, 2) if args.quick else (1, 2, 3)
    if args.quick:
        epochs = 10
    table = crosses(size, orders)
    penalty = jaxreg.l1(args.strength, mask=jaxreg.masks.name("weights"))
    runs = {
        "SGD, no penalty": optax.sgd(4.0),
        "prox_sgd, l1": jaxreg.prox_sgd(4.0, penalty),
        "FTRL, l1": jaxreg.ftrl(1.0, penalty, cumulative=True),
    }
    print(f"{table.x_train.shape[1]:,} features per row, hashed into {size:,} weights")
    rows, kept = [], {}
    with tqdm.tqdm(total=len(runs) * epochs, unit="epoch") as progress:
        for name, optimizer in runs.items():
            params = kept[name] = train(table, optimizer, size, epochs, args.seed, progress)
            served = serve(params, table)
            dense = served["dense"]
            for other in served.values():
                np.testing.assert_allclose(other.logits, dense.logits, atol=1e-4)
            accuracy = np.mean((dense.logits > 0) == table.y_test)
            alive = int(np.sum(np.asarray(params["weights"]) != 0))
            zeros = 1 - alive / size
            memory = [f"{served[form].megabytes:.4g} MB" for form in ("dense", "SciPy", "BCOO")]
            rows.append([name, f"{accuracy:.1%}", f"{alive:,}", f"{zeros:.2%}", *memory])
    print_table(["training", "accuracy", "not zero", "exactly zero", "dense", "SciPy CSC", "JAX BCOO"], rows)
    print("\nPredictions from the sparse forms are those of the dense weights.")
    draw(kept, args)


def draw(kept: dict[str, Any], args: argparse.Namespace) -> None:
    figure = new_figure(6.4, 3.4)
    axes = figure.subplots()
    colors = [GREY, BLUE, ORANGE]
    for (name, params), color in zip(kept.items(), colors, strict=True):
        sizes = np.sort(np.abs(np.asarray(params["weights"])))[::-1]
        alive = sizes[sizes > 0]
        axes.plot(np.arange(1, len(alive) + 1), alive, color=color, label=f"{name}: {len(alive):,}")
    axes.set(
        xscale="log", yscale="log", xlabel="rank", ylabel="|weight|", title="What is left of the weights"
    )
    axes.set_ylim(bottom=1e-6)
    axes.legend(title="not zero", loc="lower left")
    save(figure, args.output, "feature_crosses.png")


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--log2-size", type=int, default=20, help="the logarithm of the number of weights")
    options.add_argument("--strength", type=float, default=1e-4, help="of l1, in units of the loss")
    options.add_argument("--epochs", type=int, default=40)
    main(options.parse_args())

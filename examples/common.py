"""What the examples share: their command line, their data, their figures and tables."""

import argparse
import gzip
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np

matplotlib.use("Agg")  # draw into files, also where there is no screen

import matplotlib.pyplot as plt
from sklearn import datasets, model_selection

BLUE, ORANGE, GREEN, GREY = "#3b6fb6", "#d9722e", "#3a8f5c", "#8a8a8a"


class Images(NamedTuple):
    """Images (n, height, width, channels) in [0, 1] as float32, and their classes (n,)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="the same work, smaller: a few seconds")
    made.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("output"), help="folder for figures"
    )
    made.add_argument("--seed", type=int, default=0, help="of initial weights and batch order")
    return made


def digits() -> Images:
    """scikit-learn's 1,797 digits of 8 x 8 pixels; the split never changes, whatever the seed."""
    x, y = datasets.load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    split = model_selection.train_test_split(x, y.astype(np.int32), test_size=500, random_state=0, stratify=y)
    x_train, x_test, y_train, y_test = split
    return Images(x_train, y_train, x_test, y_test)


def load_images(path: pathlib.Path) -> Images:
    """An npz with x_train, y_train, x_test, y_test; or a folder with the four IDX files of MNIST."""
    if path.is_dir():
        names = ["train-images", "train-labels", "t10k-images", "t10k-labels"]
        arrays = [_read_idx(path, name) for name in names]
    else:
        with np.load(path) as data:
            arrays = [data[name] for name in Images._fields]
    x_train, y_train, x_test, y_test = arrays
    scale = float(x_train.max())
    x_train, x_test = ((x / scale).astype(np.float32) for x in (x_train, x_test))
    if x_train.ndim == 3:  # without a channel axis
        x_train, x_test = x_train[..., None], x_test[..., None]
    return Images(x_train, y_train.astype(np.int32).ravel(), x_test, y_test.astype(np.int32).ravel())


def _read_idx(folder: pathlib.Path, name: str) -> np.ndarray:
    found = sorted(folder.glob(f"{name}*"))
    if not found:
        raise SystemExit(f"No file {name}* in {folder}.")
    raw = found[0].read_bytes()
    content = gzip.decompress(raw) if found[0].suffix == ".gz" else raw
    if content[:3] != b"\0\0\x08":  # two zeros, then the code of unsigned bytes
        raise SystemExit(f"{found[0]} is not an IDX file of unsigned bytes.")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def new_figure(width: float, height: float) -> Any:
    plt.rcParams.update(
        {
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 10,
            "figure.dpi": 130,
            "font.size": 9,
            "legend.frameon": False,
        }
    )
    return plt.figure(figsize=(width, height), layout="constrained")


def save(figure: Any, folder: pathlib.Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / name)
    plt.close(figure)
    print(f"\nFigure: {folder / name}")


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column to the left, the others, numbers as a rule, to the right."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    print()
    for row in (headers, ["-" * width for width in widths], *rows):
        first, *others = (
            cell.rjust(width) if position else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]))

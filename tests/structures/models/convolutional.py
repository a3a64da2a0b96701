"""Convolutional networks: Linen modules, and plain functions where Linen has no such layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from structures.models.case import Case, Made, dense, draw, filled, shape, unit

EVAL, TRAIN = True, False


def linen(module, x, **options):
    """The whole variables dict as parameters, so that running statistics are leaves too."""
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), x)
    return Made(lambda variables, x: module.apply(variables, x, **options), filled(variables), (x,))


def conv(x, kernel, stride=1, groups=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


class LeNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv1")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(6, (3, 3), name="conv2")(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(7, name="dense")(x))
        return nn.Dense(3, name="classes")(x)


LENET = (
    unit(4, "params/conv1/kernel@3 params/conv1/bias@0", "params/conv2/kernel@2"),
    unit(6, "params/conv2/kernel@3 params/conv2/bias@0", "params/dense/kernel@0(4,6*)"),
    unit(7, "params/dense/kernel@1 params/dense/bias@0", "params/classes/kernel@0"),
)


class ResNet(nn.Module):
    """A stem, a residual block of the same width, a residual block of twice the width and half the image."""

    option: str
    running: bool

    @nn.compact
    def __call__(self, x):
        x = nn.relu(self.normed("stem", x, 4))
        y = nn.relu(self.normed("a1", x, 5))
        x = nn.relu(x + self.normed("a2", y, 4))
        y = nn.relu(self.normed("b1", x, 6, stride=2))
        y = self.normed("b2", y, 8)
        if self.option == "A":  # every other pixel, zeros as the new channels
            shortcut = jnp.pad(x[:, ::2, ::2], [(0, 0), (0, 0), (0, 0), (2, 2)])
        else:
            shortcut = self.normed("shortcut", x, 8, stride=2, size=1)
        x = nn.relu(shortcut + y)
        return nn.Dense(3, name="classes")(x.mean((1, 2)))

    def normed(self, name, x, features, stride=1, size=3):
        x = nn.Conv(features, (size, size), strides=stride, use_bias=False, name=f"{name}_conv")(x)
        return nn.BatchNorm(use_running_average=self.running, name=f"{name}_bn")(x)


def _normed(name, start=""):
    return (
        f"params/{name}_conv/kernel@3{start} params/{name}_bn/scale@0{start} params/{name}_bn/bias@0{start} "
        f"batch_stats/{name}_bn/mean@0{start} batch_stats/{name}_bn/var@0{start} "
    )


STEM_READ = "params/a1_conv/kernel@2 params/b1_conv/kernel@2"
INNER = (
    unit(5, _normed("a1"), "params/a2_conv/kernel@2"),
    unit(6, _normed("b1"), "params/b2_conv/kernel@2"),
)
# The padded shortcut ties the stem to channels 2 to 5 of the second block; its new channels are two groups.
OPTION_A = (
    *INNER,
    unit(4, _normed("stem") + _normed("a2") + _normed("b2", "+2"), STEM_READ + " params/classes/kernel@0+2"),
    unit(2, _normed("b2"), "params/classes/kernel@0"),
    unit(2, _normed("b2", "+6"), "params/classes/kernel@0+6"),
)
OPTION_B = (
    *INNER,
    unit(4, _normed("stem") + _normed("a2"), STEM_READ + " params/shortcut_conv/kernel@2"),
    unit(8, _normed("b2") + _normed("shortcut"), "params/classes/kernel@0"),
)


class DenseNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="stem")(x)
        for index in (1, 2):
            y = nn.relu(nn.BatchNorm(use_running_average=True, name=f"bn{index}")(x))
            y = nn.Conv(2 + index, (3, 3), name=f"conv{index}")(y)
            x = jnp.concatenate([x, y], axis=-1)
        return nn.Dense(3, name="classes")(nn.relu(x).mean((1, 2)))


def _norm_slices(start, *names):
    leaves = [("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var")]
    return " ".join(f"{top}/{name}/{leaf}@0+{start}" for name in names for top, leaf in leaves) + " "


DENSENET = (
    unit(
        4,
        "params/stem/kernel@3 params/stem/bias@0 " + _norm_slices(0, "bn1", "bn2"),
        "params/conv1/kernel@2 params/conv2/kernel@2 params/classes/kernel@0",
    ),
    unit(
        3,
        "params/conv1/kernel@3 params/conv1/bias@0 " + _norm_slices(4, "bn2"),
        "params/conv2/kernel@2+4 params/classes/kernel@0+4",
    ),
    unit(4, "params/conv2/kernel@3 params/conv2/bias@0", "params/classes/kernel@0+7"),
)


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        skip = nn.relu(nn.Conv(4, (3, 3), name="down")(x))
        x = nn.max_pool(skip, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(6, (3, 3), name="middle")(x))
        x = nn.relu(nn.ConvTranspose(5, (2, 2), strides=(2, 2), name="up")(x))
        x = jnp.concatenate([skip, x], axis=-1)
        return nn.Conv(2, (1, 1), name="out")(x)


UNET = (
    unit(4, "params/down/kernel@3 params/down/bias@0", "params/middle/kernel@2 params/out/kernel@2"),
    unit(6, "params/middle/kernel@3 params/middle/bias@0", "params/up/kernel@2"),
    unit(5, "params/up/kernel@3 params/up/bias@0", "params/out/kernel@2+4"),
)


def _mobilenet():
    """An inverted residual: expand, depthwise, squeeze and excite, project, add."""

    def apply(params, x):
        x = conv(x, params["stem"], 2)
        y = jax.nn.silu(conv(x, params["expand"]))
        y = jax.nn.silu(conv(y, params["depthwise"], groups=8) + params["depthwise_bias"])
        squeezed = y.mean((1, 2))
        squeezed = jax.nn.relu(squeezed @ params["squeeze"]["kernel"] + params["squeeze"]["bias"])
        excited = jax.nn.sigmoid(squeezed @ params["excite"]["kernel"] + params["excite"]["bias"])
        x = x + conv(y * excited[:, None, None, :], params["project"])
        return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]

    shapes = {
        "stem": shape(3, 3, 3, 4),
        "expand": shape(1, 1, 4, 8),
        "depthwise": shape(3, 3, 1, 8),
        "depthwise_bias": shape(8),
        "squeeze": dense(8, 5),
        "excite": dense(5, 8),
        "project": shape(1, 1, 8, 4),
        "head": dense(4, 3),
    }
    return Made(apply, filled(shapes), (draw(8, 6, 6, 3),))


MOBILENET = (
    unit(4, "stem@3 project@3", "expand@2 head/kernel@0"),
    unit(
        8,
        "expand@3 depthwise@3 depthwise_bias@0 excite/kernel@1 excite/bias@0",
        "squeeze/kernel@0 project@2",
    ),
    unit(5, "squeeze/kernel@1 squeeze/bias@0", "excite/kernel@0"),
)


def _grouped():
    """Convolutions in groups: whole groups, and channels at the same place in every group, can go."""

    def apply(params, x):
        x = jax.nn.relu(conv(x, params["before"]["kernel"]) + params["before"]["bias"])
        x = jax.nn.relu(conv(x, params["grouped"]["kernel"], groups=2) + params["grouped"]["bias"])
        x = conv(x, params["after"]["kernel"]) + params["after"]["bias"]
        return x.mean((1, 2))

    shapes = {
        "before": {"kernel": shape(1, 1, 3, 8), "bias": shape(8)},
        "grouped": {"kernel": shape(3, 3, 4, 6), "bias": shape(6)},
        "after": {"kernel": shape(1, 1, 6, 3), "bias": shape(3)},
    }
    return Made(apply, filled(shapes), (draw(8, 5, 5, 3),))


GROUPED = (
    unit(
        2,
        "before/kernel@3(2*,4) before/bias@0(2*,4) grouped/kernel@3(2*,3) grouped/bias@0(2*,3)",
        "after/kernel@2(2*,3)",
    ),
    unit(4, "before/kernel@3(2,4*) before/bias@0(2,4*)", "grouped/kernel@2"),
    unit(3, "grouped/kernel@3(2,3*) grouped/bias@0(2,3*)", "after/kernel@2(2,3*)"),
)


def _depthwise_multiplier():
    """A depthwise convolution that makes two channels out of each."""

    def apply(params, x):
        x = jax.nn.relu(conv(x, params["before"]))
        x = jax.nn.relu(conv(x, params["depthwise"], groups=5))
        return conv(x, params["after"]).mean((1, 2)) + params["bias"]

    shapes = {
        "before": shape(1, 1, 3, 5),
        "depthwise": shape(3, 3, 1, 10),
        "after": shape(1, 1, 10, 3),
        "bias": shape(3),
    }
    return Made(apply, filled(shapes), (draw(8, 5, 5, 3),))


DEPTHWISE_MULTIPLIER = (
    unit(5, "before@3 depthwise@3(5*,2)", "after@2(5*,2)"),
    unit(2, "depthwise@3(5,2*)", "after@2(5,2*)"),
)


class GroupNorm(nn.Module):
    fast: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), use_bias=False, name="conv")(x)
        x = nn.relu(nn.GroupNorm(num_groups=2, use_fast_variance=self.fast, name="norm")(x))
        return nn.Dense(3, name="classes")(x.mean((1, 2)))


def _group_norm(refused):
    """A whole group of channels has statistics of its own; a channel shares them with its group."""
    produced = "params/conv/kernel@3{0} params/norm/scale@0{0} params/norm/bias@0{0}"
    consumed = "params/classes/kernel@0{0}"
    return (
        unit(2, produced.format("(2*,3)"), consumed.format("(2*,3)")),
        unit(3, produced.format("(2,3*)"), consumed.format("(2,3*)"), refused=refused),
    )


def _weight_standardisation():
    """Kernels that are standardised over their inputs feel the removal of an input."""

    def apply(params, x):
        x = jax.nn.relu(conv(x, params["first"]) + params["bias"])
        kernel = params["second"]
        kernel = (kernel - kernel.mean((0, 1, 2))) / (kernel.std((0, 1, 2)) + 1e-4)
        return conv(x, kernel).mean((1, 2))

    shapes = {"first": shape(3, 3, 3, 6), "bias": shape(6), "second": shape(3, 3, 6, 3)}
    return Made(apply, filled(shapes), (draw(8, 5, 5, 3),))


IMAGE = draw(16, 8, 8, 1)
COLOURED = draw(16, 6, 6, 3)
NEW_STATISTICS = {"state_outputs": lambda out: {"batch_stats": out[1]["batch_stats"]}}

CASES = [
    Case("lenet", lambda: linen(LeNet(), IMAGE), LENET),
    Case("resnet_a", lambda: linen(ResNet("A", EVAL), COLOURED), OPTION_A),
    Case("resnet_b", lambda: linen(ResNet("B", EVAL), COLOURED), OPTION_B),
    Case(
        "resnet_b_in_training",
        lambda: linen(ResNet("B", TRAIN), COLOURED, mutable=["batch_stats"]),
        OPTION_B,
        NEW_STATISTICS,
        output=lambda out: out[0],
    ),
    Case("densenet", lambda: linen(DenseNet(), COLOURED), DENSENET),
    Case("unet", lambda: linen(UNet(), COLOURED), UNET),
    Case("mobilenet", _mobilenet, MOBILENET),
    Case("grouped_convolution", _grouped, GROUPED),
    Case("depthwise_multiplier", _depthwise_multiplier, DEPTHWISE_MULTIPLIER),
    Case("group_norm", lambda: linen(GroupNorm(True), COLOURED), _group_norm(None)),
    Case(
        "group_norm_of_deviations",
        lambda: linen(GroupNorm(False), COLOURED),
        _group_norm("sub|sum|mean|norm"),
    ),
    Case(
        "weight_standardisation",
        _weight_standardisation,
        (unit(6, "first@3 bias@0", "second@2", refused="sub|sum|mean"),),
    ),
]

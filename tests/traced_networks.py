"""Networks as people write them, in Flax NNX, Linen and Equinox: without any of this library's layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx


def conv(features_in, features, size, stride=1, *, rngs, **options):
    return nnx.Conv(
        features_in,
        features,
        (size, size),
        stride,
        padding=size // 2,
        use_bias=False,
        rngs=rngs,
        **options,
    )


def norm(features, *, rngs):
    return nnx.BatchNorm(features, momentum=0.9, rngs=rngs)


class PreActivation(nnx.Module):
    def __init__(self, features_in, features, size, *, bias=False, rngs):
        self.norm = norm(features_in, rngs=rngs)
        self.conv = nnx.Conv(
            features_in, features, (size, size), padding=size // 2, use_bias=bias, rngs=rngs
        )

    def __call__(self, x):
        return self.conv(jax.nn.relu(self.norm(x)))


class BasicBlock(nnx.Module):
    def __init__(self, features_in, features, stride, *, rngs):
        self.conv1 = conv(features_in, features, 3, stride, rngs=rngs)
        self.bn1 = norm(features, rngs=rngs)
        self.conv2 = conv(features, features, 3, rngs=rngs)
        self.bn2 = norm(features, rngs=rngs)
        projected = stride > 1 or features_in != features
        projection = conv(features_in, features, 1, stride, rngs=rngs) if projected else None
        parts = nnx.List([projection, norm(features, rngs=rngs)]) if projected else None
        self.downsample = parts

    def __call__(self, x):
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample[1](self.downsample[0](x))
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        return jax.nn.relu(self.bn2(self.conv2(x)) + shortcut)


class Backbone(nnx.Module):
    def __init__(self, width, *, rngs):
        self.conv1 = conv(3, width, 7, 2, rngs=rngs)
        self.bn1 = norm(width, rngs=rngs)
        before = width
        for i in range(4):
            after = width * 2**i
            first = BasicBlock(before, after, 1 if i == 0 else 2, rngs=rngs)
            setattr(
                self, f"layer{i + 1}", nnx.List([first, BasicBlock(after, after, 1, rngs=rngs)])
            )
            before = after

    def __call__(self, x):
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        outputs = []
        for i in range(4):
            for block in getattr(self, f"layer{i + 1}"):
                x = block(x)
            outputs.append(x)
        return outputs


def window_means(length, windows):
    matrix = np.zeros((length, windows), np.float32)
    for i in range(windows):
        start, stop = i * length // windows, -(-(i + 1) * length // windows)
        matrix[start:stop, i] = 1 / (stop - start)
    return jnp.asarray(matrix)


class PyramidPooling(nnx.Module):
    def __init__(self, features_in, features, *, rngs):
        level = features // 3
        self.reduce = PreActivation(features_in, features, 1, rngs=rngs)
        self.levels = nnx.List([PreActivation(features, level, 1, rngs=rngs) for _ in range(3)])
        self.fuse = PreActivation(features + 3 * level, features, 1, rngs=rngs)

    def __call__(self, x):
        n, h, w, _ = x.shape
        x = self.reduce(x)
        parts = [x]
        for rows, level in zip((8, 4, 2), self.levels, strict=True):
            columns = max(1, round(rows * w / h))
            pooled = jnp.einsum(
                "hi,wj,nhwc->nijc",
                window_means(h, rows),
                window_means(w, columns),
                x,
                precision="highest",
            )
            pooled = level(pooled)
            shape = (n, h, w, pooled.shape[3])
            parts.append(jax.image.resize(pooled, shape, "bilinear", antialias=False))
        return self.fuse(jnp.concatenate(parts, -1))


class Upsample(nnx.Module):
    def __init__(self, features, skip, *, rngs):
        self.bottleneck = PreActivation(skip, features, 1, rngs=rngs)
        self.blend_conv = PreActivation(features, features, 3, rngs=rngs)

    def __call__(self, x, skip):
        n, h, w, c = x.shape
        x = jax.image.resize(x, (n, 2 * h, 2 * w, c), "bilinear")
        return self.blend_conv(x + self.bottleneck(skip))


class SwiftNet(nnx.Module):
    """SwiftNet-RN18 with modules called as in this library, so that its arrays fit by name."""

    def __init__(self, width, features, classes, *, rngs):
        self.backbone = Backbone(width, rngs=rngs)
        self.spp = PyramidPooling(8 * width, features, rngs=rngs)
        skips = (4 * width, 2 * width, width)
        self.upsample = nnx.List([Upsample(features, skip, rngs=rngs) for skip in skips])
        self.logits = PreActivation(features, classes, 1, bias=True, rngs=rngs)

    def __call__(self, x):
        stages = self.backbone(x)
        x = self.spp(stages[-1])
        for upsample, skip in zip(self.upsample, reversed(stages[:-1]), strict=True):
            x = upsample(x, skip)
        return self.logits(x)


class SqueezeExcite(nnx.Module):
    def __init__(self, features, *, rngs):
        self.down = nnx.Linear(features, features // 2, rngs=rngs)
        self.up = nnx.Linear(features // 2, features, rngs=rngs)

    def __call__(self, x):
        s = jax.nn.relu(self.down(x.mean((1, 2))))
        return x * jax.nn.hard_sigmoid(self.up(s))[:, None, None]


class InvertedResidual(nnx.Module):
    """A block of MobileNetV3: expansion, depthwise convolution, squeeze-and-excite, projection."""

    def __init__(self, features_in, hidden, features, stride, *, rngs):
        self.expand = conv(features_in, hidden, 1, rngs=rngs)
        self.bn1 = norm(hidden, rngs=rngs)
        self.depthwise = conv(hidden, hidden, 5, stride, feature_group_count=hidden, rngs=rngs)
        self.bn2 = norm(hidden, rngs=rngs)
        self.se = SqueezeExcite(hidden, rngs=rngs)
        self.project = conv(hidden, features, 1, rngs=rngs)
        self.bn3 = norm(features, rngs=rngs)
        self.shortcut = stride == 1 and features_in == features

    def __call__(self, x):
        y = jax.nn.hard_swish(self.bn1(self.expand(x)))
        y = jax.nn.hard_swish(self.bn2(self.depthwise(y)))
        y = self.bn3(self.project(self.se(y)))
        return x + y if self.shortcut else y


class MobileNetV3(nnx.Module):
    def __init__(self, *, rngs):
        self.stem = conv(3, 8, 3, 2, rngs=rngs)
        self.bn = norm(8, rngs=rngs)
        sizes = ((8, 16, 8, 1), (8, 24, 12, 2), (12, 36, 12, 1), (12, 36, 16, 2))
        self.blocks = nnx.List([InvertedResidual(*size, rngs=rngs) for size in sizes])

    def __call__(self, x):
        x = jax.nn.hard_swish(self.bn(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return x


class ConvNeXt(nnx.Module):
    """A stem of 4 x 4 patches and two blocks (Liu et al., arXiv 2201.03545)."""

    def __init__(self, features=12, *, rngs):
        self.stem = nnx.Conv(3, features, (4, 4), 4, padding="VALID", rngs=rngs)
        self.norm = nnx.LayerNorm(features, rngs=rngs)
        self.blocks = nnx.List([ConvNeXtBlock(features, rngs=rngs) for _ in range(2)])

    def __call__(self, x):
        x = self.norm(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return x


class ConvNeXtBlock(nnx.Module):
    def __init__(self, features, *, rngs):
        self.depthwise = nnx.Conv(
            features, features, (7, 7), padding="SAME", feature_group_count=features, rngs=rngs
        )
        self.norm = nnx.LayerNorm(features, rngs=rngs)
        self.expand = nnx.Linear(features, 4 * features, rngs=rngs)
        self.project = nnx.Linear(4 * features, features, rngs=rngs)
        self.scale = nnx.Param(jnp.full((1, 1, 1, features), 0.5, jnp.float32))

    def __call__(self, x):
        y = jax.nn.gelu(self.expand(self.norm(self.depthwise(x))))
        return x + self.scale[...] * self.project(y)


class LinenUNet(linen.Module):
    """A U-Net with transposed convolutions."""

    widths: tuple[int, ...] = (6, 8, 10)

    @linen.compact
    def __call__(self, x):
        skips = []
        for width in self.widths:
            x = linen.relu(linen.Conv(width, (3, 3))(x))
            skips.append(x)
            x = linen.max_pool(x, (2, 2), (2, 2))
        x = linen.relu(linen.Conv(12, (3, 3))(x))
        for width, skip in zip(self.widths[::-1], skips[::-1], strict=True):
            x = linen.ConvTranspose(width, (2, 2), (2, 2))(x)
            x = jnp.concatenate([skip, x], -1)
            x = linen.relu(linen.GroupNorm(2)(linen.Conv(width, (3, 3))(x)))
        return linen.Conv(4, (1, 1))(x)


def linen_unet():
    """A pytree that can be called: the module with its variables."""
    module = LinenUNet()
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32), variables
    )
    return jax.tree_util.Partial(functools.partial(_apply, module), variables)


def _apply(module, variables, x):
    return module.apply(variables, x)


def equinox_resnet():
    """Two residual blocks of single images (c, h, w), mapped over the batch."""
    import equinox as eqx

    class Block(eqx.Module):
        first: eqx.nn.Conv2d
        second: eqx.nn.Conv2d
        shortcut: eqx.nn.Conv2d
        norm: eqx.nn.GroupNorm

        def __init__(self, channels, features, stride, key):
            keys = jax.random.split(key, 3)
            self.first = eqx.nn.Conv2d(channels, features, 3, stride, 1, key=keys[0])
            self.second = eqx.nn.Conv2d(features, features, 3, 1, 1, key=keys[1])
            self.shortcut = eqx.nn.Conv2d(channels, features, 1, stride, key=keys[2])
            self.norm = eqx.nn.GroupNorm(2, features)

        def __call__(self, x):
            y = jax.nn.relu(self.norm(self.first(x)))
            return jax.nn.relu(self.second(y) + self.shortcut(x))

    class ResNet(eqx.Module):
        blocks: list

        def __init__(self, key):
            first, second = jax.random.split(key)
            self.blocks = [Block(3, 8, 2, first), Block(8, 12, 2, second)]

        def __call__(self, images):
            def one(image):
                x = image.transpose(2, 0, 1)
                for block in self.blocks:
                    x = block(x)
                return x.transpose(1, 2, 0)

            return jax.vmap(one)(images)

    return ResNet(jax.random.key(0))


def randomized(net, seed=0):
    """The network in evaluation mode, random, and no part of it dead: He's variance, signed means."""
    rng = np.random.default_rng(seed)

    def draw(path, value):
        z, name = rng.standard_normal(value.shape), str(path[-2:])
        if value.ndim > 1:
            drawn = z * np.sqrt(2 / np.prod(value.shape[:-1]))
        elif "var" in name or "scale" in name:
            drawn = 1 + 0.2 * np.abs(z)
        else:
            drawn = 0.2 * z
        return jnp.asarray(drawn, value.dtype)

    state = nnx.state(net, nnx.Any(nnx.Param, nnx.BatchStat))
    nnx.update(net, jax.tree_util.tree_map_with_path(draw, state))
    net.eval()
    return net

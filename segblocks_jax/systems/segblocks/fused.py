"""FusedNet: a SwiftNet for inference, its norms folded into convolutions on packed pixel lists.

The convolution's epilogue takes norm, shortcut and activation; where the next layer normalizes first,
a second output takes that norm too. The same program runs blocks and, as one unit an image, the dense
network.
"""

import dataclasses
from collections.abc import Iterator

import jax
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.blocks import BlockGrid, DualRes, combine, split
from segblocks_jax.errors import InvalidInputError
from segblocks_jax.models.efficientnet_lite import EfficientNetLite, InvertedResidual
from segblocks_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from segblocks_jax.models.swiftnet import PyramidPooling, SwiftNet, Upsample
from segblocks_jax.nn import BatchNorm, BlockOptions, Conv
from segblocks_jax.nn.layout import BlockLayout, ImageLayout, Layout
from segblocks_jax.nn.regions import Maps
from segblocks_jax.ops import extension
from segblocks_jax.ops.checks import no_type_check
from segblocks_jax.ops.indexed_conv import (
    Epilogue,
    PackedKernel,
    indexed_conv,
    pack_kernel,
    winograd_stride,
)
from segblocks_jax.ops.indexed_conv.epilogue import Activation
from segblocks_jax.ops.max_pool import indexed_max_pool
from segblocks_jax.ops.patches import Border, list_patches
from segblocks_jax.ops.upsample2 import indexed_upsample2

Scaling = tuple[Float[Array, "c"], Float[Array, "c"]]
Pixels = Float[Array, "p c"]


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class _Conv:
    """A packed convolution and the norm behind it."""

    kernel: PackedKernel
    scale: Float[Array, "k"] | None
    bias: Float[Array, "k"] | None
    stride: int = dataclasses.field(metadata={"static": True})
    padding: int = dataclasses.field(metadata={"static": True})

    def __call__(
        self,
        pixels: Pixels,
        layout: Layout,
        activation: Activation = "none",
        residual: Pixels | None = None,
    ) -> Pixels:
        out, _ = self._run(pixels, layout, Epilogue(activation=activation, residual=residual))
        assert out is not None
        return out

    def twice(
        self,
        pixels: Pixels,
        layout: Layout,
        activation: Activation,
        residual: Pixels | None,
        following: Scaling,
    ) -> tuple[Pixels, Pixels]:
        """The output, and what the norm and ReLU of the next layer make of it."""
        epilogue = Epilogue(activation=activation, residual=residual, following=following)
        out, second = self._run(pixels, layout, epilogue)
        assert out is not None
        assert second is not None
        return out, second

    def only_following(
        self, pixels: Pixels, layout: Layout, residual: Pixels, following: Scaling
    ) -> Pixels:
        """What the norm and ReLU of the next layer make of the output."""
        epilogue = Epilogue(residual=residual, following=following, keep=False)
        _, second = self._run(pixels, layout, epilogue)
        assert second is not None
        return second

    def _run(
        self, pixels: Pixels, layout: Layout, epilogue: Epilogue
    ) -> tuple[Pixels | None, Pixels | None]:
        epilogue = dataclasses.replace(epilogue, scale=self.scale, bias=self.bias)
        pointwise = self.kernel.size == (1, 1) and self.stride == 1
        patches = list_patches(pixels.shape[0]) if pointwise else layout.patches(self.padding)
        return indexed_conv(pixels, patches, self.kernel, self.stride, epilogue)


def _scaling(norm: BatchNorm) -> Scaling:
    scale = norm.scale[...] * jax.lax.rsqrt(norm.var[...] + norm.eps)
    return scale, norm.bias[...] - norm.mean[...] * scale


def _fold(conv: Conv, norm: BatchNorm | None, dtype: jax.typing.DTypeLike) -> _Conv:
    weights = conv.kernel[...].astype(dtype)
    winograd = winograd_stride(weights, conv.stride, conv.groups)
    kernel = pack_kernel(weights, conv.groups, winograd=winograd)
    scale, bias = (None, None) if norm is None else _scaling(norm)
    if conv.bias is not None:
        own = conv.bias[...] if scale is None else conv.bias[...] * scale
        bias = own if bias is None else bias + own
    return _Conv(kernel, scale, bias, conv.stride, conv.padding[0])


def _fold_pair(pair: nnx.List, dtype: jax.typing.DTypeLike) -> _Conv:
    conv, norm = pair
    return _fold(conv, norm, dtype)


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class _Unit:
    """Convolutions in a row and a shortcut around them: a residual block of any of the backbones."""

    convs: tuple[_Conv, ...]
    projection: _Conv | None
    identity: bool = dataclasses.field(metadata={"static": True})
    inner: Activation = dataclasses.field(metadata={"static": True})
    final: Activation = dataclasses.field(metadata={"static": True})

    def __call__(
        self, pixels: Pixels, layout: Layout, following: Scaling | None
    ) -> tuple[Pixels, Pixels | None, Layout]:
        shortcut = pixels if self.identity else None
        if self.projection is not None:
            shortcut = self.projection(pixels, layout)
        *inner, last = self.convs
        for conv in inner:
            pixels = conv(pixels, layout, self.inner)
            layout = layout.scaled(1, conv.stride)
        if following is None:
            return last(pixels, layout, self.final, shortcut), None, layout
        return *last.twice(pixels, layout, self.final, shortcut, following), layout


def _unit(block: BasicBlock | Bottleneck | InvertedResidual, dtype: jax.typing.DTypeLike) -> _Unit:
    if isinstance(block, InvertedResidual):
        pairs = [(block.depthwise_conv, block.bn1), (block.project_conv, block.bn2)]
        if block.expand_conv is not None and block.bn0 is not None:
            pairs.insert(0, (block.expand_conv, block.bn0))
        convs = tuple(_fold(conv, norm, dtype) for conv, norm in pairs)
        return _Unit(convs, None, identity=block.has_shortcut, inner="relu6", final="none")
    pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if isinstance(block, Bottleneck):
        pairs.append((block.conv3, block.bn3))
    projection = None if block.downsample is None else _fold_pair(block.downsample, dtype)
    convs = tuple(_fold(conv, norm, dtype) for conv, norm in pairs)
    return _Unit(convs, projection, identity=projection is None, inner="relu", final="relu")


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class _Backbone:
    stem: _Conv
    stages: tuple[tuple[_Unit, ...], ...]
    activation: Activation = dataclasses.field(metadata={"static": True})
    pools: bool = dataclasses.field(metadata={"static": True})

    def parts(
        self, pixels: Pixels, layout: Layout, following: tuple[Scaling | None, ...]
    ) -> Iterator[tuple[Pixels, Pixels | None, Layout]]:
        """The stem's output, then those of all stages: plain, normalized for the decoder, their layout."""
        pixels = self.stem(pixels, layout, self.activation)
        layout = layout.scaled(1, 2)
        if self.pools:
            pixels = indexed_max_pool(pixels, layout.patches(1), window=3, stride=2)
            layout = layout.scaled(1, 2)
        second = None
        yield pixels, second, layout
        for units, scaling in zip(self.stages, following, strict=True):
            for i, unit in enumerate(units):
                last = i + 1 == len(units)
                pixels, second, layout = unit(pixels, layout, scaling if last else None)
            yield pixels, second, layout


def _backbone(backbone: ResNet | EfficientNetLite, dtype: jax.typing.DTypeLike) -> _Backbone:
    if isinstance(backbone, ResNet):
        stem = _fold(backbone.conv1, backbone.bn1, dtype)
        blocks = [list(getattr(backbone, f"layer{i}")) for i in range(1, 5)]
    else:
        stem = _fold_pair(backbone.stem, dtype)
        blocks = backbone.stages()
    stages = tuple(tuple(_unit(block, dtype) for block in stage) for stage in blocks)
    is_resnet = isinstance(backbone, ResNet)
    return _Backbone(stem, stages, activation="relu" if is_resnet else "relu6", pools=is_resnet)


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
    """A step of the decoder; the skip connection comes normalized and rectified."""

    norm: Scaling
    bottleneck: _Conv
    blend_norm: Scaling
    blend: _Conv


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class FusedNet:
    """A network for inference: `SwiftNet.__call__` in evaluation mode, faster, without gradients.

    Differs from the network by rounding only. Build it with `fuse`; under `jax.jit` it is an argument
    like any other.
    """

    backbone: _Backbone
    pyramid: nnx.State
    steps: tuple[_Step, ...]
    logits: _Conv
    pyramid_graph: nnx.GraphDef = dataclasses.field(metadata={"static": True})
    semantics: BlockOptions = dataclasses.field(metadata={"static": True})

    def __call__(self, x: Maps) -> Maps:
        """Normalized image, or blocks of it -> logits at a quarter of the size."""
        *_, (_, logits) = self.parts(x)
        if isinstance(x, DualRes):
            return dataclasses.replace(x, pixels=logits)
        n, h, w, _ = x.shape
        return logits.reshape(n, h // 4, w // 4, -1)

    def parts(self, x: Maps) -> Iterator[tuple[str, Pixels]]:
        """Names and results, as pixel lists, of the network's parts as they are computed; logits are last."""
        if isinstance(x, DualRes):
            layout: Layout = BlockLayout(x.grid, x.block_size)
            pixels, grid = x.pixels, x.grid
        else:
            n, h, w, channels = x.shape
            layout = ImageLayout((n, h, w))
            pixels, grid = x.reshape(-1, channels), None
        following = (*(step.norm for step in reversed(self.steps)), None)
        skips = []
        for i, stage in enumerate(self.backbone.parts(pixels, layout, following)):
            features, skip, scaled = stage
            skips.append(skip)
            yield (f"stage {i}" if i else "stem"), features
        layout, pixels = scaled, self._pool_pyramid(features, scaled, grid)
        yield "pyramid", pixels
        border: Border = "image" if self.semantics.interpolation == "halo" else "block"
        for i, (step, skip) in enumerate(zip(self.steps, reversed(skips[1:-1]), strict=True)):
            assert skip is not None
            upsampled = indexed_upsample2(pixels, layout.patches(1, border))
            layout = layout.scaled(2)
            blended = step.bottleneck.only_following(skip, layout, upsampled, step.blend_norm)
            last = i + 1 == len(self.steps)  # Its epilogue holds the norm of the logits.
            pixels = step.blend(blended, layout, "relu" if last else "none")
            yield f"decoder {i + 1}", pixels
        yield "logits", self.logits(pixels, layout)

    def _pool_pyramid(self, pixels: Pixels, layout: Layout, grid: BlockGrid | None) -> Pixels:
        pyramid: PyramidPooling = nnx.merge(self.pyramid_graph, self.pyramid)
        if grid is None:
            assert isinstance(layout, ImageLayout)
            image = pyramid(pixels.reshape(*layout.shape, -1))
            return image.reshape(-1, image.shape[-1])
        image = combine(DualRes(pixels, grid), self.semantics.low_upsampling)
        return split(pyramid(image), grid).pixels


def fuse(net: SwiftNet, dtype: jax.typing.DTypeLike = "float32") -> FusedNet:
    """Prepares a network for inference: folds its running statistics, packs its kernels.

    Args:
        net: a network of `create_model`; it keeps its weights.
        dtype: of kernels and activations, "float32" or "bfloat16"; the input must have it.

    Raises:
        ValueError: the network pads blocks otherwise than by BlockPad.
    """
    if net.semantics.padding != "block":
        raise InvalidInputError(
            f"fuse: semantics.padding is {net.semantics.padding!r}; a fused network finds its neighbors by"
            " index and has only 'block'; serve it with execution='plain'"
        )
    pyramid = nnx.clone(net.spp)
    pyramid.eval()
    graph, state = nnx.split(pyramid)
    steps = [_step(upsample, dtype) for upsample in net.upsample]
    scale, bias = _scaling(net.logits.norm)
    blend = dataclasses.replace(steps[-1].blend, scale=scale, bias=bias)
    steps[-1] = dataclasses.replace(steps[-1], blend=blend)
    return FusedNet(
        backbone=_backbone(net.backbone, dtype),
        pyramid=state,
        steps=tuple(steps),
        logits=_fold(net.logits.conv, None, dtype),
        pyramid_graph=graph,
        semantics=net.semantics,
    )


def pays(net: nnx.Module) -> bool:
    """Whether `fuse` takes the network and makes it faster here: on CPUs, with compiled handlers.

    On GPUs it has not been measured.
    """
    fits = isinstance(net, SwiftNet) and net.semantics.padding == "block"
    return fits and jax.default_backend() == "cpu" and extension.resolve() == "ffi"


def _step(upsample: Upsample, dtype: jax.typing.DTypeLike) -> _Step:
    return _Step(
        norm=_scaling(upsample.bottleneck.norm),
        bottleneck=_fold(upsample.bottleneck.conv, None, dtype),
        blend_norm=_scaling(upsample.blend_conv.norm),
        blend=_fold(upsample.blend_conv.conv, None, dtype),
    )

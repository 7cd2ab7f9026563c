"""DynConv: sites of masks, sparse against dense execution, budget, decisions, networks, errors."""

import functools
import itertools
from collections.abc import Callable

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.errors import InputError
from segblocks_jax.ops import extension
from segblocks_jax.ops.mask_patches import Sites
from segblocks_jax.ops.patches import Taps
from segblocks_jax.systems import dynconv
from segblocks_jax.systems.dynconv.blocks import (
    BasicBlock,
    Bottleneck,
    InvertedResidual,
    MaskedBlock,
)

DENSITIES = (0.0, 0.02, 0.3, 0.9, 1.0)


def random_mask(rng: np.random.Generator, shape: tuple[int, ...], density: float) -> np.ndarray:
    return rng.random(shape) < density


# Sites


@pytest.mark.parametrize("density", DENSITIES)
def test_sites(rng: np.random.Generator, density: float) -> None:
    mask = random_mask(rng, (3, 5, 7), density)
    sites = jax.jit(Sites.of)(jnp.asarray(mask))
    active = np.flatnonzero(mask)
    assert sites.count == len(active)
    np.testing.assert_array_equal(sites.pixels[: len(active)], active)
    rows = np.full(mask.size, -1)
    rows[active] = np.arange(len(active))
    np.testing.assert_array_equal(sites.rows, rows.reshape(mask.shape))
    np.testing.assert_array_equal(sites.in_order().high[: len(active), 0, 0], rows[active])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [((5, 7), 3, 1, 1), ((5, 7), 3, 2, 1), ((6, 4), 1, 2, 0), ((6, 9), 5, 3, 2), ((4, 4), 1, 1, 0)],
)
def test_patches_of_sites(rng: np.random.Generator, size, kernel, stride, padding) -> None:
    """Against loops: for each active output pixel, the numbers of the pixels under its window."""
    n, (h, w) = 2, size
    ho, wo = ((side + 2 * padding - kernel) // stride + 1 for side in size)
    mask = random_mask(rng, (n, ho, wo), 0.5)
    sites = Sites.of(jnp.asarray(mask))
    source = rng.permutation(n * h * w).reshape(n, h, w).astype(np.int32)
    taps = Taps((kernel, kernel), stride, 1)
    patches = sites.patches(jnp.asarray(source), taps, (padding, padding))
    assert patches.counts.tolist() == [mask.sum(), 0]
    for row, (i, y, x) in enumerate(np.argwhere(mask)):
        for dy, dx in itertools.product(range(kernel), repeat=2):
            sy, sx = y * stride - padding + dy, x * stride - padding + dx
            inside = 0 <= sy < h and 0 <= sx < w
            assert patches.high[row, dy, dx] == (source[i, sy, sx] if inside else -1)


# Sparse against dense


class Given(dynconv.Pass):
    """A pass with masks that are given."""

    def __init__(self, masks: list[jax.Array], **options) -> None:
        super().__init__(**options)
        self.given = iter(masks)

    def decide(self, unit: nnx.Module, x: jax.Array, block: nnx.Module) -> jax.Array:
        mask = next(self.given)
        assert mask.shape == jax.eval_shape(unit, x).shape
        self.masks.append(mask)
        return mask


KINDS: dict[str, Callable[[], MaskedBlock]] = {
    "basic": lambda: BasicBlock(16, 16, 1, mask="squeeze", rngs=nnx.Rngs(0)),
    "basic, stride": lambda: BasicBlock(12, 20, 2, mask="squeeze", rngs=nnx.Rngs(0)),
    "bottleneck": lambda: Bottleneck(32, 8, 1, mask="squeeze", rngs=nnx.Rngs(0)),
    "bottleneck, wider": lambda: Bottleneck(24, 8, 1, mask="squeeze", rngs=nnx.Rngs(0)),
    "bottleneck, stride": lambda: Bottleneck(24, 20, 2, mask="squeeze", rngs=nnx.Rngs(0)),
    "inverted residual": lambda: InvertedResidual(16, 16, mask="pointwise", rngs=nnx.Rngs(0)),
}


@functools.cache
def block(kind: str) -> tuple:
    """A block with random weights and statistics, in evaluation mode, split."""
    net = golden.network(KINDS[kind])
    net.eval()
    return nnx.split(net)


@functools.cache
def runner(kind: str, sparse: bool, implementation: str | None) -> Callable:
    graphdef, _ = block(kind)

    @jax.jit
    def run(state: nnx.State, x: jax.Array, mask: jax.Array) -> jax.Array:
        with extension.using(implementation):
            net = nnx.merge(graphdef, state)
            return net(x, Given([mask], sparse=sparse, by_index=True))

    return lambda x, mask: run(block(kind)[1], x, mask)


def input_of(kind: str, rng: np.random.Generator, size: tuple[int, int]) -> jax.Array:
    channels = block(kind)[0]  # The kernel says it.
    net = nnx.merge(channels, block(kind)[1])
    features = net.layers()[0].conv.kernel.shape[2]
    return jnp.asarray(rng.standard_normal((2, *size, features)), jnp.float32)


def stride_of(kind: str) -> int:
    return 2 if kind.endswith("stride") else 1


@pytest.mark.parametrize("size", [(9, 14), (7, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_equals_dense_to_the_last_bit(
    kind: str, size: tuple[int, int], rng: np.random.Generator, compiled: None
) -> None:
    """At every density, by one executable each; images differ in their number of active pixels."""
    x, stride = input_of(kind, rng, size), stride_of(kind)
    height, width = (-(-side // stride) for side in size)
    dense, sparse = runner(kind, False, "ffi"), runner(kind, True, "ffi")
    outputs = []
    for density in DENSITIES:
        mask = random_mask(rng, (2, height, width), density)
        got, expected = (run(x, jnp.asarray(mask)) for run in (sparse, dense))
        np.testing.assert_array_equal(got, expected, err_msg=f"density {density}")
        outputs.append(got)
    mixed = np.stack([np.ones((height, width), bool), np.zeros((height, width), bool)])
    got = sparse(x, jnp.asarray(mixed))
    np.testing.assert_array_equal(got[0], outputs[-1][0])
    np.testing.assert_array_equal(got[1], outputs[0][1])
    assert np.abs(outputs[0] - outputs[-1]).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_masked_evaluation_against_plain_layers(kind: str, rng: np.random.Generator) -> None:
    """``activation(shortcut + mask * chain)`` by the library's convolution and norm layers."""
    net = nnx.merge(*block(kind))
    x = input_of(kind, rng, (8, 6))
    side = 4 if stride_of(kind) == 2 else 8
    mask = random_mask(rng, (2, side, side * 6 // 8), 0.5)
    shortcut = x
    if net.downsample is not None:
        conv, norm = net.downsample
        shortcut = norm(conv(x))
    chain = x
    for item in net.layers():
        chain = item.norm(item.conv(chain))
        chain = {"relu": jax.nn.relu, "relu6": jax.nn.relu6, "none": lambda a: a}[item.activation](
            chain
        )
    expected = shortcut + jnp.asarray(mask, jnp.float32)[..., None] * chain
    if not kind.startswith("inverted"):
        expected = jax.nn.relu(expected)
    for sparse, implementation in (
        (True, "ffi"),
        (True, "xla"),
        (False, None),
        (True, "reference"),
    ):
        got = runner(kind, sparse, implementation)(x, jnp.asarray(mask))
        golden.assert_within(got, expected, 1e-5, f"{sparse} {implementation}")


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_reads_what_active_pixels_need_and_no_more(
    kind: str, rng: np.random.Generator, compiled: None
) -> None:
    """NaN wherever no active pixel's windows reach leaves the active pixels' results as they are."""
    stride = stride_of(kind)
    x = input_of(kind, rng, (8, 8))
    side = 8 // stride
    mask = np.zeros((2, side, side), bool)
    mask[0, 0, 1] = mask[1, side - 1, 0] = True
    reach = 2 if kind.startswith("basic") else 1
    near = np.zeros((2, 8, 8), bool)
    for i, y, z in np.argwhere(mask):
        top, left = y * stride, z * stride
        far = reach * stride if kind.startswith("basic") else reach
        near[i, max(top - far, 0) : top + far + 1, max(left - far, 0) : left + far + 1] = True
    assert 0 < near.sum() < near.size
    poisoned = jnp.where(jnp.asarray(near)[..., None], x, jnp.nan)
    run = runner(kind, True, "ffi")
    clean, dirty = (np.asarray(run(a, jnp.asarray(mask))) for a in (x, poisoned))
    np.testing.assert_array_equal(dirty[mask], clean[mask])


def test_one_executable_serves_every_count(rng: np.random.Generator, compiled: None) -> None:
    graphdef, state = block("bottleneck")
    traces = []

    @jax.jit
    def run(state: nnx.State, x: jax.Array, mask: jax.Array) -> jax.Array:
        traces.append(None)
        return nnx.merge(graphdef, state)(x, Given([mask], sparse=True))

    x = input_of("bottleneck", rng, (6, 6))
    for density in DENSITIES:
        run(state, x, jnp.asarray(random_mask(rng, (2, 6, 6), density)))
    assert len(traces) == 1


# Whole networks


SMALL = {
    "dynconv_resnet8": ({"width": 4}, (2, 32, 32, 3)),
    "dynconv_resnet50": ({"width": 4, "num_classes": 7}, (2, 64, 32, 3)),
    "dynconv_mobilenetv2": ({"width": 0.25, "num_classes": 7}, (2, 64, 64, 3)),
    "dynconv_hourglass": ({"width": 1 / 12, "stacks": 2}, (2, 64, 128, 3)),
}


@functools.cache
def small(name: str) -> nnx.Module:
    return golden.network(lambda: sb.create_model(name, **SMALL[name][0]))


@pytest.mark.family("dynconv_resnet8", "dynconv_hourglass")
@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_the_same_dense_and_sparse(
    name: str, rng: np.random.Generator, compiled: None
) -> None:
    """Also with layers that were prepared, and close to plain layers by XLA."""
    net, shape = small(name), SMALL[name][1]
    x = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    dense, masks = dynconv.run(net, x)
    sparse, others = dynconv.run(net, x, execution="sparse")
    shares = [float(mask.mean()) for mask in masks]
    assert any(0 < share < 1 for share in shares)
    for a, b in zip((dense, masks), (sparse, others), strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    engine = dynconv.Engine(net)
    served, again = engine(x)
    jax.tree.map(np.testing.assert_allclose, served, dense)
    jax.tree.map(np.testing.assert_array_equal, again, masks)
    assert engine.compilations == 1
    engine(x[::-1])
    assert engine.compilations == 1
    plain = nnx.clone(net)
    plain.eval()
    with extension.using("xla"):
        expected = plain(x)
    for got, wanted in zip(jax.tree.leaves(dense), jax.tree.leaves(expected), strict=True):
        golden.assert_within(got, wanted, 1e-4)


def test_an_unmasked_network_has_no_masks_and_runs_as_plain_layers(
    rng: np.random.Generator, compiled: None
) -> None:
    net = golden.network(lambda: sb.create_model("dynconv_resnet8", masked=False, width=16))
    x = jnp.asarray(rng.standard_normal((2, 32, 32, 3)), jnp.float32)
    out, masks = dynconv.run(net, x)
    assert masks == []
    served, _ = dynconv.Engine(net, execution="dense")(x)
    net.eval()
    for got in (out, served):
        golden.assert_within(got, net(x), 1e-4)


def test_mobilenet_v2_has_torchvisions_names() -> None:
    net = nnx.eval_shape(lambda: sb.create_model("dynconv_mobilenetv2", masked=False))
    names = set(golden.relative_names(net).values())
    assert sum(x.size for x in jax.tree.leaves(nnx.state(net, nnx.Param))) == 3_504_872
    expected = ("features.0.0.weight", "features.1.conv.0.0.weight", "features.1.conv.2.bias",
                "features.2.conv.0.1.running_var", "features.17.conv.3.weight",
                "features.18.1.bias", "classifier.1.weight")  # fmt: skip
    assert names >= set(expected)


# Decisions


def test_noise_makes_decisions_as_likely_as_the_sigmoid(rng: np.random.Generator) -> None:
    logits = jnp.asarray([-3.0, -0.5, 0.0, 2.0], jnp.float32)
    count = 40_000
    u1, u2 = (jnp.asarray(rng.random((count, 4)), jnp.float32) for _ in range(2))
    drawn = dynconv.gumbel_sigmoid(jnp.broadcast_to(logits, (count, 4)), u1, u2, 0.7)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.mean(0), jax.nn.sigmoid(logits), atol=0.01)


@pytest.mark.parametrize("sign", [-1, 1])
def test_rare_decisions_are_as_rare_in_bfloat16(rng: np.random.Generator, sign: int) -> None:
    u1, u2 = (rng.random(400_000).astype(np.float32) for _ in range(2))
    logits = jnp.full(u1.shape, sign * 8, jnp.bfloat16)
    drawn = dynconv.gumbel_sigmoid(logits, u1, u2, 1.0)
    assert drawn.dtype == jnp.bfloat16
    rare = np.mean(np.asarray(drawn, np.float32) == (sign < 0))
    assert rare == pytest.approx(float(jax.nn.sigmoid(-8.0)), rel=0.3)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_dilation_against_loops(rng: np.random.Generator, stride: int) -> None:
    mask = random_mask(rng, (2, 4, 5), 0.2)
    expected = np.zeros((2, 4 * stride, 5 * stride), bool)
    for i, y, x in np.argwhere(mask):
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            a, b = y * stride + dy, x * stride + dx
            if 0 <= a < expected.shape[1] and 0 <= b < expected.shape[2]:
                expected[i, a, b] = True
    for kind in (bool, np.float32):
        np.testing.assert_array_equal(dynconv.dilate(mask.astype(kind), stride), expected)


# Budget


def oracle(masks, macs, dilated_macs, strides, target, progress) -> float:
    """The loss in numpy, from counts."""
    p = np.cos(min(progress / 0.33, 1) * np.pi / 2) ** 2
    upper, lower = 1 - p * (1 - target), p * target
    done, every = [], []
    for mask, a, b, stride in zip(masks, macs, dilated_macs, strides, strict=True):
        dilated = np.asarray(dynconv.dilate(mask, stride))
        done.append(mask.sum() * a + dilated.sum() * b)
        every.append(mask.size * a + dilated.size * b)
    shares = np.array(done) / np.array(every)
    blocks = np.maximum(shares - upper, 0) ** 2 + np.maximum(lower - shares, 0) ** 2
    return (sum(done) / sum(every) - target) ** 2 + blocks.mean()


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("target", [0.25, 1.0])
def test_budget_against_counts(rng: np.random.Generator, target: float, progress: float) -> None:
    masks = [random_mask(rng, (2, *s), d) for s, d in (((6, 6), 0.9), ((3, 4), 0.1), ((2, 2), 0.0))]
    given = (70, 300, 9), (10, 200, 5), (1, 2, 2)
    expected = oracle(masks, *given, target, progress)
    got = dynconv.budget_loss(masks, *given, target, progress)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    traced = jax.jit(lambda p: dynconv.budget_loss(masks, *given, target, p))(progress)
    np.testing.assert_allclose(traced, expected, rtol=1e-5)


def test_the_gradient_of_the_budget_is_that_of_the_masks_alone(rng: np.random.Generator) -> None:
    mask = jnp.asarray(random_mask(rng, (1, 4, 4), 0.5), jnp.float32)
    given = (30,), (10,), (1,)

    def loss(mask: jax.Array) -> jax.Array:
        return dynconv.budget_loss([mask], *given, 0.2, 1.0)

    share = dynconv.budget_terms([mask], *given, 0.2, 1.0).share
    expected = 2 * (share - 0.2) * 30 / (16 * 40)
    np.testing.assert_allclose(jax.grad(loss)(mask), np.full((1, 4, 4), expected), rtol=1e-5)


# Errors


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: dynconv.budget_loss([np.ones((1, 2, 2))], (1,), (1,), (1,), 0.0, 0.0), "above 0, up to 1"),
        (lambda: dynconv.budget_loss([np.ones((1, 2, 2))], (1,), (1,), (1,), 1.5, 0.0), "target is 1.5"),
        (lambda: dynconv.budget_loss([np.ones((1, 2, 2))], (1, 2), (1,), (1,), 0.5, 0.0), "1 masks, and 2"),
        (lambda: dynconv.budget_loss([np.ones((2, 2))], (1,), (1,), (1,), 0.5, 0.0), r"\(2, 2\)"),
        (lambda: dynconv.budget_loss([], (), (), (), 0.5, 0.0), "0 masks"),
        (lambda: dynconv.dilate(np.ones((1, 1, 2, 2), bool)), r"\(1, 1, 2, 2\)"),
        (lambda: dynconv.dilate(np.ones((1, 2, 2), bool), 0), "stride is 0"),
        (lambda: dynconv.gumbel_sigmoid(np.ones(3), np.ones(3), None, 1.0), "only one"),
        (lambda: dynconv.gumbel_sigmoid(np.ones(3), np.ones(2), np.ones(2), 1.0), "u1 has shape"),
        (lambda: dynconv.gumbel_sigmoid(np.ones(3), None, None, 0.0), "temperature is 0"),
        (lambda: dynconv.run(small("dynconv_resnet8"), np.ones((32, 32, 3))), r"\(32, 32, 3\)"),
        (lambda: dynconv.run(small("dynconv_resnet8"), np.ones((1, 32, 32, 1))), "expected"),
        (lambda: dynconv.run(small("dynconv_resnet8"), np.ones((1, 32, 32, 3)), execution="fast"), "fast"),
        (lambda: dynconv.run(small("dynconv_resnet8"), np.ones((0, 32, 32, 3))), "none of them 0"),
        (lambda: dynconv.run(small("dynconv_hourglass"), np.ones((1, 32, 64, 3))), "multiples of 64"),
        (lambda: sb.create_model("dynconv_hourglass", width=0.3), "multiple of 1/24"),
        (lambda: sb.create_model("dynconv_resnet9"), "dynconv_resnet8"),
        (lambda: sb.create_model("dynconv_resnet8", features=3), "has no features"),
        (lambda: sb.create_model("dynconv_resnet8", semantics=sb.Semantics()), "in blocks"),
        (lambda: dynconv.MaskUnit(3, 1, "soft", rngs=nnx.Rngs(0)), "soft"),
    ],
)  # fmt: skip
def test_bad_input(call: Callable, text: str, unchecked: None) -> None:
    with pytest.raises(InputError, match=text):
        call()

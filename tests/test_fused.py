"""Fused networks: what convolutions take into their epilogues, against the networks as they are."""

import collections
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax import nn
from segblocks_jax.inference.fused import ENVIRONMENT_VARIABLE, GPU_DEFAULT, fuse, pays
from segblocks_jax.inference.steps import ConvStep, LayerStep, PointwiseStep
from segblocks_jax.ops import extension
from segblocks_jax.ops.upsample_argmax import upsample_argmax

MASK = np.array([[[True, False], [False, True]]])


def randomized(net):
    """Norms whose statistics and parameters are not the initial ones."""
    keys = iter(jax.random.split(jax.random.key(0), 1000))
    for _, part in nnx.iter_graph(net):
        if isinstance(part, nn.BatchNorm):
            for variable, low, high in (
                (part.scale, 0.5, 1.5),
                (part.bias, -0.5, 0.5),
                (part.mean, -0.5, 0.5),
                (part.var, 0.5, 1.5),
            ):
                shape = variable[...].shape
                variable[...] = jax.random.uniform(next(keys), shape, minval=low, maxval=high)
    net.eval()
    return net


class Patterns(nnx.Module):
    """Calls in the orders that networks make them, and in some that no convolution may take."""

    def __init__(self, pattern, *, rngs):
        self.semantics = sb.BlockOptions()
        self.first = nn.Conv(3, 8, 3, use_bias=True, rngs=rngs)
        self.second = nn.Conv(8, 8, 3, rngs=rngs)
        self.third = nn.Conv(8, 8, (1, 3), use_bias=True, rngs=rngs)
        self.depthwise = nn.Conv(8, 8, 3, groups=8, rngs=rngs)
        self.strided = nn.Conv(8, 16, 5, stride=2, padding="same_tf", rngs=rngs)
        self.winograd = nn.Conv(16, 8, 3, stride=2, padding="same_tf", rngs=rngs)
        self.grouped = nn.Conv(8, 8, 3, groups=2, rngs=rngs)
        norm = functools.partial(nn.BatchNorm, 8, momentum=0.1, semantics=self.semantics)
        self.norm, self.other = norm(), norm()
        self.pattern = pattern

    def __call__(self, x):
        return getattr(self, self.pattern)(self.first(x))

    def bias_then_norm_then_relu6(self, x):
        return nn.pointwise(jax.nn.relu6, self.norm(x))

    def two_norms(self, x):
        return self.other(self.norm(x))

    def relu_before_norm(self, x):
        return self.norm(nn.pointwise(jax.nn.relu, x))

    def twice_itself(self, x):
        return nn.pointwise(jnp.add, x, x)

    def shortcut_before(self, x):
        return nn.pointwise(jax.nn.relu, nn.pointwise(jnp.add, self.norm(self.second(x)), x))

    def shortcut_behind(self, x):
        y = self.norm(self.second(x))
        return nn.pointwise(jnp.add, self.other(self.third(x)), y)

    def relu_of_a_sum_and_the_sum(self, x):
        y = nn.pointwise(jnp.add, self.second(x), x)
        return nn.pointwise(jnp.add, self.third(nn.pointwise(jax.nn.relu, self.norm(y))), y)

    def norm_of_a_sum_alone(self, x):
        y = nn.pointwise(jnp.add, self.second(x), x)
        return self.third(nn.pointwise(jax.nn.relu, self.norm(y)))

    def two_readers_of_a_norm(self, x):
        y = self.norm(self.second(x))
        return nn.pointwise(jnp.add, nn.pointwise(jax.nn.relu, y), y)

    def sum_with_what_comes_later(self, x):
        y = self.second(x)
        return nn.pointwise(
            jnp.add, y, nn.pointwise(jnp.tanh, self.third(nn.pointwise(jnp.sin, x)))
        )

    def depthwise_and_groups(self, x):
        x = nn.pointwise(jax.nn.relu, self.norm(self.depthwise(x)))
        return nn.pointwise(jax.nn.relu, self.other(self.grouped(x)))

    def strides_as_in_tensorflow(self, x):
        return nn.upsample2(
            nn.upsample2(self.winograd(self.strided(x)), self.semantics), self.semantics
        )

    def pooled_and_enlarged(self, x):
        x = nn.max_pool(nn.pointwise(jax.nn.relu, x), 2, 2, 0)
        x = nn.on_full_image(
            lambda image: image - image.mean((1, 2), keepdims=True), x, self.semantics
        )
        return self.norm(nn.upsample2(x, self.semantics))


PATTERNS = [name for name in vars(Patterns) if not name.startswith("_")]
NETWORKS = {
    **{name: functools.partial(Patterns, name) for name in PATTERNS},
    "swiftnet_rn18": lambda rngs: sb.create_model("swiftnet_rn18", 5, width=8, features=12, rngs=rngs),
    "swiftnet_rn50": lambda rngs: sb.create_model("swiftnet_rn50", 5, width=4, features=12, rngs=rngs),
    "swiftnet_rn50, stride in 1x1": lambda rngs: sb.create_model(
        "swiftnet_rn50", 5, width=4, features=12, stride_in="1x1", rngs=rngs
    ),
    "lrnnet": lambda rngs: sb.create_model(
        "lrnnet", 5, width=8, features=8, dilations=(1, 2), rngs=rngs
    ),
}  # fmt: skip


@pytest.mark.family(*PATTERNS, "swiftnet_rn18")
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_network_on_images_and_on_blocks(name):
    net = randomized(NETWORKS[name](rngs=nnx.Rngs(0)))
    fused = fuse(net)
    side = 16 if name in PATTERNS else 128
    image = jax.random.normal(jax.random.key(1), (1, 2 * side, 2 * side, 3))
    graph, state = nnx.split(net)

    @jax.jit
    def both(state, fused, image):
        blocks = sb.split(image, MASK, num_high=2)
        plain = nnx.merge(graph, state)
        return (plain(image), plain(blocks).pixels), (fused(image), fused(blocks).pixels)

    for expected, got in zip(*both(state, fused, image), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5 * np.std(expected))


def test_few_channels_are_filled_up_on_gpus(monkeypatch):
    """The zeros change nothing."""
    net = randomized(NETWORKS["swiftnet_rn18"](rngs=nnx.Rngs(0)))
    image = jax.random.normal(jax.random.key(1), (1, 128, 128, 3), jnp.bfloat16)
    for_handlers = "segblocks_jax.ops.packed_kernel._for_handlers"
    monkeypatch.setattr(for_handlers, lambda platform="cpu": False)
    expected = jax.jit(fuse(net, "bfloat16"))(image)
    monkeypatch.setattr(for_handlers, lambda platform="cpu": platform == "gpu")
    fused = fuse(net, "bfloat16")
    assert fused.steps[0].kernel.channels == 4
    np.testing.assert_allclose(
        jax.jit(fused)(image).astype(np.float32),
        expected.astype(np.float32),
        atol=2**-6 * np.std(expected.astype(np.float32)),
    )


def test_convolutions_of_a_resnet_take_everything_around_them():
    net = sb.create_model("swiftnet_rn18", 5, width=8, features=12, rngs=nnx.Rngs(0))
    fused = fuse(net)
    parts = nnx.iter_graph((net.backbone, net.upsample, net.logits))
    convs = [part for _, part in parts if isinstance(part, nn.Conv)]
    steps = [step for step in fused.steps if isinstance(step, ConvStep)]
    assert len(steps) == len(convs)
    assert not any(isinstance(step, PointwiseStep) for step in fused.steps)
    assert sum(isinstance(step, LayerStep) for step in fused.steps) == 1  # The pyramid.
    # Three stages and three sums in the decoder are read by a norm; of the sums nothing else is.
    assert [step.keep for step in steps if step.second is not None] == [True] * 3 + [False] * 3
    assert len({step.part for step in fused.steps}) > 8


def handlers(jaxpr):
    """The handlers that a program calls, in order."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "ffi_call":
            yield equation.params["target_name"]
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from handlers(inner)


def test_a_frame_calls_few_handlers():
    """All index tables come of one call; the pyramid splits and combines once more."""
    net = sb.create_model("swiftnet_rn18", 5, width=8, features=12, rngs=nnx.Rngs(0))
    fused = fuse(net)

    @jax.jit
    def frame(image):
        blocks = fused(sb.split(image, MASK, num_high=2))
        return upsample_argmax(sb.combine(blocks, implementation="ffi"), implementation="ffi")

    with extension.using("ffi"):
        traced = frame.trace(jnp.zeros((1, 256, 256, 3)))
    calls = collections.Counter(name.removeprefix("segblocks_") for name in handlers(traced.jaxpr))
    assert calls.pop("indexed_conv") <= sum(isinstance(step, ConvStep) for step in fused.steps)
    assert calls == {
        **{"split": 2, "combine": 2, "layer_tables": 1, "upsample_argmax": 1},
        **{"indexed_max_pool": 1, "indexed_upsample2": 3},
    }


class Foreign(Patterns):
    """Features from what is no layer."""

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)) if isinstance(x, jax.Array) else self.first(x))


def test_what_is_no_layer_is_found():
    net = Foreign("", rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"computed by what is no layer .*pointwise or nn\.on_full_image"
    ):
        fuse(net)
    assert not pays(net)


def test_an_option_chooses_what_a_gpu_takes(monkeypatch):
    net = Patterns("bias_then_norm_then_relu6", rngs=nnx.Rngs(0))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(extension, "resolve", lambda *_: "ffi")
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    assert pays(net) == (GPU_DEFAULT == "fused")
    for option in ("fused", "plain"):
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, option)
        assert pays(net) == (option == "fused")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "fast")
    with pytest.raises(ValueError, match=r"SEGBLOCKS_GPU_DEFAULT is 'fast'; expected 'fused'"):
        pays(net)


def test_the_default_of_gpus_is_what_the_model_of_time_says():
    """Until a GPU has measured it, with a tenth for what the model leaves out; see docs/gpu.md."""
    path = pathlib.Path(__file__).parent.parent / "benchmarks" / "results" / "cuda_model.json"
    rows = {(row["batch"], row["share_high"]): row for row in json.loads(path.read_text())["rows"]}
    faster = rows[1, 0.4]["ratio_to_dense"] >= 1.1
    assert ("fused" if faster else "plain") == GPU_DEFAULT

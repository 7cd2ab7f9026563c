"""Models in int8: close to float32, saved and loaded, in blocks; what stays in float32; errors."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_fused import MASK, Patterns, randomized

import segblocks_jax as sb
from segblocks_jax import nn
from segblocks_jax.errors import InputError
from segblocks_jax.inference.fused import fuse
from segblocks_jax.inference.quantized_steps import (
    DequantizeStep,
    QuantizedConvStep,
    QuantizeStep,
)
from segblocks_jax.inference.ranges import measure
from segblocks_jax.ops import extension

SPEC = sb.ModelSpec(
    "swiftnet_rn18",
    num_classes=5,
    width=16,
    features=16,
    policy=sb.PolicySpec(block_size=64, target=0.5, features=8),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


@functools.cache
def model():
    system = SPEC.build(nnx.Rngs(0))
    randomized(system.net)
    system.eval()
    return system


@functools.cache
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (3, 16, 16, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)


@functools.cache
def quantized_spec():
    return sb.quantize(model(), SPEC, images())


@functools.cache
def engine(dtype):
    return sb.Engine(model(), quantized_spec(), dtype=dtype)


def deviation(got, expected):
    """Root of the mean squared difference, in standard deviations."""
    return np.sqrt(np.square(got - expected).mean()) / expected.std()


@pytest.mark.parametrize("mode", ["share=1", "share=0.5"])
def test_logits_are_close_to_those_of_float32(mode, compiled):
    got, expected = (
        engine(dtype)(images(), mode=mode, output="logits") for dtype in ("int8", "float32")
    )
    np.testing.assert_array_equal(got.mask, expected.mask)  # The policy stays in float32.
    assert 1e-4 < deviation(got.logits, expected.logits) < 0.05


def test_a_saved_model_gives_the_same_bits(compiled, tmp_path):
    sb.save_model(tmp_path / "model", model(), quantized_spec())
    loaded = sb.load_spec(tmp_path / "model")
    assert loaded == quantized_spec()
    assert sb.load_spec(sb.save_model(tmp_path / "float", model(), SPEC)) == SPEC
    served = sb.Engine.load(tmp_path / "model", dtype="int8")
    for output in ("labels", "logits"):
        got, expected = (
            getattr(x(images(), mode="share=0.5", output=output), output)
            for x in (served, engine("int8"))
        )
        np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
def test_an_exported_engine_gives_the_same_bits(compiled, tmp_path):
    folder = engine("int8").export(tmp_path / "model", [(1, 128, 128)], mode="share=0.5")
    manifest = json.loads((folder / "engine.json").read_text())
    assert "segblocks_quantized_conv" in manifest["targets"]
    got = sb.ExportedEngine(folder)(images()[:1]).labels
    np.testing.assert_array_equal(got, engine("int8")(images()[:1], mode="share=0.5").labels)


@pytest.mark.slow
def test_other_weights_are_served_without_compiling(compiled):
    other = nnx.clone(model())
    other.net.logits.conv.bias[...] += jnp.arange(5.0) * 100
    served = sb.Engine(model(), quantized_spec(), dtype="int8", mode="share=0.5")
    served(images()[:1])
    made = served.compilations
    served.replace_weights(other)
    assert (served(images()[:1]).labels == 4).all()
    assert served.compilations == made


@pytest.mark.slow
def test_values_stay_in_bytes_from_layer_to_layer(compiled):
    """But for the image, the pyramid pooling, which runs on the whole image, and the logits."""
    steps = fuse(model().net, ranges=quantized_spec().quantization).steps
    float_steps = fuse(model().net).steps
    assert sum(isinstance(step, QuantizedConvStep) for step in steps) == 27
    assert [step.part for step in steps if isinstance(step, QuantizeStep)] == ["backbone/stem"]
    assert [step.part for step in steps if isinstance(step, DequantizeStep)] == []
    assert len(steps) == len(float_steps) + 1


@pytest.mark.slow
def test_layers_that_are_kept_run_in_float32(compiled):
    spec = sb.quantize(model(), SPEC, images(), keep=["backbone.conv1", "logits"])
    left_out = quantized_spec().quantization.keys() - spec.quantization.keys()
    assert left_out == {"backbone.conv1", "logits.conv"}
    served = sb.Engine(model(), spec, dtype="int8")
    got = served(images(), mode="share=1", output="logits").logits
    expected = engine("float32")(images(), mode="share=1", output="logits").logits
    assert 1e-4 < deviation(got, expected) < 0.05
    assert (got != engine("int8")(images(), mode="share=1", output="logits").logits).any()


@pytest.mark.family("depthwise_between", "relu_of_a_sum_and_the_sum")
@pytest.mark.parametrize(
    "pattern",
    [
        "bias_then_norm_then_relu6",
        "shortcut_before",
        "relu_of_a_sum_and_the_sum",
        "norm_of_a_sum_alone",
        "depthwise_between",
        "pooled_without_relu",
    ],
)
def test_patterns_are_equal_in_both_implementations(pattern, compiled):
    net = randomized(Bytes(pattern, rngs=nnx.Rngs(0)))
    image = jax.random.normal(jax.random.key(1), (1, 16, 16, 3))
    blocks = sb.split(image, MASK)
    ranges = measure(fuse(net), [image, blocks])
    fused = fuse(net, ranges=ranges)
    for x in (image, blocks):
        results = []
        for implementation in ("ffi", "xla"):
            with extension.using(implementation):
                out = fused(x)
            results.append(out.pixels if isinstance(out, sb.DualRes) else out)
        np.testing.assert_array_equal(*results)
        expected = net(x)
        expected = expected.pixels if isinstance(expected, sb.DualRes) else expected
        assert deviation(results[0], np.asarray(expected)) < 0.05


class Bytes(Patterns):
    """Further orders of calls."""

    def depthwise_between(self, x):
        x = nn.pointwise(jax.nn.relu6, self.norm(self.depthwise(x)))
        return self.strided(nn.pointwise(jnp.add, self.second(x), x))

    def pooled_without_relu(self, x):
        return self.second(nn.upsample2(nn.max_pool(x, 3, 2, 1, self.semantics), self.semantics))


def test_ranges_have_the_smallest_error():
    """Of values of which one is far away."""
    from segblocks_jax.inference.ranges import _best

    rng = np.random.default_rng(0)
    samples = rng.standard_normal(100000)
    samples[0] = 40

    def error(lowest, highest):
        scale = (highest - lowest) / 255
        zero = np.rint(-lowest / scale)
        return np.square(
            (np.clip(np.rint(samples / scale), -zero, 255 - zero) * scale) - samples
        ).mean()

    least = min(error(share * samples.min(), share * 40) for share in np.linspace(0.2, 1, 41))
    best = _best(samples.min(), samples.max(), samples)
    assert error(*best) <= 1.01 * least < 0.9 * error(samples.min(), 40)
    assert _best(0.0, 6.0, rng.uniform(0, 6, 100000)) == (0.0, 6.0)


def test_errors():
    quantize = functools.partial(sb.quantize, model(), SPEC)
    with pytest.raises(InputError, match="there are no calibration images"):
        quantize([])
    with pytest.raises(TypeError, match="images are float64; expected a uint8 array"):
        quantize(images() / 255)
    with pytest.raises(InputError, match=r"images have shape \(1, 128, 3\)"):
        quantize(images()[0, :1])
    with pytest.raises(InputError, match=r"keep has \['backbone.conv'\]; expected some of"):
        quantize(images()[:1], keep=["backbone.conv"])
    broken = nnx.clone(model())
    broken.net.backbone.conv1.kernel[...] *= jnp.nan
    with pytest.raises(InputError, match=r"of backbone.conv1 has values that are not finite"):
        sb.quantize(broken, SPEC, images()[:1])
    with pytest.raises(InputError, match="dtype is 'int8', but the model was not quantized"):
        sb.Engine(model(), SPEC, dtype="int8")
    with pytest.raises(InputError, match="int8 runs with execution 'fused', or 'xla'"):
        sb.Engine(model(), quantized_spec(), dtype="int8", execution="plain")
    ranges = quantized_spec().quantization
    other = dataclasses.replace(SPEC, quantization={**ranges, "backbone.conv9": {}})
    with pytest.raises(InputError, match=r"quantized as another one: it has no .* backbone.conv9"):
        sb.Engine(model(), other, dtype="int8")
    other = dataclasses.replace(SPEC, quantization={**ranges, "backbone.conv1": {}})
    with pytest.raises(InputError, match=r"there is no range of the input of backbone.conv1"):
        sb.Engine(model(), other, dtype="int8")

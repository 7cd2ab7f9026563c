"""upsample_argmax: against plain loops, the compiled handler against the reference, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import enlarged

from segblocks_jax.nn import resize_bilinear
from segblocks_jax.ops import extension
from segblocks_jax.ops.upsample_argmax import upsample_argmax

SIZES = [(2, 5, 7, 19), (1, 1, 1, 3), (1, 9, 33, 11), (3, 8, 16, 1), (1, 2, 3, 256), (1, 17, 4, 2)]


@pytest.mark.family
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_equals_formula(size, factor, dtype, implementation, rng):
    logits = jnp.asarray(rng.standard_normal(size), dtype)
    labels = np.asarray(upsample_argmax(logits, factor, implementation=implementation))
    wide = enlarged(np.asarray(logits, np.float64), factor)
    assert labels.shape == wide.shape[:3]
    assert labels.dtype == np.uint8
    # Where two classes are as close as float32 rounds, either may win.
    chosen = np.take_along_axis(wide, labels[..., None].astype(int), 3)[..., 0]
    assert (wide.max(-1) - chosen).max() <= 1e-6
    assert np.mean(labels == wide.argmax(-1)) >= 0.999


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    size=st.tuples(st.integers(1, 2), st.integers(1, 20), st.integers(1, 40), st.integers(1, 40)),
    factor=st.sampled_from([2, 4, 8]),
    seed=st.integers(0, 2**16),
)
def test_implementations_agree_on_exact_sums(size, factor, seed):
    """Small integers have exact weighted sums, and ties: these go to the lowest class."""
    if not extension.available():
        pytest.skip(extension.why_unavailable())
    logits = jnp.asarray(np.random.default_rng(seed).integers(-4, 5, size), jnp.float32)
    both = [np.asarray(upsample_argmax(logits, factor, implementation=i)) for i in ("xla", "ffi")]
    np.testing.assert_array_equal(*both)
    np.testing.assert_array_equal(both[0], enlarged(np.asarray(logits), factor).argmax(-1))


def test_nan_never_wins_and_nothing_is_class_0(implementation):
    nan, inf = np.nan, np.inf
    pixels = [[nan, 1, 2], [nan, nan, -5], [nan, nan, nan], [-inf, -inf, -inf], [-inf, nan, 0]]
    logits = jnp.asarray(pixels, jnp.float32)[:, None, None, :]
    labels = upsample_argmax(logits, 2, implementation=implementation)
    assert np.asarray(labels)[:, 0, 0].tolist() == [2, 2, 0, 0, 2]


def test_empty(implementation):
    for shape in ((0, 3, 4, 5), (2, 0, 4, 5)):
        labels = upsample_argmax(jnp.zeros(shape), 4, implementation=implementation)
        assert labels.shape == (shape[0], 4 * shape[1], 4 * shape[2])


def test_any_factor_by_the_reference(rng):
    logits = jnp.asarray(rng.standard_normal((1, 6, 5, 4)), jnp.float32)
    labels = np.asarray(upsample_argmax(logits, 3))
    expected = resize_bilinear(logits, (18, 15)).argmax(-1)
    assert np.mean(labels == np.asarray(expected)) >= 0.99


@pytest.mark.usefixtures("compiled")
def test_under_vmap(rng):
    logits = jnp.asarray(rng.integers(-9, 9, (3, 2, 4, 5, 6)), jnp.float32)
    mapped = jax.jit(jax.vmap(lambda x: upsample_argmax(x, 4, implementation="ffi")))(logits)
    single = upsample_argmax(logits.reshape(6, 4, 5, 6), 4, implementation="xla")
    np.testing.assert_array_equal(mapped.reshape(single.shape), single)


def test_logits_of_full_size_are_never_in_memory(implementation):
    shape = (1, 128, 256, 19)
    compiled = jax.jit(lambda x: upsample_argmax(x, 4, implementation=implementation)).lower(
        jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    temporary = compiled.compile().memory_analysis().temp_size_in_bytes
    assert temporary < 16 * np.prod(shape) * 4 / 4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("shape", "dtype", "options", "error", "text"),
    [
        ((1, 2, 2, 257), "float32", {}, ValueError, "257 classes; expected 1 to 256"),
        ((1, 2, 2, 0), "float32", {}, ValueError, "0 classes; expected 1 to 256"),
        ((1, 2, 2, 3), "int32", {}, TypeError, "logits"),
        ((1, 2, 2, 3), "float32", {"factor": 0}, ValueError, "factor is 0; expected 1 or more"),
    ],
)
def test_errors(shape, dtype, options, error, text):
    with pytest.raises(error, match=text):
        upsample_argmax(jnp.zeros(shape, dtype), **options)


@pytest.mark.usefixtures("compiled")
def test_factor_that_the_handler_lacks():
    with pytest.raises(ValueError, match="factor is 3; implementation 'ffi' has 2, 4 and 8"):
        upsample_argmax(jnp.zeros((1, 2, 2, 3)), 3, implementation="ffi")


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("logits", "dtype", "labels", "out", "factor", "text"),
    [
        ((1, 2, 3), "float32", (1, 8, 12), "uint8", 4, r"rank 4 \(n, h, w, k\)"),
        ((1, 2, 3, 5), "int32", (1, 8, 12), "uint8", 4, "dtype F32, BF16 or F16"),
        ((1, 2, 3, 5), "float32", (1, 8, 12), "int8", 4, "dtype U8"),
        ((1, 2, 3, 5), "float32", (1, 8, 11), "uint8", 4, r"shape \(1, 8, 12\)"),
        ((1, 2, 3, 5), "float32", (1, 8), "uint8", 4, r"shape \(1, 8, 12\)"),
        ((1, 2, 3, 5), "float32", (1, 6, 9), "uint8", 3, "2, 4 or 8"),
        ((1, 2, 3, 5), "float32", (1, 8, 12), "uint8", -4, "2, 4 or 8"),
        ((1, 2, 3, 0), "float32", (1, 8, 12), "uint8", 4, r"1 .. 256 classes"),
        ((1, 2, 3, 300), "float32", (1, 8, 12), "uint8", 4, r"1 .. 256 classes"),
    ],
)
def test_malformed_calls_of_the_handler(logits, dtype, labels, out, factor, text):
    result = jax.ShapeDtypeStruct(labels, out)
    run = jax.ffi.ffi_call("segblocks_upsample_argmax", result)
    with pytest.raises(Exception, match=f"(?s)segblocks_upsample_argmax: .*{text}"):
        jax.block_until_ready(run(jnp.zeros(logits, dtype), factor=np.int64(factor)))


@pytest.mark.usefixtures("compiled")
def test_stored_programs_call_it_by_its_old_name():
    logits = jax.random.normal(jax.random.key(0), (1, 3, 4, 5))
    run = jax.ffi.ffi_call("segblocks_label_map", jax.ShapeDtypeStruct((1, 6, 8), "uint8"))
    np.testing.assert_array_equal(run(logits, factor=np.int64(2)), upsample_argmax(logits, 2))

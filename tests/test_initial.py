"""Initial kernels: their distributions, seeds, and how little is compiled for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.nn import initial
from segblocks_jax.training.flat_state import flatten

SHAPES = [(3, 3, 64, 96), (1, 1, 300, 200), (5, 5, 1, 700)]


@pytest.mark.parametrize("shape", SHAPES)
def test_normal_kernels_have_the_variance_of_their_fan_in(shape):
    kernel = np.asarray(initial.he_normal(jax.random.key(0), shape, jnp.float32), np.float64)
    fan_in, count = np.prod(shape[:-1]), kernel.size
    z = kernel.ravel() * np.sqrt(fan_in / 2)
    assert abs(z.mean()) < 5 / np.sqrt(count)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / count)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / count)
    assert len(np.unique(kernel)) > 0.99 * count


def test_uniform_kernels_fill_their_range():
    kernel = np.asarray(initial.small_uniform(jax.random.key(0), (3, 3, 64, 96), jnp.float32))
    z = kernel.ravel() * np.sqrt(3 * 3 * 64)
    assert np.abs(z).max() <= 1
    counts, _ = np.histogram(z, 10, (-1, 1))
    assert np.abs(counts - z.size / 10).max() < 5 * np.sqrt(z.size / 10)


@pytest.mark.parametrize("draw", [initial.he_normal, initial.small_uniform])
def test_a_kernel_is_its_keys(draw):
    first, again, other = (draw(jax.random.key(k), (3, 3, 60, 70), jnp.float32) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.03
    compiled = jax.jit(lambda key: draw(key, (3, 3, 60, 70), jnp.float32))(jax.random.key(0))
    np.testing.assert_allclose(compiled, first, rtol=1e-6)


def test_one_program_draws_all_kernels():
    initial._normal.clear_cache()
    for shape in SHAPES:
        initial.he_normal(jax.random.key(0), shape, jnp.float32)
    assert initial._normal._cache_size() == 1


def test_networks_start_with_it():
    net = sb.create_model("swiftnet_rn18", 3, width=8, rngs=nnx.Rngs(0))
    kernels = [x for x in flatten(nnx.state(net, nnx.Param)).values() if x.ndim == 4]
    assert len(kernels) > 20
    z = np.concatenate([np.ravel(k) * np.sqrt(np.prod(k.shape[:-1]) / 2) for k in kernels])
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)

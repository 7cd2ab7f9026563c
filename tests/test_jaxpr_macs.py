"""Multiply-adds from jaxprs, against the products of sizes."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.adaptive.jaxpr_macs import jaxpr_macs
from segblocks_jax.errors import InputError


def macs(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return dict(jaxpr_macs(jax.make_jaxpr(function)(*arrays)))


def conv(x, kernel, stride=1, groups=1, spread=1):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME" if spread == 1 else [(1, 1), (1, 1)],
        lhs_dilation=(spread, spread),
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


IMAGE, KERNEL = (2, 8, 6, 4), (3, 3, 4, 5)


def test_convolutions():
    assert macs(conv, IMAGE, KERNEL) == {"": 2 * 8 * 6 * 5 * 36}
    assert macs(lambda x, k: conv(x, k, 2), IMAGE, KERNEL) == {"": 2 * 4 * 3 * 5 * 36}
    assert macs(lambda x, k: conv(x, k, 1, 4), IMAGE, (3, 3, 1, 8)) == {"": 2 * 8 * 6 * 8 * 9}
    spread = 2 * 15 * 11 * 5 * 36 // 4
    assert macs(lambda x, k: conv(x, k, 1, 1, 2), IMAGE, KERNEL) == {"": spread}


def test_products_count_where_no_factor_is_constant():
    assert macs(jnp.matmul, (7, 3), (3, 5)) == {"": 105}
    assert macs(lambda x: x @ jnp.ones((3, 5)), (7, 3)) == {}
    resize = lambda x: jax.image.resize(x, (2, 16, 12, 4), "bilinear")  # noqa: E731
    assert macs(resize, IMAGE) == {}


def test_calls_loops_and_branches():
    once = 2 * 8 * 6 * 5 * 36
    inside = jax.checkpoint(jax.jit(conv))
    assert macs(inside, IMAGE, KERNEL) == {"": once}

    @jax.custom_vjp
    def custom(x, kernel):
        return conv(x, kernel)

    custom.defvjp(lambda x, k: (conv(x, k), None), lambda _, g: (g, g))
    assert macs(custom, IMAGE, KERNEL) == {"": once}

    def scanned(x, kernel):
        return jax.lax.scan(lambda c, _: (c, conv(x, kernel)), 0.0, None, length=3)

    assert macs(scanned, IMAGE, KERNEL) == {"": 3 * once}

    def either(x, kernel):
        small = lambda: jnp.zeros((2, 8, 6, 5))  # noqa: E731
        return jax.lax.cond(x[0, 0, 0, 0] > 0, small, lambda: conv(x, kernel))

    assert macs(either, IMAGE, KERNEL) == {"": once}

    def endless(x, kernel):
        return jax.lax.while_loop(lambda y: y[0, 0, 0, 0] > 0, lambda y: conv(y, kernel), x)

    with pytest.raises(InputError, match="in a loop of unknown length can't be counted"):
        macs(endless, IMAGE, (3, 3, 4, 4))


def test_parts_are_scopes():
    def net(x, kernel):
        with jax.named_scope("a"):
            x = conv(x, kernel)
            with jax.named_scope("b"):
                return jax.jit(conv)(x, kernel)

    once = 2 * 8 * 6 * 4 * 36
    assert macs(net, IMAGE, (3, 3, 4, 4)) == {"a": once, "a/b": once}


def test_count_macs_takes_a_network_of_flax_layers():
    net = nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0))
    for share in (None, 0.0, 1.0):
        assert sb.count_macs(net, (1, 8, 8, 3), share).total == 64 * 8 * 27

"""Pyramid pooling of DDRNet (DAPPM) and PIDNet (PAPPM): five views of the smallest map, from itself to its mean."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.models.plain import norm_conv, resize

_POOLS = ((5, 2), (9, 4), (17, 8))  # Window and stride of the average pools.


def _average(window: int, stride: int, x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow c"]:
    """Pixels outside the image are zeros that count."""
    padding = ((window // 2, window // 2),) * 2
    sums = nnx.pool(x, 0.0, jax.lax.add, (window, window), (stride, stride), padding)
    return sums / window**2


def _mean(x: Float[Array, "n h w c"]) -> Float[Array, "n 1 1 c"]:
    return x.mean((1, 2), keepdims=True)


class _Pyramid(nnx.Module):
    """What both have: the views, each through a 1x1 convolution, and the ends."""

    def __init__(self, in_features: int, inner: int, features: int, *, rngs: nnx.Rngs) -> None:
        view = functools.partial(norm_conv, in_features, inner, 1, rngs=rngs)
        self.scale0 = view()
        for i, (window, stride) in enumerate(_POOLS, 1):
            setattr(self, f"scale{i}", view(functools.partial(_average, window, stride)))
        self.scale4 = view(_mean)
        self.compression = norm_conv(5 * inner, features, rngs=rngs)
        self.shortcut = norm_conv(in_features, features, rngs=rngs)

    def views(self, x: Float[Array, "n h w c"]) -> list[Float[Array, "n h w k"]]:
        """Of the map itself, of its averages and of its mean, all at its size."""
        first, *others = (getattr(self, f"scale{i}")(x) for i in range(5))
        return [first, *(resize(view, x) for view in others)]


class DAPPM(_Pyramid):
    """Deep aggregation pyramid pooling: each view is added to the one before, and blended (arXiv 2101.06085)."""

    def __init__(self, in_features: int, inner: int, features: int, *, rngs: nnx.Rngs) -> None:
        """`inner` channels a view."""
        super().__init__(in_features, inner, features, rngs=rngs)
        for i in range(1, 5):
            setattr(self, f"process{i}", norm_conv(inner, inner, 3, rngs=rngs))

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w k"]:
        """(n, h, w, in_features) -> (n, h, w, features)."""
        first, *others = self.views(x)
        blended = [first]
        for i, view in enumerate(others, 1):
            blended.append(getattr(self, f"process{i}")(view + blended[-1]))
        return self.compression(jnp.concatenate(blended, -1)) + self.shortcut(x)


class PAPPM(_Pyramid):
    """Parallel aggregation pyramid pooling: all views are blended at once, in groups (arXiv 2206.02066)."""

    def __init__(self, in_features: int, inner: int, features: int, *, rngs: nnx.Rngs) -> None:
        """`inner` channels a view."""
        super().__init__(in_features, inner, features, rngs=rngs)
        self.scale_process = norm_conv(4 * inner, 4 * inner, 3, groups=4, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w k"]:
        """(n, h, w, in_features) -> (n, h, w, features)."""
        first, *others = self.views(x)
        blended = self.scale_process(jnp.concatenate([view + first for view in others], -1))
        return self.compression(jnp.concatenate([first, blended], -1)) + self.shortcut(x)

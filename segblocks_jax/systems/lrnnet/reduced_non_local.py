"""Attention from every position to one vector per region: the reduced non-local operation of LRNNet."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from segblocks_jax.nn.layers import BatchNorm, Conv
from segblocks_jax.nn.regions import BlockOptions
from segblocks_jax.nn.scope import record

_MOMENTUM = 0.1
_EPS = 1e-12  # Of a squared length, so that a region of zeros has a gradient.


class ReducedNonLocal(nnx.Module):
    """Attention from every position to one vector per region, in place of all positions.

    In steps::

        f = relu(norm(reduce(x)))                            # (n, h, w, channels)
        u = dominant_vectors(f, regions, iterations)         # (n, regions, channels)
        y = softmax(query(x) . key(u)) @ value(u)            # over the regions
        result = out_norm(out(y))                            # (n, h, w, in_features)

    The sum with x is the caller's. Where every region is one position this is full attention over
    positions of unit length. It works on whole images: run it on blocks by `on_full_image`.

    Attributes:
        regions: (rows, columns) at most; see `dominant_vectors`.
        iterations: of the power method.

    Source: LRNNet (arXiv 2006.02706), as docs/lrnnet.md reads it.
    """

    def __init__(
        self,
        in_features: int,
        *,
        regions: tuple[int, int] = (8, 8),
        channels: int = 64,
        iterations: int = 2,
        semantics: BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """`channels` of queries, keys and values."""
        norm = functools.partial(BatchNorm, momentum=_MOMENTUM, semantics=semantics)
        self.reduce = Conv(in_features, channels, 1, rngs=rngs)
        self.reduce_norm = norm(channels)
        self.query = Conv(in_features, channels, 1, rngs=rngs)
        self.key = Conv(channels, channels, 1, rngs=rngs)
        self.value = Conv(channels, channels, 1, rngs=rngs)
        self.out = Conv(channels, in_features, 1, rngs=rngs)
        self.out_norm = norm(in_features)
        self.regions = regions
        self.iterations = iterations

    def __call__(self, image: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """(n, h, w, in_features) -> the same shape."""
        reduced = jax.nn.relu(self.reduce_norm(self.reduce(image)))
        vectors = dominant_vectors(reduced, self.regions, self.iterations)
        vectors = vectors.astype(image.dtype)[:, :, None]
        query, key, value = self.query(image), self.key(vectors), self.value(vectors)
        scores = jnp.einsum(
            "nhwc,nsc->nhws", query, key[:, :, 0], preferred_element_type=jnp.float32
        )
        weights = jax.nn.softmax(scores, -1).astype(image.dtype)
        attended = jnp.einsum("nhws,nsc->nhwc", weights, value[:, :, 0])
        record(2 * weights.size * attended.shape[-1])
        return self.out_norm(self.out(attended))


def dominant_vectors(
    image: Float[Array, "n h w c"], regions: tuple[int, int], iterations: int
) -> Float[Array, "n s c"]:
    """The dominant left singular vector of every region, a matrix of (c, positions), approximately.

    ``u = ones / sqrt(c)``, then `iterations` times ``u = M @ (M.T @ u); u /= norm(u)``, in float32. On
    features that are not negative the sign is fixed, all entries are positive or zero, and a single
    iteration comes close; on features around zero the method converges slowly.

    Args:
        image: features.
        regions: (rows, columns): the image is cut into so many, or, where its sides are no multiples
            of them, into fewer of ``ceil(side / regions)`` positions, of which the last are cut off by
            the border. Each has a position at least.
        iterations: of the power method.

    Returns:
        A unit vector a region, row by row; zeros where all features of a region are 0.
    """
    maps = _regions(image.astype(jnp.float32), regions)
    n, count, _, channels = maps.shape
    vectors = jnp.full((n, count, channels), channels**-0.5, jnp.float32)
    product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    for _ in range(iterations):
        vectors = product("nspc,nsp->nsc", maps, product("nspc,nsc->nsp", maps, vectors))
        squared = jnp.square(vectors).sum(-1, keepdims=True)
        vectors = vectors * lax.rsqrt(squared + _EPS)
    record(2 * iterations * maps.size)
    return vectors


def _regions(image: Float[Array, "n h w c"], regions: tuple[int, int]) -> Float[Array, "n s p c"]:
    n, height, width, channels = image.shape
    (rows, tall), (columns, wide) = (
        _cut(side, count) for side, count in zip((height, width), regions, strict=True)
    )
    # Positions of zeros change no singular vector.
    beyond = ((0, 0), (0, rows * tall - height), (0, columns * wide - width), (0, 0))
    maps = jnp.pad(image, beyond).reshape(n, rows, tall, columns, wide, channels)
    return maps.swapaxes(2, 3).reshape(n, rows * columns, tall * wide, channels)


def _cut(side: int, regions: int) -> tuple[int, int]:
    """How many regions an axis has, and the positions of each."""
    length = -(-side // min(regions, side))
    return -(-side // length), length

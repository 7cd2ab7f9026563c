"""indexed_max_pool: maxima over windows of pixels that are found by index."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped

from segblocks_jax.ops import by_index, extension
from segblocks_jax.ops.patches import IndexPatches, gather, gather_bytes


@jax.named_scope("indexed_max_pool")
def indexed_max_pool(
    rows: Shaped[Array, "r c"],
    patches: IndexPatches,
    window: int,
    stride: int,
    *,
    implementation: str | None = None,
    halos: Shaped[Array, "g c"] | None = None,
) -> Shaped[Array, "p c"]:
    """Maximum over windows of patches, whose order `indexed_conv` describes; an index of -1 counts as 0.

    Rows are float32, bfloat16 or uint8. Not differentiable; `segblocks_jax.nn.max_pool` is, and gives the same.
    `window` is the side of a window; `implementation` "ffi", "xla", or None for the compiled handler where there
    is one; `halos` are those of the rows, where the call that made these has lent them (see `by_index`).
    """
    if extension.resolve(implementation) != "ffi":
        return _reference(rows, patches, window, stride)
    run = functools.partial(_compiled, window=window, stride=stride, halos=halos)
    if rows.dtype != "uint8":
        return run(rows, patches)
    reference = functools.partial(_reference, window=window, stride=stride)
    return lax.platform_dependent(rows, patches, cpu=run, default=reference)


def _reference(rows: Array, patches: IndexPatches, window: int, stride: int) -> Array:
    found = (
        gather_bytes(rows, jnp.zeros(1, rows.dtype), patches)
        if rows.dtype == "uint8"
        else gather(rows, patches)
    )
    parts = [maxima(part, window, stride) for part in found]
    return jnp.concatenate([part.reshape(-1, rows.shape[1]) for part in parts])


def _compiled(
    rows: Array, patches: IndexPatches, window: int, stride: int, halos: Array | None
) -> Array:
    shape = (patches.num_outputs((window, window), stride), rows.shape[1])
    target = "segblocks_indexed_max_pool"
    (out,) = by_index.call(
        target, (rows, patches, (), halos), (shape,), window=window, stride=stride
    )
    return out


@functools.partial(jax.jit, static_argnames=("window", "stride"))
def maxima(maps: Shaped[Array, "m h w c"], window: int, stride: int) -> Shaped[Array, "m ho wo c"]:
    """Maxima over windows, without padding."""
    # One axis after the other, by shifted maps: the gradient of XLA's window reduction is thirty
    # times slower on a CPU than its value.
    for axis in (1, 2):
        stop = maps.shape[axis] - window + 1
        shifted = [lax.slice_in_dim(maps, i, i + stop, stride, axis) for i in range(window)]
        maps = functools.reduce(jnp.maximum, shifted)
    return maps

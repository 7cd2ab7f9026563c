"""count_macs: multiply-adds of a network, from a trace of it."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import ClosedJaxpr

from segblocks_jax.adaptive.jaxpr_macs import jaxpr_macs
from segblocks_jax.nn.scope import counting


@dataclasses.dataclass(frozen=True)
class Macs:
    """Multiply-adds of one forward pass, `by_part` of the network, its policy included."""

    by_part: dict[str, float]

    @property
    def total(self) -> float:
        """The sum over all parts."""
        return sum(self.by_part.values())


def count_macs(
    net: nnx.Module,
    shape: tuple[int, int, int, int],
    high_fraction: float | None = None,
    *,
    policy: nnx.Module | None = None,
    low_factor: int = 2,
) -> Macs:
    """Counts the multiply-adds of convolutions, and one addition an output element where one has a bias.

    Batch norm, activations, pooling and interpolation are left out, as in the published figures.
    With a share f of high blocks, what runs in blocks costs ``f + (1 - f) / low_factor**2`` of the dense
    network; regions of the whole image cost the same.

    Args:
        net: a network built of this library's layers, or of none of them: of such a network the convolutions and
            matrix products are counted without biases, see `jaxpr_macs`, as operations on the whole image.
        shape: of the image batch, (n, h, w, 3).
        high_fraction: share of high blocks; None: the dense network.
        policy: a policy whose network to count too.
        low_factor: side of a high block over the side of a low one.

    Raises:
        ValueError: a share outside [0, 1].

    Example:
        >>> from segblocks_jax import create_model
        >>> net = create_model("swiftnet_rn18", rngs=nnx.Rngs(0))
        >>> round(count_macs(net, (1, 1024, 2048, 3)).total / 1e9, 3)
        103.569
    """
    if high_fraction is not None and not 0 <= high_fraction <= 1:
        raise ValueError(
            f"count_macs: high_fraction is {high_fraction}; expected a share from 0 to 1"
        )
    share = 1.0 if high_fraction is None else high_fraction + (1 - high_fraction) / low_factor**2
    with counting() as count:
        traced = _trace(net, shape)
    if not count.in_blocks and not count.on_full_image:
        count.on_full_image = dict(jaxpr_macs(traced))
    parts = {name: float(macs) for name, macs in count.on_full_image.items()}
    for name, macs in count.in_blocks.items():
        parts[name] = parts.get(name, 0.0) + macs * share
    policy_net = getattr(policy, "net", None)
    if policy_net is not None:
        with counting() as count:
            _trace(policy_net, shape)
        parts["policy"] = float(sum(count.in_blocks.values()))
    return Macs(parts)


def _trace(net: nnx.Module, shape: tuple[int, ...]) -> ClosedJaxpr:
    net = nnx.clone(net)
    net.eval()
    graphdef, state = nnx.split(net)
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.make_jaxpr(lambda state, image: nnx.merge(graphdef, state)(image))(state, image)

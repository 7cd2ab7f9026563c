"""ImageNet weights for a backbone, and the normalization of images that they expect."""

import os
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from segblocks_jax.interop import files
from segblocks_jax.interop.pretrained import PRETRAINED, find_pretrained
from segblocks_jax.interop.torch import load
from segblocks_jax.paths import sha256

_Normalization = tuple[Sequence[float], Sequence[float]]


def load_backbone(
    net: Any, file: str | os.PathLike[str], normalization: _Normalization | None = None
) -> dict[str, Any]:
    """Loads ImageNet weights into a network's backbone, before training.

    Names may be those of published files (docs/training.md has a table) or of a whole network: see
    `load_torch_state_dict`, also for errors. Weights of published files expect images of a normalization of
    theirs; for images of another, `fold_normalization` changes the first convolution and its norm.

    Args:
        net: a network of `create_model`.
        file: of weights; or a name, such as "resnet18", whose file is looked for on this machine.
        normalization: mean and standard deviation of the images that the network will see, per channel, of
            pixels in 0..1. Without it, weights are taken as they are.

    Returns:
        `file`; its `sha256` in hexadecimal; `source`, the name, or whose names the file has; `normalization`,
        the `mean` and `std` that its weights expect. The last two are None for files that weren't published.
    """
    name = os.fspath(file)
    path = find_pretrained(name) if name in PRETRAINED else files.check_file(file)
    naming = load(net.backbone, path)
    record = {"file": str(path if name in PRETRAINED else file), "sha256": sha256(path)}
    if naming is None:
        return {**record, "source": None, "normalization": None}
    if normalization is not None:
        fold_normalization(net.backbone, naming.normalization, normalization)
    mean, std = map(list, naming.normalization)
    source = name if name in PRETRAINED else naming.title
    return {**record, "source": source, "normalization": {"mean": mean, "std": std}}


def fold_normalization(backbone: Any, expected: _Normalization, given: _Normalization) -> None:
    """Makes a backbone for images of the normalization `expected` one for images of `given`.

    With means M, m and deviations S, s of these, the kernel of its `stem` becomes ``w * s / S`` and the running
    mean of the norm behind it ``mean - sum(w * (m - M) / S)``. That changes features at the image's edges only,
    where the zeros around it are pixels of m rather than of M.
    """
    conv, norm = backbone.stem
    (old_mean, old_std), (mean, std) = (np.asarray(pair, np.float64) for pair in (expected, given))
    kernel = np.asarray(conv.kernel[...], np.float64)  # (h, w, channels, features).
    shift = (kernel * ((mean - old_mean) / old_std)[:, None]).sum((0, 1, 2))
    conv.kernel[...] = jnp.asarray(kernel * (std / old_std)[:, None], jnp.float32)
    norm.mean[...] = jnp.asarray(np.asarray(norm.mean[...], np.float64) - shift, jnp.float32)

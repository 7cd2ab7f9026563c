"""What an installed wheel must do with base dependencies alone: load a saved model and serve an image.

python tests/serve_image.py [FOLDER]      a folder of `save_model`; default: a model of random weights
"""

import importlib.util
import sys
import tempfile

import numpy as np
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.ops import extension

TRAINING = ("cv2", "grain", "ml_collections", "PIL", "tensorboardX", "tensorflow_datasets")


def main(folder: str | None = None) -> None:
    """Serves an image by the compiled handlers."""
    installed = [name for name in TRAINING if importlib.util.find_spec(name)]
    with tempfile.TemporaryDirectory() as place:
        if folder is None:
            spec = sb.ModelSpec(
                "swiftnet_rn18",
                num_classes=19,
                width=8,
                features=12,
                policy=sb.PolicySpec(block_size=64),
                mean=(0.287, 0.325, 0.284),
                std=(0.176, 0.181, 0.178),
            )
            folder = sb.save_model(f"{place}/model", spec.build(nnx.Rngs(0)), spec)
        engine = sb.Engine.load(folder)
    image = np.random.default_rng(0).integers(0, 256, (1, 192, 256, 3)).astype(np.uint8)
    result = engine(image)
    assert result.labels.shape == (1, 192, 256)
    assert extension.available("cpu"), extension.why_unavailable("cpu")
    print(f"served by {extension.__file__}, {result.mask.mean():.0%} of the blocks high")
    print(f"training packages here: {', '.join(installed) or 'none'}")


if __name__ == "__main__":
    main(*sys.argv[1:])

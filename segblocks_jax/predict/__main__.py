"""Command line: segments anybody's images and videos by a saved model, or by one that comes with the package.

python -m segblocks_jax.predict photo.jpg
python -m segblocks_jax.predict FOLDER clip.mp4 --mode=share=0.25 --output=DIR --shard=2/8
"""

import argparse
import sys
from collections.abc import Sequence

from segblocks_jax.errors import UserError, extra
from segblocks_jax.paths import current_file, expand, sha256

with extra("images", "prediction on files"):
    from segblocks_jax.data import images
    from segblocks_jax.inference.predict import predict_inputs

from segblocks_jax.data import DATASETS
from segblocks_jax.errors import MissingFileError
from segblocks_jax.inference.result_files import parse_shard
from segblocks_jax.inference.server import parse_shape
from segblocks_jax.interop import load_about, load_spec, model_folder, shipped_models
from segblocks_jax.interop.folder import CONFIG, WEIGHTS
from segblocks_jax.systems.segblocks.engine import Engine
from segblocks_jax.systems.segblocks.settings import Mode
from segblocks_jax.systems.segblocks.spec import ModelSpec
from segblocks_jax.tasks.segmentation.labels import LabelTable, table_of_names


def default_model() -> str:
    """The first model that comes with the package; MissingFileError where there is none."""
    names = list(shipped_models())
    if not names:
        raise MissingFileError(
            "no model comes with this version of the package; give one by --model=FOLDER, such as"
            " WORKDIR/export of a run (--mode=export writes it)"
        )
    return names[0]


def label_table(spec: ModelSpec) -> LabelTable:
    """The classes of a model: in the colors that it keeps, or of its data set where these are known."""
    if spec.class_names is not None and spec.class_colors is not None:
        return table_of_names(spec.dataset or spec.name, spec.class_names, spec.class_colors)
    published = DATASETS[spec.dataset].table if spec.dataset in DATASETS else None
    if published is not None and spec.class_names in (None, published.classes):
        return published
    names = spec.class_names or tuple(f"class {i}" for i in range(spec.num_classes))
    return table_of_names(spec.dataset or spec.name, names)


def predict(given: argparse.Namespace) -> int:
    """Segments the inputs; gives the exit code."""
    model = given.model or default_model()
    spec, folder = load_spec(model), model_folder(model)
    summary = load_about(model).get("summary")
    print(f"model: {model}" + (f" ({summary})" if summary else ""))
    Mode.parse(given.mode)  # Before anything is read.
    weights = {name: sha256(current_file(folder, name)) for name in (CONFIG, WEIGHTS)}
    shapes = list(map(parse_shape, given.shapes))

    def engine() -> Engine:
        return Engine.load(folder, mode=given.mode, shapes=shapes, keep_memory=True)

    return predict_inputs(
        engine,
        label_table(spec),
        given.input,
        given.output,
        settings={"model": weights, "mode": given.mode, "shapes": shapes},
        shard=parse_shard(given.shard),
        overwrite=given.overwrite,
        max_pixels=given.max_pixels,
        batch_size=given.batch_size,
        side_by_side=given.side_by_side,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m segblocks_jax.predict",
        description="Segments images and videos: label maps, overlays, grids of blocks, and a line about each file.",
    )
    add = parser.add_argument
    add("input", nargs="+", help="images, videos, and folders of both")
    add("--model", help="folder of a saved model, or a name; default: the first that ships")
    add("--mode", default="exact", help="exact, budget=K, share=F or latency=MS; %(default)s")
    add("--output", type=expand, default="predictions", help="folder of results; %(default)s")
    add("--shard", default="1/1", metavar="I/N", help="only the I-th of N parts, from 1")
    add("--overwrite", action="store_true", help="also files whose results are there")
    add("--batch_size", type=int, default=1, help="pictures of one size taken together")
    add(
        "--shapes",
        type=lambda text: text.split(","),
        default=[],
        help="NxHxW to pad to, with commas",
    )
    add("--side_by_side", action="store_true", help="input, labels and grid in one PNG, too")
    add("--max_pixels", type=int, default=images.MAX_PIXELS, help="of an image; %(default)s")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and predicts."""
    given = _parser().parse_args(argv)
    try:
        return predict(given)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

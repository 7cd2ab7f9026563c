"""Command line: prepares a data set and says what is missing; draws it; counts its classes.

python -m segblocks_jax.data prepare cityscapes --data_dir=DIR [--splits=train+val] [--on_error=skip]
python -m segblocks_jax.data sheet camvid --data_dir=DIR --output=sheet.png
python -m segblocks_jax.data frequencies camvid --data_dir=DIR --split=val
"""

import argparse
import contextlib
import itertools
import pathlib
import sys
from collections.abc import Sequence

from segblocks_jax.errors import extra
from segblocks_jax.paths import check_writable, expand

with extra("train", "a data set"):
    from PIL import Image

from segblocks_jax.data.datasets import DATASETS
from segblocks_jax.data.folders import check_counts, find_splits
from segblocks_jax.data.pipeline import train_batches
from segblocks_jax.data.reading import DATA_DIR_VARIABLE
from segblocks_jax.data.source import ON_ERROR, find_root, open_dataset
from segblocks_jax.data.store import Store
from segblocks_jax.data.summary import class_frequencies, contact_sheet
from segblocks_jax.errors import UserError
from segblocks_jax.tasks.segmentation.augmentation import Augmentation


def prepare(arguments: argparse.Namespace) -> int:
    """Prepares the data set and checks its counts; 1 if the published one has more images."""
    name = arguments.dataset
    root = find_root(name, arguments.data_dir)
    dataset = DATASETS[name]
    if dataset.url is not None and not _holds_data(name, root):
        from segblocks_jax.data.builders import download

        print(f"{root} holds no {name}; downloading {dataset.url} (gives up after some minutes)")
        download(dataset, root, arguments.sha256)
    dataset = dataset.of(Store(root))
    found = find_splits(dataset, Store(root))
    wanted = arguments.splits.split("+") if arguments.splits else list(found)
    for split in wanted:
        source = open_dataset(
            name, root, split, arguments.prepared_dir, on_error=arguments.on_error
        )
        left_out = f", {len(source.skipped)} left out" if source.skipped else ""
        print(f"{name} {split}: {len(source)} images prepared{left_out}")
    if dataset.normalization is None:
        mean, std = (", ".join(f"{x:.5f}" for x in values) for values in source.normalization)
        print(f"{name}: mean [{mean}], std [{std}]")
    missing = check_counts(dataset, found, arguments.splits and wanted)
    for line in missing:
        print(f"incomplete: {line}", file=sys.stderr)
    return 1 if missing else 0


def _holds_data(name: str, root: pathlib.Path) -> bool:
    try:
        store = Store(root)
        return bool(find_splits(DATASETS[name].of(store), store))
    except FileNotFoundError:
        return False


def sheet(arguments: argparse.Namespace) -> int:
    """Writes a contact sheet of augmented batches with their labels."""
    check_writable(arguments.output.parent)
    source = _open(arguments)
    augmentation = Augmentation((arguments.crop, arguments.crop))
    batches = train_batches(source, augmentation, arguments.columns, arguments.seed)
    with contextlib.closing(batches):
        picture = contact_sheet(itertools.islice(batches, arguments.batches), source.table)
    Image.fromarray(picture).save(arguments.output)
    print(f"{arguments.output}: {arguments.batches} batches of {arguments.columns}")
    return 0


def frequencies(arguments: argparse.Namespace) -> int:
    """Prints the class frequencies of a split."""
    print(class_frequencies(_open(arguments)).table())
    return 0


def _open(arguments: argparse.Namespace):
    return open_dataset(
        arguments.dataset,
        arguments.data_dir,
        arguments.split,
        arguments.prepared_dir,
        on_error=arguments.on_error,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m segblocks_jax.data", description="Prepares, draws and counts data sets."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for function in (prepare, sheet, frequencies):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(run=function)
        command.add_argument("dataset", choices=DATASETS)
        command.add_argument("--data_dir", help=f"its folder; default: ${DATA_DIR_VARIABLE}")
        command.add_argument("--prepared_dir", help="default: tfds in the data set's folder")
        command.add_argument("--on_error", choices=ON_ERROR, default="raise")
        if function is prepare:
            command.add_argument("--splits", help="such as train+val; default: all that are there")
            command.add_argument("--sha256", help="that a downloaded archive must have")
        else:
            command.add_argument("--split", default="train")
    add = commands.choices["sheet"].add_argument
    add("--output", required=True, type=expand, help="picture file")
    for name, default in (("crop", 512), ("columns", 4), ("batches", 3), ("seed", 0)):
        add(f"--{name}", type=int, default=default, help="%(default)s")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and runs the command."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

"""Command line: python -m segblocks_jax.data.street_scenes --out DIR [--train N] [--val N] ..."""

import argparse
import dataclasses

from segblocks_jax.errors import UserError, extra
from segblocks_jax.paths import check_writable, expand

with extra("images", "drawing street scenes"):
    from segblocks_jax.data.street_scenes.files import SceneSet, write


def main() -> None:
    """Parses the command line and writes the set."""
    parser = argparse.ArgumentParser(
        prog="python -m segblocks_jax.data.street_scenes",
        description="Writes procedural street scenes in the Cityscapes layout.",
    )
    parser.add_argument("--out", required=True, type=expand, help="folder to create")
    for field in dataclasses.fields(SceneSet):
        parser.add_argument(f"--{field.name}", type=int, default=field.default, help="%(default)s")
    arguments = vars(parser.parse_args())
    folder = arguments.pop("out")
    try:
        check_writable(folder)
        write(folder, SceneSet(**arguments))
    except (UserError, OSError) as error:
        parser.error(str(error))
    print(f"{folder}: complete")


if __name__ == "__main__":
    main()

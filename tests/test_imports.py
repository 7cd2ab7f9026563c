"""Imports go one way: a module imports from its own package and from the layers below it."""

import ast
import pathlib

import pytest

import segblocks_jax

ROOT = pathlib.Path(segblocks_jax.__file__).parent
LAYERS = """ops | blocks | nn | traced | models | adaptive | tasks data interop | training inference | systems
    | analysis | experiments predict"""
LEVELS = {name: level for level, row in enumerate(LAYERS.split("|")) for name in row.split()}
SIDEWAYS = {
    ("data", "tasks.classification"),
    ("data", "tasks.segmentation"),
    ("data", "tasks.pose"),
    ("systems.dynconv", "systems.classifier"),
    ("systems.dynconv_pose", "systems.classifier"),
    ("systems.dynconv_pose", "systems.dynconv"),
    ("systems.lrnnet", "systems.segblocks"),
    ("systems.ranet", "systems.classifier"),
}


def package(name):
    """The package that a module belongs to; of tasks and systems each is one for itself."""
    parts = name.removeprefix("segblocks_jax.").split(".")
    return ".".join(parts[: 2 if parts[0] in ("tasks", "systems") else 1])


def imports(file):
    """Names of this project's modules and of what is in them, that a file imports anywhere."""
    for node in ast.walk(ast.parse(file.read_text())):
        module = getattr(node, "module", None)
        names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
        for name in names if module is None else [f"{module}.{name}" for name in names]:
            if name.startswith("segblocks_jax."):
                yield package(name)


@pytest.mark.parametrize("layer", [*LEVELS, None])
def test_a_module_imports_from_its_own_package_and_from_layers_below(layer):
    level = -1 if layer is None else LEVELS[layer]
    for file in ROOT.glob("*.py") if layer is None else (ROOT / layer).rglob("*.py"):
        own = package(".".join(file.relative_to(ROOT).with_suffix("").parts))
        for other in set(imports(file)) - {own} - {b for a, b in SIDEWAYS if a == own}:
            assert LEVELS.get(other.split(".")[0], -2) < level, f"{file} imports {other}"

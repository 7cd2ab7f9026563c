"""Operation counts: the published and the recorded figures, to the last operation."""

import json
import pathlib

import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.adaptive.cost import count_macs

FULL = (1, 1024, 2048, 3)
HALF = (1, 512, 1024, 3)


# Network, GMACs dense and, with the policy, in blocks: a + b f.
PUBLISHED = {
    "rn18": ("swiftnet_rn18", 103.569, 26.383, 77.525),
    "rn50": ("swiftnet_rn50", 204.635, 51.951, 153.023),
    "effl1": ("swiftnet_efflite1", 24.097, 6.394, 18.042),
}


def shapes(model: str) -> nnx.Module:
    """A network without values."""
    return nnx.eval_shape(lambda: sb.create_model(model, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def net() -> nnx.Module:
    return shapes("swiftnet_rn18")


@pytest.fixture(scope="module")
def recorded(shared: pathlib.Path) -> dict[str, float]:
    return json.loads((shared / "golden" / "macs.json").read_text())


def test_published_parts(net: nnx.Module) -> None:
    parts = {name: macs / 1e9 for name, macs in count_macs(net, FULL).by_part.items()}
    layers = dict(
        zip(("layer1", "layer2", "layer3", "layer4"), (19.33, 17.18, 17.18, 17.18), strict=True)
    )
    expected = {
        "backbone/stem": 4.93,
        **{f"backbone/{name}": value for name, value in layers.items()},
        "spp": 0.202,
        "upsample0": 1.48,
        "upsample1": 5.37,
        "upsample2": 20.40,
    }
    assert parts.pop("logits") == pytest.approx(0.321, abs=5e-4)
    assert parts.pop("spp") == pytest.approx(expected.pop("spp"), abs=5e-4)
    assert parts == pytest.approx(expected, abs=6e-3)


@pytest.mark.family("rn18")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    model, dense, constant, slope = PUBLISHED[name]
    net = shapes(model)
    assert round(count_macs(net, FULL).total / 1e9, 3) == dense
    policy = nnx.eval_shape(lambda: sb.policies.create("reinforce", block_size=128))
    for fraction in (0.0, 0.2, 0.4, 1.0):
        macs = count_macs(net, FULL, high_fraction=fraction, policy=policy)
        assert macs.total / 1e9 == pytest.approx(constant + slope * fraction, abs=2e-3)
        assert macs.by_part["policy"] / 1e9 == pytest.approx(0.339, abs=5e-4)


@pytest.mark.family("effl1")
@pytest.mark.parametrize("name", PUBLISHED)
def test_recorded_counts(name: str, recorded: dict[str, float]) -> None:
    """To the last operation."""
    net = shapes(PUBLISHED[name][0])
    assert count_macs(net, FULL).total == recorded[f"{name}/dense_1x3x1024x2048"]
    for case, shape, blocks, (high, low) in (
        ("1x3x1024x2048_bs128_51of128high", FULL, 128, (51, 77)),
        # The reference runs one dummy block of a kind that has none.
        ("1x3x512x1024_bs128_32of32high", HALF, 32, (32, 1)),
        ("1x3x512x1024_bs128_0of32high", HALF, 32, (1, 32)),
    ):
        dense = count_macs(net, shape)
        spp = dense.by_part["spp"]
        share = (high + low / 4) / blocks
        assert spp + (dense.total - spp) * share == recorded[f"{name}/blocks_{case}"]
        if high + low == blocks:
            got = count_macs(net, shape, high_fraction=high / blocks)
            assert got.total == recorded[f"{name}/blocks_{case}"]
            assert got.by_part["spp"] == spp


def test_counts_grow_with_batch_and_low_factor() -> None:
    net = nnx.eval_shape(
        lambda: sb.create_model("swiftnet_rn18", 3, width=8, features=12, rngs=nnx.Rngs(0))
    )
    one, two = (count_macs(net, (n, 64, 128, 3)) for n in (1, 2))
    assert two.total == 2 * one.total
    spp = one.by_part["spp"]
    low = count_macs(net, (1, 64, 128, 3), high_fraction=0.0, low_factor=4)
    assert low.total - spp == pytest.approx((one.total - spp) / 16)


def test_rules_have_no_operations(net: nnx.Module) -> None:
    middle = sb.policies.create("middle", block_size=128)
    assert "policy" not in count_macs(net, HALF, policy=middle).by_part


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_share_out_of_range(net: nnx.Module, fraction: float) -> None:
    with pytest.raises(
        ValueError, match=rf"high_fraction is {fraction}; expected a share from 0 to 1"
    ):
        count_macs(net, HALF, high_fraction=fraction)

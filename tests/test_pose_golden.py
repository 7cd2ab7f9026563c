"""Poses against the recorded numbers of the authors' program: crops, targets, decoding, scores, loss."""

import functools
import pathlib

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segblocks_jax.data.pose.mpii import person_of
from segblocks_jax.tasks.pose.affine import crop, move, person_affine
from segblocks_jax.tasks.pose.heatmaps import decode, peaks, targets
from segblocks_jax.tasks.pose.joints import MPII
from segblocks_jax.tasks.pose.losses import heatmap_loss
from segblocks_jax.tasks.pose.metrics import accuracy, pckh

SPACES = {"numpy": np.asarray, "jax": jnp.asarray}
"""Both kinds of arrays that heat maps may be."""


@functools.cache
def _all(shared: pathlib.Path) -> dict[str, np.ndarray]:
    return golden.load(shared, "dynconv_ranet/dynconv_ops")


def below(shared: pathlib.Path, case: str) -> dict[str, np.ndarray]:
    """The arrays of a case."""
    place = f"pose/{case}/"
    return {k.removeprefix(place): v for k, v in _all(shared).items() if k.startswith(place)}


def last(heatmaps: np.ndarray) -> np.ndarray:
    """Channels last."""
    return np.moveaxis(heatmaps, 1, -1)


def people(shared):
    z = below(shared, "anno")
    fields = ("center", "scale", "joints", "joints_vis")
    rows = zip(*(z[name].tolist() for name in fields), strict=True)
    return [
        person_of({"image": "a.jpg", **dict(zip(fields, row, strict=True))}, "a record")
        for row in rows
    ]


def test_annotations_become_records(shared):
    z = below(shared, "db")
    for i, person in enumerate(people(shared)):
        np.testing.assert_allclose(person.center, z["center"][i], rtol=1e-12)
        np.testing.assert_allclose(person.scale, z["scale"][i], rtol=1e-12)
        np.testing.assert_allclose(person.joints, z["joints"][i, :, :2], atol=1e-9)
        np.testing.assert_array_equal(person.visible, z["joints_vis"][i, :, 0] > 0)


def test_items_of_evaluation(shared):
    z, image = below(shared, "item"), below(shared, "anno")["image"]
    size, maps = (tuple(z[name][::-1].tolist()) for name in ("image_size_wh", "heatmap_size_wh"))
    for i, person in enumerate(people(shared)):
        affine = person_affine(person.center, person.scale, size)
        np.testing.assert_allclose(affine, z["trans"][i], atol=1e-5 * np.abs(z["trans"][i]).max())
        cut = crop(image, affine, size)
        assert np.abs(cut.astype(int) - z["input_uint8"][i]).max() <= 2
        moved = move(person.joints, affine)
        moved = np.where(person.visible[:, None], moved, person.joints)
        np.testing.assert_allclose(moved, z["joints"][i, :, :2], atol=1e-4)
        target, weight = targets(moved[None], person.visible[None], size, maps)
        np.testing.assert_allclose(target[0].transpose(2, 0, 1), z["target"][i], atol=1e-6)
        np.testing.assert_array_equal(weight[0], z["target_weight"][i, :, 0])


def test_affine_maps(shared):
    z = below(shared, "affine")
    for i, expected in enumerate(z["trans"]):
        affine = person_affine(
            z["center"][i],
            float(z["scale"][i]),
            tuple(z["out_wh"][i][::-1].tolist()),
            degrees=float(z["rot_deg"][i]),
            inverse=bool(z["inverse"][i]),
        )
        np.testing.assert_allclose(affine, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    ("case", "image_size", "sigma"),
    [
        ("edge64", (256, 256), 2),
        ("rand64", (256, 256), 2),
        ("rand24x32_sigma1", (128, 96), 1),
    ],
)
def test_targets(shared, case, image_size, sigma, space):
    z = below(shared, f"target/{case}")
    joints, visible = (SPACES[space](z[name][None]) for name in ("joints", "vis"))
    found, weight = targets(joints, visible, image_size, z["heatmaps"].shape[1:], sigma)
    np.testing.assert_allclose(np.moveaxis(found[0], -1, 0), z["heatmaps"], atol=1e-6)
    np.testing.assert_array_equal(weight[0], z["weight"][:, 0])


def test_decoding(shared):
    z = below(shared, "decode")
    heatmaps, scales = last(z["heatmaps"]), z["scale"][:, 0]
    points, most = peaks(heatmaps)
    np.testing.assert_array_equal(points, z["argmax_xy"])
    np.testing.assert_array_equal(most, z["maxvals"][..., 0])
    for refine, name in ((False, "preds_no_offset"), (True, "preds")):
        found, _ = decode(heatmaps, z["center"], scales, refine=refine)
        np.testing.assert_allclose(found, z[name], rtol=1e-5)
    assert (z["preds"] != z["preds_no_offset"]).any()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("case", ["accuracy", "accuracy_near"])
def test_accuracy_in_training(shared, case, space):
    z = below(shared, case)
    both = below(shared, "decode")["heatmaps"], z["target_heatmaps"]
    found = accuracy(*(SPACES[space](last(x)) for x in both))
    np.testing.assert_allclose([found.mean, *found.joints], z["acc"], atol=1e-6)
    np.testing.assert_allclose([found.mean, found.number], z["avg_cnt"], atol=1e-6)


def test_loss(shared):
    z = below(shared, "mse")
    arguments = last(z["output"]), last(z["target"]), z["weight"][..., 0]
    loss, grad = jax.value_and_grad(heatmap_loss)(*map(jnp.asarray, arguments))
    np.testing.assert_allclose(loss, z["loss"], rtol=1e-5)
    np.testing.assert_allclose(grad, last(z["grad"]), atol=1e-5 * np.abs(z["grad"]).max())


def test_pckh(shared):
    z = below(shared, "pckh")
    assert tuple(z["joint_names"]) == MPII
    joints = z["pos_gt_src"].transpose(2, 0, 1) - 1
    heads = z["headboxes_src"].transpose(2, 0, 1) - 1
    found = pckh(z["preds"][..., :2], joints, z["jnt_missing"].T == 0, heads)
    result = [*found.parts.values(), found.mean, found.mean_strict]
    np.testing.assert_allclose(np.multiply(100, result), z["result"], rtol=1e-12)
    assert [name.capitalize() for name in found.parts] == z["result_names"][:-2].tolist()

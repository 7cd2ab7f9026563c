"""Poses: crops, heat maps, scores, stick figures, MPII's files and what is wrong with them."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
from PIL import Image

from segblocks_jax.data import train_batches
from segblocks_jax.data.pose.batches import pose_batches
from segblocks_jax.data.pose.config import PoseDataConfig
from segblocks_jax.data.pose.figures import Figures
from segblocks_jax.data.pose.source import open_people
from segblocks_jax.errors import InputError, MissingFileError
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.tasks.pose.affine import crop, move, person_affine
from segblocks_jax.tasks.pose.augmentation import PersonCrop
from segblocks_jax.tasks.pose.heatmaps import decode, mirror_back, peaks, targets, with_mirrored
from segblocks_jax.tasks.pose.joints import MIRRORED, MPII
from segblocks_jax.tasks.pose.metrics import accuracy, pckh
from segblocks_jax.tasks.pose.person import Person
from segblocks_jax.tasks.pose.pictures import draw_pose

COUNT = len(MPII)


def test_a_map_moves_turns_and_scales():
    """By hand: 100 pixels become 50; a quarter turn moves what is above the center to the left."""
    affine = person_affine(np.array([30.0, 40.0]), 0.5, (80, 50), degrees=90)
    found = move(np.array([[30.0, 40.0], [30.0, 20.0]]), affine)
    np.testing.assert_allclose(found, [[25, 40], [15, 40]], atol=1e-12)


@pytest.mark.parametrize("degrees", [0.0, 37.0])
def test_a_map_and_its_inverse(degrees):
    rng = np.random.default_rng(0)
    given = rng.uniform(0, 300, 2), rng.uniform(0.2, 3), (48, 96)
    there, back = (person_affine(*given, degrees=degrees, inverse=x) for x in (False, True))
    points = rng.uniform(-50, 400, (7, 3, 2))
    np.testing.assert_allclose(move(move(points, there), back), points, rtol=1e-9)


@pytest.mark.parametrize(
    "wrong", [{"scale": 0.0}, {"scale": math.nan}, {"size": (0, 4)}, {"center": (math.inf, 0)}]
)
def test_a_map_of_nothing_is_refused(wrong):
    given = {"center": (1.0, 2.0), "scale": 1.0, "size": (4, 4)} | wrong
    with pytest.raises(InputError, match="expected finite numbers"):
        person_affine(np.array(given.pop("center")), **given)


def bilinear(image, x, y):
    """The definition; black outside."""
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)))
    height, width = padded.shape[:2]
    left, top = math.floor(x), math.floor(y)
    value = np.zeros(3)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        share = (1 - abs(x - left - dx)) * (1 - abs(y - top - dy))
        column, row = left + dx + 1, top + dy + 1
        if 0 <= column < width and 0 <= row < height:
            value += share * padded[row, column]
    return value


def test_crops_are_bilinear():
    image = np.random.default_rng(1).integers(0, 256, (20, 24, 3), np.uint8)
    affine = person_affine(np.array([15.0, 6.0]), 0.07, (10, 8), degrees=20)
    back = person_affine(np.array([15.0, 6.0]), 0.07, (10, 8), degrees=20, inverse=True)
    cut = crop(image, affine, (10, 8))
    for row in range(10):
        for column in range(8):
            x, y = move(np.array([float(column), float(row)]), back)
            # OpenCV rounds places to a 32nd of a pixel: up to 1/32 of the range, in both axes.
            np.testing.assert_allclose(cut[row, column], bilinear(image, x, y), atol=2 * 255 / 32)


def plain_target(joint, shown, size, stride, sigma):
    """The rule, in loops."""
    height, width = size
    mu = [int(v / s + 0.5) for v, s in zip(joint, stride, strict=True)]
    reach, heatmap = 3 * sigma, np.zeros(size)
    outside = any(
        m - reach >= n or m + reach + 1 < 0 for m, n in zip(mu, (width, height), strict=True)
    )
    if outside or not shown:
        return heatmap, 0.0
    for y in range(height):
        for x in range(width):
            dx, dy = x - mu[0], y - mu[1]
            if max(abs(dx), abs(dy)) <= reach:
                heatmap[y, x] = math.exp(-(dx**2 + dy**2) / (2 * sigma**2))
    return heatmap, 1.0


@pytest.mark.parametrize("sigma", [1, 2])
def test_targets_are_the_rules(sigma):
    rng = np.random.default_rng(sigma)
    joints = rng.uniform(-40, 100, (3, COUNT, 2))
    visible = rng.random((3, COUNT)) < 0.8
    found, weight = targets(joints, visible, (64, 48), (16, 12), sigma)
    for n in range(3):
        for k in range(COUNT):
            expected = plain_target(joints[n, k], visible[n, k], (16, 12), (4, 4), sigma)
            np.testing.assert_allclose(found[n, ..., k], expected[0], atol=1e-12)
            assert weight[n, k] == expected[1]
    assert 0 < weight.mean() < visible.mean()


@pytest.mark.parametrize("sigma", [0, 1.5])
def test_targets_need_a_whole_sigma(sigma):
    with pytest.raises(InputError, match="expected a whole number of pixels"):
        targets(np.zeros((1, 16, 2)), np.ones((1, 16)), (64, 64), (16, 16), sigma)


def test_joints_come_back_from_their_targets():
    """To half a pixel of the maps: 2 of the crop, 4 of an image of twice its size."""
    rng = np.random.default_rng(3)
    joints = rng.uniform(20, 108, (2, COUNT, 2))
    maps, _ = targets(joints, np.ones((2, COUNT)), (128, 128), (32, 32))
    centers, scales = np.array([[128.0, 128.0]] * 2), np.array([256 / 200] * 2)
    found, most = decode(maps, centers, scales)
    assert np.abs(found - 2 * joints).max() <= 4 + 1e-9
    np.testing.assert_array_equal(most, 1)


def test_maps_without_a_maximum_above_0_point_to_the_corner():
    maps = np.full((1, 8, 8, COUNT), -1.0)
    maps[0, 3, 5, 2] = -0.5
    points, most = peaks(maps)
    np.testing.assert_array_equal(points, 0)
    assert most[0, 2] == -0.5


def test_the_mirror_has_each_joints_partner():
    names = [MPII[i] for i in MIRRORED]
    assert names[:6] == ["lank", "lkne", "lhip", "rhip", "rkne", "rank"]
    assert names[6:10] == list(MPII[6:10])
    assert [MIRRORED[i] for i in MIRRORED] == list(range(COUNT))


def test_mirrored_maps_are_mirrored_back():
    maps = np.random.default_rng(4).standard_normal((2, 5, 6, COUNT))
    back = mirror_back(maps, shift=False)
    np.testing.assert_array_equal(mirror_back(back, shift=False), maps)
    np.testing.assert_array_equal(back[0, 1, 2, MPII.index("lank")], maps[0, 1, 3, 0])
    shifted = mirror_back(maps)
    np.testing.assert_array_equal(shifted[:, :, 1:], back[:, :, :-1])
    np.testing.assert_array_equal(shifted[:, :, 0], back[:, :, 0])


def test_the_flip_test_is_the_mean_of_both():
    """A network of each pixel alone gives the mean of two pixels, where nothing is shifted of one."""
    image = jnp.asarray(np.random.default_rng(5).standard_normal((1, 4, 4, 3)), jnp.float32)

    def network(x):
        return jnp.tile(x[..., :1], (1, 1, 1, COUNT))

    np.testing.assert_allclose(with_mirrored(network, image, shift=False), network(image))
    both = with_mirrored(network, image)
    np.testing.assert_allclose(both[0, 0, 2, 0], image[0, 0, 1:3, 0].mean(), rtol=1e-6)


def test_watched_accuracy_in_numpy_and_jax():
    rng = np.random.default_rng(6)
    maps, target = rng.standard_normal((2, 3, 24, 30, COUNT)).astype(np.float32)
    target[..., 3] = 0  # In no image.
    maps[1, 12, 9, :3] = target[1, 13, 9, :3] = 9  # One pixel aside.
    plain, jitted = accuracy(maps, target), accuracy(jnp.asarray(maps), jnp.asarray(target))
    assert plain.joints[3] == -1
    assert plain.joints[:3].min() >= 1 / 3
    np.testing.assert_allclose(jitted.joints, plain.joints, rtol=1e-6)
    np.testing.assert_allclose(jitted.mean, plain.mean, rtol=1e-6)
    same = accuracy(maps, maps)
    assert same.mean == 1
    assert accuracy(maps, np.zeros_like(maps)).mean == 0


def test_pckh_is_a_share_of_visible_joints():
    rng = np.random.default_rng(7)
    joints = rng.uniform(0, 300, (5, COUNT, 2))
    visible = rng.random((5, COUNT)) < 0.7
    heads = np.stack([np.zeros((5, 2)), rng.uniform(30, 60, (5, 2))], 1)
    found = joints + rng.normal(0, 12, joints.shape)
    score = pckh(found, joints, visible, heads)
    right = total = 0
    for n in range(5):
        length = 0.6 * math.dist(*heads[n])
        for k, name in enumerate(MPII):
            if visible[n, k] and name not in ("pelv", "thor"):
                total += 1
                right += math.dist(found[n, k], joints[n, k]) <= 0.5 * length
    assert score.mean == pytest.approx(right / total)
    assert 0 < score.mean_strict < score.mean < 1
    nobody = pckh(found, joints, np.zeros_like(visible), heads).to_dict()
    assert nobody["pckh"] is None
    assert nobody["people"] == 5
    with pytest.raises(InputError, match="heads without a size"):
        pckh(found, joints, visible, np.zeros_like(heads))


def dotted(rng):
    """An image with a bright square at each of two joints, and its person."""
    image = np.zeros((90, 120, 3), np.uint8)
    joints, visible = np.zeros((COUNT, 2)), np.zeros(COUNT, bool)
    for name, color in (("rank", 0), ("lank", 1)):
        x, y = rng.integers(20, 100), rng.integers(20, 70)
        image[y - 1 : y + 2, x - 1 : x + 2, color] = 255
        joints[MPII.index(name)], visible[MPII.index(name)] = (x, y), True
    return image, Person("a", np.array([60.0, 45.0]), 0.7, joints, visible)


def test_joints_follow_the_pixels():
    rng = np.random.default_rng(8)
    augmentation = PersonCrop((128, 160), 0.25, 30.0, 0.6, 0.5)
    seen, mirrored = 0, set()
    for _ in range(30):
        image, person = dotted(rng)
        cut, label = augmentation(image, person, rng)
        assert cut.shape == (128, 160, 3)
        colors = {}
        for name in ("rank", "lank"):
            (x, y, shown) = label[MPII.index(name)]
            assert shown == 1
            if 3 < x < 156 and 3 < y < 124:
                colors[name] = cut[round(float(y)), round(float(x))].argmax()
                assert cut[round(float(y)), round(float(x))].max() > 100
                seen += 1
        mirrored |= {colors["rank"]} if len(set(colors.values())) == 2 else set()
        assert label[2, 2] == 0
    assert seen > 30
    assert mirrored == {0, 1}


def test_evaluation_is_without_chance():
    image, person = dotted(np.random.default_rng(9))
    eval_crop = PersonCrop((64, 64))
    first, second = eval_crop(image, person), eval_crop(image, person, np.random.default_rng(1))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    colors = PersonCrop((64, 64), bgr=True)(image, person)[0]
    np.testing.assert_array_equal(colors, first[0][..., ::-1])


def test_figures_lie_in_their_images_and_are_always_the_same():
    figures = Figures("train", 20, (96, 70))
    for item in map(figures.__getitem__, range(20)):
        person = item["label"]
        assert item["image"].shape == (96, 70, 3)
        person.check_inside((96, 70), "figure")
        assert person.visible.all()
        side = person.scale * 200
        assert (np.abs(person.joints - person.center) < side / 2).all()
    again, other = Figures("train", 3, (96, 70))[2], Figures("val", 3, (96, 70))[2]
    np.testing.assert_array_equal(again["image"], figures[2]["image"])
    assert (other["image"] != again["image"]).any()
    drawn = draw_pose(again["image"], again["label"].joints)
    x, y = np.rint(again["label"].joints[9]).astype(int)
    np.testing.assert_array_equal(drawn[y, x], 255)


def test_batches():
    source = open_people("figures", split="val", figure_count=5, figure_size=(64, 64))
    found = list(pose_batches(source, PersonCrop((64, 64)), 2))
    assert [batch.count for batch in found] == [2, 2, 1]
    assert [p.image for batch in found for p in batch.people] == [f"val_{i:05d}" for i in range(5)]
    assert not found[-1].image[1:].any()
    second = list(pose_batches(source, PersonCrop((64, 64)), 2, (1, 2)))
    np.testing.assert_array_equal(second[0].image, found[1].image)
    with pytest.raises(InputError, match="batch size"):
        pose_batches(source, PersonCrop((64, 64)), 0)
    batch = next(train_batches(source, PersonCrop((64, 64), 0.2, 30.0, 0.6, 0.5), 3, seed=0))
    assert batch["label"].shape == (3, COUNT, 3)
    assert batch["label"].dtype == np.float32


def record(name, rng, size=(60, 80)):
    """What MPII's annotation has for a person."""
    joints = rng.uniform(2, np.array(size[::-1]) - 2, (COUNT, 2))
    return {
        "image": name,
        "center": [40.0, 30.0],
        "scale": 0.3,
        "joints": joints.tolist(),
        "joints_vis": [1] * COUNT,
    }


@pytest.fixture
def mpii(tmp_path):
    """A small set in MPII's layout."""
    rng = np.random.default_rng(10)
    (tmp_path / "annot").mkdir()
    (tmp_path / "images").mkdir()
    for split, count in (("train", 3), ("valid", 2)):
        records = [record(f"{split}{i}.jpg", rng) for i in range(count)]
        (tmp_path / "annot" / f"{split}.json").write_text(json.dumps(records))
        for one in records:
            pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / one["image"])
    heads = np.tile(np.array([[10.0, 12.0], [20.0, 30.0]])[..., None], (1, 1, 2))
    scipy.io.savemat(tmp_path / "annot" / "gt_valid.mat", {"headboxes_src": heads})
    return tmp_path


def change(file, edit):
    records = json.loads(file.read_text())
    edit(records)
    file.write_text(json.dumps(records))


def test_mpii_is_read(mpii):
    train, val = (open_people("mpii", mpii, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (3, 2)
    person = val[1]["label"]
    assert val[1]["image"].shape == (60, 80, 3)
    np.testing.assert_allclose(person.head, [[9, 11], [19, 29]])
    np.testing.assert_allclose(person.center, [39, 29 + 15 * 0.3])
    assert person.scale == pytest.approx(0.375)
    val.check_heads()
    with pytest.raises(
        InputError, match="3 of 3 people, such as number 0, have no box of the head"
    ):
        train.check_heads()


def test_a_joint_outside_its_image(mpii):
    def edit(records):
        records[1]["joints"][4] = [81.0, 30.0]

    change(mpii / "annot" / "train.json", edit)
    with pytest.raises(
        InputError, match=r"train1.jpg, person 1 .* lkne at \(80.0, 29.0\)"
    ) as error:
        open_people("mpii", mpii)[1]
    assert "data.outside='hide'" in str(error.value)
    hidden = open_people("mpii", mpii, outside="hide")[1]["label"]
    assert not hidden.visible[4]
    assert hidden.visible.sum() == COUNT - 1
    change(mpii / "annot" / "train.json", lambda r: r[1]["joints_vis"].__setitem__(4, 0))
    assert open_people("mpii", mpii)[1]["label"].visible.sum() == COUNT - 1


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda r: r[2].pop("scale"), "record 2: KeyError: 'scale'"),
        (lambda r: r[0]["joints"].pop(), r"record 0: .* expected \(2,\), \(16, 2\)"),
        (lambda r: r[1].update(scale=-1), "record 1: .* a scale of -1.0"),
        (lambda r: r[1].update(center=[math.nan, 2]), "record 1: has numbers that aren't finite"),
        (lambda r: r[1].update(joints="none"), "record 1: ValueError"),
        (lambda r: r.clear(), "holds no list of records"),
    ],
)
def test_damaged_annotations(mpii, edit, text):
    change(mpii / "annot" / "train.json", edit)
    with pytest.raises(InputError, match=text):
        open_people("mpii", mpii)


def test_missing_and_damaged_files(mpii, monkeypatch):
    image = mpii / "images" / "train1.jpg"
    image.write_bytes(image.read_bytes()[:200])
    source = open_people("mpii", mpii)
    with pytest.raises(InputError, match=r"train1.jpg: can't be read as an image"):
        source[1]
    image.unlink()
    with pytest.raises(InputError, match=r"train1.jpg: can't be read \(No such file"):
        source[1]
    with pytest.raises(MissingFileError, match=r"1 images of the annotation aren't there, such as"):
        open_people("mpii", mpii)
    heads = mpii / "annot" / "gt_valid.mat"
    scipy.io.savemat(heads, {"headboxes_src": np.ones((2, 2, 9))})
    with pytest.raises(InputError, match=r"has shape \(2, 2, 9\), expected \(2, 2, 2\)"):
        open_people("mpii", mpii, "val")
    heads.write_bytes(b"nothing")
    with pytest.raises(InputError, match="holds no headboxes_src"):
        open_people("mpii", mpii, "val")
    (mpii / "annot" / "train.json").write_text("[{")
    with pytest.raises(InputError, match=r"train.json: can't be read"):
        open_people("mpii", mpii)
    (mpii / "annot" / "train.json").unlink()
    with pytest.raises(MissingFileError, match=r"train.json: missing; expected annot/train.json"):
        open_people("mpii", mpii)
    with pytest.raises(MissingFileError, match="no such folder"):
        open_people("mpii", mpii / "nowhere")
    monkeypatch.delenv("SEGBLOCKS_DATA_DIR", raising=False)
    with pytest.raises(InputError, match="where is it"):
        open_people("mpii")
    with pytest.raises(InputError, match="unknown data set"):
        open_people("coco")
    with pytest.raises(InputError, match="mpii has no split 'test'"):
        open_people("mpii", mpii, "test")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"dataset": "coco"}, "data.dataset is 'coco'"),
        ({"eval_split": "test"}, "data.eval_split is 'test'; figures has train, val"),
        ({"outside": "ignore"}, "data.outside is 'ignore'"),
        ({"scale": 1.0}, "data.scale is 1.0"),
        ({"sigma": 0}, "data.sigma is 0"),
    ],
)
def test_configurations_that_cannot_run(fields, text):
    with pytest.raises(ConfigError, match=text):
        PoseDataConfig(**fields)


def structs(*rows):
    """An array of structs, as MATLAB has it."""
    array = np.empty(len(rows), [(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        array[i] = tuple(row.values())
    return array


def own_annotation(file, images=18, training=17):
    """Two people in each training image, one of whom has no joints; other images have none at all."""

    def person(i, joints):
        points = [{"x": 10.0 + j, "y": 20.0 + i, "id": j, "is_visible": 1} for j in joints]
        return {
            **{"x1": 30.0, "y1": 31.0, "x2": 40.0, "y2": 45.0, "scale": 0.5 + i},
            "objpos": structs({"x": 50.0 + i, "y": 60.0}),
            "annopoints": structs({"point": structs(*points)}) if points else np.zeros((0, 0)),
        }

    people = [structs(person(i, (0, 9, 15)), person(i, ())) for i in range(training)]
    people += [np.zeros((0, 0))] * (images - training)
    annolist = structs(
        *({"image": structs({"name": f"{i}.jpg"}), "annorect": p} for i, p in enumerate(people))
    )
    shown = np.array([[1] * training + [0] * (images - training)])
    scipy.io.savemat(file, {"RELEASE": structs({"annolist": annolist, "img_train": shown})})


def test_mpiis_own_annotation(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(17):
        Image.new("RGB", (64, 48)).save(tmp_path / "images" / f"{i}.jpg")
    own_annotation(tmp_path / "mpii_human_pose_v1_u12_1.mat")
    train, val = (open_people("mpii", tmp_path, split) for split in ("train", "val"))
    assert [item.image for item in val.items.people] == ["7.jpg", "15.jpg"]
    assert len(train) == 15
    person = val[0]["label"]
    assert person.visible.nonzero()[0].tolist() == [0, 9, 15]
    np.testing.assert_allclose(person.joints[9], [18, 26])
    np.testing.assert_allclose(person.center, [56, 59 + 15 * 7.5])
    assert person.scale == 7.5 * 1.25
    np.testing.assert_allclose(person.head, [[29, 30], [39, 44]])
    val.check_heads()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"damaged", "holds no RELEASE with annolist and img_train .*copy it again"),
        ({"other": 1}, "holds no RELEASE"),
        ({"training": 16}, "has 18 images and 16 marks of img_train"),
        ({"training": 0}, "has no people with joints for train"),
    ],
)
def test_mpiis_own_annotation_damaged(tmp_path, content, text):
    (tmp_path / "images").mkdir()
    file = tmp_path / "mpii_human_pose_v1_u12_1.mat"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif "training" in content:
        own_annotation(file)
        release = scipy.io.loadmat(file, struct_as_record=True)["RELEASE"]
        if content["training"]:
            release["img_train"][0, 0] = release["img_train"][0, 0][:, : content["training"]]
        else:
            release["img_train"][0, 0][:] = 0
        scipy.io.savemat(file, {"RELEASE": release})
    else:
        scipy.io.savemat(file, content)
    with pytest.raises(InputError, match=text):
        open_people("mpii", tmp_path)


def test_real_people(shared, tmp_path):
    """Photographs with annotated joints in MPII's layout; where joints aren't seen they are zeros."""
    folder = shared / "data" / "pose"
    if not folder.is_dir():
        pytest.skip("no photographs of people in the development data")
    with np.load(folder / "joints400.npz") as file:
        joints = next(iter(file.values()))[:20]
    order = [0, 1, 2, 3, 4, 5, None, None, 12, 13, 6, 7, 8, 9, 10, 11]
    records = []
    for i, one in enumerate(joints, 1):
        rows = [[0.0, 0.0, 0.0] if j is None else one[j].tolist() for j in order]
        known = np.array([row[:2] for row in rows if row[2]])
        extent = float((known.max(0) - known.min(0)).max())
        records.append(
            {
                "image": f"im{i:05d}.jpg",
                "center": (known.min(0) / 2 + known.max(0) / 2).tolist(),
                "scale": extent / 200,
                "joints": [[x + 1, y + 1] for x, y, _ in rows],
                "joints_vis": [row[2] for row in rows],
            }
        )
    (tmp_path / "annot").mkdir()
    (tmp_path / "annot" / "train.json").write_text(json.dumps(records))
    (tmp_path / "images").symlink_to(folder / "images")
    source = open_people("mpii", tmp_path, outside="hide")
    for i in range(len(source)):
        item = source[i]
        cut, label = PersonCrop((128, 128))(item["image"], item["label"])
        shown = label[label[:, 2] > 0, :2]
        assert len(shown) > 5
        assert ((shown > -16) & (shown < 144)).all()
        assert cut.any()

"""Twenty ways in which a data set can be broken: each an error that names the file, or a counted skip."""

import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segblocks_jax.data import open_dataset

COUNT, SIZE = 100, (4, 6)
ITEM = "p007"


def save(path, pixels, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A CamVid of 100 tiny val images."""
    root = tmp_path_factory.mktemp("whole") / "camvid"
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        save(root / f"val/p{i:03}.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        save(root / f"valannot/p{i:03}.png", rng.integers(0, 12, SIZE, np.uint8))
    return root


@pytest.fixture
def camvid(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "camvid")


def image(root):
    return root / f"val/{ITEM}.png"


def label(root):
    return root / f"valannot/{ITEM}.png"


def cut(path, left):
    path.write_bytes(path.read_bytes()[:left])


def flip_bit(path):
    content = bytearray(path.read_bytes())
    at = content.index(b"IDAT") + 12
    content[at] ^= 64
    path.write_bytes(bytes(content))


def palette(path):
    picture = Image.fromarray(np.zeros(SIZE, np.uint8)).convert("P")
    picture.save(path)


def bomb(path):
    """A header that promises a picture of 10^10 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    crc = struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc)


def colors_of_16_bits():
    cv2 = pytest.importorskip("cv2")
    return cv2.imencode(".png", np.zeros((*SIZE, 3), np.uint16))[1].tobytes()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def fill(value, size=SIZE, dtype=np.uint8):
    return lambda root: save(label(root), np.full(size, value, dtype))


# What is done to one item, and what the error says; in "skip" the item is left out.
ITEMS = {
    "truncated image": (lambda r: cut(image(r), 60), r"val/p007.png: can't be read as an image"),
    "image of no bytes": (lambda r: cut(image(r), 0), r"val/p007.png: can't be read as an image"),
    "image that is text": (
        lambda r: image(r).write_text("<html>404</html>"),
        r"val/p007.png: can't be read as an image",
    ),
    "image with a flipped bit": (lambda r: flip_bit(image(r)), r"val/p007.png: can't be read"),
    "image of absurd size": (lambda r: bomb(image(r)), r"val/p007.png: can't be read as an image"),
    "image of 16 bits": (
        lambda r: save(image(r), np.zeros(SIZE, np.uint16)),
        r"val/p007.png: an image must have 8 bits per channel, got mode I;16",
    ),
    "image of 16-bit colors": (
        lambda r: image(r).write_bytes(colors_of_16_bits()),
        r"val/p007.png: an image must have 8 bits per channel, got mode RGB;16",
    ),
    "image upside down": (
        lambda r: save(image(r), np.zeros((*SIZE, 3), np.uint8), exif=exif(3)),
        r"val/p007.png: its EXIF orientation is 3, and the label .*; save the image upright",
    ),
    "missing image": (
        lambda r: image(r).unlink(),
        r"valannot/p007.png: this label has no counterpart in .*val \(1 such\)",
    ),
    "missing label": (
        lambda r: label(r).unlink(),
        r"val/p007.png: this image has no counterpart in .*valannot \(1 such\)",
    ),
    "truncated label": (lambda r: cut(label(r), 50), r"valannot/p007.png: can't be read as an ima"),
    "label with a flipped bit": (lambda r: flip_bit(label(r)), r"valannot/p007.png: can't be read"),
    "label of another size": (
        fill(0, (4, 5)),
        r"valannot/p007.png: the label is 5x4 but its image .*val/p007.png is 6x4",
    ),
    "turned label": (fill(0, SIZE[::-1]), r"valannot/p007.png: the label is 4x6 but its image"),
    "label outside the table": (
        fill(12),
        r"valannot/p007.png: holds label 12, which CamVid doesn't define; allowed are 0..11",
    ),
    "label of another data set": (fill(200), r"valannot/p007.png: holds label 200"),
    "label of 16 bits": (
        fill(3, dtype=np.uint16),
        r"valannot/p007.png: a label must have one 8-bit channel of ids, got mode I;16",
    ),
    "palette label": (
        lambda r: palette(label(r)),
        r"valannot/p007.png: a label must have one 8-bit channel of ids, got mode P",
    ),
    "label in colors": (
        fill(0, (*SIZE, 3)),
        r"valannot/p007.png: a label must have one 8-bit channel of ids, got mode RGB",
    ),
}


def empty_split(root):
    for folder in ("val", "valannot"):
        shutil.rmtree(root / folder)
        (root / folder).mkdir()
    return root


def zip_for_folder(root):
    return shutil.make_archive(root.parent / "other", "zip", root)


def broken_zip(root):
    for folder in ("val", "valannot"):
        shutil.rmtree(root / folder)
    (root / "camvid.zip").write_bytes(b"PK\x03\x04 but no more")
    return root


def missing_folder(root):
    shutil.rmtree(root / "valannot")
    return root


def twice(root):
    shutil.copy(image(root), image(root).with_suffix(".jpg"))
    return root


# What can't be skipped: the path that is then opened, and what the error says.
WHOLE = {
    "empty split": (empty_split, r"camvid/val: holds no file"),
    "zip instead of a folder": (zip_for_folder, r"other.zip: is a zip archive where a folder is"),
    "broken zip": (broken_zip, r"camvid.zip: can't be read as a zip archive"),
    "missing folder": (missing_folder, r"valannot: missing for split 'val'"),
    "two images of a name": (twice, r"p007.\w+ and .*p007.\w+ have the same name"),
}


def prepared(tmp_path):
    folder = tmp_path / "prepared"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_there_are_twenty_cases():
    assert len(ITEMS) + len(WHOLE) >= 20


@pytest.mark.parametrize("case", ITEMS)
def test_a_bad_item_is_an_error_or_a_counted_skip(camvid, tmp_path, case, caplog):
    spoil, message = ITEMS[case]
    spoil(camvid)
    with pytest.raises(ValueError, match=message):
        open_dataset("camvid", camvid, "val", tmp_path / "prepared")
    assert prepared(tmp_path) == []
    caplog.clear()
    source = open_dataset("camvid", camvid, "val", tmp_path / "prepared", on_error="skip")
    assert len(source) == len(source.sizes) == COUNT - 1
    assert ITEM not in {item["name"] for item in source}
    (text,) = source.skipped
    assert ITEM in text
    assert text in caplog.text
    assert "1 items were left out" in caplog.text
    with pytest.raises(ValueError, match=message):  # What was skipped is never taken for whole.
        open_dataset("camvid", camvid, "val", tmp_path / "prepared")


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("case", WHOLE)
def test_a_bad_data_set_is_an_error_in_any_case(camvid, tmp_path, case, on_error):
    spoil, message = WHOLE[case]
    root = spoil(camvid)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_dataset("camvid", root, "val", tmp_path / "prepared", on_error=on_error)
    assert prepared(tmp_path) == []


def test_more_than_one_in_a_hundred_is_refused(camvid, tmp_path):
    fill(12)(camvid)
    (camvid / "val/p050.png").unlink()
    text = r'2 of 100 items are bad, and on_error="skip" leaves out at most 1%; the last: .*p007'
    with pytest.raises(ValueError, match=text):
        open_dataset("camvid", camvid, "val", tmp_path / "prepared", on_error="skip")
    assert prepared(tmp_path) == []


def test_skipping_nothing_gives_the_whole_data_set(camvid, tmp_path):
    source = open_dataset("camvid", camvid, "val", tmp_path / "prepared", on_error="skip")
    assert len(source) == COUNT
    (folder,) = prepared(tmp_path)
    open_dataset("camvid", camvid, "val", tmp_path / "prepared")
    assert prepared(tmp_path) == [folder]


def test_what_else_on_error_may_be(camvid):
    with pytest.raises(ValueError, match=r"on_error is 'ignore'; expected one of"):
        open_dataset("camvid", camvid, "val", on_error="ignore")


@pytest.mark.parametrize(
    ("stored", "orientation", "turn"),
    [(SIZE[::-1], 6, lambda x: np.rot90(x, -1)), (SIZE, 6, lambda x: x)],
    ids=["label as shown", "label as stored"],
)
def test_images_are_turned_as_their_labels(stored, orientation, turn, camvid):
    pixels = np.arange(72, dtype=np.uint8).reshape(*stored, 3)
    save(image(camvid), pixels, exif=exif(orientation))
    source = open_dataset("camvid", camvid, "val")
    item = source[7]
    assert item["name"] == ITEM
    assert source.sizes[7] == item["label"].shape == SIZE
    np.testing.assert_array_equal(item["image"], turn(pixels))

"""Contact sheets and class frequencies, as functions and as commands."""

import numpy as np
import pytest
from PIL import Image

from segblocks_jax.data import __main__ as command
from segblocks_jax.data.summary import contact_sheet
from segblocks_jax.tasks.segmentation.labels import CAMVID


def batch(labels):
    label = np.stack([np.full((8, 16), value, np.uint8) for value in labels])
    return {"image": np.repeat((10 * label)[..., None], 3, -1), "label": label}


def test_a_sheet_has_images_above_their_labels():
    sheet = contact_sheet([batch([1, 2, 3]), batch([4, 5, 255])], CAMVID, tile=16, gap=2)
    assert sheet.shape == (4 * (8 + 2) + 2, 3 * (16 + 2) + 2, 3)
    rows = [sheet[6 + 10 * row] for row in range(4)]
    centers = [10, 28, 46]
    np.testing.assert_array_equal([rows[0][x] for x in centers], [[10] * 3, [20] * 3, [30] * 3])
    np.testing.assert_array_equal([rows[1][x] for x in centers], CAMVID.colors[[1, 2, 3]])
    np.testing.assert_array_equal(rows[3][centers[1]], CAMVID.colors[5])
    np.testing.assert_array_equal(rows[3][centers[2]], [0, 0, 0])
    assert (sheet[:2] == 255).all()
    assert (sheet[:, -2:] == 255).all()


@pytest.fixture
def camvid(tmp_path):
    """Two val images: one all road, one half sky and half void."""
    halves = np.zeros((4, 6), np.uint8)
    halves[:, 3:] = 11
    for name, label in (("a", np.full((4, 6), 3, np.uint8)), ("b", halves)):
        for folder, pixels in (("val", np.zeros((4, 6, 3), np.uint8)), ("valannot", label)):
            path = tmp_path / "camvid" / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "camvid"


def test_frequencies_are_shares_of_all_pixels(camvid, capsys):
    arguments = ["frequencies", "camvid", "--data_dir", str(camvid), "--split", "val"]
    assert command.main(arguments) == 0
    rows = capsys.readouterr().out.splitlines()[-12:]
    lines = {row[:12].strip(): row[12:].split() for row in rows}
    assert lines["sky"] == ["25.000", "1"]
    assert lines["road"] == ["50.000", "1"]
    assert lines["(ignored)"] == ["25.000", "1"]
    assert lines["car"] == ["0.000", "0"]


def test_the_sheet_command_writes_a_picture(camvid, tmp_path):
    output = tmp_path / "sheet.png"
    arguments = ["sheet", "camvid", "--data_dir", str(camvid), "--split", "val"]
    sizes = ["--crop", "32", "--columns", "3", "--batches", "2"]
    assert command.main([*arguments, *sizes, "--output", str(output)]) == 0
    with Image.open(output) as picture:
        assert picture.size == (3 * 260 + 4, 4 * 260 + 4)
    again = tmp_path / "again.png"
    assert command.main([*arguments, *sizes, "--output", str(again)]) == 0
    assert again.read_bytes() == output.read_bytes()

"""Pages of pictures and operating points: complete, accessible, without the network."""

import html.parser
import re

import numpy as np
import pytest
from PIL import Image
from test_report import browse, chromium  # noqa: F401  (A fixture.)

from segblocks_jax.analysis.page import OperatingPoint, write_page
from segblocks_jax.tasks.segmentation import pictures
from segblocks_jax.tasks.segmentation.labels import make_table

TABLE = make_table("two", [(0, "road & path", (128, 64, 128)), (1, "sky", (70, 130, 180))], (255,))
POINTS = [
    OperatingPoint("static", 0.7, 4.0, 0.08),
    OperatingPoint("SegBlocks <40%>", 0.695, 2.2, 0.05, 0.402),
]
LOG = [
    {"step": step, "values": {"train/high_fraction": 0.9 - step / 100, "train/loss_task": 1 / step}}
    for step in (10, 20, 30)
]


class Read(html.parser.HTMLParser):
    """Tags with their attributes and, of cells and headings, their text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th", "h1", "h2", "h3", "figcaption"):
            self.texts.append((self.open[-1], data))

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("page")
    image = rng.integers(0, 256, (96, 128, 3)).astype(np.uint8)
    label = rng.integers(0, 2, (96, 128)).astype(np.uint8)
    gain = np.array([[0.1, -0.2], [np.nan, 0.3]])
    shown = {
        "input": image,
        "labels": pictures.colorize(label, TABLE.colors),
        "errors": pictures.draw_errors(1 - label, label),
        "grid": pictures.draw_grid(image, gain > 0),
        "gain": pictures.draw_gain(image, gain),
    }
    images = {'scene "1"': shown, "scene 2": shown}
    return write_page(folder, "A demo", POINTS, images, table=TABLE, log=LOG, text="Two cores.")


def test_a_page_is_complete_and_asks_no_network(page):
    text = page.read_text()
    read = Read(text)
    sources = [attributes["src"] for attributes in read.of("img")]
    assert len(sources) == 1 + 2 * 5
    assert all(re.match(r"data:image/(png|svg\+xml);base64,", source) for source in sources)
    assert not re.search(r"url\(|@import|<script|<iframe|https?://", text)
    assert [attributes["href"] for attributes in read.of("link")] == ["data:,"]
    assert len(list((page.parent / "pictures").glob("image_*.png"))) == 10
    cells = [text for tag, text in read.texts if tag in ("td", "th")]
    assert cells[-12:] == [
        *("static", "dense", "70.0%", "4.000", "80.0", "1.00"),
        *("SegBlocks <40%>", "40.2%", "69.5%", "2.200", "50.0", "1.60"),
    ]


def test_a_page_can_be_read_aloud(page):
    read = Read(page.read_text())
    assert read.of("html") == [{"lang": "en"}]
    names = [attributes["alt"] for attributes in read.of("img")]
    assert len(set(names)) == len(names)
    assert 'scene "1": errors' in names
    assert len(read.of("caption")) == len(read.of("table")) == 1
    scopes = [attributes["scope"] for attributes in read.of("th")]
    assert scopes == ["col"] * 6 + ["row"] * 2
    levels = [tag for tag, _ in read.texts if re.fullmatch(r"h\d", tag)]
    assert levels == ["h1", "h2", "h2", "h2", "h3", "h3"]


def test_parts_of_a_page_may_be_left_out(tmp_path):
    path = write_page(tmp_path, "Short", POINTS[:1], {})
    assert [text for tag, text in Read(path.read_text()).texts if tag == "h2"] == [
        "Accuracy, operations and time"
    ]
    with pytest.raises(ValueError, match="there are no operating points"):
        write_page(tmp_path, "None", [], {})


@pytest.mark.slow
def test_a_browser_shows_a_page_without_errors(chromium, page, tmp_path):  # noqa: F811
    ran = browse(chromium, page, f"--screenshot={tmp_path}/page.png", "--window-size=1200,3000")
    assert "CONSOLE" not in ran.stderr
    with Image.open(tmp_path / "page.png") as opened:
        assert np.asarray(opened.convert("L")).std() > 5

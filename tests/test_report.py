"""The report: complete, without network, the same bytes each time; and a browser opens it."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from flax import nnx
from PIL import Image

pytest.importorskip("matplotlib")

import segblocks_jax as sb
from segblocks_jax.analysis import plots
from segblocks_jax.analysis.parts import measure_parts
from segblocks_jax.analysis.records import read_records, run_folder
from segblocks_jax.analysis.report import write_report
from segblocks_jax.systems.segblocks import seams
from segblocks_jax.training.logging import read_log

# Of every sweep: mIoU and operations, classes, curves, shares. Then images, seams (two maps, profiles), parts.
PLOTS = 4
CLOSE = 2 + 2 + 1 + 1


class Page(html.parser.HTMLParser):
    """Sources of pictures, other addresses, and the text of cells."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.addresses, self.cells, self._cell = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._cell = tag in ("td", "th")
        for name, value in attributes:
            if (tag, name) == ("img", "src"):
                self.sources.append(value)
            elif name in ("src", "href", "srcset", "data", "action"):
                self.addresses.append(value)

    def handle_data(self, data):
        if self._cell:
            self.cells.append(data)


@pytest.fixture(scope="module")
def runs(finished):
    return finished.folder


@pytest.fixture(scope="module")
def report(runs):
    return write_report(runs, images=(0, 2), data_dir=str(runs / "data"))


@pytest.mark.slow
def test_the_report_is_complete_and_asks_no_network(report, runs):
    text = report.read_text()
    page = Page(text)
    assert len(page.sources) == PLOTS + CLOSE
    assert all(re.match(r"data:image/(png|svg\+xml);base64,", s) for s in page.sources)
    assert page.addresses == ["data:,"]
    assert not re.search(r"url\(|@import|<script|<iframe", text)
    assert {"learned", "static, half", "dense", "mIoU"} <= set(page.cells)
    plots = {path.stem for path in (runs / "plots").glob("*.svg")}
    assert plots == {path.stem for path in (runs / "plots").glob("*.png")} - {"image_0", "image_1"}
    assert len(plots) == PLOTS + CLOSE - 2


@pytest.mark.slow
def test_the_plots_of_the_same_records_are_the_same_bytes(runs):
    (sweep_file,) = (runs / "sweeps").glob("*.json")
    rows = json.loads(sweep_file.read_text())["rows"]
    records = read_records(runs)
    rows = {row["label"]: [records[key] for key in row["runs"]] for row in rows}
    plots.tradeoff(rows).savefig(runs / "a.svg", metadata={"Date": None})
    plots.tradeoff(rows).savefig(runs / "b.svg", metadata={"Date": None})
    assert (runs / "a.svg").read_bytes() == (runs / "b.svg").read_bytes()


def test_runs_that_log_less_are_drawn_all_the_same():
    lines = [{"step": 1, "values": {"train/high_fraction": 0.5}}, {"step": 2, "values": {}}]
    figure = plots.curves({"a": lines, "b": []})
    titles = {axes.get_title(): axes for axes in figure.axes}
    assert titles["share of high blocks"].lines[0].get_ydata().tolist() == [0.5]
    assert titles["task loss"].texts[0].get_text() == "not logged"


@pytest.mark.slow
def test_a_report_of_nothing_is_an_error(tmp_path, runs):
    with pytest.raises(ValueError, match="has no finished run; run a sweep there first"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="report: no run 'x'; there are "):
        write_report(runs, tmp_path / "r.html", run="x")


@pytest.mark.slow
def test_a_report_without_its_data_says_so(runs, tmp_path):
    for file in (runs / "runs").glob("*/run.json"):
        record = json.loads(file.read_text())
        record["config"]["data"]["dataset"] = "camvid"
        target = tmp_path / file.relative_to(runs)
        target.parent.mkdir(parents=True)
        target.write_text(json.dumps(record))
        (target.parent / "metrics.jsonl").write_text('{"step": 1, "ti')  # Killed while it wrote.
    path = write_report(tmp_path, data_dir=str(tmp_path / "nowhere"))
    assert "No pictures: " in path.read_text()


def test_curves_hold_no_steps_that_were_lost(tmp_path):
    folder = tmp_path / "runs" / "k"
    folder.mkdir(parents=True)
    steps = [10, 20, 20, 30, 40, 30, 40, 50]  # Killed behind 40, its checkpoint before 30.
    lines = [json.dumps({"step": step, "values": {}}) for step in steps]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    found = [entry["step"] for entry in read_log(run_folder(tmp_path, "k"))]
    assert found == [10, 20, 20, 30, 40, 50]


@pytest.mark.usefixtures("unchecked")
def test_images_of_many_sizes_are_padded_to_the_largest():
    class Source:
        normalization = sb.data.NORMALIZATION["cityscapes"]

        def __getitem__(self, i):
            return {"image": np.full([(60, 70, 3), (130, 20, 3)][i], i, np.uint8)}

    padded = seams.padded_images(Source(), [0, 1], 64)
    assert padded.shape == (2, 192, 128, 3)
    assert (padded[0, :60, :70] == 0).all()
    assert (padded[1, :130, :20] == 1).all()
    assert (padded[0, 60:] == Source.normalization.fill).all()


def test_distances_from_borders():
    expected = np.empty((4, 6), int)
    for y, x in np.ndindex(4, 6):
        away = [abs(y + 0.5 - 2) - 0.5, *(abs(x + 0.5 - b) - 0.5 for b in (2, 4))]
        expected[y, x] = min(away)
    np.testing.assert_array_equal(seams.border_distance((4, 6), 2), expected)


@pytest.mark.slow
def test_seams_vanish_with_blockpad_and_show_without(rng):
    net = sb.create_model("swiftnet_rn18", 3, width=4, features=6, rngs=nnx.Rngs(0))
    net.eval()
    image = rng.normal(size=(1, 128, 128, 3)).astype(np.float32)
    found = seams.measure(net, image, np.ones((1, 2, 2), bool))
    assert found.at_borders("block") < 1e-5
    assert found.at_borders("zero") > 100 * found.at_borders("block")
    profile = found.profile("zero")
    assert profile[0] > profile[-1]
    assert net.backbone.semantics.padding == "block"


@pytest.mark.slow
def test_parts_name_everything_between_image_and_labels():
    net = sb.create_model("swiftnet_rn18", 3, width=4, features=6, rngs=nnx.Rngs(0))
    policy = sb.policies.create("middle", block_size=64, target=0.5)
    system = nnx.Dict(net=net, policy=policy)
    system.eval()
    mask = np.array([[[True], [False]]])
    measured = measure_parts(system, np.zeros((1, 128, 64, 3), np.float32), mask, rounds=1)
    decoder = [f"decoder {i}" for i in (1, 2, 3)]
    names = ["policy", "split", "backbone", "pyramid", *decoder, "logits", "combine", "label map"]
    assert list(measured) == names
    assert all(part["seconds"] > 0 and part["megabytes"] >= 0 for part in measured.values())


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on PATH")
    return path


def browse(chromium, page, *options):
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    logs = ["--enable-logging=stderr", "--virtual-time-budget=10000"]
    return subprocess.run(
        [*command, *logs, *options, page.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )


_BOXES = """<script>
window.onload = () => document.body.setAttribute("data-boxes", JSON.stringify(
  [...document.images].map(i => [i.x, i.y, i.width, i.height, i.naturalWidth])));
</script></body>"""


@pytest.mark.slow
def test_a_browser_shows_all_plots_without_errors(chromium, report, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(report.read_text().replace("</body>", _BOXES))
    result = browse(chromium, page, "--dump-dom", "--window-size=1200,12000")
    assert "CONSOLE" not in result.stderr
    boxes = json.loads(re.search(r'data-boxes="([^"]*)"', result.stdout)[1])
    assert len(boxes) == PLOTS + CLOSE
    assert all(natural > 0 for *_, natural in boxes)
    picture = tmp_path / "page.png"
    browse(chromium, page, f"--screenshot={picture}", "--window-size=1200,12000")
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("L")).astype(float)
    for x, y, width, height, _ in boxes:
        assert y + height < pixels.shape[0]
        shown = pixels[int(y) : int(y + height), int(x) : int(x + width)]
        assert shown.std() > 5

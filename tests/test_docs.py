"""The documentation: every block of Python runs, links lead somewhere, figures are those that the code draws."""

import importlib.util
import pathlib
import re

import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITH_CODE = [page for page in PAGES if _CODE.search(page.read_text())]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the files that the README's examples name."""
    monkeypatch.chdir(tmp_path)
    spec = sb.ModelSpec(
        "swiftnet_rn18",
        num_classes=19,
        policy=sb.PolicySpec(block_size=128),
        mean=(0.287, 0.325, 0.284),
        std=(0.176, 0.181, 0.178),
    )
    sb.save_model("WORKDIR/export", spec.build(nnx.Rngs(0)), spec)
    return tmp_path


@pytest.mark.family("README")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_every_python_block_runs(page, folder):
    names = {"__name__": page.stem}
    if page.name == "README.md":
        names |= _readme_names()
    if page.name == "lrnnet.md":
        names |= {"sb": sb, "nnx": nnx}
    for match in _CODE.finditer(page.read_text()):
        line = page.read_text()[: match.start()].count("\n") + 1
        code = compile("\n" * line + match[1], str(page), "exec")
        exec(code, names)


def _readme_names():
    """What the README's examples take as given: weights and images of the user's own."""
    import safetensors.numpy

    weights = safetensors.numpy.load_file("WORKDIR/export/weights.safetensors")
    own = {k: v for k, v in weights.items() if k.startswith("net.")}
    safetensors.numpy.save_file(own, "checkpoint.safetensors")
    head = "net.backbone."
    backbone = {k.removeprefix(head): v for k, v in own.items() if k.startswith(head)}
    safetensors.numpy.save_file(backbone, "resnet18.safetensors")
    return {"images": np.zeros((1, 250, 500, 3), np.uint8)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert f"- {page.relative_to(ROOT / 'docs')}" in text


def test_every_table_of_results_in_the_readme_has_its_json():
    results = (ROOT / "README.md").read_text().partition("## Results")[2].partition("\n## ")[0]
    parts = re.split(r"\n### ", results.partition("\n### Not measured")[0])[1:]
    assert len(parts) >= 3
    for part in parts:
        assert re.search(r"\((experiments|benchmarks)/results/[^)]*\.json\)", part), part[:40]


@pytest.mark.slow
def test_the_figures_are_those_that_the_code_draws(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs/figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(tmp_path)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert len(drawn) == 4
    for path in drawn:
        kept = (ROOT / "docs/pictures" / path.name).read_text()
        if f"Matplotlib v{matplotlib.__version__}" not in kept:
            pytest.skip(f"the figures were drawn by another version than {matplotlib.__version__}")
        assert path.read_text() == kept

"""A hook of MkDocs: the JSON files that pages link to lie outside of `docs`, and become part of the site."""

import pathlib
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FOLDERS = ("benchmarks/results", "experiments/results")


def on_files(files: Files, config: Any) -> Files:
    """Adds the results to the site."""
    for folder in _FOLDERS:
        for path in sorted((_ROOT / folder).rglob("*.json")):
            name = str(path.relative_to(_ROOT))
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Points links that leave `docs`, as the repository's own pages need them, into the site."""
    for folder in _FOLDERS:
        markdown = markdown.replace(f"(../{folder}/", f"({folder}/")
    return markdown

"""What the scripts that publish share: text between the markers of a page, plots, and the files that are kept.

Neither this module nor `_tables` imports Keras, so that tables are made again in a second.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path


def replace_marked(name: str, texts: dict[Path, str]) -> None:
    """Replace what stands between `<!-- name: begin -->` and `<!-- name: end -->` of pages, in all of them or in none.

    Args:
        name: The name in the markers.
        texts: The new text of each page.

    Raises:
        SystemExit: If a page does not hold each marker once.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pages = {}
    for path, text in texts.items():
        content = path.read_text(encoding="utf-8")
        if content.count(begin) != 1 or content.count(end) != 1:
            raise SystemExit(f"{path.name} must hold {begin} and {end} once each")
        before, after = content.split(begin)[0], content.split(end)[1]
        pages[path] = f"{before}{begin}\n{text}{end}{after}"
    for path, content in pages.items():
        path.write_text(content, encoding="utf-8")


def save_figure(figure, path: Path, **options) -> None:
    """Write a plot as PNG, whole or not at all. `options` are those of `savefig`."""
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=110, **options)
    temporary.replace(path)


def keep_files(names: Iterable[str], folder: Path, kept: Path) -> None:
    """Copy the files of these names that a folder holds into another, which is made; into itself copies nothing."""
    kept.mkdir(parents=True, exist_ok=True)
    for name in names:
        if folder.resolve() != kept.resolve() and (folder / name).is_file():
            shutil.copy(folder / name, kept / name)

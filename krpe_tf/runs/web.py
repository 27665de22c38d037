"""A run as a web page: a folder for any static server, in which the browser itself runs the model."""

import logging
import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ..export import PAGE_CONTENTS, classifier_files, generator_files, litertjs_files, translator_files
from ..files import staged
from ..tasks import TASKS
from ..text import load_tokenizer
from .folder import check_run, load_labels, load_task

logger = logging.getLogger(__name__)

# By `Task.page`, the files of a page, from the exported file, the tokenizer and the labels.
PAGES = {
    "classifier": classifier_files,
    "generator": lambda content, tokenizer, labels: generator_files(content, tokenizer),
    "translator": lambda content, tokenizer, labels: translator_files(content, tokenizer),
}


def web_run(
    run: str | os.PathLike, path: str | os.PathLike, *, litertjs: str | os.PathLike | None = None
) -> dict[str, int]:
    """Write the page of an exported run, replacing an earlier page.

    Args:
        run: The run folder, exported; one that classifies texts, for fixed lengths, or one that writes or translates.
        path: The folder to make. It appears whole or not at all.
        litertjs: A folder in which npm has installed LiteRT.js, see `litertjs_files`; None to have npm fetch it.

    Returns:
        The bytes of each file by its name in the folder.

    Raises:
        ValueError: For a run that is not exported or that the page cannot follow, a `path` that is taken by other
            things, or where LiteRT.js is not to be had.
        OSError: If npm or the disk fails.
    """
    run = Path(run)
    task = load_task(run)
    if task.page is None:
        names = ", ".join(each.name for each in TASKS.values() if each.page is not None)
        raise ValueError(f"`run` must be of a task that has a page: {names}. Received: {task.name!r} in {str(run)!r}")
    check_run(run, "tokenizer.json")
    if not (run / "model.tflite").is_file():
        raise ValueError(
            f"`run` must be exported first: python -m krpe_tf export {run}. Received: {str(run)!r} without model.tflite"
        )
    labels = load_labels(run, task)
    _check_folder(Path(path))
    with staged(path, overwrite=True, contents=PAGE_CONTENTS) as target:
        tokenizer = load_tokenizer(run / "tokenizer.json")
        files = PAGES[task.page]((run / "model.tflite").read_bytes(), tokenizer, labels)
        files |= {f"litertjs/{name}": content for name, content in litertjs_files(litertjs).items()}
        for name, content in files.items():
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    return {name: len(content) for name, content in files.items()}


def _check_folder(path: Path) -> None:
    """Raise a ValueError unless nothing of the user's lies at `path`."""
    if os.path.lexists(path) and (not path.is_dir() or (any(path.iterdir()) and not (path / "web.json").is_file())):
        raise ValueError(f"`path` must be free, an empty folder or an earlier page. Received: path={str(path)!r}")


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012 As in the base class.
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self):
        # A page that is isolated from others has exact clocks, and may have threads.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-store")  # The next page has the same names.
        super().end_headers()

    def log_message(self, format, *arguments):
        logger.debug(format, *arguments)


def web_server(path: str | os.PathLike, port: int = 0) -> ThreadingHTTPServer:
    """Make a server of a folder for this machine alone; call its `serve_forever`.

    Args:
        path: The folder.
        port: The port; 0 for one that is free, which `server_address` then tells.

    Raises:
        ValueError: If the port is taken or out of range.
    """
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=os.fspath(path)))
    except (OSError, OverflowError) as error:
        raise ValueError(f"`port` must be one that is free on this machine ({error}). Received: port={port}") from error

"""Debian's chromium on a page that this machine serves, for the tests of export/web and benchmarks/web.py."""

import contextlib
import os
import shutil
import threading

from krpe_tf.runs import web_server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# What keeps a browser that is looked at by nobody quiet; in a container there is no sandbox to be had for root.
FLAGS = [
    *("--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync"),
    *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
]


def need(found, what: str) -> None:
    """Skip where something is missing; in CI, where nothing may be, fail."""
    import pytest

    if found:
        return
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {what}")


@contextlib.contextmanager
def opened(folder):
    """Yield a Playwright page on the index.html of a folder, once it is ready; `page.seen` holds its requests.

    A file that is missing, and an error that nothing caught, fail at the end.
    """
    from playwright.sync_api import sync_playwright

    server = web_server(folder)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    errors = []
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 900, "height": 700})
            page.seen = []
            page.on("request", lambda request: page.seen.append(request.url))
            page.on("response", lambda response: response.ok or errors.append(response.url))
            page.on("pageerror", lambda error: errors.append(error))
            page.address = f"http://127.0.0.1:{server.server_address[1]}/"
            page.goto(page.address)
            page.wait_for_selector("html[data-ready], #problem:not([hidden])", state="attached", timeout=60_000)
            assert page.locator("#problem").is_hidden(), page.locator("#problem").inner_text()
            yield page
            browser.close()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert not errors, errors

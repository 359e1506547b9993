"""The real speedscope, from npm, opens the file in a real Chromium and shows its frames."""

from __future__ import annotations

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.browser import chromium, look, missing, press
from support.formats import HOSTILE, PRICED, deep, hostile

from tokenscope import Report
from tokenscope._report.formats.text import printable

pytestmark = pytest.mark.slow


class Files(SimpleHTTPRequestHandler):
    """Serves a folder, silently."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        look(browser)
        yield browser


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """Serve a copy of speedscope on loopback, and return its folder and its address."""
    command = shutil.which("speedscope")
    if not command:
        missing("needs speedscope on the PATH (npm install --global speedscope)")
    package = Path(os.path.realpath(command)).parents[1]
    folder = tmp_path_factory.mktemp("app") / "speedscope"
    shutil.copytree(package / "dist" / "release", folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def table(chrome, app):
    """Open a report, and return the total and the own value of each frame in the sandwich view."""
    from selenium.webdriver.support.ui import WebDriverWait

    def table(report, title):
        folder, address = app
        # A name of its own: a browser may take a file of the same second for the one that it has already.
        name = f"report-{len(list(folder.iterdir()))}.speedscope.json"
        report.save(folder / name)
        chrome.get("about:blank")
        chrome.get(f"{address}/index.html#profileURL={address}/{name}")
        WebDriverWait(chrome, 30).until(lambda _: chrome.title.startswith(title))
        WebDriverWait(chrome, 30).until(lambda _: shows_all_symbols())
        return rows(chrome)

    def shows_all_symbols():
        press(chrome, "3")  # once more until it does: the page has its title before it listens to keys
        return "Symbol Name" in body(chrome)

    return table


def body(chrome):
    return chrome.execute_script("return document.body.innerText")


def rows(chrome):
    cells = chrome.execute_script(
        "return [...document.querySelectorAll('tr')].map((row) => [...row.cells].map((cell) => cell.innerText.trim()))"
    )
    return {row[2]: (row[0].split()[0], row[1].split()[0]) for row in cells if len(row) == 3 and "%" in row[0]}


def test_our_frames(chrome, table):
    """The app shows each frame with its total and its own value. The second profile is the cost."""
    tokens = table(PRICED, "pipeline")

    assert {row.frame.name for row in PRICED.rows} == set(tokens)
    assert ("33,800", "0") == tokens["pipeline"]
    assert ("21,880", "18,680") == tokens["searcher"]
    press(chrome, "n")
    assert "cost (millionths of a dollar), at least (2/2)" in body(chrome)
    assert ("40,410", "40,410") == rows(chrome)["synthesizer"]


def test_hostile_names(chrome, table):
    """Hostile names are shown as text and run no script."""
    shown = table(hostile(), "top")

    assert {" ".join(printable(name).split()) for name in HOSTILE} >= {" ".join(name.split()) for name in shown} - {
        "top"
    }
    assert len(shown) > 20
    assert chrome.execute_script("return window.hacked") is None


def test_a_deep_tree(table):
    """Speedscope opens the file of a tree with 10,000 levels."""
    assert ("9,000", "9,000") == table(deep(levels=10_000), "level 0")["(deeper)"]


def test_an_empty_report(chrome, table):
    """Speedscope opens the file of an empty report and shows no frames."""
    assert {} == table(Report(), "tokenscope")
    assert "No symbols found" in body(chrome)

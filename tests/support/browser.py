"""A real Chromium, if one is installed: Debian's packages `chromium` and `chromium-driver`, and `selenium`."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BACKGROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 21, 24)"}


def missing(what: str) -> NoReturn:
    """Skip the test because something is not installed, or fail if the environment requires it."""
    if "browser" in os.environ.get("TOKENSCOPE_TESTS_REQUIRE", ""):
        pytest.fail(what)
    pytest.skip(what)


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """Start Chromium with an empty profile, or skip the test if Chromium is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the package selenium")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        missing("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver, env=environment))
    try:
        yield chrome
    finally:
        chrome.quit()


def look(chrome: Any, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
    """Set the size of the window, and the color scheme that the user prefers."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def press(chrome: Any, *keys: str) -> None:
    """Press keys, one after the other, wherever the focus is."""
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(chrome).send_keys(*keys).perform()


def axe_core() -> str:
    """Return the script axe-core, which npm has installed beside a command on the PATH, or skip the test."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        for packages in (Path(folder).parent, Path(folder).parent / "lib" / "node_modules"):
            script = packages / "axe-core" / "axe.min.js"
            if script.is_file():
                return script.read_text("utf-8")
    missing("needs axe-core (npm install --global axe-core)")


def violations(chrome: Any) -> list[str]:
    """Return what axe-core finds wrong with the open page: rules of WCAG 2.2 AA, and best practices."""
    chrome.execute_cdp_cmd("Runtime.evaluate", {"expression": axe_core()})  # the page's policy lets no script in
    found: list[str] = chrome.execute_async_script(
        """
        const done = arguments[0];
        const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
        axe.run({ runOnly: tags }).then(({ violations }) => done(violations.map(({ id, nodes }) =>
          [id, ...nodes.slice(0, 3).map((node) => `${node.html.slice(0, 200)}: ${node.failureSummary}`)].join(" | "))));
        """
    )
    return found


def problems(chrome: Any) -> list[str]:
    """Return the browser's warnings and errors since the last call."""
    return [entry["message"] for entry in chrome.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

"""Makes the README's pictures of a report: the tree and the page, in light and dark.

Run `python docs/pictures.py` again after a change to either. It runs `tokenscope demo`, and writes into docs/_static. It needs
Chromium, and Pillow, which the dependency group `docs` has.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from tokenscope import Report

STATIC = Path(__file__).parent / "_static"
TREES = {  # background, text, and the eight colours of a terminal, of which the tree has green, magenta and cyan
    "light": "#ffffff #1f2328 #1f2328 #cf222e #1a7f37 #9a6700 #0969da #8250df #1b7c83 #6e7781",
    "dark": "#0d1117 #e6edf3 #e6edf3 #ff7b72 #3fb950 #d29922 #58a6ff #bc8cff #39c5cf #8b949e",
}
PAGES = {"light": 1, "dark": 0}  # Chromium's numbers of the colour schemes
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, Liberation Mono, monospace"
WIDTH = 112  # columns of the tree
SIZE = 1200, 760  # of the page, in CSS pixels


def demo(folder: Path) -> Report:
    """Run `tokenscope demo`, and return its report."""
    file = folder / "demo.json"
    command = [sys.executable, "-m", "tokenscope", "run", "-o", str(file), "-m", "tokenscope", "demo"]
    subprocess.run(command, check=True, capture_output=True)
    return Report.load(file)


def tree(report: Report, colours: str) -> str:
    """Return the tree as SVG, drawn by rich. It needs no font but those of the reader."""
    background, text, *eight = [Color.parse(each).get_truecolor() for each in colours.split()]
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(report)
    theme = TerminalTheme(background, text, eight)
    svg = console.export_svg(title="$ tokenscope demo", theme=theme, font_aspect_ratio=0.6, unique_id="tree")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("255,255,255,0.35", "128,128,128,0.5")
    return re.sub(r"Fira Code(, monospace)?", FONT, svg)


def photograph(page: Path, picture: Path, scheme: int) -> None:
    """Write a picture of a page, as Chromium shows it in a colour scheme."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or sys.exit("pictures.py: needs Chromium")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1.5"]
    options += [f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={SIZE[0]},{SIZE[1]}"]
    options += [f"--user-data-dir={page.parent / 'profile'}", f"--screenshot={picture}", page.as_uri()]
    subprocess.run([browser, *options], check=True, capture_output=True)
    Image.open(picture).convert("RGB").quantize(dither=Image.Dither.NONE).save(picture, optimize=True)


def main(target: Path) -> None:
    """Write all pictures into a folder."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        report = demo(Path(folder))
        page = Path(folder) / "demo.html"
        report.save(page)
        for scheme, colours in TREES.items():
            (target / f"tree-{scheme}.svg").write_text(tree(report, colours), encoding="utf-8")
        for scheme, number in PAGES.items():
            photograph(page, target / f"page-{scheme}.png", number)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else STATIC)

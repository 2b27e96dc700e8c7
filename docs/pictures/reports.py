"""Opens reports in a browser, tries what can be clicked, and keeps a picture of each.

    python docs/pictures/reports.py NAME=runs/tabby_cat/report.html ...
    python docs/pictures/reports.py "NAME=runs/sweep/report.html#What the sweep varied"

Needs `pip install playwright pillow` and a Chromium (CHROMIUM names it). A report must need no
request and must say nothing on the console; its columns must sort, and its slider must cut. Each
is kept as docs/pictures/NAME.png from its beginning, or from a heading on, and as a phone shows it
in the dark as NAME_phone.png.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Literal, TypeAlias

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).parent
Scheme: TypeAlias = Literal["light", "dark"]
SHOWN: tuple[tuple[str, tuple[int, int], Scheme], ...] = (
    ("", (1000, 1100), "light"),
    ("_phone", (390, 844), "dark"),
)


def tried(page: Page) -> list[str]:
    """What does not do what a reader expects, after each thing was clicked."""
    wrong = []
    for table in page.query_selector_all("table.sortable"):
        for place, head in enumerate(table.query_selector_all("th button")):
            turns = []
            for _ in ("up", "down"):
                head.click()
                read = "(rows, place) => rows.map(row => row.cells[place].dataset.order)"
                turns.append(table.eval_on_selector_all("tbody tr", read, place))
            up, down = ([order for order in turn if order] for turn in turns)
            if sorted(up) != sorted(down) or up != down[::-1]:
                wrong.append(f"the column {head.inner_text()!r} does not turn: {up}, {down}")
    if slider := page.query_selector("#slider"):
        for cut in ("20", "80"):
            page.fill("#cut", cut)
            if slider.evaluate("node => node.style.getPropertyValue('--cut')") != f"{cut}%":
                wrong.append(f"the slider does not stand at {cut} %")
        shown = page.get_attribute("#over", "src")
        page.select_option("#right", index=0)
        if page.get_attribute("#over", "src") == shown:
            wrong.append("the slider shows the same picture for another arm")
    return wrong


def opened(
    browser: Browser, report: Path, heading: str, kept: Path, size: tuple[int, int], scheme: Scheme
) -> list[str]:
    """Opens a report, keeps its picture, and tells what is wrong with it."""
    wrong: list[str] = []
    asked: list[str] = []
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.on("console", lambda said: wrong.append(f"the console says: {said.text}"))
    page.on("pageerror", lambda error: wrong.append(f"its script fails: {error}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.resolve().as_uri())
    if heading:
        place = page.get_by_role("heading", name=heading, exact=True)
        place.evaluate("node => window.scrollTo(0, node.getBoundingClientRect().top - 20)")
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(256, Image.Quantize.MAXCOVERAGE).save(kept, optimize=True)  # a third of the size
    wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    if wider > 0:
        wrong.append(f"it is {wider} pixels wider than a window of {size[0]}")
    wrong += tried(page)
    wrong += [f"it asks for {url[:80]}" for url in asked[1:] if not url.startswith("data:")]
    page.close()
    return wrong


def main(reports: list[str]) -> int:
    """Exit code 1 if anything is wrong with any report."""
    code = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        for item in reports:
            name, _, file = item.partition("=")
            file, _, heading = file.partition("#")
            for suffix, size, scheme in SHOWN:
                kept = HERE / f"{name}{suffix}.png"
                wrong = opened(browser, Path(file), heading, kept, size, scheme)
                print(
                    kept.name,
                    f"{kept.stat().st_size / 1024:.0f} kB",
                    *(wrong or ["good"]),
                    sep=": ",
                )
                code = code or bool(wrong)
        browser.close()
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Opens reports in a browser, tries what can be clicked, and keeps a picture of each.

    python docs/pictures/reports.py NAME=runs/tabby_cat/report.html ...
    python docs/pictures/reports.py "NAME=runs/sweep/report.html#What the sweep varied"

Needs `pip install playwright pillow` and a Chromium (CHROMIUM names it). A report must need no
request and must say nothing on the console; its columns must sort, and its slider must cut, on a
wide screen and on a phone. What the screen shows is kept as docs/pictures/NAME.png, from the
report's beginning or from a heading on; a NAME that ends in _phone is the phone's, in the dark.
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
SCREENS: tuple[tuple[tuple[int, int], Scheme], ...] = (
    ((1000, 1100), "light"),
    ((390, 844), "dark"),  # a phone
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
    browser: Browser, report: Path, heading: str, size: tuple[int, int], scheme: Scheme
) -> tuple[Image.Image, list[str]]:
    """A report's picture on a screen, and what is wrong with it there."""
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
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    if wider > 0:
        wrong.append(f"it is {wider} pixels wider than a screen of {size[0]}")
    wrong += tried(page)
    wrong += [f"it asks for {url[:80]}" for url in asked[1:] if not url.startswith("data:")]
    page.close()
    return picture, wrong


def main(items: list[str]) -> int:
    """Exit code 1 if anything is wrong with any report."""
    code = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        for item in items:
            name, _, place = item.partition("=")
            file, _, heading = place.partition("#")
            shown = [opened(browser, Path(file), heading, *screen) for screen in SCREENS]
            picture, _ = shown[name.endswith("_phone")]
            # A palette takes a third of the bytes.
            kept = picture.quantize(256, Image.Quantize.MAXCOVERAGE)
            kept.save(HERE / f"{name}.png", optimize=True)
            wrong = [text for _, found in shown for text in found]
            print(name, *(wrong or ["good"]), sep=": ")
            code = code or bool(wrong)
        browser.close()
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

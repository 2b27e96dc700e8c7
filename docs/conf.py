"""The documentation site: `tox -e docs` builds it into build/docs."""

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

project = "align"
author = "The align maintainers"
copyright = author

extensions = ["myst_nb", "sphinx_design"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
nb_execution_mode = "off"  # tests run them; the site shows what they kept
exclude_patterns = ["_build", "gallery/**/*.md"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nitpicky = True
html_theme = "furo"
html_title = "align"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]

DOCS = Path(__file__).parent
ROOT = DOCS.parent
# Pages whose text lies elsewhere in the repository; their files in docs/ only point there.
ELSEWHERE = {
    "reference/changelog": ROOT / "CHANGELOG.md",
    "how_to/changes": ROOT / "changelog.d" / "README.md",
    "how_to/contributing": ROOT / "CONTRIBUTING.md",
    "reference/clip": ROOT / "plugins" / "align-clip" / "README.md",
    "reference/http": ROOT / "plugins" / "align-http" / "README.md",
    "reference/likeness": ROOT / "plugins" / "align-likeness" / "README.md",
    "reference/pocket": ROOT / "plugins" / "align-pocket" / "MODEL_CARD.md",
    "reference/security": ROOT / "SECURITY.md",
    "start/overview": ROOT / "README.md",
}
LINK = re.compile(r"\]\(([^)\s:#]+)")


def fetch(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the text of a page in place, and lead its links to pages of the site."""
    file = ELSEWHERE.get(docname, DOCS / f"{docname}.md")
    pages = {path: name for name, path in ELSEWHERE.items()}

    def lead(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(file.parent / match[1]))
        if target in pages:
            return f"](/{pages[target]}.md"
        if target.is_relative_to(DOCS) and target.exists():
            return f"](/{target.relative_to(DOCS)}"
        return match[0]  # of which the build says that it leads nowhere

    text = file.read_text(encoding="utf-8") if docname in ELSEWHERE else source[0]
    source[0] = LINK.sub(lead, text)


def write_pages(app: Sphinx) -> None:
    """Write the pages that are made from the code, before Sphinx looks for pages."""
    sys.path.insert(0, str(DOCS))
    from generate import generate

    generate()


def setup(app: Sphinx) -> None:
    """Sphinx calls this once."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", fetch)

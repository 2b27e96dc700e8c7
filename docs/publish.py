"""Puts a built site among those of other versions: `python docs/publish.py BUILD SITE VERSION`.

SITE has a folder a version, such as v1.2.0, and `latest`, the main branch. Its first page leads to
the newest version, or to `latest` where no version is there; versions.html lists all.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Final

LATEST: Final = "latest"
_TAG: Final = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


def publish(build: Path, site: Path, version: str) -> list[str]:
    """Replace a version by a build; returns all versions, the newest first.

    Raises:
        SystemExit: the version is neither `latest` nor a tag such as v1.2.0.
    """
    if version != LATEST and not _TAG.fullmatch(version):
        raise SystemExit(f"'{version}' is no version: give 'latest', or a tag such as v1.2.0")
    shutil.rmtree(site / version, ignore_errors=True)
    shutil.copytree(build, site / version)
    (site / ".nojekyll").touch()  # folders that begin with an underscore are part of a site
    tags = [tag for path in site.iterdir() if (tag := _TAG.fullmatch(path.name))]
    tags.sort(key=lambda tag: tuple(map(int, tag.groups())), reverse=True)
    versions = [tag[0] for tag in tags] + [LATEST] * (site / LATEST).is_dir()
    first = f'<meta http-equiv="refresh" content="0; url={versions[0]}/index.html">'
    (site / "index.html").write_text(f"<!doctype html><title>align</title>{first}\n")
    items = "".join(f'<li><a href="{name}/index.html">{name}</a></li>' for name in versions)
    page = f"<!doctype html><title>Versions of align</title><ul>{items}</ul>\n"
    (site / "versions.html").write_text(page)
    return versions


if __name__ == "__main__":
    print(*publish(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))

"""Prints the schema of recipes for the parts of this repository, whichever are installed.

python tests/recipe/whole_schema.py > recipes/recipe.schema.json
"""

import json
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def entry_points():
    """Those of all plugins in the repository."""
    for file in sorted(ROOT.glob("plugins/*/pyproject.toml")):
        sys.path.append(str(file.parent))
        for name, value in tomllib.loads(file.read_text())["project"]["entry-points"][
            "align"
        ].items():
            yield EntryPoint(name, value, "align")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from align.catalog.registry import load_catalog
    from align.recipe.json_schema import json_schema

    catalog = load_catalog(entry_points())
    assert not catalog.broken, catalog.broken
    sys.stdout.write(json.dumps(json_schema(catalog), ensure_ascii=False, indent=1) + "\n")

"""docs/reference/conformance.md lists the checks there are, and its examples run."""

import re
from pathlib import Path

from align.catalog.contracts import CONTRACT_CLASSES, plural
from align.testing.kit import checks_of

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "conformance.md").read_text()


def test_every_check_is_listed():
    sections = re.split(r"^### ", TEXT.partition("## The checks")[2], flags=re.M)[1:]
    assert [section.partition("\n")[0] for section in sections] == [
        plural(contract).capitalize() for contract in CONTRACT_CLASSES
    ]
    for contract, section in zip(CONTRACT_CLASSES, sections, strict=True):
        listed = re.findall(r"^- `(\w+)`: (.*)$", section, re.M)
        assert listed == [(name, check.__doc__) for name, check in checks_of(contract).items()]


def test_the_examples_run(tmp_path, forked, forked_pytest):
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", TEXT, re.M | re.S)
    assert len(blocks) == TEXT.count("```python") == 6
    for name, code in blocks:
        (tmp_path / name).write_text(code)
    tests, by_hand = forked_pytest(tmp_path), forked("by_hand.py", cwd=tmp_path)
    assert tests.ended() == 0, tests.stdout
    assert "1 xfailed" in tests.stdout, tests.stdout
    assert by_hand.ended() == 0, by_hand.stderr

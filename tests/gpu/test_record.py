"""The row of the page that says when the tests ran on a CUDA device."""

import importlib.util
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def record():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("record", HERE / "record.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_first_row_takes_the_place_of_never_run_and_the_next_follows(record, tmp_path):
    page = tmp_path / "gpu.md"
    page.write_text(f"# Title\n\n| a | b |\n|---|---|\n{record.NEVER}\n\nafter\n")
    record.add(page, "| 1 | x |")
    record.add(page, "| 2 | y |")
    assert page.read_text() == "# Title\n\n| a | b |\n|---|---|\n| 1 | x |\n| 2 | y |\n\nafter\n"


def test_page_without_a_table_is_refused(record, tmp_path):
    page = tmp_path / "gpu.md"
    page.write_text("nothing here\n")
    with pytest.raises(SystemExit, match="has no table"):
        record.add(page, "| 1 |")


def test_page_says_when_the_tests_ran_or_that_they_never_did(record):
    table = [line for line in record.PAGE.read_text().splitlines() if line.startswith("|")]
    assert len(table) > 2
    assert record.NEVER not in table[3:]
    assert {line.count("|") for line in table} == {7}


def test_counts_are_read_from_a_report_in_junits_format(record, tmp_path):
    cases = "<testcase/><testcase/><testcase><failure/></testcase><testcase><skipped/></testcase>"
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert record.counts(report) == "2 passed, 1 failed, 1 skipped"


def test_without_a_cuda_device_the_script_says_so_and_writes_nothing(
    record, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    page = tmp_path / "gpu.md"
    assert record.main(["--page", str(page)]) == 0
    assert "no CUDA device" in capsys.readouterr().out
    assert not page.exists()

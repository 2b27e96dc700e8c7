"""Markdown tables of measured figures: printed row by row, and written into pages of results."""

from __future__ import annotations

import argparse
import datetime
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor


@attrs.frozen
class Table:
    """One table, all of it text.

    Attributes:
        title: printed in bold above the table; "" for none.
        head: names of the columns.
        rows: one text a column each. They may be measured while they are printed.
    """

    title: str
    head: Sequence[str]
    rows: Iterable[Sequence[str]]

    def lines(self) -> Iterator[str]:
        """The lines of the table, each as soon as its row is there.

        Raises:
            ValueError: a row has more or fewer cells than the head.
        """
        if self.title:
            yield f"**{self.title}**"
            yield ""
        yield f"| {' | '.join(self.head)} |"
        yield f"|{'---|' * len(self.head)}"
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"{len(row)} cells under {len(self.head)} columns: {row}")
            yield f"| {' | '.join(row)} |"


def short(number: float, digits: int = 3) -> str:
    """A number as tables have it: `digits` significant ones, no zero before the point."""
    if number == 0:
        return "0"
    if abs(number) < 1e-3:
        return f"{number:.1e}".replace("e-0", "e-")
    if abs(number) < 1:
        return f"{number:.{digits}f}".replace("0.", ".", 1)
    whole = len(str(int(abs(number))))
    return f"{number:.{max(0, digits - whole)}f}"


def mean_and_error(values: Tensor) -> str:
    """Mean and standard error of values (n,)."""
    return f"{float(values.mean()):.2f} ± {float(values.std()) / len(values) ** 0.5:.2f}"


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser for `python -m module` with the options that every benchmark has."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--toy",
        action="store_true",
        help="the smallest sizes: shows in seconds that the benchmark runs, and measures nothing",
    )
    parser.add_argument(
        "--page", type=Path, help="a page of results whose tables are replaced, between the marks"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    return parser


def parsed(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the words of the command line less `--page`, for the page itself."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(words)
    if options.toy and options.page:
        parser.error("figures of --toy are no results; leave out --page")
    torch.set_num_threads(options.threads)
    if options.page:
        place = next(k for k, word in enumerate(words) if word.startswith("--page"))
        del words[place : place + (1 if "=" in words[place] else 2)]
    return options, [*parser.prog.split(), *words]


def publish(
    tables: Iterable[Table], command: Sequence[str], page: Path | None = None, section: str = ""
) -> None:
    """Print tables and how they were made; in a page, replace the section between its marks.

    The marks are HTML comments: "<!-- section -->" and "<!-- end of section -->".

    Raises:
        SystemExit: the page has no such marks.
    """
    # Packages redirect the output while they are called, and rows are measured while printing.
    out, began, texts = sys.stdout, time.process_time(), list[str]()
    for table in tables:
        lines = []
        for line in table.lines():
            print(line, file=out, flush=True)
            lines.append(line)
        print(file=out, flush=True)
        texts.append("\n".join(lines))
    seconds = time.process_time() - began
    caption = (
        f"`{shlex.join(command)}`: {datetime.date.today()}, torch {torch.__version__}, threads:"
        f" {torch.get_num_threads()}, {seconds:.0f} s of processor time."
    )
    print(f"{caption}\n", file=out, flush=True)
    if page is not None:
        replace(page, section, "\n\n".join((caption, *texts)))


def replace(page: Path, section: str, text: str) -> None:
    """Put `text` between the marks of a section in a page.

    Raises:
        SystemExit: the page has no such marks.
    """
    start, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.S)
    before = page.read_text()
    if not pattern.search(before):
        raise SystemExit(f"{page} has no section between '{start}' and '{end}'")
    page.write_text(pattern.sub(lambda _: f"{start}\n{text}\n{end}", before))

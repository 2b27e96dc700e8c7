"""The page: a verdict a row, and what it rests on; as HTML in one file, and as Markdown."""

from __future__ import annotations

import datetime
import html
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, final

import attrs
import torch

from align import __version__
from align.io.files import write
from align.io.images import data_uri
from align.io.text import markdown
from align.report.study import study_notes, study_rows
from align.report.table import rows as table_rows
from benchmarks.paper.evidence import Check, Evidence, Verdict, verdict
from benchmarks.paper.rows import Row

DROPPED: Final = ("GFLOP", "reward calls")
"""Columns of a run's table that the page leaves out."""


@final
@attrs.frozen(eq=False)
class Section:
    """A row of the page.

    Attributes:
        row: what is claimed.
        checks: what was found; empty where a run failed.
        tables: heads and cells by the run's name.
        notes: what must be said beside the tables.
        pictures: files.
        commands: that make the row alone.
        seconds: that its runs took.
        failure: why there is nothing to show; "".
    """

    row: Row
    checks: Sequence[Check] = ()
    tables: Mapping[str, tuple[list[str], list[list[str]]]] = attrs.field(factory=dict)
    notes: Sequence[str] = ()
    pictures: Sequence[Path] = ()
    commands: Sequence[str] = ()
    seconds: float = 0.0
    failure: str = ""

    @classmethod
    def of(cls, row: Row, runs: Evidence, commands: Sequence[str], folder: Path) -> Section:
        """The checks, tables and pictures of finished runs; `folder` takes figures of its own."""
        pictures = [folder / name for name in row.shown]
        if row.draw is not None:
            pictures.insert(0, folder / f"{row.name}.png")
            row.draw(runs, pictures[0])
        tables, notes = {}, list[str]()
        for name, folders in runs.folders.items():
            results = runs.results(name)
            if studies := results.studies():
                heads, cells = study_rows(studies)
                notes += study_notes(studies)
            else:
                heads, cells = table_rows(folders[0], results)
            notes += results.all_notes()
            if any(arm.samples or arm.findings for arm in results.arms):
                tables[name] = _filled(heads, cells)
        return cls(
            row,
            row.checks(runs),
            tables,
            list(dict.fromkeys(notes)),
            [path for path in pictures if path.is_file()],
            commands,
            runs.seconds(),
        )

    @property
    def verdict(self) -> Verdict | str:
        """On the claim; "no run" where one failed, or is not there."""
        return "no run" if self.failure else verdict(self.checks)


def _filled(heads: list[str], cells: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The columns that hold something and are not dropped."""
    kept = [
        place
        for place, head in enumerate(heads)
        if head not in DROPPED and any(line[place] for line in cells)
    ]
    return [heads[k] for k in kept], [[line[k] for k in kept] for line in cells]


def _seconds(section: Section) -> str:
    """What the runs of a row took; nothing where there are none."""
    return "" if section.failure else f"{section.seconds:.0f}"


def made(sections: Sequence[Section]) -> str:
    """When, with what, and in how many seconds the page was made; follows the command."""
    seconds = sum(section.seconds for section in sections)
    return (
        f": {datetime.date.today()}, align {__version__}, torch {torch.__version__},"
        f" Python {platform.python_version()}, {torch.get_num_threads()} thread(s); {seconds:.0f} s"
        " in all runs together."
    )


INTRODUCTION: Final = (
    "Every table and figure of Meta Flow Maps enable scalable reward alignment (Potaptchik et"
    " al., 2026, arXiv:2601.14430), made anew for a small machine: the model that ships, and"
    " mixtures, in place of ImageNet. A claim holds where every statement below it holds by two"
    " standard errors, or by a t interval of 95 % of pairs; it does not hold where one statement is"
    " refuted by as much; otherwise it is not decided. Statements told beside do not count."
    " A verdict is about the runs of this page, and not about the paper's own."
)


def as_markdown(sections: Sequence[Section], command: str, pictures: Path, prefix: str) -> str:
    """The page in Markdown.

    Args:
        sections: the rows.
        command: that makes the page.
        pictures: folder that pictures are copied to.
        prefix: stands before their names in the page.
    """
    lines = ["# The paper, made anew", "", INTRODUCTION, "", f"`{command}`{made(sections)}", ""]
    lines += ["| row | in the paper | claim | verdict | seconds |", "|---|---|---|---|---|"]
    for number, one in enumerate(sections, 1):
        texts = (f"{number}. {one.row.title}", one.row.source, one.row.claim)
        shown = " | ".join(map(markdown, texts))
        lines.append(f"| {shown} | **{one.verdict}** | {_seconds(one)} |")
    for number, one in enumerate(sections, 1):
        row = one.row
        lines += ["", f"## {number}. {row.title}", "", f"{row.source}. **{one.verdict}.**", ""]
        lines += [f"*{markdown(row.claim)}*", "", f"Here: {markdown(row.here)}", ""]
        if one.failure:
            lines += [f"No verdict: {markdown(one.failure)}", ""]
            continue
        lines += ["| statement | measured | |", "|---|---|---|"]
        for check in one.checks:
            beside = "" if check.decides else " (beside)"
            found = " | ".join(map(markdown, (check.statement, check.measured)))
            lines.append(f"| {found} | {check.verdict}{beside} |")
        for path in one.pictures:
            own = path.stem == row.name
            name = path.name if own else f"{path.parent.name}_{path.name}"
            pictures.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, pictures / name)
            lines += ["", f"![{row.title}]({prefix}{name})"]
        for name, (heads, cells) in one.tables.items():
            lines += ["", f"`{name}`:", "", f"| {' | '.join(map(markdown, heads))} |"]
            lines.append(f"|{'---|' * len(heads)}")
            lines += [f"| {' | '.join(map(markdown, line))} |" for line in cells]
        lines += [f"\n{markdown(note)}" for note in one.notes]
        lines += ["", "```sh", *one.commands, "```"]
    return "\n".join(lines) + "\n"


STYLE: Final = """
:root { color-scheme: light dark; --page: #fff; --ink: #1d2129; --soft: #626a78; --line: #e3e6ea;
  --box: #f6f7f9; --yes: #1a7f37; --no: #b3261e; --open: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --page: #15181d; --ink: #e4e7ec; --soft: #9aa3b2;
  --line: #2c323b; --box: #1d2128; --yes: #57c272; --no: #ff8a80; --open: #e0b04a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 1rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .4rem; border-bottom: 1px solid var(--line); }
p { max-width: 75ch; margin: .4rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
.holds { color: var(--yes); font-weight: 600; } .does { color: var(--no); font-weight: 600; }
.not, .no { color: var(--open); font-weight: 600; } .verdict { white-space: nowrap; }
img { max-width: 100%; background: #fff; border-radius: 4px; margin: .4rem 0; }
pre { background: var(--box); padding: .7rem; border-radius: 6px; overflow-x: auto;
  font: .85rem/1.4 ui-monospace, monospace; }
"""


def as_html(sections: Sequence[Section], command: str) -> str:
    """The page as one file of HTML that asks for nothing over a network."""
    text = html.escape
    parts = [
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src data:;"
        " style-src 'unsafe-inline'\">",
        f"<link rel='icon' href='data:,'><title>The paper, made anew</title><style>{STYLE}</style>",
        f"</head><body><main><h1>The paper, made anew</h1><p>{text(INTRODUCTION)}</p>",
        f"<p class='soft'><code>{text(command)}</code>{text(made(sections))}</p>",
    ]
    summary = [
        [
            f"<a href='#{one.row.name}'>{number}. {text(one.row.title)}</a>",
            text(one.row.source),
            text(one.row.claim),
            _badge(one.verdict),
            _seconds(one),
        ]
        for number, one in enumerate(sections, 1)
    ]
    parts.append(_table(["row", "in the paper", "claim", "verdict", "seconds"], summary))
    for number, one in enumerate(sections, 1):
        row = one.row
        parts += [
            f"<h2 id='{row.name}'>{number}. {text(row.title)}: {_badge(one.verdict)}</h2>",
            f"<p><em>{text(row.claim)}</em> <span class='soft'>{text(row.source)}</span></p>",
            f"<p>Here: {text(row.here)}</p>",
        ]
        if one.failure:
            parts.append(f"<p>No verdict: {text(one.failure)}</p>")
            continue
        found = [
            [
                text(check.statement),
                text(check.measured),
                _badge(check.verdict) + ("" if check.decides else " (beside)"),
            ]
            for check in one.checks
        ]
        parts.append(_table(["statement", "measured", ""], found))
        for path in one.pictures:
            source = data_uri(path.read_bytes(), "png")
            parts.append(f"<div><img src='{source}' alt='{text(row.title)}'></div>")
        for name, (heads, cells) in one.tables.items():
            shown = [[text(cell) for cell in line] for line in cells]
            parts += [f"<p class='soft'>{text(name)}</p>", _table([text(h) for h in heads], shown)]
        parts += [f"<p class='soft'>{text(note)}</p>" for note in one.notes]
        parts.append(f"<pre>{text(chr(10).join(one.commands))}</pre>")
    return "\n".join([*parts, "</main></body></html>\n"])


def _badge(found: str) -> str:
    """A verdict in its colour; the class is its first word."""
    return f"<span class='verdict {found.partition(' ')[0]}'>{found}</span>"


def _table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML."""
    top = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in cells)
    return f"<div class='wide'><table><tr>{top}</tr>{body}</table></div>"


def save(sections: Sequence[Section], command: str, folder: Path, page: Path | None) -> list[Path]:
    """Write report.html and report.md into the folder, and the Markdown as `page` as well.

    Pictures of a page that is elsewhere go to "pictures/<its name>" beside its folder, as the
    documents of this repository have them.
    """
    files = [folder / "report.html", folder / "report.md"]
    write(files[0], as_html(sections, command))
    write(files[1], as_markdown(sections, command, folder / "pictures", "pictures/"))
    if page is not None:
        pictures = page.parent.parent / "pictures" / page.stem
        write(page, as_markdown(sections, command, pictures, f"../pictures/{page.stem}/"))
        files.append(page)
    return files

"""The page on which ``make lab`` opens JupyterLab: what is here, in which order, what to try in each chapter.

It is made from facts, smoke records and the chapters' own exercises each time, and is not part of the repository.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from reprobook import facts, project, record
from reprobook.authoring.scoreboard import duration
from reprobook.authoring.standing import mean_time

_TRY = re.compile(r"^1\. \*\*Move a parameter\.\*\* (.+?[.?])(?: |$)", re.MULTILINE)
PAGE = """\
# Papers, Rerun: start here

This is the folder of chapters. Each is a notebook about one paper: its idea as equations and code, its tables next to
ours, a verdict on each of its claims. **A click on a name below opens it.**

## How to read one

1. Open it and choose *Run, Run All Cells*. What you see at once is stored; a run makes it again at the `smoke` scale,
   which took the time in the table. It shows that the code works and is no evidence: tables that say *laptop scale*
   come from committed runs.
2. Move the sliders below the figures. The text beside them says what to expect.
3. Change a value in the cell under *Parameters* and run all again. Tables show this run above the committed ones.
4. Do the three exercises at the end.

## In which order

Chapters stand on their own, so begin where you are curious. If you want an order, take the quickest first:

| Chapter | A run took | The idea | What to try |
|---|---|---|---|
{rows}

## Back to where you were

JupyterLab saves by itself, and that changes files of your checkout. To keep them as they are, work on a copy
(right-click a notebook, *Duplicate*). To undo what was saved, type this in a terminal (*File, New, Terminal*), then
choose *File, Reload Notebook from Disk*:

```bash
git restore :/notebooks
```

The parameters of the larger scales are in `params/*.yaml` of this folder, which the list at the left leaves out.
"""


def start_page() -> str:
    """Markdown, the quickest chapter first; chapters without a smoke record come last."""
    times = {slug: mean_time(record.results(slug, "smoke")) for slug in project.chapters()}
    order = sorted(times, key=lambda slug: times[slug] or float("inf"))
    return PAGE.format(rows="\n".join(_row(slug, times[slug]) for slug in order))


def _row(slug: str, seconds: float | None) -> str:
    cells = [f"[**{slug}**]({slug}.ipynb)", duration(seconds), facts.load(slug).one_line, first_exercise(slug)]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def first_exercise(slug: str) -> str:
    """The first sentence of the chapter's exercise about a parameter; empty if there is none yet."""
    cells = json.loads(project.notebook_path(slug).read_text("utf-8"))["cells"]
    found = _TRY.search("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"))
    return found[1] if found else ""


def write() -> Path:
    """Write ``notebooks/start.md`` and return it."""
    path = project.root() / "notebooks" / "start.md"
    project.atomic_write(path, start_page())
    return path


if __name__ == "__main__":
    write()

"""The paper's facts as data: ``book/papers/<slug>.yaml`` read, validated and turned into tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reprobook.errors import ReprobookError
from reprobook.project import read_text, root
from reprobook.yaml_files import load_yaml

if TYPE_CHECKING:
    import pandas as pd

Cell = float | int | str | bool | None
Text = Field(min_length=1)


class FactsError(ReprobookError):
    """A facts file that is missing or breaks the format; the message names the file and each place."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Arxiv(_Strict):
    """Number and version on arXiv."""

    id: str = Field(pattern=r"^\d{4}\.\d{4,5}$")
    version: int = Field(ge=1)


class Code(_Strict):
    """Where the authors' code is, and under which licence."""

    url: str
    license: str | None = None


class Criterion(_Strict):
    """What an effect must be, fixed before the runs: exactly one of ``above``, ``below`` and ``within`` (low, high).

    ``scale`` limits it to runs of one scale; ``seeds`` is how many runs are planned for it where they are fewer than
    those of its claim (a costly part that only some runs have); ``why`` says, of a control, what its failure would
    mean."""

    effect: str = Text
    above: float | None = None
    below: float | None = None
    within: tuple[float, float] | None = Field(default=None, strict=False)
    scale: Literal["laptop", "paper"] | None = None
    seeds: int | None = Field(default=None, ge=5)
    why: str = ""

    @model_validator(mode="after")
    def _one_bar(self) -> Criterion:
        given = [bar for bar in (self.above, self.below, self.within) if bar is not None]
        if len(given) != 1:
            raise ValueError(f"{self.effect!r} needs exactly one of above, below and within")
        if self.within and self.within[0] >= self.within[1]:
            raise ValueError(f"{self.effect!r}: within {list(self.within)} is no interval")
        return self

    @property
    def bar(self) -> str:
        """``above 0``, ``below 0.05`` or ``within -0.02 and 0.02``."""
        if self.within:
            return f"within {self.within[0]:g} and {self.within[1]:g}"
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"


class Claim(_Strict):
    """One claim of the paper: what it says, its figures and where they stand, and what we test.

    ``tests`` decide it, ``controls`` show that the experiment could have; ``seeds`` is how many runs are planned, and
    ``extension`` how many in all after the one extension that the plan may name. A claim without tests is one of the
    old kind, in which each run decided for itself. ``challenged`` says why its verdict was brought down."""

    says: str = Text
    paper: dict[str, float | int | str]
    where: str = Text
    testable_at: list[Literal["laptop", "paper"]]
    how: str = Text
    tests: list[Criterion] = []
    controls: list[Criterion] = []
    seeds: int = Field(default=5, ge=5)
    extension: int | None = None
    challenged: str = ""

    @model_validator(mode="after")
    def _planned(self) -> Claim:
        if self.extension is not None and self.extension <= self.seeds:
            raise ValueError(f"extension {self.extension} must be more than the {self.seeds} seeds of the first look")
        if self.controls and not self.tests:
            raise ValueError("controls without tests decide nothing")
        names = [each.effect for each in self.controls]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"control {twice!r} is given twice")
        return self

    def tests_at(self, scale: str) -> list[Criterion]:
        """The tests that runs at ``scale`` decide."""
        return [each for each in self.tests if each.scale in (None, scale)]

    def controls_at(self, scale: str) -> list[Criterion]:
        """The controls of runs at ``scale``."""
        return [each for each in self.controls if each.scale in (None, scale)]


class ReportedTable(_Strict):
    """A table as the paper prints it; the first column holds the row labels."""

    caption: str = Text
    where: str = Text
    columns: list[str] = Field(min_length=1)
    rows: list[list[Cell]] = Field(min_length=1)
    note: str = ""

    @model_validator(mode="after")
    def _rectangular(self) -> ReportedTable:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"row {row} has {len(row)} cells, but there are {len(self.columns)} columns")
        return self


class Covered(_Strict):
    """A part of the paper, and the scales at which the chapter has it (none: say why in ``note``)."""

    part: str = Text
    scales: list[Literal["smoke", "laptop", "paper"]]
    note: str = ""

    @model_validator(mode="after")
    def _explained(self) -> Covered:
        if not self.scales and not self.note:
            raise ValueError("a part that no scale covers needs a note that says why")
        return self


class Facts(_Strict):
    """Everything the book says about a paper that is not prose."""

    title: str = Text
    arxiv: Arxiv
    authors: list[str] = Field(min_length=1)
    venue: str | None = None
    year: int = Field(ge=1950)
    code: Code | None = None
    licences: dict[str, str]
    citation: str = Text
    one_line: str = Text
    claims: dict[str, Claim] = Field(min_length=1)
    tables: dict[str, ReportedTable] = {}
    coverage: list[Covered] = Field(min_length=1)

    @model_validator(mode="after")
    def _claim_ids(self) -> Facts:
        wanted = [f"C{k}" for k in range(1, len(self.claims) + 1)]
        if list(self.claims) != wanted:
            raise ValueError(f"claims must be named {', '.join(wanted)} in this order, not {', '.join(self.claims)}")
        return self

    @property
    def judged(self) -> bool:
        """Whether verdicts are computed from effects: a claim has tests."""
        return any(claim.tests for claim in self.claims.values())

    def effects_at(self, scale: str) -> dict[str, list[str]]:
        """Effect -> the claims whose tests or controls need it from a run at ``scale`` (smoke: as laptop)."""
        at, found = "laptop" if scale == "smoke" else scale, dict[str, list[str]]()
        for cid, claim in self.claims.items():
            for each in (*claim.tests_at(at), *claim.controls_at(at)):
                found.setdefault(each.effect, []).append(cid)
        return found

    def claim(self, cid: str) -> Claim:
        """The claim ``cid``; an unknown id is a :class:`FactsError` that lists the known ones."""
        if cid not in self.claims:
            raise FactsError(f"unknown claim {cid!r}; claims of this paper: {', '.join(self.claims)}")
        return self.claims[cid]

    def table(self, name: str) -> ReportedTable:
        """The reported table ``name``; an unknown name is a :class:`FactsError` that lists the known ones."""
        if name not in self.tables:
            raise FactsError(f"unknown table {name!r}; reported tables: {', '.join(self.tables) or 'none'}")
        return self.tables[name]

    def frame(self, name: str) -> pd.DataFrame:
        """The reported table ``name`` as a frame with the paper's columns and the default index."""
        import pandas as pd

        table = self.table(name)
        return pd.DataFrame(table.rows, columns=table.columns)

    @property
    def arxiv_url(self) -> str:
        """Address of the abstract of the version that the chapter follows."""
        return f"https://arxiv.org/abs/{self.arxiv.id}v{self.arxiv.version}"

    def identity(self) -> list[tuple[str, str]]:
        """``(label, text)`` lines that say which paper this is."""
        lines = [("Paper", self.title), ("Authors", ", ".join(self.authors)), ("arXiv", self.arxiv_url)]
        lines += [("Venue", f"{self.venue} ({self.year})" if self.venue else str(self.year))]
        if self.code:
            lines += [("Code", f"{self.code.url} (licence: {self.code.license or 'none stated'})")]
        lines += [("Licences", "; ".join(f"{what}: {licence}" for what, licence in self.licences.items()))]
        return [*lines, ("In one line", self.one_line)]


def parse(text: str, where: str) -> Facts:
    """Read the text of a facts file; ``where`` names it in errors."""
    content = load_yaml(text, where, FactsError)
    try:
        return Facts.model_validate(content)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or 'file'}: {item['msg']}" for item in error.errors()
        ]
        raise FactsError(f"{where} breaks the format of a facts file:\n  " + "\n  ".join(problems)) from error


def load(slug: str) -> Facts:
    """The facts of chapter ``slug``. Raises :class:`FactsError` if its file is missing or not valid."""
    path = root() / "book" / "papers" / f"{slug}.yaml"
    if not path.is_file():
        raise FactsError(f"book/papers/{slug}.yaml does not exist: write the paper's facts there")
    return parse(read_text(path, f"book/papers/{slug}.yaml", FactsError), f"book/papers/{slug}.yaml")

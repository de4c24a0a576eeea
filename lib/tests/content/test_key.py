"""What makes a number stale, and what doesn't: edits to a small library, and the key before and after."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from reprobook.content import key
from reprobook.content.key import content_key, differences, digest_with, run_id, staleness
from reprobook.project import cache_dir
from reprobook.record import Record

SLUG = "block_diffusion"
NOISE = "papers/block_diffusion/noise.py"
PARAMS = {"scale": "laptop", "seed": 1, "device": "auto", "out_dir": "", "lr": 1.0e-3, "steps": 2}
CELLS = (
    "import reprobook\nfrom reprobook.papers import block_diffusion as bd\nimport numpy as np",
    "ch = reprobook.open_chapter('block_diffusion', scale=scale, seed=seed)",
    "x = bd.loss(np.zeros(3))  # the loss",
    "h = ch.fit('model', x)",
    ("display", "print('a picture')"),
    "ch.finish()",
)
LIBRARY = {
    "__init__.py": """
        def open_chapter(slug, **kw):
            from reprobook.chapter import open_chapter as inner
            return inner(slug, **kw)
        """,
    "chapter.py": """
        from reprobook import train
        from reprobook.record import write

        def open_chapter(slug, **kw):
            return Chapter(slug)

        class Base:
            def score(self):
                from reprobook.metrics.text import score
                return score(1)

        class Chapter(Base):
            def fit(self, name, model):
                return train.fit(model)

            def evaluate(self):
                from reprobook.metrics.text import perplexity
                return perplexity(1)

            def finish(self):
                write(self)
        """,
    "record.py": "import yaml\n\ndef write(record):\n    return yaml\n",
    "train.py": """
        import torch
        from reprobook.nn.steps import step as one_step

        def fit(model):
            for _ in range(3):
                one_step(model)

        def unrelated():
            return 1
        """,
    "nn/__init__.py": "",
    "nn/steps.py": "RATE = 0.5\nOTHER = 1\n\ndef step(model):\n    '''Make one step.'''\n    return model * RATE\n",
    "metrics/__init__.py": "",
    "metrics/text.py": "def perplexity(x):\n    return x\n\n\ndef score(x):\n    return 1\n",
    "papers/__init__.py": "",
    "papers/block_diffusion/__init__.py": "from .noise import loss, weight\n",
    "papers/block_diffusion/noise.py": """
        from sklearn import metrics as skm
        import scipy

        def loss(x: 'scipy.sparse') -> float:
            return weight(x) + skm.f1

        def weight(x):
            return Schedule().at(x)

        class Schedule:
            def at(self, x):
                return x

            def other(self):
                return 1
        """,
}


@pytest.fixture
def library(checkout: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small library in the place of the one that is imported."""
    monkeypatch.setattr(key, "library_folder", lambda: checkout.root / "lib")
    for path, text in LIBRARY.items():
        checkout.write(f"lib/reprobook/{path}", text)
    checkout.notebook(*CELLS)
    return checkout


def _edit(checkout: Any, path: str, old: str, new: str) -> None:
    target = checkout.root / path
    text = target.read_text()
    assert old in text
    target.write_text(text.replace(old, new))


def _reasons(checkout: Any, path: str, old: str, new: str, *, library: str = "lib/reprobook/") -> list[str]:
    before = content_key(SLUG, PARAMS, {"text": "aa"})
    _edit(checkout, library + path, old, new)
    return differences(before, content_key(SLUG, PARAMS, {"text": "aa"}))


def test_definitions_are_those_that_the_cells_reach(library: Any) -> None:
    key = content_key(SLUG, PARAMS, {})
    assert set(key["definitions"]) == {
        "reprobook.papers.block_diffusion.noise:loss",
        "reprobook.papers.block_diffusion.noise:weight",
        "reprobook.papers.block_diffusion.noise:Schedule",
        "reprobook.train:fit",
        "reprobook.nn.steps:step",
        "reprobook.nn.steps:RATE",
        "reprobook:open_chapter",
        "reprobook.chapter:open_chapter",
        "reprobook.chapter:Base",
        "reprobook.chapter:Chapter",
        "reprobook.chapter:Chapter.fit",
        "reprobook.chapter:Chapter.finish",
    }
    # torch, scipy and yaml are imported too, but by nothing that counts
    assert key["packages"] == {"numpy": "2.4.6", "scikit-learn": "1.9.1"}


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("nn/steps.py", "return model", "# a comment\n    return model"),
        ("nn/steps.py", "Make one step.", "Make exactly one step."),
        ("nn/steps.py", "OTHER = 1", "OTHER = 2"),
        ("nn/steps.py", "RATE = 0.5\n", "RATE = (0.5)\n\ndef added():\n    return 2\n\n"),
        ("train.py", "return 1", "return 2"),
        ("train.py", "import torch", "import torch\nimport os"),
        ("record.py", "return yaml", "return yaml, 1"),
        ("chapter.py", "return perplexity(1)", "return perplexity(2)"),
        ("metrics/text.py", "return x", "return 2 * x"),
    ],
)
def test_edits_that_keep_a_number_current(library: Any, path: str, old: str, new: str) -> None:
    assert _reasons(library, path, old, new) == []


@pytest.mark.parametrize(
    ("path", "old", "new", "reason"),
    [
        ("nn/steps.py", "model * RATE", "model * RATE * 2", "reprobook.nn.steps:step changed"),
        ("nn/steps.py", "RATE = 0.5", "RATE = 0.25", "reprobook.nn.steps:RATE changed"),
        (NOISE, "return 1", "return 2", "reprobook.papers.block_diffusion.noise:Schedule changed"),
        ("train.py", "range(3)", "range(4)", "reprobook.train:fit changed"),
        ("chapter.py", "write(self)", "write(2 * self)", "reprobook.chapter:Chapter.finish changed"),
        ("nn/steps.py", "OTHER = 1", "print('side effect')", "reprobook.nn.steps:(top level) is used now"),
    ],
)
def test_edits_that_make_it_stale_name_the_definition(library: Any, path: str, old: str, new: str, reason: str) -> None:
    assert _reasons(library, path, old, new) == [reason]


def test_a_method_of_the_chapter_leads_to_what_it_calls(library: Any) -> None:
    before = content_key(SLUG, PARAMS, {})
    library.notebook(*CELLS[:4], "ch.evaluate()\nch.score()", *CELLS[4:])
    assert differences(before, content_key(SLUG, PARAMS, {})) == [
        "a code cell changed",
        "reprobook.chapter:Base.score is used now",
        "reprobook.chapter:Chapter.evaluate is used now",
        "reprobook.metrics.text:perplexity is used now",
        "reprobook.metrics.text:score is used now",
    ]


@pytest.mark.parametrize(
    "use",
    [
        "from reprobook.nn import steps\nsteps.step(1)",
        "import reprobook.nn.steps\nreprobook.nn.steps.step(1)",
        "import reprobook.nn.steps as s\ns.step(1)",
        "from reprobook.nn.steps import *\nstep(1)",
        "def f():\n    from reprobook.nn.steps import step\n    return step(1)",
        "from reprobook.nn import steps\ng = getattr(steps, 'st' + 'ep')",
    ],
)
def test_every_form_of_import_is_followed(library: Any, use: str) -> None:
    library.notebook(use)
    assert {"reprobook.nn.steps:step", "reprobook.nn.steps:RATE"} <= set(content_key(SLUG, PARAMS, {})["definitions"])


def test_cells(library: Any) -> None:
    before = content_key(SLUG, PARAMS, {})
    library.notebook(*CELLS[:4], ("display", "print('another picture')"), CELLS[5])
    assert differences(before, content_key(SLUG, PARAMS, {})) == []
    library.notebook(*CELLS[:2], "x = bd.loss( np.zeros(3) )", *CELLS[3:])
    assert differences(before, content_key(SLUG, PARAMS, {})) == []
    library.notebook(*CELLS[:2], "x = bd.loss(np.zeros(4))", *CELLS[3:])
    assert differences(before, content_key(SLUG, PARAMS, {})) == ["a code cell changed"]


def test_magics_do_not_stop_the_reading(library: Any) -> None:
    library.notebook("%matplotlib inline\nimport numpy as np", "!ls", "1 +")
    assert content_key(SLUG, PARAMS, {})["packages"] == {"numpy": "2.4.6"}


def test_packages_data_and_parameters(library: Any) -> None:
    before = content_key(SLUG, PARAMS, {"text": "aa", "model": "cc"})
    _edit(library, "requirements.lock", "numpy==2.4.6", "numpy==2.5.0")
    after = content_key(SLUG, {**PARAMS, "lr": 2.0e-3, "seed": 2, "device": "cpu"}, {"text": "bb", "model": "cc"})
    reasons = ["package numpy 2.4.6 -> 2.5.0", "data text changed", "parameter lr 0.001 -> 0.002"]
    assert differences(before, after) == reasons


@pytest.mark.parametrize("damage", ["{", "[]", '{"source": 1}', None])
def test_a_damaged_or_unwritable_cache_costs_time_only(
    library: Any, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    before = content_key(SLUG, PARAMS, {})
    [kept] = (cache_dir() / "code").iterdir()
    assert json.loads(kept.read_text())["reached"]["definitions"] == before["definitions"]
    if damage is None:
        monkeypatch.setenv("REPROBOOK_CACHE", str(kept))  # a file where the folder would be
    else:
        kept.write_text(damage)
    key._code_of.cache_clear()
    assert content_key(SLUG, PARAMS, {}) == before


def test_what_the_cache_keeps_is_asked_by_content_not_by_time(library: Any) -> None:
    before = content_key(SLUG, PARAMS, {})
    path = library.root / "lib/reprobook/nn/steps.py"
    stamp = path.stat()
    path.write_text(path.read_text().replace("0.5", "0.7"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    key._code_of.cache_clear()  # as a new process would
    assert content_key(SLUG, PARAMS, {})["digest"] != before["digest"]


def test_digest_with_other_parameters_is_that_of_a_fresh_key(library: Any) -> None:
    key = content_key(SLUG, PARAMS, {"text": '"params": null'})
    digest = digest_with(key)
    equal = ({"seed": 1.0}, {"seed": True}, {"seed": 1})  # as Python sees it; as text they differ
    for changed in (
        {"lr": 2.0e-3}, {"seed": 7, "out_dir": "/elsewhere"}, {"lr": None, "other": ["a", {"z": 1, "b": 1.5}]}, *equal
    ):  # fmt: skip
        params = {**PARAMS, **changed}
        assert digest(params) == content_key(SLUG, params, {"text": '"params": null'})["digest"]
    assert digest(PARAMS) == key["digest"]
    assert len({digest({**PARAMS, **changed}) for changed in equal}) == 3


def test_import_names_lead_to_their_distributions() -> None:
    import importlib.metadata

    from reprobook.content.key import _distributions

    ours, library = _distributions(), importlib.metadata.packages_distributions()
    for name in ("yaml", "sklearn", "PIL", "torch", "numpy", "dateutil", "attr", "zmq"):
        assert {each.name for each in ours[name]} == set(library[name])


def test_run_id_depends_on_everything_but_the_folder() -> None:
    key = {"digest": "abc"}
    name = run_id(SLUG, "laptop", 1, PARAMS, key)
    assert name.startswith("laptop-seed1-") and len(name) == len("laptop-seed1-") + 10
    assert run_id(SLUG, "laptop", 1, {**PARAMS, "out_dir": "/elsewhere"}, key) == name
    assert run_id(SLUG, "laptop", 1, {**PARAMS, "device": "cuda"}, key) != name
    assert run_id(SLUG, "laptop", 1, PARAMS, {"digest": "abd"}) != name


def test_staleness_of_a_record(library: Any) -> None:
    content = content_key(SLUG, PARAMS, {})
    record = Record(slug=SLUG, scale="laptop", seed=1, run_id="r", status="complete", content=content)
    assert staleness(record) == []
    library.write(f"notebooks/params/{SLUG}.laptop.yaml", "scale: laptop  # this scale\nsteps: 9  # longer\n")
    assert staleness(record) == ["parameter steps 2 -> 9"]
    silent = record.model_copy(update={"content": None, "seed": 2})
    assert staleness(silent) == ["the record does not say what it was made from"]
    assert staleness(record, silent, record.model_copy(update={"seed": 3})) == [*staleness(record), *staleness(silent)]
    (library.root / "notebooks" / f"{SLUG}.ipynb").unlink()
    assert "unknown chapter" in staleness(record)[0]


def _definitions(library: Any, cells: str, **modules: str) -> dict[str, str]:
    """The definitions of module ``more`` that ``cells`` reach, by their bare names, once the modules are written."""
    for name, text in modules.items():
        library.write(f"lib/reprobook/{name}.py", text)
    library.notebook(cells)
    found = content_key(SLUG, PARAMS, {})["definitions"]
    return {name.removeprefix("reprobook.more:"): digest for name, digest in found.items() if ".more:" in name}


MORE = """
    import foreign
    from reprobook import show
    from matplotlib.figure import Figure

    class Plain:
        size: int = 3
        def __len__(self): return 1
        def used(self): return self.helper()
        def helper(self): return 1
        def idle(self): return 2

    class Called(foreign.Module):
        def idle(self): return 2

    class Child(Called):
        def other(self): return 2

    def fit(*, rate=1, slow=None, **rest):
        return slowly(slow) if slow is not None else rate

    def slowly(slow): return slow

    def train(folder): return 1

    def picture(x) -> Figure: return drawn(x)

    def drawn(x): return x

    def shows() -> None:
        text = drawn(1)
        show.table(text)
    """
SHOW = """
    def table(frame, caption="") -> None: print(look(frame))
    def look(frame): return frame
    def flat(frame) -> list: return frame
    """


@pytest.mark.parametrize(
    ("use", "reached"),
    [
        ("m.Plain().used()", {"Plain", "Plain.__len__", "Plain.used", "Plain.helper"}),
        ("getattr(m.Plain(), 'idle')", {"Plain", "Plain.__len__", "Plain.idle"}),
        ("getattr(m.Plain(), 'id' + 'le')", {"Plain", *(f"Plain.{n}" for n in ("__len__", "used", "helper", "idle"))}),
        ("m.Called()", {"Called", "Called.idle"}),  # a class of another package may call any method
        ("m.Child()", {"Called", "Called.idle", "Child", "Child.other"}),
        ("m.fit(rate=2)", {"fit"}),
        ("m.fit(slow=2)", {"fit", "slowly"}),
        ("m.fit(**{'slow': 2})", {"fit", "slowly"}),
        ("launch('reprobook.more:train')", {"train"}),
        ("launch('more:train')", {"train"}),
        ("m.picture(1)", set()),
        ("m.shows()", set()),
        ("m.show.table(m.drawn(1))", {"drawn"}),
    ],
)
def test_what_is_reached(library: Any, use: str, reached: set[str]) -> None:
    assert set(_definitions(library, f"from reprobook import more as m\n{use}", more=MORE, show=SHOW)) == reached


def test_of_what_draws_only_what_gives_something_back_counts(library: Any) -> None:
    _definitions(library, "from reprobook import show\nshow.table(show.flat([1]), 'a caption')", show=SHOW)
    before = content_key(SLUG, PARAMS, {})
    assert set(before["definitions"]) == {"reprobook.show:flat"}
    library.notebook("from reprobook import show\nshow.table(show.flat([1]), 'other words')")
    assert differences(before, content_key(SLUG, PARAMS, {})) == []
    library.notebook("from reprobook import show\nshow.table(show.flat([2]), 'other words')")
    assert differences(before, content_key(SLUG, PARAMS, {})) == ["a code cell changed"]


@pytest.mark.parametrize(
    ("handler", "counts"),
    [
        ("said = str(error)", True),
        ("said.append(f'{error}')", True),
        ("raise RuntimeError(f'no: {error}') from error", False),
        ("print(error)", False),
        ("pass", False),
    ],
)
def test_texts_of_errors_count_only_where_the_chapter_goes_on_with_one(
    library: Any, handler: str, counts: bool
) -> None:
    cell = f"from reprobook.more import f\nsaid = []\ntry:\n    f(1)\nexcept ValueError as error:\n    {handler}\n"
    text = "def f(x):\n    if x:\n        raise ValueError(f'the text {x}')\n    print('a message', x)\n"
    before = _definitions(library, cell, more=text)
    assert (_definitions(library, cell, more=text.replace("the text", "other text")) != before) == counts
    assert _definitions(library, cell, more=text.replace("a message", "another")) == before
    assert _definitions(library, cell, more=text.replace("'a message', x", "'a message', x + 1")) != before


FACTS = """
    tables:
      one: {columns: [a], rows: [[1]], caption: here}
      two: {columns: [a], rows: [[2]], caption: there}
    claims:
      C1: {paper: {gain: 2}, tests: [{effect: gain, above: 0.0}], seeds: 5, extension: null}
    """


@pytest.mark.parametrize(
    ("use", "read"),
    [
        ("ch.facts.frame('one')", ["one"]),
        ("facts = ch.facts\nfor name in ('one', 'two'):\n    facts.table(name)", ["one", "two"]),
        ("[ch.facts.frame(name) for name in ('two',)]", ["two"]),
        ("ch.facts.frame(name)", ["one", "two"]),
        ("ch.facts.tables['one']", ["one", "two"]),
        ("ch.table('one', 1, paper_table='two')", []),
        ("from reprobook.papers.block_diffusion.more import f\nf(ch.facts)", ["two"]),
    ],
)
def test_tables_of_the_facts_that_the_chapter_reads(library: Any, use: str, read: list[str]) -> None:
    library.write(f"book/papers/{SLUG}.yaml", FACTS)
    library.write("lib/reprobook/papers/block_diffusion/more.py", "def f(paper):\n    return paper.frame('two')\n")
    library.notebook(use)
    before = content_key(SLUG, PARAMS, {})
    tables = [f"table {name} of the facts" for name in read]
    assert list(before["facts"]) == sorted([*tables, "the seeds of C1", "the tests of C1"])
    for table, value in (("one", "[[1]]"), ("two", "[[2]]")):
        library.write(f"book/papers/{SLUG}.yaml", FACTS.replace(value, "[[3]]").replace("here", "elsewhere"))
        reasons = [f"table {table} of the facts changed"] if table in read else []
        assert differences(before, content_key(SLUG, PARAMS, {})) == reasons
    library.write(f"book/papers/{SLUG}.yaml", FACTS.replace("above: 0.0", "above: 0.1"))
    assert differences(before, content_key(SLUG, PARAMS, {})) == ["the tests of C1 changed"]

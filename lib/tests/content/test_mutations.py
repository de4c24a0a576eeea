"""One-line edits of the real library, facts and notebooks: those that can move a number make its chapters stale, those
that cannot do not."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from copies import copy_to_change
from reprobook.content.closure import close
from reprobook.content.key import content_key, counted_cells, differences, run_id
from reprobook.project import chapters, notebook_path, root

LIB = "lib/reprobook"
PARAMS: dict[str, Any] = {"scale": "smoke", "seed": 0}
EVERY = ("stasc", "tpdiff", "block_diffusion")
STASC, TPDIFF, BLOCK = (("stasc",), ("tpdiff",), ("block_diffusion",))

MOVES = [  # file, text, what it becomes, chapters that it makes stale
    (f"{LIB}/chapter/__init__.py", "    set_seed(seed)", "    set_seed(seed + 1)", EVERY),
    (f"{LIB}/chapter/__init__.py", '{"seed": self.seed, "device"', '{"seed": self.seed + 1, "device"', EVERY),
    (
        f"{LIB}/chapter/__init__.py",
        "self._metrics[str(name)] = float(value)",
        "self._metrics[str(name)] = -value",
        EVERY,
    ),
    (f"{LIB}/train/__init__.py", "weight_decay: float = 0.0", "weight_decay: float = 0.1", EVERY),
    (f"{LIB}/train/__init__.py", "order(epoch + 1)[:rest]", "order(epoch + 2)[:rest]", EVERY),
    (f"{LIB}/train/options.py", "(1.0 + math.cos(math.pi * done))\n", "(1.0 + math.sin(math.pi * done))\n", EVERY),
    (f"{LIB}/train/ema.py", "self._update(self.values,", "self._update(self.values[:1],", TPDIFF + BLOCK),
    (f"{LIB}/record/__init__.py", "isinstance(value, float) and not math.isfinite(value)", "value == 0.0", EVERY),
    (f"{LIB}/params.py", "return float(value)", "return float(value) * 2", EVERY),
    (f"{LIB}/papers/block_diffusion/study.py", "FIRST_SOURCE = 1000", "FIRST_SOURCE = 2000", BLOCK),
    (f"{LIB}/data/text.py", 'ALPHABET = " abc', 'ALPHABET = " bac', BLOCK),
    (
        f"{LIB}/nn/lm.py",
        "model.to(torch.device(device))).eval()",
        "model.to(torch.device(device))).train()",
        STASC,  # block_diffusion opens its judge itself
    ),
    (f"{LIB}/papers/stasc/reward.py", "return float(has_answer(", "return 1.0 - float(has_answer(", STASC),
    (f"{LIB}/papers/tpdiff/schedule.py", "return 1 - t, t", "return 1 - t, t * t", TPDIFF),
    (f"{LIB}/papers/block_diffusion/noise.py", "(1 - EPS) * torch.cos(", "(1 + EPS) * torch.cos(", BLOCK),
    ("book/papers/stasc.yaml", "EIE and ENE, 1, 5, 161, 711", "EIE and ENE, 1, 5, 162, 711", STASC),
    ("book/papers/tpdiff.yaml", "[MiniFlux-vid, 20.79, 12.18, 1.71]", "[MiniFlux-vid, 20.97, 12.18, 1.71]", TPDIFF),
    (f"{LIB}/papers/stasc/printed.py", "def kept_against_change(", "@str\ndef kept_against_change(", STASC),
    ("notebooks/stasc.ipynb", "n_init * n_corr, n_iterations", "n_init + n_corr, n_iterations", STASC),
    ("notebooks/tpdiff.ipynb", "max(3, sample_steps // 3 * 3)", "max(6, sample_steps // 3 * 3)", TPDIFF),
]

STAYS = [  # file, text, what it becomes
    (f"{LIB}/train/__init__.py", "Train ``model`` for ``num_steps`` optimiser updates", "Train it"),  # docstring
    (f"{LIB}/papers/stasc/reward.py", "def reward(text: str", "# a comment\ndef reward(text: str"),
    (f"{LIB}/papers/tpdiff/schedule.py", "def signal_noise(self, t: Tensor) ->", "def signal_noise(self, t: Any) ->"),
    (f"{LIB}/metrics/statistics.py", "def all_above_zero(intervals: ", "def all_above_zero(intervals: Any or "),
    (f"{LIB}/train/options.py", "; it must be {allowed}", ", but has to be {allowed}"),  # text of an error
    (f"{LIB}/papers/stasc/reward.py", "is not known; modes:", "is unknown; modes:"),
    (
        f"{LIB}/train/progress.py",
        "stopping after this step; interrupt",
        "this is the last step; interrupt",
    ),  # a log line
    (f"{LIB}/show/tables.py", "text-align:right", "text-align:center"),  # drawing
    (f"{LIB}/show/figures.py", 'facecolor="white"', 'facecolor="black"'),
    (f"{LIB}/show/tables.py", "if value is None or isinstance(value, str):", "if value is None:"),
    (f"{LIB}/chapter/__init__.py", "Tests and controls, fixed before the runs", "The plan"),
    (f"{LIB}/chapter/tables.py", '"Its figures", "What we test"', '"Figures", "What we test"'),
    (f"{LIB}/record/__init__.py", "_json(plain(record.model_dump())) + ", "_json(plain(record.model_dump())) * 1 + "),
    (f"{LIB}/record/circumstances.py", "def commit() -> tuple", "def commit(_=0) -> tuple"),  # storage
    (f"{LIB}/data/__init__.py", "def download_bytes(", "def download_bytes_of("),  # nobody calls it here
    (f"{LIB}/train/launch.py", 'if __name__ == "__main__":', 'if __name__ == "__main__" and True:'),
    ("notebooks/stasc.ipynb", "Kept at iteration 0, from the logs", "Kept at first"),  # caption
    ("notebooks/stasc.ipynb", 'caption=\\"Every iterate\\"', 'caption=\\"Iterates\\"'),
    ("notebooks/stasc.ipynb", "What the filters keep. `keep`: a right", "`keep`: a right"),  # display
    ("book/papers/tpdiff.yaml", "Sampling time of 30 steps", "Time of 30 steps"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """This checkout again, with a cache of its own, and the keys of it as it stands."""
    folder = tmp_path_factory.mktemp("mutated")
    for part in (LIB, "notebooks", "book/papers", "data_manifests"):
        copy_to_change(root() / part, folder / part, "bundled")
    shutil.copy(root() / "requirements.lock", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPROBOOK_ROOT", str(folder))
        patch.setattr("reprobook.content.key.library_folder", lambda: folder / "lib")
        patch.setenv("REPROBOOK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield folder


@pytest.fixture(scope="module")
def before(copy: Path) -> dict[str, dict[str, Any]]:
    return {slug: content_key(slug, PARAMS, {}) for slug in EVERY}


def _edited(copy: Path, file: str, old: str, new: str) -> dict[str, dict[str, Any]]:
    """The keys after one edit, which is taken back."""
    path = copy / file
    text = path.read_text("utf-8")
    assert old in text, f"{file} no longer holds {old!r}: choose another line"
    path.write_text(text.replace(old, new, 1), "utf-8")
    try:
        return {slug: content_key(slug, PARAMS, {}) for slug in EVERY}
    finally:
        path.write_text(text, "utf-8")


@pytest.mark.parametrize(("file", "old", "new", "stale"), MOVES)
def test_what_moves_a_number_makes_it_stale(
    copy: Path, before: dict[str, Any], file: str, old: str, new: str, stale: tuple[str, ...]
) -> None:
    after = _edited(copy, file, old, new)
    assert tuple(slug for slug in EVERY if differences(before[slug], after[slug])) == stale
    for slug in stale:
        assert run_id(slug, "smoke", 0, PARAMS, before[slug]) != run_id(slug, "smoke", 0, PARAMS, after[slug])


def test_reasons_say_what_changed(copy: Path, before: dict[str, Any]) -> None:
    counts = _edited(copy, "book/papers/stasc.yaml", "1, 5, 161, 711", "1, 5, 162, 711")
    assert differences(before["stasc"], counts["stasc"]) == ["table counts of the facts changed"]
    claim = '  C4:\n    says: "With fixed'
    longer = _edited(copy, "book/papers/stasc.yaml", claim, claim.replace("    says", "    seeds: 6\n    says"))
    assert differences(before["stasc"], longer["stasc"]) == ["the seeds of C4 changed"]
    test = '{effect: "FIE minus FIF", above: 0.0'
    laxer = _edited(copy, "book/papers/stasc.yaml", test, test.replace("0.0", "-0.1"))
    assert differences(before["stasc"], laxer["stasc"]) == ["the tests of C4 changed"]


def test_a_function_named_in_a_string_is_an_edge(copy: Path, before: dict[str, Any]) -> None:
    tune = "reprobook.papers.stasc.released:tune"
    assert tune in before["stasc"]["definitions"]
    file = f"{LIB}/papers/stasc/released.py"
    other = _edited(copy, file, f'"{tune}"', '"reprobook.papers.stasc.released:" + "tune"')
    assert tune not in other["stasc"]["definitions"]  # nothing else leads to it


@pytest.mark.parametrize(("file", "old", "new"), STAYS)
def test_what_cannot_move_a_number_leaves_it_current(
    copy: Path, before: dict[str, Any], file: str, old: str, new: str
) -> None:
    after = _edited(copy, file, old, new)
    assert {slug: differences(before[slug], after[slug]) for slug in EVERY} == {slug: [] for slug in EVERY}


@pytest.mark.parametrize("slug", chapters())
def test_what_is_left_out_as_drawing_draws_no_number(slug: str) -> None:
    """It gives back nothing to compute with; so it could only move a number through a random stream or a model."""
    cells = counted_cells(json.loads(notebook_path(slug).read_bytes()))
    show = [ast.parse(path.read_text("utf-8")) for path in (root() / LIB / "show").glob("*.py")]
    for node in [*close(cells, root() / "lib").left_out.values(), *show]:
        words = {getattr(each, "attr", getattr(each, "id", "")) for each in ast.walk(node)}
        assert not words & {"random", "default_rng", "manual_seed", "set_seed", "shuffle", "torch", "fit", "metric"}

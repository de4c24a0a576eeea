"""YAML and text as people write them: nothing is dropped, no number is another than it looks, encodings are named."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reprobook import facts, params, project
from reprobook.batch.plan import load as load_plan
from reprobook.cli import main
from reprobook.content.excuses import excused
from reprobook.content.key import content_key
from reprobook.data import load_manifest
from reprobook.errors import ReprobookError

SLUG = "block_diffusion"
PLAN = f"runs: [{{chapters: [{SLUG}], scale: smoke}}]\n"
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {  # every YAML file that somebody may write by hand
    "parameters": (f"notebooks/params/{SLUG}.laptop.yaml", lambda _: params.resolve(SLUG, "laptop")),
    "plan": ("two.yaml", load_plan),
    "facts": (f"book/papers/{SLUG}.yaml", lambda _: facts.load(SLUG)),
    "facts in the key": (f"book/papers/{SLUG}.yaml", lambda _: content_key(SLUG, {}, {})),
    "manifest": (f"data_manifests/{SLUG}.yaml", lambda _: load_manifest(SLUG)),
    "excuses": ("book/results/neutral.yaml", lambda _: excused(SLUG, "a:b", "1", "2")),
}
GOOD = {
    "parameters": "scale: laptop  # é\nlr: 0.5\n",
    "plan": PLAN,
    "manifest": "artefacts: []\n",
    "excuses": "[]",
}


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, checkout: Any) -> Any:
    """Writes a file of one kind and reads it as the library does."""
    checkout.notebook("1")
    name, read = READERS[request.param]

    def read_bytes(content: bytes) -> Any:
        path = checkout.write(name, "")
        path.write_bytes(content)
        return read(path)

    read_bytes.kind, read_bytes.name = request.param, name  # type: ignore[attr-defined]
    return read_bytes


def test_every_file_of_yaml_refuses_a_key_given_twice(reader: Any) -> None:
    with pytest.raises(ReprobookError, match=r"'scale' is given twice \(line 3\)"):
        reader(b"scale: laptop\nother: {inner: 1}\nscale: paper\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("scale: été\n".encode("latin-1"), r"is not UTF-8 text \(line 1\): save it as UTF-8"),
        ("scale: laptop\n".encode("utf-16"), r"is not UTF-8 text \(line 1\): save it as UTF-8"),
        (b"a: 1\nb: 2025-02-30\n", r"2025-02-30 is a date to YAML \(line 2\): quote it"),
        (b"a: 010\n", r"010 is 8 to YAML \(line 1\): write 8 or 10, or quote it"),
    ],
)
def test_every_file_of_yaml_says_what_it_cannot_be(reader: Any, content: bytes, message: str) -> None:
    with pytest.raises(ReprobookError, match=message) as caught:
        reader(content)
    assert Path(reader.name).name in str(caught.value)


def test_a_byte_order_mark_is_no_content(reader: Any) -> None:
    if reader.kind in GOOD:
        text = GOOD[reader.kind].encode()
        assert reader(codecs.BOM_UTF8 + text) == reader(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed=010", "010 is 8 to YAML .*write 8 or 10"),
        ("seed=-007", "-007 is -7 to YAML .*write -7, or quote"),
        ("seed=1:30", "1:30 is 90 to YAML .*write 90, or quote"),
        ("lr=1:30.5", "1:30.5 is 90.5 to YAML .*write 90.5, or quote"),
        ("steps=[1, 012]", "012 is 10 to YAML .*write 10 or 12"),
        ("steps=0_", "0_"),
        ("fault=2025-02-30", "2025-02-30 is a date to YAML"),
        ("fault=2025-02-28", "2025-02-28 is a date to YAML"),
        ("steps=" + "9" * 5000, "override"),
        ("steps=" + "[" * 2000, "override"),
    ],
)
def test_an_override_that_reads_otherwise_than_it_looks_is_refused(text: str, message: str) -> None:
    with pytest.raises(params.ParameterError, match=message):
        params.parse_override(text)


def test_numbers_that_are_what_they_look_like_pass() -> None:
    given = {"0": 0, "-5": -5, "0x1F": 31, "1_000": 1000, "0.5": 0.5, "010.5": 10.5, "1.0e-4": 1e-4, "'010'": "010"}
    assert {text: params.parse_override(f"a={text}")[1] for text in given} == given


@pytest.mark.parametrize(("value", "hint"), [("08", "write 8"), ("1e3", "write 1000"), ("1.5e0", None)])
def test_a_whole_number_that_yaml_reads_as_text_is_explained(value: str, hint: str | None) -> None:
    with pytest.raises(params.ParameterError) as caught:
        params.check_value(params.Param("steps", 1, None, "steps"), value)
    assert (f"YAML reads {value} as text: {hint}" in str(caught.value)) is (hint is not None)


def test_all_files_of_this_checkout_read_as_before() -> None:
    """Strictness costs nothing that was right: every YAML file is what PyYAML itself makes of it."""
    import yaml
    from reprobook.yaml_files import load_yaml

    folders = ("notebooks/params", "book/papers", "book/plans", "book/results", "data_manifests")
    files = [path for folder in folders for path in sorted((project.root() / folder).glob("*.yaml"))]
    assert len(files) > 40
    plain = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for path in files:
        text = path.read_text("utf-8")
        assert load_yaml(text, path.name) == yaml.load(text, Loader=plain), path.name


# ------------------------------------------------------------------------------------------------ seeds


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_refuses_is_refused_at_once(checkout: Any, seed: int, capsys: Any) -> None:
    checkout.notebook("1")
    message = f"seed must be from 0 to 4294967295, got {seed}"
    assert main(["run", SLUG, "-p", f"seed={seed}"]) == 2 and message in capsys.readouterr().err
    plan = checkout.write("plan.yaml", PLAN.replace("smoke}", f"smoke, seeds: [{seed}]}}"))
    assert main(["batch", "--dry-run", str(plan)]) == 2 and message in capsys.readouterr().err
    with pytest.raises(params.ParameterError, match="seed must be from 0"):
        params.parse_cell(f'scale = "smoke"  # s\nseed = {seed}  # s\ndevice = "auto"  # d\nout_dir = ""  # o\n')
    assert not (checkout.root / "runs").exists()


def test_the_largest_seed_is_one() -> None:
    assert params.check_value(params.Param("seed", 0, None, "seed"), 2**32 - 1) == 2**32 - 1


# ------------------------------------------------------------------------------------------------ other text


def test_a_module_with_a_byte_order_mark_is_read_as_python_reads_it(tmp_path: Path) -> None:
    from reprobook.content.source import read_module

    plain, marked = tmp_path / "plain.py", tmp_path / "marked.py"
    plain.write_bytes(b"x = 1\n")
    marked.write_bytes(codecs.BOM_UTF8 + b"x = 1\n")
    assert list(read_module(marked, "marked").definitions) == list(read_module(plain, "plain").definitions) == ["x"]


def test_expected_metrics_may_have_a_byte_order_mark(checkout: Any) -> None:
    from reprobook import record

    path = checkout.write(f"notebooks/expected/{SLUG}.json", "")
    path.write_bytes(codecs.BOM_UTF8 + b'{"a": {"value": 1.0, "atol": 0.1}}')
    assert record.expected(SLUG) == {"a": {"value": 1.0, "atol": 0.1}}
    path.write_bytes('{"é": 1}'.encode("latin-1"))
    with pytest.raises(record.RecordError, match="is not UTF-8 text"):
        record.expected(SLUG)

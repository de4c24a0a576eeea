"""Parameters: what a parameters cell may say, what a file may override, and every refusal before a kernel starts."""

from __future__ import annotations

import keyword
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from reprobook import ReprobookError
from reprobook import params as module
from reprobook.params import Param, ParameterError, check_value, parse_cell, parse_override, resolve

SLUG = "block_diffusion"
TAKEN = {*module.COMMON, *keyword.kwlist}
FINITE = st.floats(allow_nan=False, allow_infinity=False)

COMMON = 'scale = "smoke"  # s\nseed = 0  # s\ndevice = "auto"  # d\nout_dir = ""  # o\n'


def cell(*lines: str) -> dict[str, Param]:
    return parse_cell(COMMON + "\n".join(lines))


# ------------------------------------------------------------------------------------------------ the cell


def test_a_cell_gives_name_default_annotation_and_comment() -> None:
    found = cell(
        "", "# a heading of its own", 'lr: float = 1e-3  # step size; paper: 3e-4 (S C.2), "#1"', "ks = [1, 2]  # sizes"
    )
    assert found["lr"] == Param("lr", 0.001, "float", 'step size; paper: 3e-4 (S C.2), "#1"')
    assert found["ks"] == Param("ks", [1, 2], None, "sizes")
    assert list(found) == ["scale", "seed", "device", "out_dir", "lr", "ks"]


def test_negative_numbers_text_with_a_hash_and_none_are_literals() -> None:
    found = cell("a = -1.5  # minus", 'b = "x # y"  # text', "c: str | None = None  # maybe", "d = True  # flag")
    assert [found[name].default for name in "abcd"] == [-1.5, "x # y", None, True]
    assert found["b"].comment == "text"


@pytest.mark.parametrize(
    "line",
    [
        "a = 1 + 1  # computed",
        "a = f(2)  # called",
        "a = b = 1  # two names",
        "a, b = 1, 2  # two values",
        "a = [  # over\n  1, 2]",
        "a: int  # no value",
        "import os  # not a value",
        "a += 1  # changed",
        "if True: a = 1  # conditional",
        "a[0] = 1  # not a name",
        "print('x')  # a call",
    ],
)
def test_what_papermill_could_not_override_is_refused(line: str) -> None:
    with pytest.raises(ParameterError, match="plain one-line literal"):
        cell(line)


def test_every_parameter_needs_a_comment() -> None:
    with pytest.raises(ParameterError, match="'lr' has no comment"):
        cell("lr = 0.1")


def test_a_parameter_is_declared_once_and_the_four_common_ones_always() -> None:
    with pytest.raises(ParameterError, match="'lr' is declared twice"):
        cell("lr = 0.1  # a", "lr = 0.2  # b")
    with pytest.raises(ParameterError, match="does not declare device, out_dir"):
        parse_cell('scale = "smoke"  # s\nseed = 0  # s')


def test_a_cell_that_does_not_parse_names_the_line() -> None:
    with pytest.raises(ParameterError, match="line 5"):
        cell("a = = 1")


def test_a_default_must_fit_its_own_annotation() -> None:
    with pytest.raises(ParameterError, match="'a' must be int, got 0.5"):
        cell("a: int = 0.5  # wrong")
    with pytest.raises(ParameterError, match="annotation 'torch.dtype' is not made of"):
        cell("a: torch.dtype = 0.5  # unknown type")


def test_the_notebook_needs_exactly_one_parameters_cell(checkout: Any) -> None:
    checkout.notebook(("parameters", "x = 1  # again"))
    with pytest.raises(ParameterError, match="has 2 cells tagged 'parameters'"):
        module.read_parameters(SLUG)


def test_a_broken_notebook_and_an_unknown_chapter_are_named(checkout: Any) -> None:
    with pytest.raises(ReprobookError, match="unknown chapter 'nonsense'"):
        module.read_parameters("nonsense")
    checkout.write(f"notebooks/{SLUG}.ipynb", '{"cells": [')
    with pytest.raises(ParameterError, match=f"notebooks/{SLUG}.ipynb is not a readable notebook"):
        module.read_parameters(SLUG)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z_0-9]{2,8}", fullmatch=True).filter(lambda n: n not in TAKEN),
        st.integers() | st.booleans() | st.text(max_size=8) | FINITE | st.lists(st.integers()),
        max_size=5,
    )
)  # fmt: skip
def test_any_literal_survives_the_way_through_a_cell(values: dict[str, Any]) -> None:
    found = cell(*(f"{name} = {value!r}  # meaning of {name}" for name, value in values.items()))
    assert {name: found[name].default for name in values} == values
    assert all(found[name].comment == f"meaning of {name}" for name in values)


# ------------------------------------------------------------------------------------------------ types


def of(default: Any, annotation: str | None = None) -> Param:
    return Param("p", default, annotation, "c")


@pytest.mark.parametrize(
    ("param", "value", "canonical"),
    [
        (of(0.1), 1, 1.0),
        (of([0.1, 1]), [1, 2], [1.0, 2.0]),
        (of([1]), [], []),
        (of([1]), (1, 2), [1, 2]),
        (of([]), ["anything", 1], ["anything", 1]),
        (of(None), "anything", "anything"),
        (of(None, "int"), None, None),
        (of(3, "int | None"), None, None),
        (of(3, "int | float"), 2, 2),
        (of(3, "int | float"), 2.5, 2.5),
        (of([[1], [2]]), [[3, 4]], [[3, 4]]),
        (of({"a": 1}), {"b": "x"}, {"b": "x"}),
        (of({"a": 1}, "dict[str, float]"), {"b": 2.0}, {"b": 2.0}),
    ],
)
def test_values_that_fit_come_out_in_one_form(param: Param, value: Any, canonical: Any) -> None:
    found = check_value(param, value)
    assert found == canonical and type(found) is type(canonical)
    if isinstance(canonical, list):
        assert [type(item) for item in found] == [type(item) for item in canonical]


@pytest.mark.parametrize(
    ("param", "value", "message"),
    [
        (of(0.1), "1e-4", r"must be float, got '1e-4' \(str\); YAML reads 1e-4 as text: write 0.0001"),
        (of(0.1), "1e-7", "write 1.0e-07"),
        (of(0.1), "2.5e-9", "write 2.5e-09"),
        (of(0.1), "inf", "must be finite"),
        (of(0.1), float("nan"), "must be finite"),
        (of(0.1), True, r"must be float, got True \(bool\)"),
        (of(0.1), "much", "must be float, got 'much'"),
        (of(1), True, r"must be int, got True \(bool\)"),
        (of(1), 1.0, r"must be int, got 1.0 \(float\)"),
        (of(1), None, "must be int, got None"),
        (of(True), 1, r"must be bool, got 1 \(int\)"),
        (of("cpu"), False, "must be str, got False .*quote the word"),
        (of("rev"), 1234567, "must be str, got 1234567 .*quote it"),
        (of([1]), [1, "2"], r"must be list\[int\], got \[1, '2'\]"),
        (of([1]), 1, r"must be list\[int\], got 1"),
        (of([1]), [True], "got .True"),
        (of({"a": 1}, "dict[str, int]"), {"a": "b"}, "must be dict"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_the_remedy(param: Param, value: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        check_value(param, value)


def test_a_long_value_is_not_repeated_in_full() -> None:
    with pytest.raises(ParameterError) as caught:
        check_value(of(1), "x" * 5000)
    assert len(str(caught.value)) < 200


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_a_hint_says_is_a_float_in_yaml(number: float) -> None:
    assert yaml.safe_load(module._yaml_float(number)) == number


# ------------------------------------------------------------------------------------------------ files and overrides


def test_later_layers_win_and_all_parameters_come_back(checkout: Any) -> None:
    checkout.notebook()
    checkout.write(f"notebooks/params/{SLUG}.paper.yaml", "scale: paper\nlr: 3.0e-4  # S C.2\nsteps: 1000  # S 6\n")
    assert resolve(SLUG, "smoke") == {
        "scale": "smoke",
        "seed": 0,
        "device": "auto",
        "out_dir": "",
        "lr": 0.001,
        "steps": 2,
    }
    assert resolve(SLUG, "paper")["lr"] == 3e-4 and resolve(SLUG, "paper")["steps"] == 1000
    assert resolve(SLUG, "paper", rehearsal=True)["steps"] == 1
    assert resolve(SLUG, "paper", {"steps": 7, "lr": 1}, rehearsal=True) | {} == {
        "scale": "paper", "seed": 0, "device": "auto", "out_dir": "", "lr": 1.0, "steps": 7,
    }  # fmt: skip


def test_an_unknown_name_lists_the_valid_ones_and_guesses(checkout: Any) -> None:
    checkout.notebook()
    with pytest.raises(
        ParameterError, match=r"unknown parameter 'step'; did you mean 'steps'\? Parameters: scale, .*lr, steps"
    ):
        resolve(SLUG, "smoke", {"step": 1})
    checkout.write(f"notebooks/params/{SLUG}.laptop.yaml", "scale: laptop\nwidth: 3\n")
    with pytest.raises(ParameterError, match=rf"{SLUG}.laptop.yaml: unknown parameter 'width'"):
        resolve(SLUG, "laptop")


def test_a_wrong_type_in_a_file_names_the_file(checkout: Any) -> None:
    checkout.notebook()
    checkout.write(f"notebooks/params/{SLUG}.laptop.yaml", "scale: laptop\nlr: 1e-4\n")
    with pytest.raises(ParameterError, match=rf"{SLUG}.laptop.yaml: parameter 'lr' must be float, .*write 0.0001"):
        resolve(SLUG, "laptop")


def test_scale_cannot_be_overridden_by_another(checkout: Any) -> None:
    checkout.notebook()
    with pytest.raises(ParameterError, match="'scale' is 'paper' in a run at scale 'laptop'"):
        resolve(SLUG, "laptop", {"scale": "paper"})
    with pytest.raises(ReprobookError, match="unknown scale 'huge'; scales: smoke, laptop, paper"):
        resolve(SLUG, "huge")
    with pytest.raises(ParameterError, match="only the paper scale has a rehearsal, not 'laptop'"):
        resolve(SLUG, "laptop", rehearsal=True)


@pytest.mark.parametrize(
    ("scale", "text", "message"),
    [
        ("laptop", "lr: 0.1\n", "must contain the line 'scale: laptop'"),
        ("laptop", "scale: paper\n", "must contain the line 'scale: laptop'"),
        ("laptop", "- scale\n", "must be a flat mapping"),
        ("laptop", "just text\n", "must be a flat mapping"),
        ("laptop", "scale: laptop\nlr: 0.1\nlr: 0.2\n", "'lr' is given twice"),
        ("laptop", "scale: laptop\nks:\n  - 1\n  - 2\n", "'ks' must stand on one line"),
        ("laptop", "{scale: laptop, lr: 0.1}\n", "must stand on one line"),
        ("laptop", "scale: [laptop\n", "is not valid YAML"),
        ("paper", "scale: paper\nlr: 0.1\nsteps: 3  # S 4\n", "no source for lr: cite the paper"),
    ],
)
def test_a_parameter_file_is_flat_sourced_and_sets_its_scale(
    checkout: Any, scale: str, text: str, message: str
) -> None:
    checkout.write(f"notebooks/params/{SLUG}.{scale}.yaml", text)
    with pytest.raises(ParameterError, match=message) as caught:
        module.file_parameters(SLUG, scale)
    assert f"notebooks/params/{SLUG}.{scale}.yaml" in str(caught.value)


def test_comments_of_a_file_are_kept_even_after_quotes_and_hashes(checkout: Any) -> None:
    checkout.write(
        f"notebooks/params/{SLUG}.rehearsal.yaml", 'a: "x # y"  # why # really\nb: [1, 2]  # two\nc: plain\n# end\n'
    )
    assert module.file_parameters(SLUG, "rehearsal") == {
        "a": ("x # y", "why # really"),
        "b": ([1, 2], "two"),
        "c": ("plain", ""),
    }


def test_smoke_has_no_file_an_empty_rehearsal_is_fine_a_missing_file_is_named(checkout: Any) -> None:
    assert module.file_parameters(SLUG, "smoke") == {}
    checkout.write(f"notebooks/params/{SLUG}.rehearsal.yaml", "# nothing is smaller\n")
    assert module.file_parameters(SLUG, "rehearsal") == {}
    (checkout.root / f"notebooks/params/{SLUG}.paper.yaml").unlink()
    with pytest.raises(ParameterError, match=f"notebooks/params/{SLUG}.paper.yaml does not exist"):
        module.file_parameters(SLUG, "paper")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=1.0e-4", ("lr", 1e-4)),
        ("lr=1e-4", ("lr", "1e-4")),  # YAML's own reading; resolve explains it
        ("seed=3", ("seed", 3)),
        ("out_dir=", ("out_dir", "")),
        ("ks=[1, 2]", ("ks", [1, 2])),
        ("text=a=b", ("text", "a=b")),
        ("flag=true", ("flag", True)),
    ],
)
def test_overrides_are_read_as_yaml(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["lr", "=3", "a b=3", "9=1", "ks=[1"])
def test_an_unreadable_override_says_so(text: str) -> None:
    with pytest.raises(ParameterError, match="override"):
        parse_override(text)


def test_provenance_gives_each_scale_meaning_and_source(checkout: Any) -> None:
    checkout.notebook(parameters=COMMON + "lr = 1.0e-3  # step size\nsteps = 2  # updates\nwidth = 8  # units\n")
    checkout.write(f"notebooks/params/{SLUG}.laptop.yaml", "scale: laptop\nsteps: 50  # fits\n")
    checkout.write(
        f"notebooks/params/{SLUG}.paper.yaml", "scale: paper\nsteps: 1000  # S 6.1\nlr: 1.0e-4  # not stated; ours\n"
    )
    assert module.provenance(SLUG) == [
        {"name": "lr", "smoke": 0.001, "laptop": 0.001, "paper": 1e-4, "source": "step size; not stated; ours"},
        {"name": "steps", "smoke": 2, "laptop": 50, "paper": 1000, "source": "updates; S 6.1"},
        {"name": "width", "smoke": 8, "laptop": 8, "paper": 8, "source": "units"},
    ]

"""The sandbox against hostile code, HumanEval's scoring on all its problems, and the statistics of the comparison."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reprobook import facts
from reprobook.data import ChapterData
from reprobook.errors import ReprobookError
from reprobook.nn import needs
from reprobook.papers.quantizing_code_llms import guest, humaneval, miniatures, multipl_e, released, sandbox, solving
from reprobook.papers.quantizing_code_llms.humaneval import Problem, judge, judge_all
from reprobook.papers.quantizing_code_llms.multipl_e import Task
from reprobook.papers.quantizing_code_llms.sandbox import Guest, Limits, RaisedError, StoppedError
from reprobook.papers.quantizing_code_llms.statistics import compared, mcnemar, sign_flips
from reprobook.papers.quantizing_code_llms.storage import STUDIED

QUICK = Limits(wall_s=4, cpu_s=1, memory_mb=256, file_mb=1, processes=8, reply_kb=100)
needs_walls = pytest.mark.skipif(
    sandbox.isolation() != "namespaces", reason="this machine does not allow Linux namespaces"
)

# ------------------------------------------------------------------------------------------------------------ sandbox


def asked(code: str, *arguments: object, limits: Limits = QUICK) -> object:
    with Guest(code, limits) as confined:
        return confined.call("f", *arguments)


@needs_walls
@pytest.mark.parametrize(
    ("attack", "error", "told"),
    [
        ("import os\ndef f():\n while True: os.fork()", RaisedError, "unavailable"),
        ("def f():\n while True: pass", StoppedError, "ended|out of time"),
        ("import time\ndef f(): time.sleep(60)", StoppedError, "out of time"),
        ("def f():\n kept = []\n while True: kept.append(bytes(10**7))", RaisedError, "MemoryError"),
        ("def f():\n for _ in range(10**4): print('x' * 10**6)", RaisedError, "File too large"),
        ("def f():\n while True: open(str(id([])), 'a').write('x' * 10**5)", RaisedError, "No space|File too large"),
        ("def f(): return 'x' * 10**6", StoppedError, "too long"),
        ("import socket\ndef f(): socket.create_connection(('192.0.2.1', 80), 2)", RaisedError, "unreachable"),
        ("import socket\ndef f(): socket.getaddrinfo('example.org', 80)", RaisedError, "resolution|unknown"),
        ("def f(): open('/etc/passwd', 'a')", RaisedError, "Read-only|Permission"),
        ("import ctypes\ndef f(): assert ctypes.CDLL(None).umount2(b'/tmp', 2) == 0", RaisedError, "Assertion"),
        ("import os\ndef f(): os.kill(-1, 9)", RaisedError, "No such process"),
        ("import os\nos._exit(0)\ndef f(): return 1", StoppedError, r"ended \(0\)"),
        ("import sys\nsys.exit(0)\ndef f(): return 1", RaisedError, "SystemExit"),
        ("def f(:", RaisedError, "SyntaxError"),
        ("import numpy\ndef f(): pass", RaisedError, "No module named 'numpy'"),
    ],
)
def test_hostile_code_is_stopped(attack: str, error: type[Exception], told: str) -> None:
    limits = Limits(wall_s=1, cpu_s=1) if "sleep" in attack else QUICK
    with pytest.raises(error, match=told):
        asked(attack, limits=limits)


@needs_walls
def test_nothing_outside_can_be_deleted_and_nothing_is_left_behind() -> None:
    """Files that all may write, inside and outside /tmp; processes that leave their session."""
    folders = [Path(tempfile.mkdtemp(dir=place)) for place in ("/tmp", "/var/tmp")]
    try:
        for folder in folders:
            folder.chmod(0o777)
            (folder / "kept").write_text("x")
            (folder / "kept").chmod(0o666)
            with pytest.raises(RaisedError, match="Read-only|No such file"):
                asked("import os\ndef f(x): os.remove(x)", str(folder / "kept"))
            asked("import shutil\ndef f(x): shutil.rmtree(x, ignore_errors=True)", str(folder))
            assert (folder / "kept").read_text() == "x"
    finally:
        for folder in folders:
            shutil.rmtree(folder)
    flee = "import os, subprocess\ndef f():\n subprocess.Popen(['/bin/sleep', '4321.5'], start_new_session=True)\n"
    asked(flee + " return os.getcwd()")
    assert not [p for p in psutil.process_iter(["cmdline"]) if "4321.5" in (p.info["cmdline"] or [])]


def test_plain_data_comes_back_as_it_was_and_the_rest_as_an_iterator() -> None:
    told = {"a": [1, 2.5, None, True], (1, "é"): {3, "x"}, 2: frozenset([1]), "z": math.inf, "c": 1 + 2j}
    assert asked("def f(x):\n print('said')\n return x", told) == told
    assert list(asked("def f(n): return (k * k for k in range(n))", 3)) == [0, 1, 4]  # type: ignore[call-overload]
    assert asked("def f(): return range(3)") != [0, 1, 2]
    assert asked("def f(): return object()") != asked("def f(): return object()")
    assert math.isnan(asked("def f(): return float('nan')"))  # type: ignore[arg-type]
    with Guest("def f():\n print('said', flush=True)") as confined:
        confined.call("f")
        assert confined.output() == "said\n"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=40, deadline=None)
@given(values)
def test_encoding_is_a_round_trip_through_json(value: object) -> None:
    found = guest.decode(json.loads(guest.encode(value)))
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        ("import os\ndef f(): os.fork()", "refuses os.fork"),
        ("import socket\ndef f(): socket.socket()", "refuses socket|No module"),  # root's own Python is not read
        ("import os\ndef f(): os.remove('/var/tmp/x')", "refuses os.remove|not permitted|No such file"),
        ("def f(): open('/var/tmp/x', 'w')", "refuses open"),
        ("def f():\n kept = []\n while True: kept.append(bytes(10**7))", "MemoryError"),
    ],
)
def test_without_namespaces_python_functions_are_refused(monkeypatch, attack: str, told: str) -> None:
    monkeypatch.setattr(sandbox, "isolation", lambda: "audit")
    with pytest.raises(RaisedError, match=told):
        asked(attack)
    assert asked("def f():\n open('x', 'w').write('a')\n return open('x').read()") == "a"


def test_limits_and_reasons_are_checked_and_said() -> None:
    with pytest.raises(ReprobookError, match="memory_mb is 0; a limit must be above 0"):
        Limits(memory_mb=0)
    assert len(sandbox.guarantees()) == 7


@needs_walls
def test_a_program_runs_confined_with_its_files() -> None:
    shell = ["/bin/sh", "-c", "cat told; touch /etc/x || exit 3"]
    found = sandbox.run_program(shell, {"told": "hello\n"}, QUICK)
    assert found.code == 3 and found.output.startswith("hello\n")
    assert sandbox.run_program(["/bin/sleep", "9"], {}, Limits(wall_s=0.2)).code == sandbox.LATE


# ---------------------------------------------------------------------------------------------------------- HumanEval


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return humaneval.read_problems(ChapterData("quantizing_code_llms", "laptop").path("humaneval"))


TOY = Problem(
    "toy/0", "def f(x: int):\n    '''Twice x.'''\n", "f", "    return 2 * x\n",
    "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(-1) == -2\n",
)  # fmt: skip


@needs_walls
def test_every_solution_passes_and_no_broken_one_does(problems: list[Problem]) -> None:
    assert len(problems) == 164
    for p in problems:
        with Guest(humaneval.broken(p)) as confined:  # holds the solution, too
            assert humaneval.check(p, lambda *a, call=confined.call: call("_right", *a)).passed, p
            wrong = humaneval.check(p, lambda *a, call=confined.call, name=p.entry_point: call(name, *a))
            assert wrong == (False, "wrong answer"), p
    some = problems[::20]
    assert all(found.passed for found in judge_all(some, [humaneval.solved(p) for p in some], run_code=True))
    assert not any(found.passed for found in judge_all(some, [humaneval.broken(p) for p in some], run_code=True))


FORGED = {
    "exit": "import os\ndef f(x): os._exit(0)",
    "always equal": "class Any(int):\n def __eq__(self, other): return True\ndef f(x): return Any(1)",
    "says so": "import os\nfor k in range(12):\n try: os.write(k, b'{\"value\": null}\\n' * 9)\n except OSError: pass\n"
    "def f(x): return None",
    "patches": "import builtins, json\nbuiltins.AssertionError = Exception\nbuiltins.exec = print\n"
    "json.dumps = lambda *a, **k: '{\"value\": 7}'\ndef f(x): return 1",
    "catches": "import sys, atexit\natexit.register(print, 'OK')\ndef f(x): sys.exit(0)",
    "looks for the tests": "import sys\ndef f(x):\n frame = sys._getframe()\n while frame:\n"
    "  if 'check' in frame.f_globals: return 6\n  frame = frame.f_back\n return 0",
}


@pytest.mark.parametrize("code", FORGED.values(), ids=list(FORGED))
def test_a_result_cannot_be_forged(code: str) -> None:
    assert judge(TOY, "def f(x): return x + x", QUICK, run_code=True).passed
    assert not judge(TOY, code, QUICK, run_code=True).passed


def test_model_code_is_not_run_unless_asked_for() -> None:
    with pytest.raises(ReprobookError, match="run_code is False"):
        judge(TOY, "def f(x): return 2 * x")


def test_what_follows_the_function_is_cut_and_helpers_of_the_prompt_stay(problems: list[Problem]) -> None:
    more = "\n\n\nprint('it\\'s done')\n\nclass Other:\n    pass\n"
    for p in problems:
        whole = humaneval.solved(p)
        assert humaneval.program(p, p.solution + more).rstrip() == whole.rstrip()
        above = whole[: whole.index(f"def {p.entry_point}(")]
        answer = f"Here it is:\n```python\n{whole[len(above) :]}{more}```\nIt's simple."
        assert humaneval.program(p, answer).rstrip() == whole.rstrip()
    for k in (10, 32, 38, 50):  # problems whose prompts begin with a helper
        assert problems[k].solution.strip() in humaneval.program(problems[k], problems[k].solution)


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        ("    return 2 * x\n\ndef g():\n    pass\n", "    return 2 * x\n"),
        (
            "    # twice\n# at the margin\n    return 2 * x\nprint(f(1))",
            "    # twice\n# at the margin\n    return 2 * x\n",
        ),
        (
            "    y = '''\nat the margin\n'''\n    return (x +\nx)\nf(1)",
            "    y = '''\nat the margin\n'''\n    return (x +\nx)\n",
        ),
        ("    return 'open", "    return 'open"),
        ("```python\ndef f(x): return 2 * x\nf(2)\n```", None),
        ("```python\ndef f(x):\n    return 2 * x\n", None),  # the limit of length took the end of the block
    ],
)
def test_the_cut_follows_python_not_indentation(completion: str, kept: str | None) -> None:
    found = humaneval.program(TOY, completion)
    wanted = TOY.prompt + kept if kept is not None else completion.removeprefix("```python\n").split("f(2)")[0]
    assert found.strip() == wanted.strip()


def test_a_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"task_id": "a", "prompt": ""}\n'))
    with pytest.raises(ReprobookError, match="row 0 has no canonical_solution, entry_point, test; it has: task_id"):
        humaneval.read_problems(path)


# --------------------------------------------------------------------------------------------------------- statistics


@given(n=st.integers(1, 8), data=st.data())
def test_pass_at_k_is_the_share_of_draws_that_hold_a_passing_one(n: int, data: st.DataObject) -> None:
    """Invariant 9, against all draws of k of n completions."""
    c = data.draw(st.integers(0, n))
    shares = [float(humaneval.pass_at_k(n, [c], k)[0]) for k in range(1, n + 1)]
    for k, share in enumerate(shares, start=1):
        draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert share == pytest.approx(np.mean([any(draw) for draw in draws]))
    assert shares[0] == pytest.approx(c / n) and shares == sorted(shares)
    assert all(share == 1 for k, share in enumerate(shares, start=1) if n - c < k)


def test_pass_at_k_refuses_impossible_counts() -> None:
    for n, c, k in ((5, 6, 1), (5, 1, 6), (5, 1, 0)):
        with pytest.raises(ReprobookError, match="allowed are 1 to n"):
            humaneval.pass_at_k(n, [c], k)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(pairs: list[tuple[bool, bool]]) -> None:
    """Invariant 10, and the p by its definition: all splits at most as likely as the observed one."""
    a, b = np.array(pairs).T
    found, turned = mcnemar(a, b), mcnemar(b, a)
    assert (found.p, found.first, found.second) == (turned.p, turned.second, turned.first)
    n = found.first + found.second
    if found.first == found.second:
        assert found.p == pytest.approx(1)
    likely = [math.comb(n, k) for k in range(n + 1)]
    assert found.p == pytest.approx(sum(x for x in likely if x <= likely[found.first]) / 2**n)
    if found.second:
        assert found.odds_ratio == found.first / found.second


def table(shares: dict[str, float], n_problems: int = 40, n: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    hard = rng.random(n_problems)
    return pd.DataFrame([
        {"model": "m", "quantization": arm, "language": "py", "problem": k, "pass": bool(hard[k] < share)}
        for arm, share in shares.items() for k in range(n_problems) for _ in range(n)
    ])  # fmt: skip


def test_the_comparison_has_the_authors_columns_and_adjusted_p() -> None:
    found = compared(table({"16bit": 0.6, "8bit": 0.6, "4bit": 0.55, "3bit": 0.4, "2bit": 0.0}), "16bit")
    assert list(found)[:6] == ["base_precision", "quant_precision", "lng", "model", "p.value", "OR"]
    assert list(found["quant_precision"]) == ["8bit", "4bit", "3bit", "2bit"]
    p, raw = found["p.value"].to_numpy(), found["p"].to_numpy()
    order = raw.argsort()
    assert (p >= raw).all() and (np.diff(p[order]) >= 0).all() and (p <= 1).all()
    by_hand = np.minimum.accumulate((raw[order] * 4 / np.arange(1, 5))[::-1])[::-1]
    assert p[order] == pytest.approx(by_hand)
    assert found["OR"].iloc[3] == math.inf and math.isnan(found["OR"].iloc[0])
    assert found["difference"].is_monotonic_decreasing
    assert found["equivalent"].tolist()[0] and not found["equivalent"].tolist()[3]
    assert (found["p, by problem"] >= raw).all()  # three equal completions of a problem are one piece of evidence


def test_the_permutation_test_flips_signs() -> None:
    d = np.array([0.5, 0.3, -0.1, 0.2, 0.4])
    means = [abs((d * signs).mean()) for signs in itertools.product([1, -1], repeat=5)]
    assert sign_flips(d) == pytest.approx(np.mean([m >= abs(d.mean()) - 1e-12 for m in means]))


def test_outcomes_that_are_not_paired_are_refused() -> None:
    frame = table({"16bit": 0.5, "2bit": 0.1})
    with pytest.raises(ReprobookError, match="rows of '2bit' and '16bit' are not in one order"):
        compared(frame.iloc[:-1], "16bit")
    with pytest.raises(ReprobookError, match="no rows of 'fp16'; there are: 16bit, 2bit"):
        compared(frame, "fp16")
    with pytest.raises(ReprobookError, match="no column pass"):
        compared(frame.drop(columns="pass"), "16bit")
    with pytest.raises(ReprobookError, match="equally long"):
        mcnemar([True], [True, False])


# ------------------------------------------------------------------------------------------------- MultiPL-E, Java

PY = Task(
    "HumanEval_1_y", "py", 'from typing import List\n\ndef twice(x: List[int]) -> List[int]:\n    """Twice."""\n',
    "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n\ndef test_check():\n    check(twice)\n\n"
    "test_check()\n",
    ("\ndef", "\n#", "\nif", "\nclass"),
)  # fmt: skip
JAVA = Task(
    "HumanEval_0_x", "java",
    "import java.util.*;\nimport org.javatuples.*;\nclass Problem {\n"
    "    public static Pair<Long, Long> twoOf(long x) {\n",
    "    }\n    public static void main(String[] args) {\n    assert(twoOf(3l).equals(Pair.with(3l, 6l)));\n    }\n"
    "\n}\n",
    ("\n    }\n",),
)  # fmt: skip
BODY = '        String s = "}"; // }\n        if (x > 0) { x = x + 0; }\n        return Pair.with(x, 2 * x);\n'


def test_a_python_task_is_judged_from_outside_too() -> None:
    assert multipl_e.judge(PY, "    return [2 * y for y in x]\n\ndef other", run_code=True).passed
    assert multipl_e.judge(PY, "    return x", run_code=True) == (False, "wrong answer")
    assert multipl_e.program(PY, "    return 1\n\nclass A:").strip() == PY.prompt + "    return 1"


def test_a_java_completion_ends_with_its_method() -> None:
    for rest in ("    }\n\n    public static void other() {}\n}", "    } // end\n}", "}", ""):
        assert multipl_e.program(JAVA, BODY + rest).rstrip() == (JAVA.prompt + BODY).rstrip()


@pytest.mark.skipif(not multipl_e.runs_here("java"), reason="no JDK, or no javatuples.jar, or no namespaces")
def test_java_runs_with_its_tests_and_an_early_exit_is_no_success() -> None:
    ended = multipl_e.judge_all([JAVA, JAVA], [BODY, "        System.exit(0); return null;\n"], run_code=True)
    assert [each.passed for each in ended if each] == [True, False]


def test_tasks_are_read_and_bad_files_named(tmp_path: Path) -> None:
    row = {**PY._asdict(), "stop_tokens": list(PY.stops)}
    del row["stops"]
    pd.DataFrame([row]).to_parquet(tmp_path / "test.parquet")
    assert multipl_e.read_tasks([tmp_path / "test.parquet"]) == [PY]
    pd.DataFrame([{**row, "language": "go"}]).to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    with pytest.raises(ReprobookError, match="language 'go'; allowed are py, java"):
        multipl_e.read_tasks([tmp_path / "a.jsonl"])
    pd.DataFrame([{"name": "x"}]).to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    with pytest.raises(ReprobookError, match="has no column language, prompt, stop_tokens, tests; it has name"):
        multipl_e.read_tasks([tmp_path / "a.jsonl"])
    with pytest.raises(ReprobookError, match="there are no problems"):
        multipl_e.read_tasks([])


# ------------------------------------------------------------------------------------------------ the paper's artefacts


def test_the_sizes_of_all_checkpoints_follow_from_public_shapes() -> None:
    """Gigabytes in 16 bit and at 8, 4, 3 and 2 bits; two of them are stated where the files lie (7.47 and 2.26)."""
    wanted = {
        "CodeLlama-7B": [13.48, 7.47, 4.00, 3.80, 2.26], "CodeLlama-13B": [26.03, 13.94, 7.30, 7.04, 3.98],
        "CodeLlama-34B": [67.49, 34.98, 18.02, 17.71, 9.54], "DeepSeek-Coder-1.3B": [2.69, 1.83, 1.05, 0.89, 0.61],
        "DeepSeek-Coder-6.7B": [13.48, 7.48, 4.00, 3.80, 2.27],
        "DeepSeek-Coder-33B": [66.69, 34.72, 17.83, 17.43, 9.38],
    }  # fmt: skip
    found = released.memory()
    for name, sizes in wanted.items():
        part = found[found["model"] == name]
        assert [part["16 bit (GB)"].iloc[0], *part["GB"]] == pytest.approx(sizes, abs=0.0051)
    first = found[found["model"] == "CodeLlama-7B"].set_index("label")
    assert first["saved"].to_dict() == pytest.approx(
        {"8 bits": 0.445, "4 bits": 0.703, "3 bits": 0.718, "2 bits": 0.832}, abs=0.0005
    )
    assert first["effective"].tolist() == pytest.approx([8.08, 4.04, 3.04, 2.02], abs=0.005)
    assert first["stored"].tolist() == pytest.approx([8.58, 4.29, 4.04, 2.15], abs=0.005)
    shape = STUDIED["DeepSeek-Coder-33B"]
    config = {
        "model_type": "llama", "hidden_size": shape.width, "intermediate_size": shape.inner, "num_hidden_layers": 1,
        "vocab_size": shape.vocabulary, "num_attention_heads": 56, "num_key_value_heads": 8,
    }  # fmt: skip
    assert shape._replace(n_blocks=1).bytes(None) == 2 * needs.parameters(needs.causal_lm(config))


def test_a_released_checkpoint_is_dequantised_into_a_plain_one(tmp_path: Path, monkeypatch) -> None:
    """Against the stored tensors, one code at a time; codes of 2^(B-1) and more are stored negative."""
    from safetensors.torch import load_file

    monkeypatch.setenv("REPROBOOK_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    miniatures.aqlm_checkpoint(folder, 2, 9, blocks=1)
    stored = load_file(folder / "model.safetensors")
    model, tokenizer = released.open_checkpoint(folder, torch.device("cpu"))
    layer = "model.layers.0.mlp.down_proj"
    codes, books, scales = (stored[f"{layer}.{name}"] for name in ("codes", "codebooks", "scales"))
    assert codes.dtype == torch.int16 and codes.min() < 0
    row = torch.cat([
        sum(books[m, int(codes[3, j, m]) % 512, 0].float() for m in range(2)) for j in range(codes.shape[1])
    ]) * scales[3].float().item()  # fmt: skip
    weight = model.get_submodule(layer).weight[3].float()
    torch.testing.assert_close(weight, row, rtol=0.01, atol=1e-3)
    torch.testing.assert_close(model.model.embed_tokens.weight, stored["model.embed_tokens.weight"].to(model.dtype))
    made: dict[str, Any] = {"n": 2, "temperature": 0.2, "top_p": 0.95, "seed": 0, "run_code": True}
    asked = [released.Benchmark([PY], 200, ""), released.Benchmark([PY], 200, " of McEval")]
    both = released.outcomes(model, tokenizer, asked, **made)
    assert both["language"].tolist() == ["py", "py", "py of McEval", "py of McEval"]
    found = both[:2]
    assert list(found.columns) == ["language", "problem", "sample", "pass"] and found["pass"].tolist() == [0, 0]
    assert released.shares(found, "py").to_dict() == {PY.name: 0.0}
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ReprobookError, match="is quantised by 'gptq'; only 'aqlm' is read"):
        released.plain(folder)


def test_the_authors_outcomes_are_read_and_compared(tmp_path: Path) -> None:
    folder = miniatures.authors_folder("miniature", tmp_path)
    found = released.authors_outcomes(folder)
    assert found.groupby("quantization")["pass"].sum().to_dict() == {"16bit": 6, "2bit-rnd": 1, "4bit-mixed": 6}
    told = compared(found, "16bit").set_index("quant_precision")
    assert set(found["model"]) == {"CodeLlama-7b-hf"} and len(found) == 3 * 4 * 3
    assert told.loc["2bit-rnd", "OR"] == math.inf and told.loc["4bit-mixed", "p.value"] == 1
    with pytest.raises(ReprobookError, match=r"holds no \*.results.json.gz"):
        released.authors_outcomes(tmp_path / "nothing")
    assert miniatures.authors_folder("/data/x", tmp_path) == Path("/data/x")


def red_pajama(folder: Path) -> Path:
    def meta(k: int) -> dict[str, object]:
        return {"path": f"src/{k}{'.py' if k % 2 else '.java'}", "repo_name": f"repository {k // 4}"}

    github = [{"text": f"code {k} " * 30, "meta": meta(k)} for k in range(40)]
    url = "https://stackoverflow.com/questions/1"
    asked = [
        {"text": f"python {k} " * 30, "meta": json.dumps({"url": url, "question_score": str(k)})} for k in range(30)
    ]
    for name, rows in {"github_sample": github, "stackexchange_sample": asked}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_studys_calibration_sets_follow_its_rules(tmp_path: Path) -> None:
    folder, tokenizer = red_pajama(tmp_path), miniatures.byte_tokenizer()
    texts = {kind: tokenizer.batch_decode(released.study_rows(kind, folder, tokenizer, 8, 40, 0)) for kind in
             ("code", "mixed", "rnd")}  # fmt: skip
    # .java files first, one of each repository, in order, from the beginning
    assert [text.split()[1] for text in texts["code"]] == ["0", "4", "8", "12", "1", "5", "9", "13"]
    assert [text.split()[:2] for text in texts["mixed"][:4]] == [["python", str(k)] for k in (10, 11, 12, 13)]
    assert len(texts["mixed"]) == 8 and len(set(texts["rnd"])) == 8
    assert not all(text.startswith(("code", "python")) for text in texts["rnd"])
    with pytest.raises(ReprobookError, match="only 10 of 20 calibration rows of 40 tokens"):
        released.study_rows("code", folder, tokenizer, 40, 40, 0)
    with pytest.raises(ReprobookError, match="calibration 'text' is not known; allowed: rnd, code, mixed"):
        released.study_rows("text", folder, tokenizer, 8, 40, 0)


def test_checkpoints_are_paired_as_the_plan_says() -> None:
    def found(right: float) -> pd.DataFrame:
        rows = [{"language": lang, "problem": k, "pass": float(k < right * 4)} for lang in ("py", "java") for k in
                range(4)]  # fmt: skip
        return pd.DataFrame(rows)

    arms = {
        "codellama-7b": 1.0, "codellama-7b-2bit-rnd": 0.25, "codellama-7b-2bit-code": 0.5, "deepseek-coder-33b": 1.0,
        "codellama-7b-2bit-mixed": 0.5, "deepseek-coder-33b-2bit-mixed": 0.75, "deepseek-coder-6.7b": 0.5,
        "deepseek-coder-6.7b-2bit-mixed": 0.25, "from scratch at 2 bits, rnd": 0.25,
        "from scratch at 2 bits, rnd, tuned": 0.5, "from scratch at 3 bits, rnd": 0.5,
        "from scratch at 3 bits, code": 0.75, "from scratch at 3 bits, rnd, tuned": 0.5,
    }  # fmt: skip
    pairs = released.pairs({name: found(right) for name, right in arms.items()})
    differences = {name: float((a - b).mean()) for name, (a, b) in pairs.items()}
    assert differences["codellama-7b-2bit-rnd minus codellama-7b, py"] == -0.75
    assert differences["codellama-7b-2bit-code minus codellama-7b-2bit-rnd, java"] == 0.25
    assert differences["from scratch at 2 bits, rnd, tuned minus plain, py"] == 0.25
    assert differences["from scratch at 3 bits, code minus from scratch at 3 bits, rnd, py"] == 0.25
    assert differences["retained at 2 bits: deepseek-coder-33b minus deepseek-coder-6.7b, py"] == pytest.approx(
        0.75 - 0.5
    )
    assert differences["java minus py: lost by codellama-7b-2bit-mixed"] == 0.0
    planned = facts.load("quantizing_code_llms").effects_at("paper")
    assert {name for name in planned if not re.search("[34]bit|memory", name)} <= set(differences)


# ------------------------------------------------------------------------------------------------------ cells of pass@1


def test_arms_have_names_and_are_named_once() -> None:
    assert list(map(str, solving.arms([[3, "code"], [2, "general"]]))) == [
        "reference",
        "3 bits, code",
        "2 bits, general",
    ]
    with pytest.raises(ReprobookError, match="an arm is named twice"):
        solving.arms([[3, "code"], [3, "code"]])


def test_cells_become_tables_pairs_and_examples(tmp_path: Path) -> None:
    toys = [TOY._replace(task_id=f"toy/{k}") for k in range(3)]
    right, wrong = "    return 2 * x\n", "    return x\n"
    texts = {"a": [right, right, wrong], "b": [right, wrong, wrong]}
    told = {
        name: solving.Solved(part, judge_all(toys, [humaneval.program(TOY, t) for t in part], run_code=True), [1.0], 2)
        for name, part in texts.items()
    }
    frame = solving.table(told, toys, "toy")
    assert frame.groupby("quantization")["pass"].mean().to_dict() == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    assert compared(frame, "a")["OR"].tolist() == [math.inf]
    named = {"reference": told["a"], "3 bits, code": told["b"], "3 bits, general": told["a"]}
    named["3 bits, rounded"], named["4 bits, general"] = told["b"], told["a"]
    assert list(solving.pairs(named)) == [
        "3 bits, code minus reference", "3 bits, general minus reference", "3 bits, rounded minus reference",
        "4 bits, general minus reference", "3 bits, code minus 3 bits, general", "3 bits, code minus 3 bits, rounded",
        "3 bits, general minus 4 bits, general", "3 bits, general minus 3 bits, rounded",
    ]  # fmt: skip
    cells = solving.summary(named, solving.arms([[3, "code"]]), 64).set_index("cell")
    assert cells["discordant"].tolist() == pytest.approx([0, 1 / 3]) and cells["wrong answers"].tolist() == [1, 2]
    assert cells["cut"].tolist() == [2, 2]
    example = solving.told_apart(told, toys, "a", "b")
    assert example[["problem", "arm", "outcome"]].to_numpy().tolist() == [
        ["toy/1", "a", "passes"], ["toy/1", "b", "wrong answer"],
    ]  # fmt: skip


def test_what_is_retained_is_a_ratio_whose_spread_knows_of_both_means() -> None:
    draw = np.random.default_rng(0)
    base, kept = (pd.Series(draw.random(4000) < p, dtype=float) for p in (0.5, 0.3))
    found = released.retained(kept, base)
    assert found.mean() == pytest.approx(kept.mean() / base.mean())
    picks = draw.integers(0, 4000, (500, 4000))
    resampled = kept.to_numpy()[picks].mean(1) / base.to_numpy()[picks].mean(1)
    assert found.std() / 4000**0.5 == pytest.approx(resampled.std(), rel=0.1)


def test_results_of_two_benchmarks_stay_apart_and_pass_at_k_is_told() -> None:
    rows = [("py", k, s, float(s < k)) for k in range(3) for s in range(2)] + [
        ("py of McEval", 0, s, 0.0) for s in (0, 1)
    ]
    frame = pd.DataFrame(rows, columns=["language", "problem", "sample", "pass"])
    told = released.summary({"a": frame}).set_index("language")
    assert told.loc["py", ["problems", "completions", "pass@1", "pass@2"]].tolist() == [3, 6, 0.5, pytest.approx(2 / 3)]
    assert told.loc["py of McEval", "pass@1"] == 0


def test_rows_at_once_follow_the_keys_and_values_of_the_model() -> None:
    from transformers import LlamaConfig

    wide = LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32)
    narrow = LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=4)
    cpu = torch.device("cpu")
    assert released.rows_at_once(wide, 1400, cpu) == int(8e9 // (2 * 2 * 32 * 4096 * 1400)) == 10
    assert released.rows_at_once(narrow, 1400, cpu) == 87 and released.rows_at_once(narrow, 10, cpu) == 160


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("checkpoints", ["b"], "checkpoint 'b' is not known; allowed: a"),
        ("scratch", [["x", 2, 17, "rnd", False]], "bits is 17"),
        ("scratch", [["x", 2, 4]], "whether tuned"),
        ("rows", [8, 16, 8], "fewer sequences that validate"),
        ("steps", [1, 2], "five numbers"),
        ("folders", ["nowhere at all"], "nowhere at all is no folder"),
    ],
)
def test_what_would_come_up_after_hours_is_refused_at_once(name: str, value: Any, told: str) -> None:
    good: dict[str, Any] = {
        "checkpoints": ["a"], "known": ["a"], "scratch": [["4 bits", 2, 4, "mixed", False]], "rows": [8, 16, 2],
        "steps": [2, 1, 2, 1, 1], "folders": [""],
    }  # fmt: skip
    released.check(**good)
    with pytest.raises(ReprobookError, match=told):
        released.check(**{**good, name: value})

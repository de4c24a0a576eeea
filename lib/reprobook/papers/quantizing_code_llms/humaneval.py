"""HumanEval (Chen et al., 2021): problems, prompts, what counts of a completion, whether it passes, pass@k."""

from __future__ import annotations

import builtins
import gzip
import io
import json
import random
import re
import tokenize
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reprobook.errors import ReprobookError
from reprobook.papers.quantizing_code_llms.sandbox import LIMITS, Guest, RaisedError, StoppedError

if TYPE_CHECKING:
    from reprobook.nn.chat import Messages
    from reprobook.papers.quantizing_code_llms.sandbox import Limits

CHAT = "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{}\n```"
_FENCE = re.compile(r"```[a-zA-Z]*[ ]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


class Problem(NamedTuple):
    """A problem: its key, the code to be continued, the function that is asked for, a solution, and the tests, which
    define ``check(candidate)``."""

    task_id: str
    prompt: str
    entry_point: str
    solution: str
    test: str

    def __str__(self) -> str:
        return self.task_id


class Outcome(NamedTuple):
    """Whether a completion passes, and why not: ``wrong answer``, what it raised, or how it was stopped."""

    passed: bool
    why: str = ""


def read_problems(path: Path) -> list[Problem]:
    """The problems of ``HumanEval.jsonl.gz``, in the file's order."""
    names = {"task_id": "task_id", "prompt": "prompt", "entry_point": "entry_point", "canonical_solution": "solution",
             "test": "test"}  # fmt: skip
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream if line.strip()]
    for k, row in enumerate(rows):
        if missing := set(names) - set(row):
            raise ReprobookError(f"{path.name}: row {k} has no {', '.join(sorted(missing))}; it has: {', '.join(row)}")
    return [Problem(**{ours: row[theirs] for theirs, ours in names.items()}) for row in rows]


def chat_prompt(problem: Problem) -> Messages:
    """What a chat model is asked; a base model continues ``problem.prompt`` itself."""
    return [{"role": "user", "content": CHAT.format(problem.prompt.strip())}]


def program(problem: Problem, completion: str) -> str:
    """The code that counts: prompt and completion, or what stands above the function in the prompt and the first code
    block of a chat answer; cut behind the function."""
    block = _FENCE.search(completion)
    told = block[1] if block else completion
    if _head(problem.entry_point).search(told):
        above = problem.prompt[: _start(problem.prompt, problem.entry_point)]
        return cut(above + told, problem.entry_point)
    return cut(problem.prompt + told, problem.entry_point)


def cut(code: str, name: str) -> str:
    """``code`` through the end of function ``name``.

    The released code keeps everything up to the end of the *first* function instead, which erases the completions of
    problems 10, 32, 38 and 50: their prompts begin with a helper. What cannot be split into tokens is kept whole."""
    at = _start(code, name)
    lines = code[at:].splitlines(keepends=True)
    depth, in_head = 0, True
    try:
        for token in tokenize.generate_tokens(io.StringIO(code[at:]).readline):
            if token.type == tokenize.INDENT:
                depth += 1
            elif token.type == tokenize.DEDENT:
                depth -= 1
            elif token.type in (tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT):
                in_head &= token.type != tokenize.NEWLINE
                continue
            if not in_head and depth == 0:
                return code[:at] + "".join(lines[: token.start[0] - 1])
    except (tokenize.TokenError, SyntaxError):
        pass
    return code


def _head(name: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:async )?def {re.escape(name)}\b", re.MULTILINE)


def _start(code: str, name: str) -> int:
    """Where function ``name`` begins."""
    found = _head(name).search(code)
    if not found:
        raise ReprobookError(f"the code defines no function {name!r}: {code[:60]!r}")
    return found.start()


class _Random(random.Random):
    """Stands in for the module ``random`` in tests that draw their cases, so that these are the same in every run."""

    Random = random.Random


def _import(name: str, *rest: Any) -> Any:
    return _Random(0) if name == "random" else __import__(name, *rest)


def judge(problem: Problem, code: str, limits: Limits = LIMITS, *, run_code: bool = False) -> Outcome:
    """Whether ``code`` passes the problem's tests. The tests run here; the code runs in the sandbox, and each call of
    the function is a question to it. It can use Python's standard library alone.

    ``run_code``: nothing that a model wrote is run unless this says so."""
    if not run_code:
        raise ReprobookError("run_code is False: code that a model wrote is run only where that is asked for")
    try:
        with Guest(code, limits) as guest:
            return check(problem, lambda *arguments: guest.call(problem.entry_point, *arguments))
    except (StoppedError, RaisedError) as error:
        return Outcome(False, str(error))


def check(problem: Problem, candidate: Callable[..., Any]) -> Outcome:
    """Whether a function passes the problem's tests, which run here. What a :class:`Guest` raises is passed on."""
    space: dict[str, Any] = {"__builtins__": {**vars(builtins), "__import__": _import}}
    exec(problem.prompt, space)  # its helpers, which some tests use
    space[problem.entry_point] = candidate
    try:
        exec(problem.test, space)
        if "test_check" not in space:  # MultiPL-E's tests call themselves
            space["check"](candidate)
    except (StoppedError, RaisedError):
        raise
    except AssertionError:
        return Outcome(False, "wrong answer")
    except Exception as error:  # the tests fail in what they do with the value
        return Outcome(False, f"wrong answer: {type(error).__name__}")
    return Outcome(True)


def judge_all(
    problems: Sequence[Problem], codes: Sequence[str], limits: Limits = LIMITS, *, workers: int = 2,
    run_code: bool = False,
) -> list[Outcome]:  # fmt: skip
    """:func:`judge` for each problem and its code, ``workers`` at a time."""
    pairs = zip(problems, codes, strict=True)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda pair: judge(pair[0], pair[1], limits, run_code=run_code), pairs))


def solved(problem: Problem) -> str:
    """The problem's own solution."""
    return problem.prompt + problem.solution


def broken(problem: Problem) -> str:
    """The problem's own solution with another value than the right one in every answer: what must never pass."""
    name = problem.entry_point
    return f"""_space = {{}}
exec({solved(problem)!r}, _space)
_right = _space[{name!r}]

def _other(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, (str, list, tuple)):
        return value + type(value)("x")
    return "x"

def {name}(*arguments):
    return _other(_right(*arguments))
"""


def pass_at_k(n: int, passed: Sequence[int] | np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k of each problem of which ``passed`` (P,) of ``n`` completions pass:
    1 - C(n - c, k) / C(n, k), as a product; 1 where fewer than k fail."""
    c = np.asarray(passed)
    if not 1 <= k <= n or (c < 0).any() or (c > n).any():
        raise ReprobookError(f"k is {k} and passed holds {c.min()} to {c.max()}; allowed are 1 to n = {n} and 0 to n")
    failed = (n - c)[:, None] - np.arange(k)
    return 1.0 - np.prod(np.maximum(failed, 0) / (n - np.arange(k)), axis=1)

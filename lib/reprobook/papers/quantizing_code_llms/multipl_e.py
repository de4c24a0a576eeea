"""MultiPL-E and McEval in its format: Python and Java problems, what counts of a completion, whether it passes."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from reprobook.errors import ReprobookError
from reprobook.papers.quantizing_code_llms import humaneval
from reprobook.papers.quantizing_code_llms.humaneval import Outcome, Problem
from reprobook.papers.quantizing_code_llms.sandbox import Limits, isolation, run_program

COLUMNS = ("name", "language", "prompt", "tests", "stop_tokens")
LANGUAGES = ("py", "java")
TUPLES = Path("/usr/share/java/javatuples.jar")  # the library that every Java prompt imports (Debian's place for it)
JAVA = Limits(wall_s=60, cpu_s=30, memory_mb=3000, file_mb=16, processes=64)
_OPTIONS = ["-ea", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
_PIECES = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|[{}]', re.DOTALL)


class Task(NamedTuple):
    """A problem: its key, language, the code to be continued, what follows it, and the texts that end a completion."""

    name: str
    language: str
    prompt: str
    tests: str
    stops: tuple[str, ...]


def read_tasks(files: Iterable[Path]) -> list[Task]:
    """The problems of parquet or JSON-lines files, in order. Raises :class:`ReprobookError` for missing columns and
    for other languages than Python and Java."""
    from datasets import load_dataset

    found = []
    for file in sorted(files):
        builder = "parquet" if file.suffix == ".parquet" else "json"
        rows = load_dataset(builder, data_files=str(file), split="train", streaming=True)
        for row in rows:
            if missing := set(COLUMNS) - set(row):
                raise ReprobookError(f"{file.name} has no column {', '.join(sorted(missing))}; it has {', '.join(row)}")
            if row["language"] not in LANGUAGES:
                raise ReprobookError(f"{file.name}: language {row['language']!r}; allowed are {', '.join(LANGUAGES)}")
            stops = tuple(row["stop_tokens"])
            found.append(Task(row["name"], row["language"], row["prompt"], row["tests"], stops))
    if not found:
        raise ReprobookError("there are no problems: give MultiPL-E's files")
    return found


def program(task: Task, completion: str) -> str:
    """The code that counts: prompt and completion, cut at the first stop text and behind the function that is asked
    for; of Java, without the bracket that ends the method, since the tests begin with it."""
    completion = completion[: min((at for s in task.stops if (at := completion.find(s)) >= 0), default=None)]
    if task.language == "java":
        return task.prompt + completion[: _end_of_method(completion)]
    return humaneval.cut(f"{task.prompt}{completion}\n", entry_point(task))


def entry_point(task: Task) -> str:
    """The last function that the prompt of a Python problem begins."""
    names = re.findall(r"^def (\w+)", task.prompt, re.MULTILINE)
    if not names:
        raise ReprobookError(f"{task.name}: its prompt begins no function")
    return names[-1]


def _end_of_method(text: str) -> int:
    """Where the bracket stands that closes what was open before ``text``, past strings and comments."""
    depth = 0
    for piece in _PIECES.finditer(text):
        depth += {"{": 1, "}": -1}.get(piece[0], 0)
        if depth < 0:
            return piece.start()
    return len(text)


def runs_here(language: str) -> bool:
    """Whether programs of a language can be run on this machine: Java needs a JDK, the tuples and namespaces."""
    return language == "py" or bool(shutil.which("javac") and TUPLES.is_file() and isolation() == "namespaces")


def judge(task: Task, completion: str, *, run_code: bool = False) -> Outcome:
    """Whether a completion passes: of Python as :func:`.humaneval.judge` does it; of Java if the program with its tests
    ends well and reaches the end of its ``main`` (a word that the program is not told is printed behind it)."""
    code = program(task, completion)
    if task.language == "py":
        name = entry_point(task)
        return humaneval.judge(Problem(task.name, task.prompt, name, "", task.tests), code, run_code=run_code)
    if not run_code:
        raise ReprobookError("run_code is False: code that a model wrote is run only where that is asked for")
    word = secrets.token_hex(8)
    main = (
        f'class Main {{ public static void main(String[] a) {{ Problem.main(a); System.out.println("{word}"); }} }}\n'
    )
    source = f"{code}\n{task.tests}".replace("class Problem", f"{main}class Problem", 1)
    java = [shutil.which("java") or "java", *_OPTIONS, "-cp", str(TUPLES), "Main.java"]
    ended = run_program(java, {"Main.java": source}, JAVA)
    if ended.code == 0 and ended.output.rstrip().endswith(word):
        return Outcome(True)
    return Outcome(False, next(iter(ended.output.strip().splitlines()), f"ended with {ended.code}"))


def judge_all(
    tasks: Sequence[Task], completions: Sequence[str], *, workers: int = 2, run_code: bool = False
) -> list[Outcome | None]:
    """:func:`judge` for each task and its completion; None where its language cannot be run on this machine."""
    able = {language: runs_here(language) for language in {task.language for task in tasks}}
    pairs = zip(tasks, completions, strict=True)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda p: judge(*p, run_code=run_code) if able[p[0].language] else None, pairs))

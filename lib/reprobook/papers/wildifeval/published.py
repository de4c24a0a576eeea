"""IFBench's tasks of real users with the rules that were published for them, run without what they would download.

The rules come as source files of a package that is never installed. Some of them want word lists that the package
downloads at import, or other packages: downloads are refused here, and a rule that then can't say anything is left out
and counted.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from reprobook.errors import ReprobookError

PACKAGE = "if_verifiable"
OTHERS = ("langdetect", "emoji", "syllapy", "immutabledict")


class RealTask(NamedTuple):
    """A prompt of a real user, the names of its published rules, and what they need."""

    id: str
    prompt: str
    rules: tuple[str, ...]
    needs: tuple[dict[str, Any], ...]


def real_tasks(path: str | Path) -> list[RealTask]:
    """The 294 prompts of IFBench."""
    found = []
    for number, line in enumerate(Path(path).read_text("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            needs = tuple({k: v for k, v in each.items() if v is not None} for each in row["kwargs"])
            found.append(RealTask(str(row["key"]), row["prompt"], tuple(row["instruction_id_list"]), needs))
        except (ValueError, KeyError) as error:
            raise ReprobookError(f"{Path(path).name}, line {number}: not a task of IFBench ({error!r})") from error
    return found


def sample_responses(path: str | Path) -> dict[str, str]:
    """Prompt -> the response of a model that IFBench's authors ship with it."""
    rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    return {row["prompt"]: row["response"] for row in rows}


@contextmanager
def _no_downloads(package: Path) -> Iterator[None]:
    """``package`` importable under its own name without its first file; absent packages replaced by empty ones, and
    nothing is downloaded. Everything is as before afterwards."""
    import nltk

    absent = {name: _stub(name) for name in OTHERS if importlib.util.find_spec(name) is None}
    stub: Any = types.ModuleType(PACKAGE)
    stub.__path__ = [str(package)]
    download, nltk.download = nltk.download, lambda *args, **options: False  # noqa: ARG005
    sys.modules.update({PACKAGE: stub, **absent})
    try:
        yield
    finally:
        nltk.download = download
        for name in [each for each in sys.modules if each.split(".")[0] == PACKAGE or each in absent]:
            del sys.modules[name]


def _stub(name: str) -> Any:
    """An empty module in the place of an absent package, with what the rules use of it at import and for English."""
    module: Any = types.ModuleType(name)
    if name == "langdetect":
        module.detect, module.LangDetectException = lambda text: "en", ValueError  # noqa: ARG005
    elif name == "immutabledict":
        module.immutabledict = dict
    return module


class Rules:
    """The published rules of one collection: ``"ifbench"`` or ``"ifeval"``."""

    def __init__(self, folder: str | Path, collection: str) -> None:
        package = Path(folder)
        if not (package / collection / "instructions.py").is_file():
            raise ReprobookError(f"{package} has no {collection}/instructions.py: it is not the package of the rules")
        with _no_downloads(package):
            module = importlib.import_module(f"{PACKAGE}.{collection}.instructions_registry")
            self.known: dict[str, Any] = dict(module.INSTRUCTION_DICT)

    def describe(self, rule: str, needs: dict[str, Any]) -> str:
        """The constraint in the words of its rule."""
        state = random.getstate()  # a rule without a number draws one
        random.seed(0)
        try:
            return str(self.known[rule](rule).build_description(**needs))
        finally:
            random.setstate(state)

    def holds(self, rule: str, needs: dict[str, Any], prompt: str, response: str) -> bool | None:
        """Whether ``response`` follows the rule (strict form: as it is); None if the rule cannot be run here."""
        if rule not in self.known:
            raise ReprobookError(f"rule {rule!r} is not known; the first of {len(self.known)}: {min(self.known)}")
        try:
            checker = self.known[rule](rule)
            checker.build_description(**needs)
            if "prompt" in (checker.get_instruction_args() or {}):
                checker.build_description(prompt=prompt)
            return bool(response.strip()) and bool(checker.check_following(response))
        except (LookupError, AttributeError, TypeError, ValueError, ZeroDivisionError):
            return None


# Ours -> the rule of IFEval that says the same, with what it needs.
SAME: dict[str, Any] = {
    "include a word": ("keywords:existence", lambda needs: {"keywords": [needs[0]]}),
    "avoid a word": ("keywords:forbidden_words", lambda needs: {"forbidden_words": [needs[0]]}),
    "at least": ("length_constraints:number_words", lambda needs: {"num_words": needs[0], "relation": "at least"}),
    "name it often": ("keywords:frequency", lambda needs: {"keyword": needs[0], "frequency": needs[1],
                                                           "relation": "at least"}),
    "bullet points": ("detectable_format:number_bullet_lists", lambda needs: {"num_bullets": needs[0]}),
}  # fmt: skip

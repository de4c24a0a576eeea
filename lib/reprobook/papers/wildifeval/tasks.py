"""Tasks of 1 to 8 constraints about real texts, and a writer that satisfies exactly the constraints it is told to.

Every task draws one constraint of each category and asks for the first ``n`` of them; the others are kept, to see how
often a response satisfies what nobody asked for. In blocks of eight tasks each category stands once at each position,
for every ``n``, so the mix of categories is the same whatever the number of constraints.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reprobook.data.text import visible_text, wikipedia_articles
from reprobook.errors import ReprobookError
from reprobook.papers.wildifeval.kinds import CATEGORIES, Constraint, of_category, words

ROLES = ("doctor", "teacher", "farmer", "sailor", "judge", "baker", "pilot", "painter")
INCLUDED = ("window", "river", "lantern", "garden", "bridge", "ticket", "candle", "ladder")
AVOIDED = ("and", "is", "with", "for", "very", "from")
NEW_WORDS = ("pumpkin", "violin", "umbrella", "basket", "kettle", "pencil", "carpet", "button")
# Sentences of the writer: none holds a word to be avoided, each begins with a word of its own.
_FILLERS = (
    "Books tell more.", "People ask often.", "Time will show.", "Much can be said.", "Learn it step by step.",
    "Nobody knows everything.", "Small facts matter.", "Take your time.", "Old maps may help.",
    "Good questions lead on.",
    "Libraries keep many pages about it.", "Friends may know a detail or two.", "Every answer opens another door.",
    "Young readers like a simple start.", "Experts still argue over parts of it.", "Details remain open until today.",
    "Reading slowly pays off in the end.", "Notes on paper make it easier to recall.",
    "Teachers often start at this point.",
    "Careful people check a second source.",
)  # fmt: skip
_QUESTION, _FIRST = "Who knows more?", "Here"
_STARTS = {
    text.split()[0].lower()
    for text in (*_FILLERS, _QUESTION, _FIRST, "As", "Near", "Let", "Yours", "Some", "We", "Think")
}
_MENTIONS = ("Let us name {}.", "We return to {}.", "Think of {}.")
_SOURCE = re.compile(r"[A-Z][a-z]+(?:,? [a-z]+){5,9}\.")


@dataclass(frozen=True)
class Topic:
    """A subject with sentences of its article that do not name it."""

    name: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A task: its topic, the sentence it gives, the constraints it asks for in their order, and those it does not."""

    id: str
    topic: str
    source: str
    role: str
    asked: tuple[Constraint, ...]
    others: tuple[Constraint, ...] = ()

    @property
    def n(self) -> int:
        """Number of constraints."""
        return len(self.asked)

    @property
    def prompt(self) -> str:
        """The task as a user would write it."""
        listed = "\n".join(f"- {each.text}" for each in self.asked)
        return (f'Given sentence: "{self.source}"\n\nWrite a short text of a few sentences about {self.topic}. '
                f"Follow these instructions:\n{listed}")  # fmt: skip


def topics(path: str | Path) -> list[Topic]:
    """Subjects of one word with their sentences of 6 to 10 plain words, of a ``pages-articles`` dump."""
    found = []
    for article in wikipedia_articles(path):
        if not (article.title.isalpha() and len(article.title) > 3):
            continue
        parts = re.split(r"(?<=[.!?])\s+", visible_text(article.markup))
        usable = [part for part in dict.fromkeys(parts) if _SOURCE.fullmatch(part) and _editable(part, article.title)]
        if usable:
            found.append(Topic(article.title, tuple(usable)))
    if not found:
        raise ReprobookError(f"{Path(path).name}: no article has a title of one word and a sentence of 6 to 10 words")
    return found


def _editable(sentence: str, topic: str) -> list[str]:
    """Words that may be replaced: of five letters or more, once in the sentence, neither first nor last. None where
    the sentence names the topic or begins as the writer's do."""
    said = words(sentence)
    if topic.lower() in sentence.lower() or said[0] in _STARTS or set(said) & {*INCLUDED, *NEW_WORDS}:
        return []
    return [word for word in said[1:-1] if len(word) >= 5 and said.count(word) == 1]


# ------------------------------------------------------------------------------------------------- making tasks


def make_constraint(
    kind: str, topic: str, source: str, role: str, free: Sequence[str], rng: np.random.Generator
) -> Constraint:
    """A constraint of ``kind`` for a task; ``free``: the words that may be forbidden in it."""

    def any_of(choices: Sequence[str]) -> str:
        return choices[int(rng.integers(len(choices)))]

    k, word = int(rng.integers(3, 5)), any_of(_editable(source, topic))
    most, new = 5 * int(rng.integers(9, 13)), any_of(NEW_WORDS)
    made: Mapping[str, tuple[str, tuple[str | int, ...]]] = {
        "lower case": ("Use lower-case letters only, no capital letters.", ()),
        "question": ("Ask the reader at least one question, with a question mark.", ()),
        "include a word": (f'Use the word "{(included := any_of(INCLUDED))}".', (included,)),
        "avoid a word": (f'Do not use the word "{(avoided := any_of(free))}".', (avoided,)),
        "numbered list": (f"Write a numbered list with exactly {k} items.", (k,)),
        "paragraphs": (f"Write exactly {k - 1} paragraphs, with a blank line between paragraphs.", (k - 1,)),
        "at most": (f"Use at most {most} words.", (most,)),
        "between": (f"Use between {most - 10} and {most + 10} words.", (most - 10, most + 10)),
        "opening words": (f'Speak as a {role}: begin with the words "As a {role}".', (f"As a {role}",)),
        "closing words": (f'Speak as a {role}: end with the words "Yours, the {role}".', (f"Yours, the {role}",)),
        "first sentence": (f'Name "{topic}" in your first sentence.', (topic,)),
        "name it often": (f'Name "{topic}" at least 3 times.', (topic, 3)),
        "new starts": ("Write at least two sentences, and begin each sentence with a different word.", ()),
        "ends whole": ("Finish your last sentence with a full stop, a question mark or an exclamation mark.", ()),
        "replace": (f'Quote the given sentence, but with "{new}" in place of "{word}".', (_edited(source, word, new),)),
        "remove": (f'Quote the given sentence, but without the word "{word}".', (_edited(source, word, ""),)),
    }
    return Constraint(kind, *made[kind])


def _edited(source: str, word: str, new: str) -> str:
    return re.sub(r"\s+", " ", re.sub(rf"\b{word}\b", new, source)).replace(" ,", ",").replace(" .", ".")


def make_tasks(where: Sequence[Topic], counts: Sequence[int], n_blocks: int, seed: int) -> list[Task]:
    """``8 n_blocks`` tasks for each number of constraints in ``counts``. In a block each category stands once at each
    position; the two kinds of a category take turns from block to block.

    Raises :class:`ReprobookError` for a count outside 1 to 8."""
    if not where or n_blocks < 1 or any(not 1 <= n <= len(CATEGORIES) for n in counts):
        raise ReprobookError(f"counts {list(counts)} must be from 1 to 8, n_blocks {n_blocks} and topics at least one")
    rng, made = np.random.default_rng([seed, 30]), []
    for n in counts:
        for block in range(n_blocks):
            order = rng.permutation(len(CATEGORIES))
            for row in range(len(order)):
                turn = [CATEGORIES[each] for each in np.roll(order, -row)]
                kinds = [of_category(c)[(block + CATEGORIES.index(c)) % 2] for c in turn]
                made.append(_task(f"n{n}-{block}-{row}", where, kinds, n, rng))
    return made


def _task(name: str, where: Sequence[Topic], kinds: Sequence[str], n: int, rng: np.random.Generator) -> Task:
    topic = where[int(rng.integers(len(where)))]
    source = topic.sentences[int(rng.integers(len(topic.sentences)))]
    role = ROLES[int(rng.integers(len(ROLES)))]
    free = [word for word in AVOIDED if word not in words(source)]
    made = tuple(make_constraint(kind, topic.name, source, role, free, rng) for kind in kinds)
    return Task(name, topic.name, source, role, made[:n], made[n:])


# ------------------------------------------------------------------------------------------------- the writer


def write(task: Task, broken: Collection[int] = ()) -> str:
    """A text that satisfies every asked constraint of ``task`` but those whose positions are in ``broken``, and breaks
    those. What no constraint asks for is as in plain prose."""
    wrong = {task.asked[k].kind for k in broken}
    asked = {each.kind: each.needs for each in task.asked}

    def right(kind: str) -> bool:
        return kind in asked and kind not in wrong

    start = f"As a {task.role}, I write" if right("opening words") else "Here I write"
    parts = [f"{start} about {'one thing' if 'first sentence' in wrong else task.topic}."]
    edits = asked.keys() & {"replace", "remove"}
    parts += [task.source if kind in wrong else str(asked[kind][0]) for kind in edits]
    if right("include a word"):
        parts.append(f"Near a {asked['include a word'][0]} we rest.")
    if "avoid a word" in wrong:
        parts.append(f"Some say {asked['avoid a word'][0]}.")
    if right("question"):
        parts.append(_QUESTION)
    if right("name it often"):
        parts += [text.format(task.topic) for text in _MENTIONS]
    end = [f"Yours, the {task.role}."] if right("closing words") else []
    if "new starts" in wrong:
        parts += ["Books tell more.", "Books help."]
    parts = _filled(parts, end, task, wrong)
    text = _laid_out(parts, asked, wrong)
    if "ends whole" in wrong:
        text = text.rstrip(".?!")
    return text.lower() if right("lower case") else text


def _filled(parts: list[str], end: list[str], task: Task, wrong: Collection[str]) -> list[str]:
    """Sentences with as many fillers as the length needs, and at least five in all."""
    least, most = 0, 1000
    for each in task.asked:
        if each.category == "Length":
            bound = int(each.needs[-1])
            least = bound + 6 if each.kind in wrong else int(each.needs[0]) if each.kind == "between" else 0
            most = 1000 if each.kind in wrong else bound
    while len(words(" ".join([*parts, *end]))) < least or len(parts) + len(end) < 5:
        started = {part.split()[0] for part in parts}
        parts = [*parts, next(text for text in _FILLERS if text.split()[0] not in started)]
    if len(words(" ".join([*parts, *end]))) > most:
        raise ReprobookError(f"task {task.id}: the constraints leave no room: {task.prompt}")
    return [*parts, *end]


def _laid_out(parts: Sequence[str], asked: Mapping[str, tuple[str | int, ...]], wrong: Collection[str]) -> str:
    """Sentences as a numbered list or in paragraphs where that is asked for; a broken list has an item too many or
    no numbers, broken paragraphs are one."""
    for kind, joint in (("numbered list", "\n"), ("paragraphs", "\n\n")):
        if kind not in asked:
            continue
        k = int(asked[kind][0])
        if kind in wrong:
            k = 1 if kind == "paragraphs" else k + 1
        groups = [" ".join(group) for group in np.array_split(np.array(parts, dtype=object), k)]
        numbered = kind == "numbered list"
        return joint.join(f"{j}. {group}" if numbered else group for j, group in enumerate(groups, start=1))
    return " ".join(parts)

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
from reprobook.papers.wildifeval.kinds import CATEGORIES, Constraint, count_of, of_category, words

ROLES = ("doctor", "teacher", "farmer", "sailor", "judge", "baker", "pilot", "painter")
INCLUDED = ("window", "river", "lantern", "garden", "bridge", "ticket", "candle", "ladder")
AVOIDED = ("and", "is", "with", "for", "very", "from")
BRACKETED = ("pumpkin", "violin", "umbrella", "basket", "kettle", "pencil", "carpet", "button")
TONES = {"surprised": "wow", "polite": "please", "sad": "alas", "cheerful": "hooray", "doubtful": "perhaps",
         "frank": "honestly"}  # fmt: skip
CONNECTIVES = ("because", "therefore", "however", "meanwhile")
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
_STARTS = {
    text.split()[0].lower().strip(",")
    for text in (*_FILLERS, "Here", "Near", "We", "Let", "Think", "Some", "So", "Yours", "Enough")
} | {*TONES.values(), *CONNECTIVES}
_ASKED = {*INCLUDED, *BRACKETED, *TONES.values(), *ROLES, *CONNECTIVES}
_MENTIONS = ("Let us name {}.", "Think of {}.", "We return to {}.")
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

    def own_lines(self, response: str) -> str:
        """The response without lines that say the same words as one of the prompt: an echo is no answer."""
        given = [words(line) for line in self.prompt.splitlines()]
        return "\n".join(line for line in response.splitlines() if not words(line) or words(line) not in given)


def topics(path: str | Path) -> list[Topic]:
    """Subjects of one word with their sentences of 6 to 10 plain words, of a ``pages-articles`` dump."""
    found = []
    for article in wikipedia_articles(path):
        if not (article.title.isalpha() and len(article.title) > 3):
            continue
        parts = re.split(r"(?<=[.!?])\s+", visible_text(article.markup))
        usable = [part for part in dict.fromkeys(parts) if _SOURCE.fullmatch(part) and _usable(part, article.title)]
        if usable:
            found.append(Topic(article.title, tuple(usable)))
    if not found:
        raise ReprobookError(f"{Path(path).name}: no article has a title of one word and a sentence of 6 to 10 words")
    return found


def _usable(sentence: str, topic: str) -> bool:
    """Whether the sentence neither names the topic, nor begins as the writer's do, nor holds a word that may be asked
    for."""
    said = words(sentence)
    return topic.lower() not in sentence.lower() and said[0] not in _STARTS and not set(said) & _ASKED


# ------------------------------------------------------------------------------------------------- making tasks


def make_constraint(
    kind: str, topic: str, source: str, role: str, free: Sequence[str], rng: np.random.Generator
) -> Constraint:
    """A constraint of ``kind`` for a task; ``free``: the words that may be forbidden in it."""

    def any_of(choices: Sequence[str]) -> str:
        return choices[int(rng.integers(len(choices)))]

    k, bound = int(rng.integers(3, 5)), 5 * int(rng.integers(9, 13))
    tone, said = any_of(list(TONES)), words(source)
    kept, end = " ".join(said[1:4]), " ".join(said[-3:])
    moods = [list(TONES)[j] for j in rng.permutation(len(TONES))[:2]]
    both = tuple(TONES[mood] for mood in moods)
    two = tuple(INCLUDED[j] for j in rng.permutation(len(INCLUDED))[:2])
    made: Mapping[str, tuple[str, tuple[str | int, ...]]] = {
        "tone word": (f'Sound {tone}: use the word "{TONES[tone]}".', (TONES[tone],)),
        "tone twice": (f'Sound {tone}: use the word "{TONES[tone]}" at least twice.', (TONES[tone], 2)),
        "two tones": (f'Sound {moods[0]}, then {moods[1]}: use the words "{both[0]}" and "{both[1]}".', both),
        "include a word": (f'Use the word "{(included := any_of(INCLUDED))}".', (included,)),
        "avoid a word": (f'Do not use the word "{(avoided := any_of(free))}".', (avoided,)),
        "two words": (f'Use the words "{two[0]}" and "{two[1]}".', two),
        "bullet points": (f'Write a list with exactly {k} bullet points, each beginning with "-".', (k,)),
        "word in brackets": (f'Put the word "{(word := any_of(BRACKETED))}" in round brackets: ({word}).', (word,)),
        "word in capitals": (
            f'Write the word "{(word := any_of(BRACKETED))}" in capital letters: {word.upper()}.',
            (word,),
        ),
        "at least": (f"Use at least {bound + 25} words.", (bound + 25,)),
        "between": (f"Use between {bound - 20} and {bound + 20} words.", (bound - 20, bound + 20)),
        "at most": (f"Use at most {bound} words.", (bound,)),
        "first person": (f'Speak as a {role}, in the first person: use the word "I".', ("I",)),
        "trade at the end": (f'Speak as a {role}: name your trade, "{role}", in your last sentence.', (role,)),
        "trade first": (f'Speak as a {role}: name your trade, "{role}", in your first sentence.', (role,)),
        "first sentence": (f'Name "{topic}" in your first sentence.', (topic,)),
        "name it often": (f'Name "{topic}" at least 3 times.', (topic, 3)),
        "last sentence": (f'Name "{topic}" in your last sentence.', (topic,)),
        "new starts": ("Write at least two sentences, and begin each sentence with a different word.", ()),
        "ends whole": ("Finish your last sentence with a full stop, a question mark or an exclamation mark.", ()),
        "connective": (f'Be clear: use the word "{(connective := any_of(CONNECTIVES))}".', (connective,)),
        "quote": ("Quote the given sentence word for word.", (source,)),
        "keep words": (f'Keep the words "{kept}" of the given sentence.', (kept,)),
        "keep the end": (f'Keep the end of the given sentence, "{end}".', (end,)),
    }
    return Constraint(kind, *made[kind])


def make_tasks(where: Sequence[Topic], counts: Sequence[int], n_blocks: int, seed: int) -> list[Task]:
    """``8 n_blocks`` tasks for each number of constraints in ``counts``. In a block each category stands once at each
    position. In every three blocks each kind of a category stands in one, in an order drawn for each category: kinds
    are asked equally often (``n_blocks`` a multiple of 3), and which of them meet is chance.

    Raises :class:`ReprobookError` for a count outside 1 to 8."""
    if not where or n_blocks < 1 or any(not 1 <= n <= len(CATEGORIES) for n in counts):
        raise ReprobookError(f"counts {list(counts)} must be from 1 to 8, n_blocks {n_blocks} and topics at least one")
    rng, made = np.random.default_rng([seed, 30]), []
    kinds_of = np.array([of_category(category) for category in CATEGORIES])
    for n in counts:
        for block in range(n_blocks):
            order = rng.permutation(len(CATEGORIES))
            if block % kinds_of.shape[1] == 0:
                shuffled = rng.permuted(kinds_of, axis=1)
            kinds = shuffled[:, block % kinds_of.shape[1]]
            for row in range(len(order)):
                turn = [str(kinds[each]) for each in np.roll(order, -row)]
                made.append(_task(f"n{n}-{block}-{row}", where, turn, n, rng))
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

    who = "I write" if right("first person") else f"the {task.role} writes" if right("trade first") else "we write"
    parts = [f"Here {who} about {'one thing' if 'first sentence' in wrong else task.topic}."]
    if right("tone word"):
        parts.append(f"{asked['tone word'][0]}, so be it.".capitalize())
    if right("tone twice"):
        parts.append(", ".join([str(asked["tone twice"][0])] * 2).capitalize() + ".")
    if right("two tones"):
        parts.append("{}, {}: so be it.".format(*asked["two tones"]).capitalize())
    if right("connective"):
        parts.append(f"{asked['connective'][0]}, all goes on.".capitalize())
    if right("quote") or right("keep words") or right("keep the end"):
        parts.append(task.source)
    if right("include a word"):
        parts.append(f"Near a {asked['include a word'][0]}.")
    if right("two words"):
        parts.append("Near a {}, by a {}.".format(*asked["two words"]))
    if right("word in capitals"):
        parts.append(f"So it goes, {str(asked['word in capitals'][0]).upper()}.")
    if right("word in brackets"):
        parts.append(f"So it goes ({asked['word in brackets'][0]}).")
    if "avoid a word" in wrong:
        parts.append(f"Some say {asked['avoid a word'][0]}.")
    if right("name it often"):
        parts += [text.format(task.topic) for text in _MENTIONS[: 3 - count_of(task.topic, " ".join(parts))]]
    closing = [f"Enough on {task.topic}"] * right("last sentence") + [f"Yours, the {task.role}"] * right(
        "trade at the end"
    )
    end = [", ".join(closing) + "."] if closing else []
    if "new starts" in wrong:
        parts += ["Books help."] * 2
    text = _laid_out(_filled(parts, end, task, wrong), asked, wrong)
    return text.rstrip(".?!") if "ends whole" in wrong else text


def _filled(parts: list[str], end: list[str], task: Task, wrong: Collection[str]) -> list[str]:
    """Sentences with as many fillers as the length needs, and at least five in all."""
    least, most = 0, 1000
    for each in task.asked:
        if each.category == "Length":
            needs = [int(bound) for bound in each.needs]
            least, most = {"at least": (needs[0], 1000), "at most": (0, needs[0]), "between": (needs[0], needs[-1])}[
                each.kind
            ]
            if each.kind in wrong:
                least, most = (0, least - 1) if each.kind == "at least" else (most + 6, 1000)
    while len(words(" ".join([*parts, *end]))) < least or len(parts) + len(end) < 5:
        started = {part.split()[0] for part in parts}
        parts = [*parts, next(text for text in _FILLERS if text.split()[0] not in started)]
    if len(words(" ".join([*parts, *end]))) > most:
        raise ReprobookError(f"task {task.id}: the constraints leave no room: {task.prompt}")
    return [*parts, *end]


def _laid_out(parts: Sequence[str], asked: Mapping[str, tuple[str | int, ...]], wrong: Collection[str]) -> str:
    """Sentences as bullet points where that is asked for; a broken list has one too many."""
    if "bullet points" not in asked:
        return " ".join(parts)
    k = int(asked["bullet points"][0]) + ("bullet points" in wrong)
    return "\n".join(f"- {' '.join(group)}" for group in np.array_split(np.array(parts, dtype=object), k))

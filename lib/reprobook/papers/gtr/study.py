"""The chapter's experiments, as its cells call them: games with their start, methods from one start, measures,
effects."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.gtr import collapse, games, homes, start
from reprobook.papers.gtr.asked import check_service
from reprobook.papers.gtr.corrector import Ability
from reprobook.papers.gtr.formulas import KINDS
from reprobook.papers.gtr.games import Pool
from reprobook.papers.gtr.language import Language
from reprobook.papers.gtr.learning import Learner, Method, Settings, Tables, play, thought_of
from reprobook.papers.gtr.policy import Policy, token_logp
from reprobook.train import shuffled

if TYPE_CHECKING:
    from pathlib import Path

    from reprobook.papers.gtr.cards import Handwriting
    from reprobook.papers.gtr.games import Game
    from reprobook.papers.gtr.learning import Played

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]
EASY = ("EZPoints", "NumberLine", "Blackjack")  # games that the prefix rule leaves alone
MARGIN = 0.05  # of a share that counts as moved, in the name of an outcome
SHARP = 0.2  # the paper's temperature, beside the one of training
READING_LR = 6e-3  # peak step size of the reading lesson
HELD_OUT, HANDS, N_SAMPLES = 0.4, 5, 4  # share of hands never dealt in training; stream of fixed hands; thoughts a hand
EASY_STEP = 0.5  # factor of the step size on the easy games, by pilots: with more PPO undoes there what it learned
RL = Method(cloning=0.0, truncate=False)
METHODS: dict[str, Method] = {
    "RL only": RL,
    "RL only, lambda 0": replace(RL, lam=0.0),
    "RL only, lambda 1": replace(RL, lam=1.0),
    "RL only, half the step": replace(RL, step=0.5),
    "RL only, twice the step": replace(RL, step=2.0),
    "RL only, free critic": replace(RL, value_clip=math.inf),
    "RL only with truncation": replace(RL, truncate=True),
    "action only": RL,
    "cloning only": Method(ppo=False),
    "GTR": Method(),
    "GTR, perfect corrector": Method(),
    "GTR, perfect corrector, a quarter of the step": Method(step=0.25),
    "GTR without DAgger": Method(dagger=False),
    "GTR without tool": Method(),
    "GTR annealed": Method(annealed=True),
    "GTR cloning whole responses": Method(whole=True),
    "judge reward": Method(cloning=0.0, judge=1.0),
}


def method(name: str, noise: float) -> Method:
    """A row by its name, with a corrector that misreads in a share ``noise`` of episodes (``perfect``: in none)."""
    if name not in METHODS:
        raise ReprobookError(f"method {name!r} is not known; methods: {', '.join(METHODS)}")
    return replace(METHODS[name], ability=Ability("without tool" not in name, 0.0 if "perfect" in name else noise))


@dataclass(frozen=True)
class Sizes:
    """Policy, its reading lesson, and the supervised start of a game. ``wrong``: of each game, the shares of wrong
    demonstrations (cards, formulas, symbols)."""

    width: int
    n_layers: int
    reading_steps: int
    n_demonstrations: int
    start_steps: int
    start_lr: float
    wrong: Mapping[str, Sequence[float]]

    def noise(self, game: str) -> start.Noise:
        """The noise of a game's demonstrations. Raises :class:`ReprobookError` where none is stated."""
        if game not in self.wrong or len(self.wrong[game]) != 3:
            raise ReprobookError(
                f"wrong_cards, wrong_formulas or wrong_symbols has no share for {game}; all have one for "
                f"{', '.join(self.wrong) or 'no game'}"
            )
        return start.Noise(*self.wrong[game])


@dataclass(frozen=True)
class World:
    """A game, the hands that training deals (None: all) and new ones that it never does (None: there are none),
    handwriting for training and for tests, the policy that all methods start from, and what it does on fixed hands,
    sampled as stated."""

    name: str
    language: Language
    dealt: Pool | None
    new: Pool | None
    writing: tuple[Handwriting, Handwriting]
    start: Policy
    first: Measured | None = None
    temperature: float = 1.0
    repetition: float = 1.0

    def deal(self, n_tables: int, seed: int | Sequence[int], new: bool = False) -> Game:
        """Tables with hands dealt by ``seed``, as in training or ``new`` ones."""
        return homes.open_game(self.name, n_tables, np.random.default_rng(seed), self.new if new else self.dealt)

    def fixed(self, n_tables: int, seed: int, new: bool = False) -> Game:
        """Tables with the hands of a seed on which all its methods are measured."""
        return self.deal(n_tables, (HANDS, seed, 1), new)


def open_reader(
    sizes: Sizes, writing: tuple[Handwriting, Handwriting], seed: int, *, fit: Callable[..., Any]
) -> start.Reader:
    """An eye that has learned which word a number's picture shows: every policy of the run begins with it."""
    torch.manual_seed(seed)
    reader = start.Reader(Language((), has_formula=False), sizes.width)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        places, numbers = start.shown(writing[0], 128, np.random.default_rng([seed, 12, step]))
        return writing[0].draw(places), numbers

    fit(
        "reading", reader, batch, start.reading_loss, num_steps=sizes.reading_steps, lr=READING_LR,
        schedule="cosine", warmup_steps=min(20, sizes.reading_steps), precision="fp32",
    )  # fmt: skip
    return reader


def open_world(
    name: str, sizes: Sizes, reader: start.Reader, writing: tuple[Handwriting, Handwriting], seed: int, *,
    fit: Callable[..., Any], n_hands: int, thinks: bool = True,
) -> World:  # fmt: skip
    """A game with its supervised start, trained on noisy demonstrations, and measured on ``n_hands`` fixed hands. The
    middle game and Points24 hold kinds of hands out, others in every seed."""
    pools: dict[str, Callable[[], Pool]] = {
        "Targets": games.pool_of_targets, "Points24": games.pool24, "Three": lambda: games.pool24(3),
    }  # fmt: skip
    dealt, new = games.split(pools[name](), HELD_OUT, seed) if name in pools else (None, None)
    rng = np.random.default_rng([seed, 11])
    tables = games.open_game(name, sizes.n_demonstrations, rng, dealt)
    language = Language(tables.actions, tables.has_formula, thinks)
    data = start.demonstrations(tables, language, writing[0], sizes.noise(name), rng)
    torch.manual_seed(seed)
    policy = Policy(start.shape_of(tables, language, sizes.width, sizes.n_layers))
    policy.eye.load_state_dict(reader.eye.state_dict())
    policy.words.load_state_dict(reader.words.state_dict())
    order = shuffled(len(data.response), min(64, len(data.response)), seed=seed)
    fit(
        f"start {name}{'' if thinks else ' without thoughts'}", policy, start.batches(data, order, writing[0]),
        start.imitation_loss, num_steps=sizes.start_steps, lr=sizes.start_lr, schedule="cosine",
        warmup_steps=min(20, sizes.start_steps), precision="fp32",
    )  # fmt: skip
    world = World(name, language, dealt, new, writing, policy)
    return replace(world, first=measure(policy, world, n_hands, seed))


# ---------------------------------------------------------------------------------------------------------- measuring


class Measured(NamedTuple):
    """What a policy does on fixed hands: episodes sampled as in training, at the paper's temperature, and greedy; what
    its thoughts tell of the cards (n_hands / 10,); and on new kinds of hands, where a game has them, episodes sampled
    as in training and at the paper's temperature."""

    sampled: Played
    sharp: Played
    greedy: Played
    told: np.ndarray
    new: Played | None = None
    new_sharp: Played | None = None

    def row(self) -> dict[str, float]:
        """Means, and the measures of collapse."""
        words = [thought.replace(",", " ").replace('"', " ").split() for thought in self.sampled.thoughts]
        return {
            "success": self.sampled.success.mean(), f"success, T = {SHARP}": self.sharp.success.mean(),
            "success, greedy": self.greedy.success.mean(),
            "success, new hands": math.nan if self.new is None else self.new.success.mean(),
            f"success, new hands, T = {SHARP}": math.nan if self.new_sharp is None else self.new_sharp.success.mean(),
            "return": self.sampled.returns.mean(), "legal": self.sampled.legal.mean(),
            "names the cards": self.sampled.named.mean(), "cards read, greedy": self.greedy.named.mean(),
            "information (nats)": self.told.mean(), "entropy (nats a token)": self.sampled.entropy.mean(),
            "distinct-2": collapse.distinct(words, 2), "self-BLEU-2": collapse.self_bleu(words[:200]),
            "template": collapse.template_share(self.sampled.thoughts),
            **{f"won by {kind}": float((self.sampled.kinds == k).mean()) for k, kind in enumerate(KINDS)},
        }  # fmt: skip


def measure(policy: Policy, world: World, n_hands: int, seed: int) -> Measured:
    """Play ``n_hands`` fixed hands, dealt as in training, in handwriting that no training saw, and as many new ones
    where a game has them; thoughts of a tenth of the former, several times."""

    def played(temperature: float, new: bool = False) -> Played:
        return play(
            policy, world.language, world.fixed(n_hands, seed, new), world.writing[1], seed=seed,
            temperature=temperature, repetition=world.repetition,
        )  # fmt: skip

    sampled, greedy = played(world.temperature), played(0.0)
    sharp = sampled if world.temperature == SHARP else played(SHARP)
    few = max(2, n_hands // 10)
    told = [
        collapse.information(thoughts_under_pictures(policy, world, few, seed, N_SAMPLES * seed + k))
        for k in range(N_SAMPLES)
    ]
    new = [played(temperature, new=True) for temperature in (world.temperature, SHARP)] if world.new else []
    return Measured(sampled, sharp, greedy, np.mean(told, axis=0), *new)


@torch.no_grad()
def thoughts_under_pictures(policy: Policy, world: World, n: int, hands: int, seed: int) -> np.ndarray:
    """Log-probabilities (n, n), at the temperature of sampling: a first thought on each of the first ``n`` fixed hands
    of seed ``hands`` (row), under the pictures of each of them (column). The prompt, with the target, stays. In games
    without pictures the columns are prompts: what thoughts tell of all that is read."""
    tables = Tables(world.fixed(n, hands), world.writing[1], np.random.default_rng(seed))
    _, pictures, prompt = tables.seen(world.language)
    how = {"temperature": world.temperature, "repetition": world.repetition}
    written = policy.write(pictures, prompt, generator=torch.Generator().manual_seed(seed), **how)
    split = world.language.split(written.ids.numpy(), written.lengths.numpy())
    places = torch.arange(written.ids.shape[1])
    blank, found = bool((tables.ranks == games.BLANK).all()), []
    for row in range(n):
        response = written.ids[row : row + 1, : int(written.lengths[row])].expand(n, -1)
        logits, _ = policy(pictures, prompt if blank else prompt[row : row + 1].expand(n, -1), response)
        logp = token_logp(logits, response, world.temperature)
        found.append((logp * (places[: logp.shape[1]] < int(split[row]))).sum(1))
    return torch.stack(found).numpy()


class Run(NamedTuple):
    """A method's training: measures before and after, a row of each update, the trained policy, early and late
    thoughts."""

    first: Measured
    last: Measured
    curve: pd.DataFrame
    policy: Policy


def train(
    world: World, name: str, settings: Settings, noise: float, n_hands: int, seed: int, folder: Path | None = None
) -> Run:
    """Train a method from the world's start. With ``folder`` a run that was killed goes on from its last update."""
    policy = copy.deepcopy(world.start)
    first = world.first or measure(policy, world, n_hands, seed)
    game = world.deal(settings.n_tables, seed)
    how = replace(method(name, noise), prefix=world.name not in EASY)
    learner = Learner(policy, world.language, game, world.writing[0], how, settings, seed)
    learner.run(folder=folder)
    curve = pd.DataFrame(learner.history).assign(game=world.name, method=name)
    return Run(first, measure(policy, world, n_hands, seed), curve, policy)


def summary(runs: Mapping[tuple[str, str], Run]) -> pd.DataFrame:
    """One row a run (game, method), and the start of each game."""
    rows, seen = [], set()
    for (game, name), run in runs.items():
        begin = (game, "start" + (" without thoughts" if name == "action only" else ""))
        if begin not in seen:
            rows.append({"game": begin[0], "method": begin[1], **run.first.row()})
            seen.add(begin)
        rows.append({"game": game, "method": name, **run.last.row()})
    return pd.DataFrame(rows)


def constant_thought(n: int) -> dict[str, float]:
    """The measures of full collapse: one fluent thought on ``n`` hands."""
    words = [["append", "10"]] * n
    return {
        "information (nats)": float(collapse.information(np.zeros((n, n))).mean()),
        "distinct-2": collapse.distinct(words, 2), "self-BLEU-2": collapse.self_bleu(words), "template": 1.0,
    }  # fmt: skip


def step_by_step(policy: Policy, world: World, hand: int, seed: int) -> list[tuple[str, str]]:
    """Thought and action of each step on one of the fixed hands, sampled."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    game = world.fixed(hand + 1, seed)
    tables, found = Tables(game, world.writing[1], rng), []
    while True:
        _, pictures, prompt = tables.seen(world.language)
        written = policy.write(pictures, prompt, temperature=1.0, generator=generator)
        texts = [world.language.text(row) for row in written.ids.tolist()]
        step = game.step(world.language.read(texts, game, rng).action)
        found.append((thought_of(texts[hand]), texts[hand][len(thought_of(texts[hand])) :]))
        if step.terminated[hand] or step.truncated[hand]:
            return [*found, ("reward", f"{step.reward[hand]:g}")]
        tables.refresh(np.zeros(hand + 1, dtype=bool), rng)


def thoughts_table(runs: Mapping[str, Run], n: int) -> pd.DataFrame:
    """First thoughts on the same ``n`` hands, early and late, of several methods."""
    found: dict[str, list[str]] = {}
    for name, run in runs.items():
        found |= {f"{name}: early": run.first.sampled.thoughts[:n], f"{name}: late": run.last.sampled.thoughts[:n]}
    return pd.DataFrame(found)


# ------------------------------------------------------------------------------------------------------------ effects


def pairs(runs: Mapping[str, Run]) -> Pairs:
    """Paired effects of the plan over the fixed hands of the middle game, those whose runs there are. Success is that
    at the temperature of training unless the name of an effect says otherwise."""
    found: Pairs = {}
    for name, run in runs.items():
        found |= moved(name, run)
    if "GTR" not in runs:
        return found
    for other in runs:
        if other != "GTR":
            found[f"GTR minus {other}"] = _won(runs["GTR"]), _won(runs[other])
            sharp = _ones(runs["GTR"].last.sharp.success), _ones(runs[other].last.sharp.success)
            found[f"at T = {SHARP}: GTR minus {other}"] = sharp
            found |= _on_new_hands(f"GTR minus {other}", runs["GTR"].last, runs[other].last)
    for name in ("GTR", "GTR, perfect corrector"):
        if name in runs:
            found[f"{name} minus sharpened start"] = _won(runs[name]), _ones(runs[name].first.sharp.success)
    for name in ("GTR", "RL only"):
        if name in runs and "action only" in runs:  # its start, without thoughts, is another one
            found[f"{name} minus action only"] = _won(runs[name]), _won(runs["action only"])
            both = runs[name], runs["action only"]
            gains = [_ones(each.last.sharp.success) - each.first.sharp.success for each in both]
            found[f"at T = {SHARP}: gain over the start: {name} minus action only"] = gains[0], gains[1]
    for name in ("GTR", "GTR, perfect corrector"):
        if name in runs and "RL only" in runs:
            named = _ones(runs[name].last.sharp.named), _ones(runs["RL only"].last.sharp.named)
            if not np.isnan(named[0]).any():
                found[f"at T = {SHARP}: thoughts that name the cards: {name} minus RL only"] = named
    return found


def moved(name: str, run: Run) -> Pairs:
    """How far a run's success and thoughts that name the cards are from its start's, at either temperature."""
    found: Pairs = {}
    first, last = run.first, run.last
    for mark, (end, begin) in {
        "": (last.sampled, first.sampled), f"at T = {SHARP}: ": (last.sharp, first.sharp)
    }.items():  # fmt: skip
        found[f"{mark}{name}: success, last minus first"] = _ones(end.success), _ones(begin.success)
        if name != "action only" and not np.isnan(end.named).any():
            found[f"{mark}{name}: thoughts that name the cards, last minus first"] = (
                _ones(end.named),
                _ones(begin.named),
            )
    return found | _on_new_hands(f"{name}: success, last minus first", last, first)


def _on_new_hands(name: str, one: Measured, other: Measured) -> Pairs:
    if one.new is None or other.new is None or one.new_sharp is None or other.new_sharp is None:
        return {}
    return {
        f"new hands: {name}": (_ones(one.new.success), _ones(other.new.success)),
        f"new hands, T = {SHARP}: {name}": (_ones(one.new_sharp.success), _ones(other.new_sharp.success)),
    }


def _ones(flags: np.ndarray) -> np.ndarray:
    return flags.astype(float)


def _won(run: Run) -> np.ndarray:
    return _ones(run.last.sampled.success)


def told(runs: Mapping[str, Run]) -> Pairs:
    """The effects of information, over fewer hands with several thoughts each."""
    return {
        f"{name}: information on the cards in thoughts, last minus first": (run.last.told, run.first.told)
        for name, run in runs.items() if name != "action only"
    }  # fmt: skip


def levels(runs: Mapping[str, Run]) -> dict[str, np.ndarray]:
    """The unpaired effects of the middle game: cards read, where the starts stand, legal actions of RL at its end."""
    rl = runs["RL only"]
    found = {
        "cards read": _ones(rl.first.greedy.named), "middle game: start": _ones(rl.first.sampled.success),
        "middle game: legal actions": rl.last.sampled.legal,
    }  # fmt: skip
    if "action only" in runs:
        found["middle game: start without thoughts"] = _ones(runs["action only"].first.sampled.success)
    return found


def easy_levels(game: str, runs: Mapping[tuple[str, str], Run]) -> dict[str, np.ndarray]:
    """The effects of a game of its own hands: success of the start, also sharpened, and of each method, by episode."""
    mine = {name: run for (each, name), run in runs.items() if each == game}
    found = {f"{game}: {name}": _won(run) for name, run in mine.items()}
    first = next(iter(mine.values())).first
    started = {f"{game}: start": first.sampled, f"{game}: start, T = {SHARP}": first.sharp}
    return {**{name: _ones(played.success) for name, played in started.items()}, **found}


def easy_pairs(game: str, runs: Mapping[tuple[str, str], Run]) -> Pairs:
    """The paired effects of an easy game, by episode: GTR against RL alone, RL alone against the sharpened start, and
    what became of thoughts."""
    rl, gtr = runs[game, "RL only"], runs[game, "GTR"]
    return {
        f"{game}: GTR minus RL only": (_won(gtr), _won(rl)),
        f"{game}: at T = {SHARP}: GTR minus RL only": (_ones(gtr.last.sharp.success), _ones(rl.last.sharp.success)),
        f"{game}: RL only minus sharpened start": (_won(rl), _ones(rl.first.sharp.success)),
        **moved(f"{game}: RL only", rl), **moved(f"{game}: GTR", gtr),
    }  # fmt: skip


def lazy_solvers(dealt: Pool, pools: Mapping[str, Pool]) -> pd.DataFrame:
    """What needs no arithmetic in the middle game, only faultless reading and writing: the share of hands (by their
    probabilities) won by one operator for all, by one of the three at random, and by the one that most often makes the
    target of the hands ``dealt`` in training, whatever the cards; the larger card first. ``pools``: column -> hands."""
    found = {}
    for column, pool in pools.items():
        won = {f"always {op}": float(pool.weights @ wins) for op, wins in _won_by(pool).items()}
        chance = float(np.mean(list(won.values())))
        found[column] = won | {
            "one of the three at random": chance, "by the target alone": float(pool.weights @ by_target(dealt, pool))
        }  # fmt: skip
    return pd.DataFrame(found).rename_axis("solver").reset_index()


def _won_by(pool: Pool) -> dict[str, np.ndarray]:
    larger, smaller = np.maximum(*pool.ranks.T), np.minimum(*pool.ranks.T)
    made = {"+": larger + smaller, "-": larger - smaller, "*": larger * smaller}
    return {op: value == pool.targets for op, value in made.items()}


def by_target(dealt: Pool, pool: Pool) -> np.ndarray:
    """Whether each hand of ``pool`` (N,) is won by the operator that most often makes its target of the hands
    ``dealt`` in training; of a target that is never dealt, by the one that wins most of these."""
    counts = np.stack([np.bincount(dealt.targets, dealt.weights * wins, 100) for wins in _won_by(dealt).values()])
    best = np.where(counts.any(0), counts.argmax(0), counts.sum(1).argmax())
    return np.stack(list(_won_by(pool).values()))[best[pool.targets], np.arange(len(pool.targets))]


def against_lazy(run: Run, world: World, n_hands: int, seed: int) -> Pairs:
    """GTR at the paper's temperature against the solver that chooses an operator by the target alone, hand by hand."""
    assert world.dealt is not None and run.last.new_sharp is not None
    found: Pairs = {}
    for mark, new, played in (("at", False, run.last.sharp), ("new hands,", True, run.last.new_sharp)):
        game = world.fixed(n_hands, seed, new)
        wins = by_target(world.dealt, Pool(game.ranks(), game.targets(), np.ones(n_hands)))
        found[f"{mark} T = {SHARP}: GTR minus by the target alone"] = _ones(played.success), _ones(wins)
    return found


def outcome(runs: Mapping[str, Run]) -> str:
    """What became of thoughts and success under RL alone, in this run, by its means: one of four names."""
    first, last = runs["RL only"].first, runs["RL only"].last
    poorer = float(last.sharp.named.mean() - first.sharp.named.mean()) < -MARGIN
    better = float(last.sharp.success.mean() - first.sharp.success.mean()) > MARGIN
    if poorer:
        return "success without thoughts that see the hand" if better else "thought collapse, as in the paper"
    return "learning with thoughts" if better else "neither learned nor collapsed"


def slopes(noises: Sequence[float], runs: Sequence[Run]) -> np.ndarray:
    """Least-squares slope of success over the corrector's noise on each hand (n_hands,)."""
    if len(set(noises)) < 2:
        raise ReprobookError(f"a slope needs two values of noise; there is {list(noises)}")
    x = np.array(noises) - np.mean(noises)
    y = np.stack([_ones(run.last.sampled.success) for run in runs])
    return x @ (y - y.mean(0)) / (x @ x)


def kinds_of_hands(world: World, n_hands: int, seed: int, new: bool = False) -> list[str]:
    """The kind of each fixed hand: its cards in any order, and its target. Hands of a kind are no independent units."""
    game = world.fixed(n_hands, seed, new)
    values = np.sort(games.card_values(game.ranks()), 1).tolist()
    pairs = zip(values, game.targets().tolist(), strict=True)
    return [f"{' '.join(map(str, hand))} to {target}" for hand, target in pairs]


def settings_of(given: Mapping[str, Any], n_updates: int, step: float = 1.0) -> Settings:
    """The loop's numbers from the notebook's parameters, the step size times ``step``. In a run of other than their
    ``n_updates`` it falls in proportion: every run ends at the same share of its first step."""
    horizon = round(given["horizon"] * n_updates / given["n_updates"])
    return Settings(
        n_tables=given["n_tables"], n_steps=given["n_steps"], n_updates=n_updates, epochs=given["epochs"],
        batch_size=given["batch_size"], lr=step * given["lr"], horizon=horizon, micro=given["micro"],
        grad_clip=given["grad_clip"], temperature=given["temperature"], repetition=given["repetition"],
    )  # fmt: skip


def sizes_of(given: Mapping[str, Any]) -> Sizes:
    """Sizes of policy and start from the notebook's parameters."""
    names = ("width", "n_layers", "reading_steps", "n_demonstrations", "start_steps", "start_lr")
    shares = [given[f"wrong_{kind}"] for kind in ("cards", "formulas", "symbols")]
    common = [game for game in shares[0] if all(game in each for each in shares)]
    wrong = {game: [each[game] for each in shares] for game in common}
    return Sizes(**{name: given[name] for name in names}, wrong=wrong)


def check(given: Mapping[str, Any]) -> None:
    """Raise :class:`ReprobookError` for parameters of the notebook that no run can have, before anything is trained or
    fetched."""
    for name in [name for kind in ("rows", "taught", "parts", "others", "released") for name in given[kind]]:
        method(name, given["noise"])
    for what, allowed in (("controls", EASY), ("released_games", ("Points24", "EZPoints", games.ALFWORLD))):
        if wrong := [game for game in given[what] if game not in allowed]:
            raise ReprobookError(f"{what} names {wrong[0]!r}; it may have {', '.join(allowed)}")
    for noise in given["noises"]:
        method("GTR", noise)
    if given["n_updates"] < 1:
        raise ReprobookError(f"n_updates is {given['n_updates']}; it must be at least 1")
    for updates in (given["n_updates"], *given["controls"].values()):
        settings_of(given, updates)
    if not given["temperature"] > 0 or given["repetition"] < 1:
        raise ReprobookError(
            f"temperature is {given['temperature']} and repetition {given['repetition']}; they must be > 0 and >= 1"
        )
    if given["whole_below"] < 0:
        raise ReprobookError(f"whole_below is {given['whole_below']}; it must be at least 0")
    if given["n_hands"] < 4:
        raise ReprobookError(f"n_hands is {given['n_hands']}; it must be at least 4")
    rank, alpha, dropout = given["lora"]
    if rank < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise ReprobookError(f"lora is {given['lora']}; rank >= 1, alpha > 0, dropout from 0 to below 1")
    if given["released_corrector"] not in ("", "exact"):
        check_service(given["released_corrector"])
        if games.ALFWORLD in given["released_games"]:
            raise ReprobookError(
                f"released_corrector is {given['released_corrector']!r}; released_games names {games.ALFWORLD}, whose "
                "corrector can only be exact: run it apart from the other games"
            )
    games_used = [*given["controls"], *(["Targets"] if given["rows"] else []), *given["released_games"]]
    for game in games_used:
        sizes_of(given).noise(game)

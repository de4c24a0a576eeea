"""The loop: play a rollout with the corrector at every step, then PPO and thought cloning, mini-batch by mini-batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.gtr import ppo
from reprobook.papers.gtr.collapse import template_share
from reprobook.papers.gtr.corrector import Ability, Corrector, numbers_on
from reprobook.papers.gtr.games import ALFWORLD, BLANK
from reprobook.papers.gtr.policy import PAD_ID, token_logp
from reprobook.papers.gtr.ppo import Buffer, Correction, Draws, check_lambda
from reprobook.papers.gtr.start import prompt_room
from reprobook.train import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from reprobook.papers.gtr.cards import Handwriting
    from reprobook.papers.gtr.corrector import Verdict
    from reprobook.papers.gtr.games import Game
    from reprobook.papers.gtr.language import Language, Thought
    from reprobook.papers.gtr.policy import Policy


@dataclass(frozen=True)
class Method:
    """What is trained, and by what. The defaults are GTR; ``ppo=False`` is thought cloning alone, ``cloning=0`` and
    ``truncate=False`` is RL alone.

    ``lam``: weight of thought tokens in the log-probability; ``cloning``: weight of the cloning loss; ``annealed``:
    that weight falls to 0 along half a cosine, in half of the run; ``dagger``: all corrections so far are kept;
    ``whole``: the action is cloned, too; ``judge``: reward for a thought that the corrector likes; ``truncate``: the
    truncation rule; ``prefix``: with its part about the aimed formula (Points24); ``step``: factor of the step size;
    ``value_clip``: most that values move in an update. With 0.1, as released, one that is further from its target is
    held back, while targets of valid responses lie above 5."""

    ppo: bool = True
    lam: float = 0.5
    cloning: float = 1.0
    annealed: bool = False
    dagger: bool = True
    whole: bool = False
    judge: float = 0.0
    truncate: bool = True
    prefix: bool = True
    step: float = 1.0
    value_clip: float = 0.1
    ability: Ability = field(default_factory=Ability)

    def __post_init__(self) -> None:
        check_lambda(self.lam)
        if not (self.ppo or self.cloning):
            raise ReprobookError("a method needs PPO or a cloning weight above 0")
        if self.cloning < 0 or self.judge < 0:
            raise ReprobookError(f"cloning is {self.cloning} and judge {self.judge}; neither may be below 0")

    @property
    def asks(self) -> bool:
        """Whether it needs a corrector."""
        return self.cloning > 0 or self.judge > 0 or self.truncate


@dataclass(frozen=True)
class Settings:
    """Numbers of the loop; the defaults are the paper's, but for sizes that only make sense here.

    ``horizon``: updates in which the step size falls along half a cosine from ``lr`` to ``lr_end`` (the paper's is
    longer than its run); 0: it stays. ``micro``: rows in a forward pass, whose gradients are summed up (the paper's is
    1); 0: all of a mini-batch."""

    n_tables: int = 64
    n_steps: int = 16
    n_updates: int = 14
    epochs: int = 4
    batch_size: int = 64
    lr: float = 3e-4
    lr_end: float = 1e-9
    horizon: int = 0
    micro: int = 0
    gamma: float = 0.9
    gae_lambda: float = 0.95
    clip: float = 0.1
    value_weight: float = 0.5
    grad_clip: float = 0.5
    temperature: float = 1.0
    repetition: float = 1.0
    bonus: float = 5.0
    bonus_mode: Literal["after", "inside"] = "after"

    def __post_init__(self) -> None:
        for name in ("n_tables", "n_steps", "n_updates", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ReprobookError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if min(self.horizon, self.micro) < 0:
            raise ReprobookError(f"horizon is {self.horizon} and micro {self.micro}; neither may be below 0")
        if self.batch_size > self.n_tables * self.n_steps:
            raise ReprobookError(f"batch_size is {self.batch_size}; a rollout has {self.n_tables * self.n_steps} steps")
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ReprobookError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")

    def step_size(self, update: int) -> float:
        """Of Adam in an update (from 1)."""
        if not self.horizon:
            return self.lr
        return self.lr_end + (self.lr - self.lr_end) * 0.5 * (1 + math.cos(math.pi * (update - 1) / self.horizon))


class Rollout(NamedTuple):
    """Steps of a rollout, flat (T B, ...) but for the first three (T, B): returns, values, ends."""

    returns: Tensor
    values: Tensor
    ends: Tensor
    places: Tensor
    prompt: Tensor
    response: Tensor
    split: Tensor
    logp: Tensor


class Tables:
    """A game with the pictures of its numbers: a number keeps its picture until it changes or a new episode begins."""

    def __init__(self, game: Game, writing: Handwriting, rng: np.random.Generator) -> None:
        self.game, self.writing = game, writing
        self.ranks = game.ranks()
        self.places = writing.pick(self.ranks, rng)

    def refresh(self, fresh: np.ndarray, rng: np.random.Generator) -> None:
        """New pictures on the ``fresh`` tables (mask) and for numbers that changed."""
        ranks = self.game.ranks()
        new = (ranks != self.ranks) | fresh[:, None]
        self.places = np.where(new[..., None], self.writing.pick(ranks, rng), self.places)
        self.ranks = ranks

    def seen(self, language: Language) -> tuple[Tensor, Tensor, Tensor]:
        """Picture places (B, n, 2), pictures (B, n, 2, 28, 28) and prompts (B, P)."""
        places = torch.from_numpy(self.places)
        ids = language.prompts(self.game.texts(), self.game.targets(), prompt_room(self.game))
        return places, self.writing.draw(places), torch.from_numpy(ids)


class Learner:
    """One run of a method: a policy, its tables, a corrector, an optimiser and the buffer D.

    All that is drawn in update ``u`` comes from the seed and ``u``, and the state between updates can be written and
    read, so a run that is killed (in the middle of a rollout, too) ends as one that never was."""

    def __init__(
        self, policy: Policy, language: Language, game: Game, writing: Handwriting, method: Method, settings: Settings,
        seed: int, corrector: Corrector | None = None,
    ) -> None:  # fmt: skip
        """``corrector``: one other than the exact one with the method's ability."""
        self.policy, self.language, self.method, self.settings, self.seed = policy, language, method, settings, seed
        rng = np.random.default_rng([seed, 1 << 20])
        self.tables = Tables(game, writing, rng)
        self.corrector = corrector or Corrector(method.ability, game, rng)
        self.trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.Adam(self.trained.values(), lr=settings.lr, eps=1e-7)
        self.buffer = Buffer(method.dagger)
        self.running = np.zeros(game.n_tables)  # return of each episode so far
        self.history: list[dict[str, float]] = []

    # ------------------------------------------------------------------------------------------------------- rollout

    def collect(self, update: int) -> Rollout:
        """Play ``n_steps`` on every table; corrections go into the buffer."""
        tables, game, s = self.tables, self.tables.game, self.settings
        rng = np.random.default_rng([self.seed, update])
        generator = torch.Generator().manual_seed((self.seed << 20) + update)
        game.rng = self.corrector.rng = rng
        steps: list[tuple[Tensor, ...]] = []
        corrections, finished = [], _Finished(game)
        said: list[Thought | None] = []
        named = []
        before = dict(self.corrector.said)
        for _ in range(s.n_steps):
            places, pictures, prompt = tables.seen(self.language)
            how = {"temperature": s.temperature, "repetition": s.repetition}
            written = self.policy.write(pictures, prompt, generator=generator, **how)
            got = self.language.read([self.language.text(row) for row in written.ids.tolist()], game, rng)
            said += got.thoughts
            named.append(names_cards(got.thoughts, tables.ranks).mean())
            verdicts = self.corrector.judge(got.thoughts) if self.method.asks else []
            if self.method.cloning:
                response, labels = self._labelled(verdicts, got.action)
                corrections.append(Correction(places, prompt, response, labels))
            step = game.step(got.action)
            reward, cut = self._truncated(step.reward, step.terminated | step.truncated, verdicts)
            ends = step.terminated | step.truncated | cut
            self.running += reward
            finished.add(self.running[ends], step.kind[ends])
            self.running[ends] = 0
            liked = np.array([verdict.word == "yes" for verdict in verdicts]) if self.method.judge else np.zeros(1)
            valid = np.array([thought is not None for thought in got.thoughts])
            split = torch.from_numpy(self.language.split(written.ids.numpy(), written.lengths.numpy()))
            steps.append((
                torch.from_numpy(reward + self.method.judge * liked).float(), torch.from_numpy(ends), written.values,
                torch.from_numpy(s.bonus * valid).float(), places, prompt, written.ids, split,
                ppo.weighted_logp(written.logp, split, self.method.lam),
                torch.from_numpy(got.legal).float(), written.entropy.sum(1) / written.lengths,
            ))  # fmt: skip
            game.deal(ends)
            self.corrector.begin(ends)
            tables.refresh(ends, rng)
        if corrections:
            self.buffer.add(Correction(*(torch.cat(each) for each in zip(*corrections, strict=True))))
        rewards, ended, values, bonus, *kept, legal, entropy = (torch.stack(each) for each in zip(*steps, strict=True))
        returns = ppo.gae(rewards, values, ended, self._value_now(), s.gamma, s.gae_lambda, bonus, s.bonus_mode)
        self.history.append({
            "update": update, **finished.row(), "legal": float(legal.mean()),
            "well-formed": float((bonus > 0).float().mean()), "entropy": float(entropy.mean()),
            "names the cards": float(np.mean(named)), "template": template_share(said),
            **{f"said {word}": float(n - before.get(word, 0)) for word, n in self.corrector.said.items()},
        })  # fmt: skip
        return Rollout(returns, values, ended, *(each.flatten(0, 1) for each in kept))

    @torch.no_grad()
    def _value_now(self) -> Tensor:
        _, pictures, prompt = self.tables.seen(self.language)
        return self.policy(pictures, prompt, torch.full((len(prompt), 1), PAD_ID))[1]

    def _labelled(self, verdicts: list[Verdict], action: np.ndarray) -> tuple[Tensor, Tensor]:
        """Responses (B, n_new) to clone and their labels: the corrected thought with the agent's own action, whose span
        is not labelled; with ``whole``, the corrector's action, labelled."""
        n_new = self.policy.shape.n_new
        response = np.full((len(verdicts), n_new), PAD_ID)
        labels = np.full((len(verdicts), n_new), -100)
        for row, verdict in enumerate(verdicts):
            if verdict.word != "no" or verdict.thought is None:
                continue
            own = self.tables.game.actions[action[row]]
            ids = self.language.encode(verdict.thought, verdict.thought.next if self.method.whole else own)
            if len(ids) > n_new:  # no response of its own could be so long
                continue
            response[row, : len(ids)] = ids
            end = len(ids) - (0 if self.method.whole else self.language.action_length(own))
            labels[row, :end] = ids[:end]
        return torch.from_numpy(response), torch.from_numpy(labels)

    def _truncated(
        self, reward: np.ndarray, over: np.ndarray, verdicts: list[Verdict]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The truncation rule: -1 and the end where the corrector sees no way on, the reward is -1, or the formula no
        longer leads to the one aimed at."""
        if not self.method.truncate:
            return reward, np.zeros(len(reward), dtype=bool)
        cut = (reward == -1) | np.array([verdict.word == "impossible" for verdict in verdicts])
        if self.method.prefix:
            cut |= ~over & ~self.corrector.prefix_of_aim()
        return np.where(cut, -1.0, reward), cut

    # -------------------------------------------------------------------------------------------------------- update

    def learn(self, rollout: Rollout, update: int) -> None:
        """The epochs of an update: every mini-batch of PPO beside one of the buffer, one step for both."""
        s, n = self.settings, len(rollout.logp)
        generator = torch.Generator().manual_seed((self.seed << 20) + (1 << 19) + update)
        returns, values = rollout.returns.flatten(), rollout.values.flatten()
        advantage = ppo.normalised(returns - values)
        gone = min(1.0, 2 * (update - 1) / s.n_updates) if self.method.annealed else 0.0
        left = 0.5 * (1 + math.cos(math.pi * gone))
        weights = {"policy loss": 1.0, "value loss": s.value_weight, "cloning loss": left * self.method.cloning}
        totals = dict.fromkeys(weights, 0.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.method.step * s.step_size(update)
        for _ in range(s.epochs):
            draws = Draws(n, generator)
            clones = Draws(len(self.buffer), generator) if self.method.cloning else None
            for _ in range(n // s.batch_size):
                rows = draws.take(s.batch_size)
                cloned = self.buffer.data.rows(clones.take(s.batch_size)) if clones and self.buffer.data else None
                self.optimiser.zero_grad()
                found = False
                for part in torch.arange(s.batch_size).split(s.micro or s.batch_size):
                    clone = None if cloned is None else cloned.rows(part)
                    losses = self._losses(rollout, rows[part], clone, advantage, returns, values)
                    share = len(part) / s.batch_size
                    for name, each in losses.items():
                        totals[name] += share * float(each.detach())
                    if losses:
                        (share * torch.stack([weights[name] * each for name, each in losses.items()]).sum()).backward()
                        found = True
                if found:
                    torch.nn.utils.clip_grad_norm_(self.trained.values(), s.grad_clip)
                    self.optimiser.step()
        self.history[-1] |= {name: total / (s.epochs * (n // s.batch_size)) for name, total in totals.items()}

    def _losses(
        self, rollout: Rollout, rows: Tensor, cloned: Correction | None, advantage: Tensor, returns: Tensor,
        values: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Losses of a mini-batch by one forward pass over its rows and the labelled ones of ``cloned``."""
        s, parts = self.settings, []
        if self.method.ppo:
            parts.append((rollout.places[rows], rollout.prompt[rows], rollout.response[rows]))
        if cloned is not None:
            told = cloned.rows((cloned.labels != -100).any(1).nonzero().flatten())
            parts.append((told.places, told.prompt, told.response))
        places, prompt, response = (torch.cat(each) for each in zip(*parts, strict=True))
        if not len(response):
            return {}
        used = int((response != PAD_ID).any(0).sum())  # no forward pass over what no row has
        logits, value = self.policy(self.tables.writing.draw(places), prompt, response[:, :used])
        found, n = {}, len(rows) if self.method.ppo else 0
        if self.method.ppo:
            logp = token_logp(logits[:n], response[:n, :used], s.temperature)
            logp = ppo.weighted_logp(logp, rollout.split[rows], self.method.lam)
            found["policy loss"] = ppo.policy_loss(logp, rollout.logp[rows], advantage[rows], s.clip)
            found["value loss"] = ppo.value_loss(value[:n], values[rows], returns[rows], self.method.value_clip)
        if cloned is not None and len(response) > n:
            found["cloning loss"] = ppo.cloning_loss(logits[n:], told.labels[:, :used], len(cloned.labels))
        return found

    # ----------------------------------------------------------------------------------------------------------- run

    def run(
        self, evaluate: Callable[[int], dict[str, Any]] | None = None, every: int = 5, folder: Path | None = None
    ) -> list[dict[str, Any]]:
        """All updates; rows of ``evaluate(update)`` before the first, after every ``every`` and after the last one.
        With ``folder`` the state is kept after each update, and a run that was killed goes on from there."""
        rows: list[dict[str, Any]] = []
        first = 1
        if folder is not None and (state := checkpoint.newest(folder)):
            first, rows = self._restore(state)
        elif evaluate:
            rows.append({"update": 0, **evaluate(0)})
        for update in range(first, self.settings.n_updates + 1):
            self.learn(self.collect(update), update)
            if evaluate and (update % every == 0 or update == self.settings.n_updates):
                rows.append({"update": update, **evaluate(update)})
            if folder is not None:
                checkpoint.write(checkpoint.step_file(folder, update), self._state(update, rows))
                checkpoint.prune(folder, 1)
        return rows

    def _state(self, update: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
        owners = {"game": self.tables.game, "tables": self.tables, "corrector": self.corrector, "learner": self}
        return {
            "method": repr((self.method, self.settings, self.seed)), "update": update, "rows": rows,
            "history": self.history, "optimiser": self.optimiser.state_dict(),
            "policy": {name: p.detach() for name, p in self.trained.items()},
            "buffer": None if self.buffer.data is None else self.buffer.data._asdict(),
            "arrays": {name: _arrays(owner) for name, owner in owners.items()},
            "aims": self.corrector.aims, "seen": self.corrector.seen, "said": dict(self.corrector.said),
        }  # fmt: skip

    def _restore(self, state: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        if state["method"] != repr((self.method, self.settings, self.seed)):
            raise ReprobookError("the folder holds a run of another method, other settings or another seed")
        self.policy.load_state_dict(state["policy"], strict=False)  # what is frozen is as it was
        self.optimiser.load_state_dict(state["optimiser"])
        self.buffer.data = None if state["buffer"] is None else Correction(**state["buffer"])
        owners = {"game": self.tables.game, "tables": self.tables, "corrector": self.corrector, "learner": self}
        for name, owner in owners.items():
            for key, value in state["arrays"][name].items():
                setattr(owner, key, value.numpy())
        if hasattr(self.tables.game, "replay"):  # its arrays are not all of its state
            self.tables.game.replay()
        self.corrector.aims, self.corrector.seen = state["aims"], state["seen"]
        self.corrector.said.update(state["said"])
        self.history = state["history"]
        return state["update"] + 1, state["rows"]


def _arrays(owner: object) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value.copy()) for key, value in vars(owner).items() if isinstance(value, np.ndarray)}


class _Finished:
    """Returns and kinds of wins of the episodes that ended in a rollout."""

    def __init__(self, game: Game) -> None:
        self.game = game
        self.returns: list[float] = []
        self.kinds: list[int] = []

    def add(self, returns: np.ndarray, kinds: np.ndarray) -> None:
        self.returns += returns.tolist()
        self.kinds += kinds.tolist()

    def row(self) -> dict[str, float]:
        n = max(len(self.returns), 1)
        return {
            "episodes": float(len(self.returns)), "return": sum(self.returns) / n,
            "success": float(succeeded(self.game, np.array(self.returns), np.array(self.kinds)).sum()) / n,
        }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- evaluation


class Played(NamedTuple):
    """Episodes played to their end, one a table, each (B,): return, kind of winning formula (-1: none), whether the
    first thought names the true cards, share of legal actions, entropy a token of the first response; and the first
    thoughts as texts. (Later thoughts of a lost hand stand on prompts that training with truncation never sees.)
    ``wins`` (B,): episodes that count as success (default: those with a return above 0)."""

    returns: np.ndarray
    kinds: np.ndarray
    named: np.ndarray
    legal: np.ndarray
    thoughts: list[str]
    entropy: np.ndarray
    wins: np.ndarray | None = None

    @property
    def success(self) -> np.ndarray:
        """See :func:`succeeded`."""
        return self.returns > 0 if self.wins is None else self.wins


def succeeded(game: Game, returns: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Which episodes (N,) count as success: with a return above 0, as the training logs count it. In ALFWorld, which
    pays for half a task at every step, the ones that were won."""
    return kinds >= 0 if game.name == ALFWORLD else returns > 0


def play(
    policy: Policy, language: Language, game: Game, writing: Handwriting, *, seed: int, temperature: float = 1.0,
    repetition: float = 1.0,
) -> Played:  # fmt: skip
    """One episode on each table as it is dealt, without truncation and corrector. ``temperature`` 0: greedy."""
    rng, generator = np.random.default_rng([seed, 7, 1]), torch.Generator().manual_seed(seed)
    tables = Tables(game, writing, rng)
    n = game.n_tables
    game.rng = rng
    returns, kinds, steps, legal = np.zeros(n), np.full(n, -1), np.zeros(n), np.zeros(n)
    alive = np.ones(n, dtype=bool)
    named, thoughts, entropy = np.zeros(n, dtype=bool), [""] * n, np.zeros(n)
    first = True
    while alive.any():
        _, pictures, prompt = tables.seen(language)
        how = {"temperature": temperature, "repetition": repetition}
        written = policy.write(pictures, prompt, generator=generator, **how)
        texts = [language.text(row) for row in written.ids.tolist()]
        got = language.read(texts, game, rng)
        if first:
            named = names_cards(got.thoughts, tables.ranks)
            thoughts = [thought_of(text) for text in texts]
            entropy, first = (written.entropy.sum(1) / written.lengths).numpy(), False
        step = game.step(got.action)
        returns += np.where(alive, step.reward, 0)
        legal += alive & got.legal
        steps += alive
        kinds = np.where(alive & (step.kind >= 0), step.kind, kinds)
        alive &= ~(step.terminated | step.truncated)
        tables.refresh(np.zeros(n, dtype=bool), rng)
    return Played(returns, kinds, named, legal / steps, thoughts, entropy, succeeded(game, returns, kinds))


def thought_of(text: str) -> str:
    """The response without its action; all of it where no action is named."""
    return text.rpartition('"action"')[0] or text


def names_cards(thoughts: Sequence[Thought | None], ranks: np.ndarray) -> np.ndarray:
    """Whether each thought names the numbers on its table, in any order (B,); NaN where no table has any. ranks:
    (B, n)."""
    if (ranks == BLANK).all():
        return np.full(len(ranks), math.nan)
    true = (sorted(numbers_on(row)) for row in ranks)
    pairs = zip(thoughts, true, strict=True)
    return np.array([t is not None and sorted(min(card, 10) for card in t.cards) == cards for t, cards in pairs])

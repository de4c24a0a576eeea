"""What is made cheaper: one forward pass for the losses of policy, value and cloning; tables played side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from reprobook.bench import compare
from reprobook.papers.gtr import ppo
from reprobook.papers.gtr.alfworld import REST, Alfworld
from reprobook.papers.gtr.corrector import Ability, Corrector
from reprobook.papers.gtr.games import Points, pool_of_targets
from reprobook.papers.gtr.language import Thought
from reprobook.papers.gtr.policy import Policy, Shape, token_logp

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.bench import Comparison


def headline(rows: int = 64, width: int = 64) -> Comparison:
    """Time of the three losses and their gradient by a pass each over that by one shared pass."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    policy = Policy(Shape(2, 8, 16, 31, width))
    pictures = torch.rand(2 * rows, 2, 2, 28, 28, generator=generator)
    prompt, response = (torch.randint(1, 31, (2 * rows, n), generator=generator) for n in (8, 14))
    labels = response.where(torch.arange(14) < 10, -100)[rows:]
    split, advantage, old = torch.full((rows,), 10), torch.randn(rows, generator=generator), torch.zeros(rows)

    def gradient(logits: Tensor, values: Tensor, cloned: Tensor) -> Tensor:
        logp = ppo.weighted_logp(token_logp(logits, response[:rows]), split, 0.5)
        loss = ppo.policy_loss(logp, logp.detach(), advantage, 0.1) + 0.5 * ppo.value_loss(values, old, old + 1, 0.1)
        parts = torch.autograd.grad(loss + ppo.cloning_loss(cloned, labels), list(policy.parameters()))
        return torch.cat([part.flatten() for part in parts])

    def apart() -> Tensor:
        mine = pictures[:rows], prompt[:rows], response[:rows]
        return gradient(policy(*mine)[0], policy(*mine)[1], policy(pictures[rows:], prompt[rows:], response[rows:])[0])

    def shared() -> Tensor:
        logits, values = policy(pictures, prompt, response)
        return gradient(logits[:rows], values[:rows], logits[rows:])

    equal = lambda a, b: torch.allclose(a, b, atol=1e-4, rtol=1e-3)  # noqa: E731
    ways = {"a pass for each loss": apart, "one shared pass": shared}
    return compare(ways, equal=equal, what=f"GTR's losses, {rows} rows")


def throughput(n_tables: int = 32, n_steps: int = 12) -> Comparison:
    """Time of the middle game with its corrector, table by table over all tables at once: the corrector's advice is
    followed on the same hands, and the same rewards come out."""
    pool = pool_of_targets()
    hands = np.random.default_rng(0).integers(0, len(pool.weights), (n_steps, n_tables))

    def played(tables: np.ndarray) -> np.ndarray:
        game = Points("Targets", pool, len(tables), np.random.default_rng(0), operators="+-*", most=5)
        judge, turn = Corrector(Ability(), game, np.random.default_rng(0)), np.zeros(len(tables), dtype=np.int64)
        game.put(np.ones(len(tables), dtype=bool), hands[0, tables])
        judge.begin(np.ones(len(tables), dtype=bool))
        total = np.zeros(len(tables))
        for _ in range(n_steps):
            verdicts = judge.judge([Thought((), "", "")] * len(tables))
            advised = [verdict.thought.next for verdict in verdicts if verdict.thought]
            step = game.step(np.array([game.actions.index(symbol) for symbol in advised]))
            total += step.reward
            turn = np.minimum(turn + step.terminated, n_steps - 1)
            game.put(step.terminated, hands[turn, tables][step.terminated])
            judge.begin(step.terminated)
        return total

    each = np.arange(n_tables)
    one_by_one = lambda: np.concatenate([played(each[k : k + 1]) for k in each])  # noqa: E731
    ways = {"table by table": one_by_one, "all at once": lambda: played(each)}
    return compare(ways, equal=np.array_equal, what=f"{n_tables} tables, {n_steps} steps, corrector")


def alfworld_throughput(n_games: int = 64, n_steps: int = 40) -> Comparison:
    """Time of ALFWorld's text games one after another over that of all at once: the same games and, by the same random
    numbers, the same commands; rewards, observations and admissible commands are equal."""
    starts = Alfworld(n_games, np.random.default_rng(0)).starts()
    chance = np.random.default_rng(1).random((n_steps, n_games))

    def played(which: np.ndarray) -> list[list[object]]:
        game = Alfworld(len(which), np.random.default_rng(0))
        game.put(np.ones(len(which), dtype=bool), [starts[k] for k in which])
        told: list[list[object]] = [[] for _ in which]
        for drawn in chance[:, which]:
            menus, over = game.admissible(), game.over()
            sizes = np.array([len(menu) for menu in menus])
            reward = game.step(np.where(over, REST, (drawn * sizes).astype(np.int64))).reward
            for told_here, *seen in zip(told, reward.tolist(), game.observations(), menus, strict=True):
                told_here.append(seen)
        return told

    each = np.arange(n_games)
    one_by_one = lambda: [told for k in each for told in played(each[k : k + 1])]  # noqa: E731
    ways = {"game by game": one_by_one, "all at once": lambda: played(each)}
    return compare(ways, equal=lambda a, b: a == b, what=f"{n_games} text games, {n_steps} steps")

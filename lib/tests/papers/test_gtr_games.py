"""The card games against brute force: every transition, the dealing laws, the solver; texts, corrector, pictures."""

from __future__ import annotations

import itertools
import json
import math
import re
import warnings
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from reprobook.errors import ReprobookError
from reprobook.papers.gtr import cards, corrector, formulas, games, language
from reprobook.papers.gtr.corrector import Ability, Corrector
from reprobook.papers.gtr.language import Language, Thought

# ------------------------------------------------------------------------------------------------------------ formulas


@pytest.mark.parametrize(
    ("text", "target", "n", "kind"),
    [
        ("8*3+3//8", 24, 4, "floor"),
        ("24+5-5", 24, 4, "joined digits"),
        ("5**2-1*1", 24, 4, "power"),
        ("8/(3-8/3)", 24, 4, None),  # 23.99999999999999
        ("(10*10-4)/4", 24, 4, "arithmetic"),
        (" 3*8", 24, 2, "arithmetic"),  # a blank in front does no harm
        ("3 *8", 24, 2, "arithmetic"),
        ("3* *8", 24, 2, None),
        ("2 4", 24, 2, None),
        ("2(3)", 6, 2, None),
        ("", 24, 0, None),
        ("()", 0, 0, None),
        ("8/(3-3)", 24, 3, None),
        ("9**9**9**9", 24, 4, None),
        ("1**(9**9)", 1, 3, "power"),
        ("-8+10*3+2", 24, 4, "arithmetic"),
    ],
)
def test_formulas_are_worth_what_python_finds(text: str, target: int, n: int, kind: str | None) -> None:
    assert formulas.outcome(text, target, n) == kind


def solvable(numbers: list[Fraction], target: int) -> bool:
    """Whether any order of + - * / on the numbers gives the target: take two, put back one."""
    if len(numbers) == 1:
        return numbers[0] == target
    for i, j in itertools.permutations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = [x for k, x in enumerate(numbers) if k not in (i, j)]
        made = [a + b, a - b, a * b] + ([a / b] if b else [])
        if any(solvable([*rest, x], target) for x in made):
            return True
    return False


def test_the_solver_finds_what_brute_force_finds() -> None:
    rng = np.random.default_rng(0)
    for n, target in ((2, 7), (3, 24), (3, 10), (4, 24), (4, 24), (4, 24)):
        hand = tuple(map(int, rng.integers(1, 11, n)))
        found = formulas.solve(hand, target)
        assert bool(found) == solvable([Fraction(card) for card in hand], target)
        for text in found[:50]:
            assert sorted(int(s) for s in formulas.symbols(text) if s.isdigit()) == sorted(hand)
            assert eval(text) == pytest.approx(target)


def test_the_counts_of_the_game_of_24() -> None:
    assert formulas.solve((1, 5, 5, 5)) == ("(5-1/5)*5", "5*(5-1/5)")
    assert "(10*10-4)/4" in formulas.solve((10, 4, 10, 4)) and formulas.solve((10, 10, 10, 10)) == ()
    assert len(formulas.solve((1, 2, 3, 4))) == 314 and len(formulas.brackets(4)) == 7
    for highest, hands_there, with_one in ((10, 715, 566), (13, 1820, 1362)):
        hands = list(itertools.combinations_with_replacement(range(1, highest + 1), 4))
        assert (len(hands), sum(bool(formulas.solve(hand)) for hand in hands)) == (hands_there, with_one)
    pairs = itertools.product(range(1, 7), repeat=2)
    assert sum(bool(formulas.solve(pair, 12)) for pair in pairs) == 5  # (2, 6), (3, 4), (6, 6), either order
    law = Counter(tuple(sorted(min(rank, 10) for rank in ranks)) for ranks in games.pool24().ranks)
    won = sum(n for hand, n in law.items() if any(formulas.outcome(f, 24, 4) for f in formulas.solve(hand)))
    lost = math.factorial(4) / 4 / 28561  # (3, 3, 8, 8) in its six orders
    assert won / 28561 == pytest.approx(20876 / 28561 - lost)
    assert games.unsolvable(games.pool24()) == pytest.approx(1 - 20876 / 28561)
    assert games.unsolvable(games.pool12()) == 0


@pytest.mark.parametrize("text", ["3*8", "(3+8)", "8-3", "3/8"])
def test_numbers_joined_by_operators_are_a_formula(text: str) -> None:
    assert formulas.is_formula(text, 2) and not formulas.is_formula(text, 3)


@pytest.mark.parametrize("text", ["=3*8", "38", "3*8*", ")3(8", "3stand8", "3**8", "3//8", "-3+8", "", "3 8", "a+8"])
def test_what_is_not_numbers_joined_by_operators_is_no_formula(text: str) -> None:
    assert not formulas.is_formula(text, 2)


def test_the_next_symbol_follows_a_formula() -> None:
    assert formulas.symbols("10*(3-1)") == ["10", "*", "(", "3", "-", "1", ")"]
    assert [formulas.next_symbol("10*3", begun) for begun in ("", "10", "10*3", "1", "10 ")] == [
        "10", "*", "=", None, None,
    ]  # fmt: skip
    for begun in ("(", "5*", "5*(5-1/5)"):
        assert all(way.startswith(begun) for way in formulas.completions((1, 5, 5, 5), 24, begun))
        assert formulas.completions((1, 5, 5, 5), 24, begun)
    assert formulas.completions((1, 5, 5, 5), 24, "1") == () == formulas.completions((1, 5, 5, 5), 24, " ")


# -------------------------------------------------------------------------------------------------------------- games


class Referee:
    """One table of a formula game, in plain lists and with Python's own ``eval``."""

    def __init__(self, ranks: list[int], target: int, most: int) -> None:
        self.cards, self.target, self.most = [min(rank, 10) for rank in ranks], target, most
        self.formula: list[str] = []
        self.used: list[int] = []

    def step(self, symbol: str) -> tuple[float, bool, bool]:
        if len(self.formula) > self.most:
            return -1, False, True
        if symbol.isdigit():
            if ([*self.used, int(symbol)]).count(int(symbol)) > self.cards.count(int(symbol)):
                self.formula.append(" ")
                return -1, False, False
            self.used.append(int(symbol))
        if symbol == "=":
            return self._closed(), True, False
        self.formula.append(symbol)
        return 0, False, False

    def _closed(self) -> float:
        text = "".join(self.formula)
        if len(self.used) != len(self.cards):
            return -1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return 10 if eval(text) == self.target else -1
        except Exception:
            return -1


@pytest.mark.parametrize(("name", "most", "steps"), [("Points24", 20, 200), ("EZPoints", 5, 120), ("Targets", 3, 120)])
def test_every_transition_agrees_with_the_referee(name: str, most: int, steps: int) -> None:
    """Half of the symbols at random, half along a solution, so that all kinds of ends are met."""
    rng, n = np.random.default_rng(1), 24
    game = games.open_game(name, n, rng)
    assert isinstance(game, games.Points)
    referees = [Referee(list(r), int(t), most) for r, t in zip(game.ranks(), game.targets(), strict=True)]
    met: Counter[str] = Counter()
    for _ in range(steps):
        action = rng.integers(0, len(game.actions), n)
        for row, text in enumerate(game.texts()):
            ways = corrector.ways_on(tuple(referees[row].cards), int(game.targets()[row]), text, game.actions)
            if ways and rng.random() < 0.7:
                action[row] = game.actions.index(formulas.next_symbol(ways[0], text) or "=")
            elif text.endswith("*") and game.actions[action[row]] == "*":
                action[row] = 0  # towers of powers would keep Python's own evaluation busy for ever
        step = game.step(action)
        for row, referee in enumerate(referees):
            reward, terminated, truncated = referee.step(game.actions[action[row]])
            assert (step.reward[row], step.terminated[row], step.truncated[row]) == (reward, terminated, truncated)
            assert (step.kind[row] >= 0) == (reward == 10)
            if not (terminated or truncated):
                assert game.texts()[row] == "".join(referee.formula)
            met["won" if reward == 10 else "cut" if truncated else "lost" if terminated else "on"] += 1
        over = step.terminated | step.truncated
        game.deal(over)
        assert all(text == "" for text, ended in zip(game.texts(), over, strict=True) if ended)
        for row in np.flatnonzero(over):
            referees[row] = Referee(list(game.ranks()[row]), int(game.targets()[row]), most)
    assert met["won"] > 20 and met["lost"] > 20 and met["cut"] > 0


def play_out(game: games.Points, hand: list[int], target: int, text: str) -> float:
    """Reward of a whole formula on a table of one."""
    game.pool = games.Pool(np.array([hand]), np.array([target]), np.ones(1))
    game.deal(np.ones(1, dtype=bool))
    for symbol in [*formulas.symbols(text), "="]:
        step = game.step(np.array([game.actions.index(symbol)]))
    return float(step.reward[0])


def test_known_hands_are_paid_as_released() -> None:
    game = games.open_game("Points24", 1, np.random.default_rng(0))
    assert isinstance(game, games.Points)
    assert play_out(game, [3, 3, 8, 8], 24, "8/(3-8/3)") == -1
    assert play_out(game, [3, 3, 8, 8], 24, "8*3+3//8") == 10
    assert play_out(game, [13, 4, 12, 4], 24, "(10*10-4)/4") == 10
    assert play_out(game, [3, 8, 1, 1], 24, "3*8") == -1  # two cards are left
    game.arithmetic_only = True
    assert play_out(game, [3, 3, 8, 8], 24, "8*3+3//8") == -1


def test_ez_points_are_dealt_by_the_released_law() -> None:
    pool = games.pool12()
    law: Counter[tuple[int, ...]] = Counter()
    for ranks, weight in zip(games.card_values(pool.ranks), pool.weights, strict=True):
        law[tuple(sorted(ranks))] += weight
        assert ranks.sum() == 12 or ranks.prod() == 12
    expected = {(2, 10): 9, (5, 7): 4, (3, 9): 3, (4, 8): 3, (2, 6): 2, (3, 4): 2, (6, 6): 1}  # of 24
    assert law == pytest.approx({hand: k / 24 for hand, k in expected.items()})


def test_test_hands_are_held_out() -> None:
    train, test = games.split(games.pool_of_targets(), 0.3, seed=0)
    kinds = [
        {(*sorted(r), t) for r, t in zip(p.ranks.tolist(), p.targets.tolist(), strict=True)} for p in (train, test)
    ]
    assert not kinds[0] & kinds[1] and len(kinds[1]) == round(0.3 * len(kinds[0] | kinds[1]))
    assert train.weights.sum() == pytest.approx(1) and games.unsolvable(test) == 0
    for a, b, target in kinds[0] | kinds[1]:
        assert target in (a + b, b - a, a * b)


def test_the_number_line_against_its_rules() -> None:
    rng = np.random.default_rng(2)
    game = games.NumberLine(400, rng)
    starts = game.ranks()
    assert (starts[:, 0] != starts[:, 1]).all() and set(starts.ravel()) == set(range(6))
    made = np.zeros(400, dtype=int)
    for _ in range(60):
        before, action = game.ranks(), rng.integers(0, 2, 400)
        step = game.step(action)
        made += 1
        for row, (at, goal) in enumerate(before):
            to = min(max(at + (1 if action[row] else -1), 0), 5)
            nearer = abs(to - goal) < abs(at - goal)
            assert step.reward[row] == (1 if to == goal else 0 if nearer else -1)
            assert step.terminated[row] == (to == goal) and step.truncated[row] == (to != goal and made[row] == 10)
            assert game.ranks()[row].tolist() == [to, goal]
        over = step.terminated | step.truncated
        game.deal(over)
        made[over] = 0


def test_blackjack_is_gymnasiums() -> None:
    """A table of one beside plain Python that draws the same cards; and the worth of the best play."""

    def total(hand: list[int]) -> int:
        plain = sum(hand)
        return plain + 10 if 1 in hand and plain <= 11 else plain

    for seed in range(60):
        game, rng, choice = games.Blackjack(1, np.random.default_rng(seed)), np.random.default_rng(seed), seed % 3
        dealer = [min(int(k), 10) for k in rng.integers(1, 14, (1, 2))[0]]
        player = [min(int(k), 10) for k in rng.integers(1, 14, (1, 2))[0]]
        while True:
            hit = total(player) < (12, 17, 21)[choice]
            assert corrector.numbers_on(game.ranks()[0]) == [dealer[0], *player]
            card = min(int(rng.integers(1, 14, (1,))[0]), 10)
            step = game.step(np.array([int(hit)]))
            if hit:
                player.append(card)
                assert step.reward[0] == (-1 if total(player) > 21 else 0)
            else:
                while total(dealer) < 17:
                    dealer.append(min(int(rng.integers(1, 14, (1,))[0]), 10))
                end = 0 if total(dealer) > 21 else total(dealer)
                assert step.reward[0] == np.sign(total(player) - end)
            assert step.terminated[0] == (not hit or total(player) > 21)
            if step.terminated[0]:
                break
    best = games.best_blackjack()
    assert [best[16, False, 10], best[16, False, 6], best[18, True, 9], best[18, True, 7], best[11, False, 10]] == [
        "hit", "stand", "hit", "stand", "hit",
    ]  # fmt: skip
    n = 4_000
    game, alive, paid = games.Blackjack(n, np.random.default_rng(0)), np.ones(n, dtype=bool), np.zeros(n)
    while alive.any():
        wanted = [
            games.advice(game, corrector.numbers_on(r)) == "hit" if on else False
            for r, on in zip(game.ranks(), alive, strict=True)
        ]
        step = game.step(np.array(wanted, dtype=int))
        paid += np.where(alive, step.reward, 0)
        alive &= ~step.terminated
    assert paid.mean() == pytest.approx(-0.047, abs=3 * paid.std() / math.sqrt(n))  # known worth without doubling


# ----------------------------------------------------------------------------------------------------------- language

TWO = (*(str(k) for k in range(1, 11)), "+", "-", "*", "=")


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('{"thoughts": "3", "action": "8"}', "8"),
        ('{"action": "8", "action": "10"}', "10"),  # the last key; 10 is not 1
        ('{"action": "1"}', "1"),
        ('{"ACTION": "+"}', "+"),
        ('{"action": "3 or 4"}', None),
        ('{"action": "101"}', None),
        ('{"action": ""}', None),
        ('"3"', None),
        ("", None),
    ],
)
def test_actions_are_read_behind_the_last_key(text: str, action: str | None) -> None:
    assert language.parse_action(text, TWO) == (-1 if action is None else TWO.index(action))


def test_an_unreadable_action_becomes_a_random_legal_one() -> None:
    words = Language(TWO, has_formula=True)
    texts = ['{"action": "?"}'] * 7000 + ['{"cards": [3], "formula": "", "thoughts": "", "action": "="}']
    got = language.read(words, texts, np.random.default_rng(0))
    assert not got.legal[:-1].any() and got.legal[-1] and got.action[-1] == TWO.index("=")
    counts = np.bincount(got.action[:-1], minlength=len(TWO))
    assert (np.abs(counts - 500) < 5 * math.sqrt(500)).all()
    assert got.thoughts[0] is None and got.thoughts[-1] == Thought((3,), "", "")


def test_responses_are_json_and_come_back() -> None:
    rng = np.random.default_rng(0)
    for has_formula in (True, False):
        words = Language(TWO if has_formula else ("stand", "hit"), has_formula)
        for _ in range(20):
            seen = tuple(map(int, rng.integers(1, 11, 3)))
            said = Thought(seen, "3*8-10" if has_formula else "", words.actions[0])
            ids = words.encode(said, words.actions[1])
            text = words.text([*ids, 0, 0])
            assert json.loads(text)["action"] == words.actions[1] and list(json.loads(text)) == list(words.keys)
            assert language.read_response(text, words.keys) == said
            at = words.split(np.array([[*ids, 0]]), np.array([len(ids)]))[0]
            assert words.text(ids[:at]) + words.text(ids[at:]) == text and '"action":' in words.text(ids[at:])
    broken = ["", "[1]", "3", '{"action": "3"}', '{"cards": [3], "formula": "3", "thoughts": "3", "action": "3"', "{}"]
    assert [language.read_response(text, ("cards", "formula", "thoughts", "action")) for text in broken] == [None] * 6
    no_key = np.array([[words.ids["3"]] * 6, [words.ids["3"]] * 6])
    assert words.split(no_key, np.array([6, 3])).tolist() == [2, -1]


def test_prompts_hold_target_and_formula() -> None:
    words = Language(TWO, True)
    ids = words.prompts(["", "10*", "3 +"], np.array([24, 7, 99]), room=4)
    back = [[words.tokens[k] for k in row] for row in ids]
    pad = "<pad>"
    assert back == [["2", "4", *[pad] * 4], ["0", "7", pad, pad, "10", "*"], ["9", "9", pad, "3", pad, "+"]]
    with pytest.raises(ReprobookError, match=r"'1\+2\+3' has 5 symbols; the prompt has room for 4"):
        words.prompts(["1+2+3"], np.array([6]), room=4)


# ---------------------------------------------------------------------------------------------------------- corrector


def table(hand: list[int], target: int = 24, name: str = "Points24", n: int = 1) -> games.Game:
    pool = games.Pool(np.array([hand]), np.array([target]), np.ones(1))
    return games.open_game(name, n, np.random.default_rng(0), pool)


def ask(game: games.Game, thought: Thought | None, **ability: object) -> tuple[Corrector, corrector.Verdict]:
    judge = Corrector(Ability(**ability), game, np.random.default_rng(3))  # type: ignore[arg-type]
    return judge, judge.judge([thought] * game.n_tables)[0]


def test_any_right_formula_is_right() -> None:
    for formula in ("8*3*1*1", "3*8*1*1", "(3*1)*8*1"):
        judge, verdict = ask(table([3, 8, 1, 1]), Thought((8, 1, 1, 3), formula, formulas.symbols(formula)[0]))
        assert verdict.word == "yes" and judge.aims == [formula]
    assert judge.judge([Thought((3, 8, 1, 1), "3*8*1*1", "3")])[0].word == "no"  # another one is aimed at by now
    assert ask(table([3, 8, 1, 1]), Thought((8, 1, 1, 4), "3*8*1*1", "3"))[1].word == "no"  # a card misread
    assert ask(table([3, 8, 1, 1]), Thought((8, 1, 1, 3), "3*8*1*1", "8"))[1].word == "no"  # another symbol comes next
    assert ask(table([3, 8, 1, 1]), Thought((8, 1, 1, 3), "3*8+1*1", "3"))[1].word == "no"  # 25
    assert ask(table([3, 8, 1, 1]), None)[1].word == "unread"


@pytest.mark.parametrize("name", ["Points24", "EZPoints", "Targets", "NumberLine", "Blackjack"])
def test_a_corrected_thought_is_right(name: str) -> None:
    rng = np.random.default_rng(5)
    game = games.open_game(name, 40, rng)
    judge = Corrector(Ability(noise=0.5), game, rng)
    for _ in range(4):
        wrong = [Thought((1,), "1+1", "1")] * 40
        said = judge.judge(wrong)
        again = judge.judge([v.thought or w for v, w in zip(said, wrong, strict=True)])
        for row, (first, second) in enumerate(zip(said, again, strict=True)):
            assert (first.word, second.word) in {("no", "yes"), ("impossible", "impossible")}
            if first.thought and game.has_formula:
                formula, target = first.thought.formula, int(game.targets()[row])
                numbers = [int(s) for s in formulas.symbols(formula) if s.isdigit()]
                assert first.thought.cards == judge.seen[row] and sorted(numbers) == sorted(judge.seen[row])
                if judge.seen[row] == tuple(corrector.numbers_on(game.ranks()[row])):
                    assert formula in formulas.solve(judge.seen[row], target)
        onward = [game.actions.index(v.thought.next) if v.thought else 0 for v in said]
        step = game.step(np.array(onward))
        over = step.terminated | step.truncated
        game.deal(over)
        judge.begin(over)


def test_unsolvable_hands_are_known() -> None:
    assert ask(table([10, 10, 10, 10]), Thought((10,) * 4, "10+10+10+10", "10"))[1].word == "impossible"
    game = table([1, 5, 5, 5])
    game.step(np.array([game.actions.index("1")]))  # nothing that begins with 1 leads to 24
    assert ask(game, Thought((1, 5, 5, 5), "5*(5-1/5)", "*"))[1].word == "impossible"


def test_mistakes_last_for_an_episode_and_come_at_their_rate() -> None:
    game = games.open_game("Targets", 2000, np.random.default_rng(0))
    judge = Corrector(Ability(noise=0.3), game, np.random.default_rng(1))
    wrong = [Thought((), "", "")] * 2000
    first, second = judge.judge(wrong), judge.judge(wrong)
    seen = [v.thought.cards for v in first if v.thought]
    assert seen == [v.thought.cards for v in second if v.thought]
    true = [tuple(corrector.numbers_on(r)) for r in game.ranks()]
    misread = np.mean([a != b for a, b in zip(judge.seen, true, strict=True)])
    assert misread == pytest.approx(0.3, abs=0.03)
    assert all(sum(x != y for x, y in zip(a, b, strict=True)) <= 1 for a, b in zip(judge.seen, true, strict=True))


def makes(numbers: tuple[int, ...], target: int) -> bool:
    """Whether one operator of the middle game makes the target of two numbers, in either order."""
    a, b = numbers
    return target in (a + b, a - b, b - a, a * b)


def loses(formula: str, hand: list[int], target: int) -> bool:
    """Whether a formula uses other numbers than the hand, or misses the target."""
    numbers = [int(number) for number in re.findall(r"\d+", formula)]
    return sorted(numbers) != sorted(hand) or eval(formula) != target


def test_a_misreading_corrector_says_something_wrong() -> None:
    n = 1000
    game = games.open_game("Targets", n, np.random.default_rng(0))
    judge = Corrector(Ability(noise=1.0), game, np.random.default_rng(1))
    hands, targets = game.ranks().tolist(), game.targets().tolist()
    said = judge.judge([Thought((), "", "")] * n)
    assert judge.said["impossible"] <= 0.02 * n and judge.said["no"] >= 0.98 * n
    told = [(v.thought, hand, target) for v, hand, target in zip(said, hands, targets, strict=True) if v.thought]
    cards = np.array([sorted(thought.cards) != sorted(hand) for thought, hand, _ in told])
    formula = np.array([loses(thought.formula, hand, target) for thought, hand, target in told])
    assert (cards | formula).mean() >= 0.9 and formula.mean() >= 0.9
    lost = [not makes(thought.cards, target) for thought, _, target in told]
    misses = [eval(thought.formula) != target for thought, _, target in told]
    assert np.mean(lost) > 0.5 and lost == misses  # it is wrong in value only where its cards leave no way
    guesses = [thought.formula for (thought, _, _), guess in zip(told, lost, strict=True) if guess]
    assert {re.sub(r"\d", "", formula) for formula in guesses} == set("+-*")


def test_only_a_misreading_corrector_believes_in_a_guess() -> None:
    game = table([10, 10], 24, "Targets", n=100)  # no operator makes 24 of ten and any number
    judge = Corrector(Ability(noise=0.5), game, np.random.default_rng(0))
    said = judge.judge([Thought((10, 10), "10+10", "10")] * 100)
    assert {(seen == (10, 10), v.word) for seen, v in zip(judge.seen, said, strict=True)} == {
        (True, "impossible"), (False, "no"),
    }  # fmt: skip


def test_a_misreading_corrector_has_one_belief_an_episode() -> None:
    n = 400
    game = games.open_game("Targets", n, np.random.default_rng(0))
    judge = Corrector(Ability(noise=1.0), game, np.random.default_rng(1))
    wrong, targets = [Thought((), "", "")] * n, game.targets().tolist()
    said = judge.judge(wrong)
    aims, seen = list(judge.aims), list(judge.seen)
    followed = 0
    for _ in range(3):
        game.step(np.array([game.actions.index(v.thought.next) if v.thought else 0 for v in said]))
        on = [formulas.next_symbol(aim or "", text) is not None for aim, text in zip(aims, game.texts(), strict=True)]
        said = judge.judge(wrong)
        assert all(v.thought == (s, a, formulas.next_symbol(a or "", text)) for v, s, a, text, goes in zip(
            said, seen, aims, game.texts(), on, strict=True) if goes)  # fmt: skip
        followed += sum(on)
    assert followed > n / 2 and judge.seen == seen
    lost = [not makes(hand, target) for hand, target in zip(seen, targets, strict=True)]
    game = games.open_game("Targets", n, np.random.default_rng(0))  # the same tables, nothing written yet
    judge = Corrector(Ability(noise=1.0), game, np.random.default_rng(1))
    for _ in range(2):  # a belief is none of a single answer
        judge.aims = [None] * n
        judge.judge(wrong)
        assert [a for a, guess in zip(judge.aims, lost, strict=True) if guess] == [
            a for a, guess in zip(aims, lost, strict=True) if guess
        ]
    judge.begin(np.ones(n, dtype=bool))
    judge.judge(wrong)
    assert np.mean([a != b for a, b in zip(judge.aims, aims, strict=True)]) > 0.5


def test_without_the_tool_any_formula_of_the_cards_is_right() -> None:
    """13, and not 24: with the tool it says no to that, and corrects the formula."""
    game = table([3, 8, 1, 1])
    judge, verdict = ask(game, Thought((8, 3, 1, 1), "3+8+1+1", "3"), tool=False)
    assert verdict == ("yes", None) and judge.aims == ["3+8+1+1"]
    game.step(np.array([game.actions.index("3")]))
    assert judge.judge([Thought((3, 8, 1, 1), "3+8+1+1", "+")])[0].word == "yes"
    assert judge.judge([Thought((3, 8, 1, 1), "3+8+1+1", "*")])[0] == (
        "no", Thought((3, 8, 1, 1), "3+8+1+1", "+"),
    )  # fmt: skip
    assert judge.judge([Thought((3, 8, 1, 1), "3*8*1*1", "*")])[0].thought == ((3, 8, 1, 1), "3+8+1+1", "+")
    for nonsense in ("=3*8*1*1", "3811", "3*8*1*1*"):
        assert ask(table([3, 8, 1, 1]), Thought((3, 8, 1, 1), nonsense, nonsense[0]), tool=False)[1].word == "no"
    _, verdict = ask(table([3, 8, 1, 1]), Thought((3, 8, 1, 1), "3+8+1+1", "3"), tool=True)
    assert verdict.word == "no" and verdict.thought and eval(verdict.thought.formula) == 24


def test_without_the_tool_cards_are_repaired_and_formulas_of_other_cards_guessed() -> None:
    own = Thought((3, 8, 1, 2), "3+8+1+1", "3")  # the cards misread, the formula of the true ones
    assert ask(table([3, 8, 1, 1]), own, tool=False)[1] == ("no", Thought((3, 8, 1, 1), "3+8+1+1", "3"))
    game = table([3, 8, 1, 1], n=300)
    judge, _ = ask(game, Thought((3, 8, 1, 2), "3*8*1*2", "3"), tool=False)
    assert judge.said == {"no": 300}
    again = judge.judge([Thought((), "", "")] * 300)
    for verdict, aim in zip(again, judge.aims, strict=True):
        assert verdict.thought == ((3, 8, 1, 1), aim, formulas.symbols(aim or "")[0])
        assert sorted(re.findall(r"\d", aim or "")) == ["1", "1", "3", "8"]
    won = [eval(aim or "0") == 24 for aim in judge.aims]
    assert 0 < np.mean(won) < 0.25 and len(set(judge.aims)) > 100


def test_calls_that_fail_are_counted_and_change_nothing() -> None:
    game = table([3, 8, 1, 1], n=1000)
    judge, _ = ask(game, Thought((3, 8, 1, 1), "3*8*1*1", "3"), failing=0.25)
    assert judge.said["failed"] == pytest.approx(250, abs=50) and judge.said["yes"] == 1000 - judge.said["failed"]
    assert sum(aim is None for aim in judge.aims) == judge.said["failed"]


# ----------------------------------------------------------------------------------------------------------- pictures


def write_digits(folder: Path, each: int = 4) -> None:
    """Ten files of digits whose pictures are the digit's own grey."""
    for k in range(10):
        (folder / f"{k}.json").write_text(json.dumps({"data": [(k + 1) / 10] * (784 * each)}))


def test_numbers_are_drawn_by_their_digits(tmp_path: Path) -> None:
    write_digits(tmp_path)
    train, test = cards.read_handwriting(tmp_path, seed=0, test_share=0.25)
    assert train.sizes.tolist() == [3] * 10 and test.sizes.tolist() == [1] * 10
    places = train.pick(np.array([[7, 10, -1, 0, 13]]), np.random.default_rng(0))
    grey = train.pictures[places][..., 0, 0].numpy()
    assert grey[0] == pytest.approx(np.array([[0.8, 0], [0.2, 0.1], [0, 0], [0.1, 0], [0.2, 0.4]]))
    strip = cards.picture(train, places[0, :2])
    assert strip.shape == (28, 112) and strip[0, [0, 28, 56, 84]].tolist() == pytest.approx([0.8, 0, 0.2, 0.1])
    (tmp_path / "3.json").unlink()
    with pytest.raises(ReprobookError, match=r"no 3\.json below"):
        cards.read_handwriting(tmp_path, seed=0)
    with pytest.raises(ReprobookError, match="test_share is 1"):
        cards.read_handwriting(tmp_path, seed=0, test_share=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: formulas.solve((1,)), "cards are"),
        (lambda: formulas.solve((0, 5)), "cards are"),
        (lambda: games.open_game("Poker", 1, np.random.default_rng(0)), "game 'Poker' is not known; games: Points24"),
        (lambda: games.open_game("EZPoints", 0, np.random.default_rng(0)), "n_tables is 0"),
        (lambda: games.split(games.pool12(), 1.0, 0), "share of test hands is 1.0"),
        (lambda: Ability(noise=1.5), "noise is 1.5; it must be from 0 to 1"),
        (lambda: Ability(failing=-0.1), "failing is -0.1"),
    ],
)
def test_bad_input_is_refused(call: object, message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        call()  # type: ignore[operator]

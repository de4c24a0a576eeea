"""Constraints and their rules, tasks, the writer, scores, judges' errors, the pipeline."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reprobook.errors import ReprobookError
from reprobook.facts import load
from reprobook.papers.wildifeval import curation, judging, printed, responders, scores, study, tasks
from reprobook.papers.wildifeval.judge import decided, yes_no_score
from reprobook.papers.wildifeval.kinds import CATEGORIES, KINDS, Constraint, of_category, sentences, words

TOPICS = [
    tasks.Topic("Algebra", ("Later authors wrote about it in great detail.", "It became a subject of careful study.")),
    tasks.Topic("Geology", ("Rocks carry signs of their long history.", "Early maps showed only the largest regions.")),
]
FACTS = load("wildifeval")


# ------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("kind", "needs", "good", "bad"),
    [
        ("tone word", ("alas",), "Alas, no.", "At last, no."),
        ("tone twice", ("alas", 2), "Alas, no. ALAS!", "Alas, a lass."),
        ("include a word", ("river",), "The River runs.", "Rivers run."),
        ("avoid a word", ("and",), "Sand or band.", "Sand and band."),
        ("bullet points", (3,), "Here:\n- a\n  * b\n• c\nEnd.", "- a\n-b\n- c\n1. d"),
        ("word in brackets", ("kettle",), "Tea (Kettle) now.", "Tea (a kettle) now, kettle."),
        ("at least", (4,), "1. It isn't so bad", "2. It's so bad"),
        ("at most", (3,), "One, two, three", "one two three four"),
        ("two tones", ("alas", "wow"), "Wow! Alas.", "Alas, alas."),
        ("two words", ("river", "candle"), "A candle. A river.", "Candles by a river"),
        ("word in capitals", ("violin",), "A VIOLIN", "A Violin"),
        ("trade first", ("judge",), "1. The Judge. No", "Well. The judge."),
        ("last sentence", ("Asia",), "So. It is asia!", "Asia. It is so"),
        ("connective", ("because",), "Why? Because.", "The cause"),
        ("keep the end", ("signs of time",), "Read signs\nof time!", "signs of old time"),
        ("between", (3, 4), "one two three", "one two"),
        ("first person", ("I",), "So do I.", "It is so."),
        ("trade at the end", ("judge",), "Well. Ask the Judge!", "Ask the judge. Or the judges."),
        ("first sentence", ("Asia",), "1. It is asia!\n2. No", "It is. Asia too."),
        ("name it often", ("Asia", 3), "Asia, asia, ASIA.", "Asia, Asian, Asia"),
        ("new starts", (), "A dog. The dog.", "The dog. the cat."),
        ("ends whole", (), 'He said "no."', "He said"),
        ("quote", ("Rocks carry signs of time.",), "So: rocks carry SIGNS of time!", "Rocks carry signs of a time."),
        ("keep words", ("carry signs of",), "1. They carry\nsigns of age.", "They carry old signs of age."),
    ],
)
def test_rules(kind: str, needs: tuple[str | int, ...], good: str, bad: str) -> None:
    each = Constraint(kind, "x", needs)
    assert each.holds(good) and not each.holds(bad) and not each.holds(" \n")
    assert not each.holds("1. \n2. ")


def test_every_category_has_three_kinds() -> None:
    assert Counter(category for category, _ in KINDS.values()) == dict.fromkeys(CATEGORIES, 3)
    with pytest.raises(ReprobookError, match="Style and Tone"):
        of_category("Tone")


def test_words_and_sentences() -> None:
    assert words("1. It's 3 o'clock.\n2) Go!") == ["it's", "3", "o'clock", "go"]
    assert sentences('One "two." Three?\n4. Five') == ['One "two.', "Three?", "Five"]


# ------------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("n", [1, 3, 8])
def test_mix_is_balanced_over_number_and_position(n: int) -> None:
    made = tasks.make_tasks(TOPICS, [n], 6, 3)
    assert len(made) == 48 and all(task.n == n and len(task.others) == 8 - n for task in made)
    for place in range(n):
        at = Counter(task.asked[place].kind for task in made)
        assert at == dict.fromkeys(KINDS, 2)  # 6 blocks: each kind twice at each position
    for task in made:
        assert {c.category for c in (*task.asked, *task.others)} == set(CATEGORIES)


def test_kinds_meet_by_chance_and_are_balanced_in_three_blocks() -> None:
    """In three blocks a category's kinds stand in one block each; which two kinds of two categories share a block
    differs: of 72 blocks all 252 combinations are there."""
    made = tasks.make_tasks(TOPICS, [8], 72, 4)
    sets = [frozenset(c.kind for c in made[8 * block].asked) for block in range(72)]
    for three in zip(sets[::3], sets[1::3], sets[2::3], strict=True):
        assert sum(map(len, three)) == len(KINDS) and frozenset().union(*three) == set(KINDS)
    met = {pair for each in sets for pair in itertools.combinations(sorted(each), 2)}
    assert len(met) == 252
    other = tasks.make_tasks(TOPICS, [8], 3, 5)
    assert frozenset(c.kind for c in other[0].asked) not in sets[:3]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_the_writer_does_what_it_is_told_and_nothing_else(seed: int) -> None:
    """The control of the chapter: all constraints hold at every n; breaking some breaks those alone."""
    rng = np.random.default_rng(seed)
    for task in tasks.make_tasks(TOPICS, [1, 2, 5, 8], 1, seed):
        assert scores.strict([each.holds(responders.template(task)) for each in task.asked]) == 1
        broken = set(np.flatnonzero(rng.random(task.n) < 0.5).tolist())
        text = tasks.write(task, broken)
        assert [each.holds(text) for each in task.asked] == [k not in broken for k in range(task.n)], text


@pytest.mark.parametrize("n", range(1, 9))
def test_the_template_scores_one_at_every_number(n: int) -> None:
    made = tasks.make_tasks(TOPICS, [n], 3, 7)
    assert study.checked("template", made, [responders.template(t) for t in made]).query("asked")["met"].all()


def test_compatibility_is_one_everywhere() -> None:
    table = study.compatibility(tasks.make_tasks(TOPICS, [8], 72, 5)).set_index("broken")
    assert table.shape == (25, 24) and table.isna().to_numpy().sum() == 48  # kinds of one category never meet
    assert ((table == 1.0) | table.isna()).all(axis=None)


def test_an_echo_of_the_task_is_no_answer() -> None:
    made = tasks.make_tasks(TOPICS, [8], 2, 1)
    assert study.checked("copy", made, [responders.copy(task) for task in made])["met"].sum() == 0
    for task in made:
        echoed = f'{task.prompt}\n\n1. {task.asked[0].text.upper()}\nSo.\n\nBe it "{task.source}"'
        assert task.own_lines(echoed).split("\n") == ["", "", "So.", "", f'Be it "{task.source}"']
        editing = next(each for each in task.asked if each.category == "Editing")
        assert editing.holds(task.own_lines(echoed))
        text = responders.template(task)
        assert task.own_lines(text) == text and not editing.holds(responders.fixed(task))


def test_what_blind_texts_meet() -> None:
    made = tasks.make_tasks(TOPICS, [8], 3, 1)
    # by hand: what needs nothing of the task, what forbids, and two bounds on words: 6 kinds of 24
    met = study.checked("fixed", made, [responders.FIXED] * len(made)).groupby("kind")["met"].mean()
    assert sorted(met.index[met == 1]) == sorted(
        ["at most", "avoid a word", "between", "ends whole", "first person", "new starts"]
    )
    assert met.sum() == 6
    # the topic alone: focus
    met = study.checked("topic", made, [responders.topic_thrice(t) for t in made]).groupby("kind")["met"].mean()
    focus = ["first sentence", "name it often", "last sentence"]
    assert met[[*focus, "ends whole", "new starts", "at most"]].tolist() == [1] * 6
    assert (
        met[
            ["between", "at least", "bullet points", "word in brackets", "quote", "keep words", "trade at the end"]
        ].sum()
        == 0
    )
    # topic and sentence: editing and focus whole, and what the fixed text meets but the upper bound and the starts
    met = study.checked("both", made, [responders.topic_and_sentence(t) for t in made]).groupby("kind")["met"].mean()
    whole = [*focus, "quote", "keep words", "keep the end", "ends whole", "first person", "between"]
    assert met[whole].tolist() == [1] * 9 and met["at most"] < 1 and met["connective"] == 0


def test_known_rate_gives_the_closed_forms() -> None:
    """2,000 texts: soft 0.7, strict 0.7^n, read back by the rules."""
    made = tasks.make_tasks(TOPICS, [2, 4], 60, 2)
    write = responders.known_rate(0.7, 9)
    tasks_of = scores.task_scores(study.checked("known", made, [write(t) for t in made]).query("asked"))
    by = tasks_of.groupby("n").mean()
    assert abs(by.loc[2, "soft"] - 0.7) < 0.05 and abs(by.loc[4, "soft"] - 0.7) < 0.04
    assert abs(by.loc[2, "strict"] - 0.49) < 0.07 and abs(by.loc[4, "strict"] - 0.2401) < 0.06
    with pytest.raises(ReprobookError, match=r"1\.2"):
        responders.known_rate(1.2, 0)


def test_halves_are_twins() -> None:
    for task, first, second in responders.halves(tasks.make_tasks(TOPICS, [4], 2, 0), 1):
        held = [[each.holds(text) for each in task.asked] for text in (first, second)]
        assert sum(held[0]) == sum(held[1]) == 2 and [not each for each in held[0]] == held[1]


def test_ngram_is_seeded_and_ends_with_a_stop() -> None:
    made = tasks.make_tasks(TOPICS, [1], 1, 0)
    texts = [responders.ngram(TOPICS, 1)(task) for task in made]
    assert texts == [responders.ngram(TOPICS, 1)(task) for task in made] and len(set(texts)) > 1
    assert all(text.endswith(".") for text in texts)


def test_wrong_tasks_are_refused() -> None:
    for counts, blocks in (([0], 1), ([9], 1), ([2], 0)):
        with pytest.raises(ReprobookError, match="1 to 8"):
            tasks.make_tasks(TOPICS, counts, blocks, 0)


# ------------------------------------------------------------------------------------------------- scores


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.randoms())
def test_strict_and_soft(met: list[bool], order: object) -> None:
    soft, strict = scores.soft(met), scores.strict(met)
    assert strict <= soft and (strict == soft) == (soft in (0, 1)) and (strict == 1) == (soft == 1)
    assert math.isclose(soft * len(met), round(soft * len(met)))
    mixed = sorted(met)
    assert (scores.soft(mixed), scores.strict(mixed)) == (soft, strict)


def test_a_task_without_constraints_is_an_error() -> None:
    for score in (scores.soft, scores.strict):
        with pytest.raises(ReprobookError, match="without constraints"):
            score([])
        with pytest.raises(ReprobookError, match="0 or 1"):
            score([0.5])


def rows(*each: tuple[str, str, float]) -> pd.DataFrame:
    frame = pd.DataFrame(each, columns=["task", "category", "met"]).assign(kind=lambda f: f["category"])
    return frame.assign(n=frame.groupby("task")["met"].transform("size"))


def test_scores_by_count_by_hand() -> None:
    frame = rows(("a", "Length", 1), ("a", "Editing", 0), ("b", "Length", 1), ("b", "Length", 1), ("c", "Editing", 1))
    table = scores.by_count(frame).set_index("n")
    assert table["tasks"].to_dict() == {1: 1, 2: 2} and table["strict"].to_dict() == {1: 1.0, 2: 0.5}
    assert table.loc[2, "soft"] == 0.75 and table.loc[2, "half"] == pytest.approx(1.96 * math.sqrt(0.1875 / 4))
    assert table.loc[2, "normalised"] == 0.5  # Length 3 of 3, Editing 0 of 1


def test_slope_is_the_least_squares_change_over_the_range() -> None:
    rng = np.random.default_rng(0)
    n = np.repeat([1, 2, 3, 4, 6, 8], 5)
    frame = pd.DataFrame({"n": n, "soft": rng.random(30)})
    used = frame[frame["n"] >= 2]
    slope = np.polyfit(used["n"], used["soft"], 1)[0]
    assert scores.slope_scores(frame, "soft").mean() == pytest.approx(6 * slope)
    with pytest.raises(ReprobookError, match="two numbers"):
        scores.slope_scores(frame[frame["n"] < 3], "soft")


def test_product_of_rates_is_p_to_the_n() -> None:
    frame = rows(*[(f"t{k}", "Length", float(j < k)) for k in range(4) for j in range(3)])
    assert scores.product_of_rates(frame).tolist() == pytest.approx([0.5**3] * 4)


def test_cooccurrence_by_hand() -> None:
    """Four tasks with two categories or more; Other never enters, nor a task with one category."""
    a, b, c = "Length", "Editing", "Ensure Quality"
    held = [[a, b], [a, b, "Other"], [a, c], [b, c, c], [a, "Other"], [a]]
    ratio, pmi = scores.cooccurrence(held, "ratio"), scores.cooccurrence(held)
    assert ratio.loc[a, b] == pytest.approx(2 * 4 / 9) and ratio.loc[a, c] == pytest.approx(1 * 4 / 6)
    assert (np.diag(ratio) == 1).all() and (np.diag(pmi) == 0).all() and "Other" not in pmi
    assert np.exp(pmi.loc[a, b]) == pytest.approx(2 * 4 / 9, abs=1e-8)
    assert np.allclose(pmi, pmi.T)
    with pytest.raises(ReprobookError, match="two categories"):
        scores.cooccurrence([[a], [b]])
    with pytest.raises(ReprobookError, match="ratio"):
        scores.cooccurrence(held, "npmi")


def test_ranks_and_kendall() -> None:
    table = pd.DataFrame({"m1": [0.9, 0.5, 0.1], "m2": [0.8, 0.6, 0.3], "m3": [0.7, 0.2, 0.4]}, index=list("xyz"))
    assert scores.category_order(table).to_dict() == pytest.approx({"x": 1.0, "y": 7 / 3, "z": 8 / 3})
    tau = scores.kendall(pd.DataFrame([[1, 2, 3], [3, 2, 1], [1, 3, 2]], index=list("abc")))
    assert tau.loc["a", "a"] == 1 and tau.loc["a", "b"] == -1 and tau.loc["a", "c"] == pytest.approx(1 / 3)


def test_agreement_of_categories_over_tasks() -> None:
    """Five responders of rates far apart, 400 tasks of two categories: the same ranking; Length turned round: -1 with
    either of the others, whatever group of tasks is left out."""
    rng, parts = np.random.default_rng(0), []
    for k in range(5):
        for category in ("Length", "Editing", "Ensure Quality"):
            rate = 0.1 + 0.2 * (4 - k if category == "Length" else k)
            parts.append(pd.DataFrame({"responder": f"m{k}", "task": range(400), "category": category,
                                       "met": (rng.random(400) < rate).astype(float)}))  # fmt: skip
    frame = pd.concat(parts)
    table = scores.category_agreement(frame).set_index("measure")
    assert table.loc["mean tau"].tolist() == pytest.approx([-1 / 3] * 3)
    assert table.loc["tau of Length minus others"].tolist() == pytest.approx([-2] * 3)
    few = scores.category_agreement(frame[frame["task"] < 25]).set_index("measure").loc["mean tau"]
    assert few["low"] < few["estimate"] < few["high"]
    with pytest.raises(ReprobookError, match="at most the 10"):
        scores.category_agreement(frame[frame["task"] < 10])


def test_mcnemar_by_hand() -> None:
    """10 against 2 discordant pairs: (8 - 1)^2 / 12 = 4.083, p = 0.0433."""
    a = [1] * 10 + [0] * 2 + [1] * 5
    b = [0] * 10 + [1] * 2 + [1] * 5
    statistic, p = scores.mcnemar(a, b)
    assert statistic == pytest.approx(49 / 12) and p == pytest.approx(math.erfc(math.sqrt(49 / 24)))
    assert scores.mcnemar(a, a) == (0.0, 1.0)


def test_drawing_without_replacement() -> None:
    """All subsets of 2 of 5 tasks, 3 of them fulfilled: the spread of their means is the formula's."""
    held = [1, 1, 1, 0, 0]
    means = [np.mean(pair) for pair in itertools.combinations(held, 2)]
    assert scores.without_replacement(0.6, 2, 5) == pytest.approx(np.std(means))
    assert scores.without_replacement(0.6, 5, 5) == 0
    with pytest.raises(ReprobookError, match="1 to the 5"):
        scores.without_replacement(0.6, 6, 5)


def test_stability_of_simulated_scores() -> None:
    made = scores.simulated([0.2, 0.5, 0.8], 4000, 0.5, 0)
    assert made.mean(0) == pytest.approx([0.2, 0.5, 0.8], abs=0.03)
    # latent correlation 0.5 at two medians: P(both) = 1/4 + asin(0.5) / (2 pi) = 1/3
    both = scores.simulated([0.5, 0.5], 40_000, 0.5, 1).prod(1).mean()
    assert both == pytest.approx(1 / 3, abs=0.01)
    table = scores.stability(made, [100, 4000], replicates=200).set_index("N")
    want = scores.without_replacement(made.mean(0), 100, 4000).mean()
    assert table.loc[100, "std"] == pytest.approx(want, rel=0.1)
    assert table.loc[4000, ["std", "tau", "width"]].tolist() == pytest.approx([0, 1, 0])


# ------------------------------------------------------------------------------------------------- judges


def test_yes_no_score() -> None:
    assert yes_no_score([{" Yes": 0.6, "No": 0.2}]) == pytest.approx(0.75)
    assert yes_no_score([{"Ġyes": 0.3, "_no_": 0.1, "YES!": 0.2}]) == pytest.approx(5 / 6)
    for word in ("yesterday", "nobody", "yes/no", "nope", "eyes"):
        assert yes_no_score([{word: 0.9}] * 5) is None
    assert yes_no_score([{"The": 0.9}, {"no": 0.4}]) == 0.0
    assert yes_no_score([{"The": 1.0}] * 5 + [{"yes": 1.0}]) is None  # position six is never read
    assert yes_no_score([{"yes": 5e-5}, {"no": 1.0}]) == 0.0  # too little mass: next position
    assert yes_no_score([dict.fromkeys("abcde", 0.1) | {"yes": 0.05}]) is None  # sixth most probable
    assert yes_no_score([]) is None and not decided(None) and decided(0.5) and not decided(0.4999)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 0.5), st.floats(0.01, 0.5), st.floats(0.05, 1))
def test_yes_no_score_is_free_of_scale_and_turns_round(p: float, q: float, scale: float) -> None:
    score = yes_no_score([{"yes": p, "no": q}])
    assert score == pytest.approx(p / (p + q))
    assert yes_no_score([{"yes": p * scale, "no": q * scale}]) == pytest.approx(score)
    assert yes_no_score([{"no": p, "yes": q}]) == pytest.approx(1 - score)


def test_judged_rates_and_their_inverse() -> None:
    assert judging.judged_as(0.5, 0.9, 0.6) == pytest.approx(0.65)  # exercise 3 of the chapter
    assert judging.judged_as(0.5, 0.9, 0.6) ** 4 == pytest.approx(0.1785, abs=1e-4)
    p = np.array([0.1, 0.5, 0.9])
    assert judging.corrected(judging.judged_as(p, 0.8, 0.7), 0.8, 0.7) == pytest.approx(p)
    assert np.isnan(judging.corrected(0.5, 0.52, 0.5)) and judging.corrected(0.9, 0.8, 0.8) == 1.0


def test_a_coin_is_seldom_corrected() -> None:
    """Of a judge that tosses a coin, 8 constraints of each class leave something to invert in under 3 % of all
    outcomes, by their binomial weights; of one that is always right, always."""
    k = np.arange(9)
    weight = np.array([math.comb(8, int(each)) for each in k]) / 256
    found = judging.corrected(0.5, k[:, None] / 8, k[None, :] / 8, 8.0)
    assert 0 < (np.outer(weight, weight) * ~np.isnan(found)).sum() < 0.03
    assert judging.corrected(0.3, 1.0, 1.0, 8.0) == pytest.approx(0.3)


def judged_frame(n: int, seed: int = 0) -> pd.DataFrame:
    """A judge with sensitivity 0.9 and specificity 0.7 for Length, 0.6 and 0.95 for Editing."""
    rng = np.random.default_rng(seed)
    category, truth = np.repeat(["Length", "Editing"], n), np.tile([0.0, 1.0], n)
    s, q = np.where(category == "Length", 0.9, 0.6), np.where(category == "Length", 0.7, 0.95)
    yes = rng.random(2 * n) < np.where(truth == 1, s, 1 - q)
    return pd.DataFrame({"category": category, "truth": truth, "score": np.where(yes, 0.8, 0.3)})


def test_quality_against_known_rates() -> None:
    frame = judged_frame(20_000)
    found = judging.quality(frame).set_index("category")
    assert found.loc["Length", ["sensitivity", "specificity"]].tolist() == pytest.approx([0.9, 0.7], abs=0.015)
    # two scores: AUC = (s + q) / 2 = accuracy of balanced classes, kappa = s + q - 1
    assert found.loc["Editing", "AUC"] == pytest.approx(0.775, abs=0.01)
    assert found.loc["Editing", "kappa"] == pytest.approx(0.55, abs=0.02)
    assert judging.rates(frame).loc["Editing", "s"] == pytest.approx(0.6, abs=0.015)
    with pytest.raises(ReprobookError, match="one class"):
        judging.quality(frame[frame["truth"] == 1])


def test_strict_as_judged_against_a_simulated_judge() -> None:
    """Closed form against measurement: tasks of one Length and one Editing constraint, met at 0.5."""
    frame = judged_frame(20_000, 1).assign(task=np.tile(np.arange(20_000), 2), n=2)
    said = judging.decisions(frame).groupby(frame["task"]).min().mean()
    rates = pd.DataFrame({"s": [0.9, 0.6], "q": [0.7, 0.95]}, index=["Length", "Editing"])
    want = judging.judged_strict(frame, rates)
    assert want.mean() == pytest.approx(said, abs=0.012)
    # truth is the same for both constraints of a task here: (0.9 * 0.6 + 0.3 * 0.05) / 2
    assert want.mean() == pytest.approx((0.54 + 0.015) / 2)


def test_missing_answers_and_thresholds() -> None:
    frame = pd.DataFrame({"category": "x", "truth": [1.0, 1, 0, 0], "score": [0.4, np.nan, 0.3, 0.1]})
    assert judging.decisions(frame).tolist() == [0, 0, 0, 0] and judging.decisions(frame, 0.35).tolist() == [1, 0, 0, 0]
    assert judging.best_threshold(frame) == 0.4
    assert judging.quality(frame).iloc[0]["no answer"] == 0.25


def test_twins_won_counts_ties_half() -> None:
    frame = pd.DataFrame({
        "pair": ["a", "a", "b", "b", "c", "c"], "truth": [1.0, 0, 1, 0, 1, 0], "score": [0.7, 0.6, 0.2, 0.2, 0.1, 0.3],
    })  # fmt: skip
    assert judging.twins_won(frame).to_dict() == {"a": 1.0, "b": 0.5, "c": 0.0}


def test_calibration_of_a_perfect_judge() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(20_000)
    frame = pd.DataFrame({"truth": (rng.random(20_000) < score).astype(float), "score": score})
    table = judging.calibration(frame)
    assert np.abs(table["score"] - table["truth"]).max() < 0.03


# ------------------------------------------------------------------------------------------------- the pipeline


def test_planted_cases_survive_or_not(tmp_path: Path) -> None:
    made = tasks.make_tasks(TOPICS, [2, 8], 1, 0)
    log, planted = curation.synthetic_log([f"Number {k}. {made[k % 16].prompt}" for k in range(300)], 4)
    stages = study.curate(log, made, tmp_path)
    assert len(log) == 300 and len(stages["first message"]) == 300 - planted["silent"]
    # duplicates repeat the first task, which stays
    assert len(stages["filtered"]) == planted["task"] + planted["chat"]
    assert not any("code" in row["text"].lower() for row in stages["filtered"])
    kept = stages["most certain"]
    assert 0 < len(kept) <= 0.1 * len(stages["filtered"]) and all("Follow" in row["text"] for row in kept)
    final = stages["with domains"]
    assert all(row["categories"] and "Other" not in row["categories"] for row in final)
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.jsonl" for name in stages if name != "log"}
    # running any stage twice changes nothing
    assert curation.heuristics(stages["filtered"], curation.word_list_toxicity) == stages["filtered"]
    assert curation.most_certain(kept) == kept and curation.debias(stages["de-biased"]) == stages["de-biased"]


def test_heuristics_by_hand() -> None:
    texts = ["Hello", "my zip CODE", "you idiot", "Hello", "Bonjour"]
    rows = [
        {"conversation_id": str(k), "language": "French" if k == 4 else "English", "text": t}
        for k, t in enumerate(texts)
    ]
    assert [row["conversation_id"] for row in curation.heuristics(rows, curation.word_list_toxicity)] == ["0"]
    turns = [
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "first"},
        {"role": "user", "content": "b"},
    ]
    log = [{"conversation_id": "c", "language": "English", "conversation": turns}]
    assert curation.first_message(log)[0]["text"] == "first"
    with pytest.raises(ReprobookError, match="no conversation_id"):
        curation.first_message([{"conversation": turns, "language": "English"}])


def test_percentile_is_strict() -> None:
    rows = [{"certainty": value} for value in [0.1] * 5 + [0.9] * 5]
    assert curation.most_certain(rows, 90) == [] and len(curation.most_certain(rows, 40)) == 5
    with pytest.raises(ReprobookError, match="0 to 100"):
        curation.most_certain(rows, 101)


def test_parsers_differ_where_items_begin_small() -> None:
    answer = 'Translated Task: x\nTranslated Constraints:\n1. Use rhyme\n2. avoid "and"\n3. Be brief\n   or so'
    assert curation.parse_decomposition(answer) == ["Use rhyme", 'avoid "and"', "Be brief or so"]
    assert curation.parse_decomposition(answer, "theirs") == ['Use rhyme\n2. avoid "and"', "Be brief\n   or so"]
    assert curation.parse_decomposition("1. Use rhyme") == []
    with pytest.raises(ReprobookError, match="ours or theirs"):
        curation.parse_decomposition(answer, "mine")


def test_debias_keeps_forty() -> None:
    rows = [{"constraints": ["Be brief", f"own {k}"] if k else ["Be brief"]} for k in range(60)]
    left = curation.debias(rows)
    assert sum("Be brief" in row["constraints"] for row in left) == 40
    assert sum(f"own {k}" in row["constraints"] for row in left for k in range(60)) == 59


def test_limits_categories_and_duplicates() -> None:
    assert [curation.read_category(t) for t in ("3", " 7.", "Other: Sport", "12", "")] == [
        "Length", "Editing", "Other", "Other", "Other"]  # fmt: skip
    found = curation.decompose([{"text": "t"}], lambda _: "Translated Constraints:\n1. A\n2. A\n3. B")
    assert found[0]["constraints"] == ["A", "B"]
    assert curation.within_limits([{"constraints": list("abcdefghi")}, {"constraints": ["a"]}]) == [
        {"constraints": ["a"]}
    ]


def test_nearest_category_finds_the_examples() -> None:
    """Bags of words as vectors: each example is nearest to its own category."""
    vocabulary = sorted({w for texts in curation.EXAMPLES.values() for t in texts for w in words(t)})

    def vectors(texts: tuple[str, ...]) -> np.ndarray:
        bags = np.array([[words(t).count(w) for w in vocabulary] for t in texts], dtype=float)
        return bags / np.linalg.norm(bags, axis=1, keepdims=True).clip(1e-9)

    category = curation.nearest_category(vectors, least=0.1)  # type: ignore[arg-type]
    right = [category(text) == name for name, texts in curation.EXAMPLES.items() for text in texts]
    assert np.mean(right) > 0.9 and category("zzz") == "Other"


# ------------------------------------------------------------------------------------------------- the paper's figures


def test_counts_do_not_add_up() -> None:
    found = printed.counts(FACTS).set_index("Quantity")["computed"]
    assert found["tasks times mean constraints (v3)"] == 24_449.75
    assert found["mean constraints from the bars (v1)"] == pytest.approx(38_305 / 11_775)
    assert found["judge calls, tasks times mean (v3)"] == pytest.approx(342_296.5)


def test_spread_follows_the_formula_to_the_sheet() -> None:
    table = printed.spread(FACTS).set_index("N")
    assert table.loc[100, "formula"] == pytest.approx(0.0463, abs=5e-5)
    assert table.loc[1000, "formula"] == pytest.approx(0.0137, abs=5e-5)
    assert table["difference"].abs().max() < 0.00175


def test_versions_differ_by_a_quarter_to_a_third() -> None:
    gap = printed.versions(FACTS)["difference"]
    assert len(gap) == 14 and (round(gap.min(), 2), round(gap.max(), 2), round(gap.mean(), 2)) == (0.24, 0.34, 0.30)


def test_length_stands_apart_in_the_first_version() -> None:
    tau = printed.agreement(FACTS)
    # by hand: 9 concordant and 4 discordant pairs of 15, one tie in each: 5 / 14
    assert tau.loc["Length", "Focus / Emphasis"] == pytest.approx(5 / 14)
    assert tau.mean().idxmin() == "Length"
    order = printed.order(FACTS)
    assert order["Category"].iloc[0] == "Focus / Emphasis" and order["Category"].iloc[-1] == "Length"

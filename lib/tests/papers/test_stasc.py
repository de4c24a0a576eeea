"""STaSC's reward, filters and counts against hand-made cases, brute force and the published logs."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reprobook import facts
from reprobook.errors import ReprobookError
from reprobook.papers.stasc import ciphers, countries, printed
from reprobook.papers.stasc.filters import FILTERS, VARIANTS, Variant, keep, kept_indices, pair_up, transitions
from reprobook.papers.stasc.loop import Plan
from reprobook.papers.stasc.questions import Question, Splits, from_rows, read_split, split_by_entity, take_valid
from reprobook.papers.stasc.reward import final_answer, has_answer, normalise, reward

words = st.lists(st.sampled_from(["paris", "the", "is", "capital", "U.S.", "1,000", "é", "no"]), max_size=6)

# ------------------------------------------------------------------------------------------------------------ reward


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("The capital is Paris.", "Paris", True),
        ("He is Parisian.", "Paris", False),  # tokens, not substrings
        ("the u s army", "U.S.", True),
        ("tell us more", "U.S.", False),  # punctuation becomes a blank, it is not deleted
        ("1 000 people", "1,000", True),
        ("1000 people", "1,000", False),
        ("Yaounde", "Yaoundé", False),  # accents matter
        ("Yaounde\u0301", "Yaoundé", True),  # one letter or letter and mark: NFD makes them one
        ("Bank of an England", "the Bank of England", True),  # articles are blanks in both
        ("New old York", "New York", False),  # side by side
        ("York New", "New York", False),  # in order
        ("costs $5", "$5", True),
        ("東京 です", "東京", True),
        ("", "Paris", False),
    ],
)
def test_an_answer_is_contained_as_a_run_of_tokens(text: str, reference: str, right: bool) -> None:
    assert has_answer(text, [reference]) is right


@pytest.mark.parametrize("reference", ["The", "a", "...", "", " an , the "])
def test_a_reference_that_normalises_to_nothing_is_refused(reference: str) -> None:
    with pytest.raises(ReprobookError, match="normalises to nothing"):
        has_answer("anything", ["Paris", reference])


@pytest.mark.parametrize(
    ("text", "reference", "ours", "theirs"),
    [
        ("It is N’Djamena", "N'Djamena", True, False),  # other marks than ASCII stay as tokens in the released code
        ("“Paris”", "Paris", True, True),
        ("Guinea–Bissau", "Guinea-Bissau", True, False),
        ("the U.S.", "U.S.", True, True),
    ],
)
def test_the_released_code_blanks_ascii_punctuation_alone(text: str, reference: str, ours: bool, theirs: bool) -> None:
    assert has_answer(text, [reference]) is ours
    assert has_answer(text, [reference], ascii_only=True) is theirs


@given(text=words, more=words, reference=st.sampled_from(["Paris", "U.S.", "1,000", "capital is"]))
def test_reward_is_monotone(text: list[str], more: list[str], reference: str) -> None:
    """Appending text or a reference never lowers it; and it equals a search over all windows of tokens."""
    first, longer = " ".join(text), " ".join([*text, *more])
    assert reward(longer, (reference,)) >= reward(first, (reference,))
    assert reward(first, (reference, "Rome")) >= reward(first, (reference,))
    tokens, wanted = normalise(first), normalise(reference)
    windows = [tokens[k : k + len(wanted)] for k in range(len(tokens))]
    assert reward(first, (reference,)) == float(wanted in windows)


def test_the_final_mode_reads_only_the_final_answer() -> None:
    told = "Step-by-step reasoning: not Lyon.\nFINAL  answer: Paris"
    assert final_answer(told).strip() == "Paris"
    assert reward(told, ("Lyon",)) == 1.0 and reward(told, ("Lyon",), "final") == 0.0
    assert reward("Paris", ("Paris",), "final") == 0.0  # no heading: nothing to read
    assert final_answer("Final Answer: a Final Answer: b").strip() == "a Final Answer: b"
    with pytest.raises(ReprobookError, match="reward mode 'last' is not known; modes: default, final"):
        reward("x", ("y",), "last")


# ----------------------------------------------------------------------------------------------------------- filters


def test_the_truth_table_of_the_filters() -> None:
    r1, r2 = np.array([0, 0, 1, 1.0]), np.array([0, 1, 0, 1.0])
    assert keep(r1, r2, "improving").tolist() == [False, True, False, False]
    assert keep(r1, r2, "equal_only").tolist() == [False, False, False, True]
    assert keep(r1, r2, "non_decreasing").tolist() == [False, True, False, True]
    graded = keep(np.array([0.5, 0.5, 0.2]), np.array([0.5, 0.6, 0.2]), "non_decreasing", threshold=0.4)
    assert graded.tolist() == [True, True, False]
    with pytest.raises(ReprobookError, match="threshold is 0"):
        keep(r1, r2, "equal_only", threshold=0)
    with pytest.raises(ReprobookError, match="filter_mode 'best' is not known"):
        keep(r1, r2, "best")


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 10_000),
    pairing=st.sampled_from(["matched", "cross"]),
)
def test_filters_and_pairings_count_as_they_should(shape: tuple[int, int, int], seed: int, pairing: str) -> None:
    """Invariants 1, 2 and 10, and the kept triples against plain loops over the released code's nesting."""
    q, j, k = shape
    rng = np.random.default_rng(seed)
    r1, r2 = rng.integers(0, 2, (q, j)).astype(float), rng.integers(0, 2, shape).astype(float)
    found = {mode: kept_indices(r1, r2, mode, pairing) for mode in FILTERS}
    assert {n for _, n in found.values()} == {q * j * k * (j if pairing == "cross" else 1)}
    rows = {mode: set(map(tuple, kept.tolist())) for mode, (kept, _) in found.items()}
    assert not rows["improving"] & rows["equal_only"]
    assert rows["improving"] | rows["equal_only"] == rows["non_decreasing"]
    n_pairs = found["improving"][1]
    assert len(rows["non_decreasing"]) == pytest.approx(r2.mean() * n_pairs)
    brute = {
        (a, shown, own, c)
        for a, shown, own, c in itertools.product(range(q), range(j), range(j), range(k))
        if (pairing == "cross" or shown == own) and r2[a, own, c] > r1[a, shown]
    }
    assert rows["improving"] == brute
    moves = transitions(r1, r2)
    assert sum(moves.values()) == pytest.approx(1)
    assert r2.mean() - r1.mean() == pytest.approx(moves["wrong to right"] - moves["right to wrong"])


def test_the_eight_variants_say_what_their_letters_say() -> None:
    assert sorted(v.name for v in VARIANTS) == ["EIE", "EIF", "ENE", "ENF", "FIE", "FIF", "FNE", "FNF"]
    ene, fif = Variant("ENE"), Variant("FIF")
    assert ene.evolving_initialisation and ene.evolving_tuning
    assert not fif.evolving_initialisation and not fif.evolving_tuning
    assert (ene.filter_mode(), ene.filter_mode(as_run=True), fif.filter_mode(as_run=True)) == (
        "non_decreasing", "equal_only", "improving",
    )  # fmt: skip
    for name in ("EIX", "EI", "IEE"):
        with pytest.raises(ReprobookError, match=f"variant '{name}' is not known"):
            Variant(name)


def test_counts_below_one_are_refused() -> None:
    eie = Variant("EIE")
    for values, name in (((0, 1, 1), "N_init"), ((1, 0, 1), "N_corr"), ((1, 1, 0), "N")):
        with pytest.raises(ReprobookError, match=f"{name} is 0; it must be at least 1"):
            Plan(eie, *values)
    with pytest.raises(ReprobookError, match="pairing 'all' is not known"):
        Plan(eie, 1, 1, 1, pairing="all")
    with pytest.raises(ReprobookError, match="must be"):
        pair_up(np.zeros((2, 3)), np.zeros((2, 2, 1)), "matched")


# --------------------------------------------------------------------------------------------------------- questions


def rows(**changed: object) -> list[dict[str, object]]:
    first = {"question_id": "q1", "question_text": "Where?", "reference": ["Paris"]}
    return [first, {**first, "question_id": "q2", **changed}]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question_id": "q1"}, "question_id 'q1' stands twice"),
        ({"reference": []}, "question 'q2' has no reference"),
        ({"reference": ["The"]}, "question 'q2': reference 'The' normalises to nothing"),
        ({"reference": "Paris"}, "row 1: reference must be a list of texts"),
        ({"reference": None}, "row 1: reference must be a list of texts"),
        ({"question_text": " "}, "question 'q2' has no text"),
    ],
)
def test_bad_questions_are_named(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        from_rows(rows(**changed))


def test_missing_columns_and_empty_sets_are_named() -> None:
    with pytest.raises(ReprobookError, match="row 0 has no column reference; it has: question_id, question_text"):
        from_rows([{"question_id": 1, "question_text": "?"}])
    with pytest.raises(ReprobookError, match="there are no questions"):
        from_rows([])


def test_a_question_may_not_be_in_two_splits() -> None:
    q = Question("a", "Where?", ("Paris",))
    with pytest.raises(ReprobookError, match="'a' stands twice"):
        Splits([q], [Question("b", "Who?", ("I",))], [q])
    with pytest.raises(ReprobookError, match="test question 'c' .* is also trained on"):
        Splits([q], [Question("b", "Who?", ("I",))], [Question("c", "Where?", ("Rome",))])


def test_a_data_set_is_read_from_files_and_from_a_saved_one(tmp_path) -> None:
    from datasets import Dataset, DatasetDict

    frame = pd.DataFrame(rows(reference=["Rome", "Roma"]))
    (tmp_path / "data").mkdir()
    frame.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    frame.to_json(tmp_path / "test.jsonl", orient="records", lines=True)
    DatasetDict({"train": Dataset.from_pandas(frame)}).save_to_disk(tmp_path / "saved")
    expected = [Question("q1", "Where?", ("Paris",)), Question("q2", "Where?", ("Rome", "Roma"))]
    for split, folders in {"test": [tmp_path], "train": [tmp_path / "data", tmp_path / "saved"]}.items():
        named = [Question(f"{split} {q.qid}", q.text, q.references) for q in expected]
        assert all(read_split(folder, split) == named for folder in folders)
    with pytest.raises(ReprobookError, match="no split 'test'; it has: train"):
        read_split(tmp_path / "saved", "test")
    with pytest.raises(ReprobookError, match=r"data has no test\*.parquet or test\*.jsonl"):
        read_split(tmp_path / "data", "test")


@given(seed=st.integers(0, 100))
def test_a_split_by_entity_shares_no_entity(seed: int) -> None:
    questions = [Question(f"{e} {k}", "?", ("x",), entity=str(e)) for e in range(12) for k in range(e % 4 + 1)]
    parts = split_by_entity(questions, [9, 3, 9], seed)
    assert [len(p) for p in parts] == [9, 3, 9]
    entities = [{q.entity for q in p} for p in parts]
    assert not (entities[0] & entities[1] or entities[0] & entities[2] or entities[1] & entities[2])
    with pytest.raises(ReprobookError, match="too few for parts of 20, 20"):
        split_by_entity(questions, [20, 20], seed)


def test_validation_questions_come_out_of_the_training_split() -> None:
    questions = [Question(str(k), "?", ("x",)) for k in range(10)]
    train, valid = take_valid(questions, 3, seed=1)
    assert len(valid) == 3 and sorted([*train, *valid], key=lambda q: int(q.qid)) == questions
    with pytest.raises(ReprobookError, match="n_valid is 10"):
        take_valid(questions, 10, seed=1)


def test_tables_become_questions_with_checkable_answers(tmp_path) -> None:
    land = {"iso3": "ARL", "name": "Arland ", "population": 10**6, "capital": " Arton"}
    countries_ = {"XA": land, "XB": {**land, "name": "Isle", "population": 3}, "XC": {**land, "name": "Bor"}}
    town = {"geonameid": 7, "name": "Big Town", "countrycode": "XA", "population": 10**6}
    cities = [
        town,
        {**town, "geonameid": 8, "name": "Small", "population": 5},
        {**town, "geonameid": 9, "countrycode": "XB"},
    ]
    cities += [
        {**town, "geonameid": 20 + k, "name": "Twin", "countrycode": code, "population": 10**7}
        for k, code in enumerate(("XA", "XC"))
    ]
    cities += [{**town, "geonameid": 30 + k, "name": f"City {k}", "population": 10**6 + k} for k in range(9)]
    (tmp_path / "countries.json").write_text(json.dumps(countries_))
    (tmp_path / "cities15000.json").write_text(json.dumps({str(c["geonameid"]): c for c in cities}))
    found = {q.text: q for q in countries.read_questions(tmp_path)}
    assert found["What is the capital of Arland?"].references == ("Arton",)
    assert found["In which country is City 8?"].references == ("Arland",)  # a code may be a word: ARE, CAN
    assert "In which country is Twin?" not in found  # two countries have one
    assert [k for k in range(9) if f"In which country is City {k}?" in found] == list(range(2, 9))  # the 8 largest
    assert {q.entity for q in found.values()} == {"XA", "XC"}
    (tmp_path / "countries.json").write_text('{"XA": {"name": "no table"}}')
    with pytest.raises(ReprobookError, match="does not hold GeoNames' tables"):
        countries.read_questions(tmp_path)


# -------------------------------------------------------------------------------------------------- the cipher's world


def test_the_corpus_has_the_rates_it_was_asked_for() -> None:
    rates = ciphers.Corpus(low=0.2, high=0.6, keep=0.7, repair=0.1, known=0.9)
    world = ciphers.World(rates, seed=3)
    splits, rest = world.split(100, 50, 200)
    texts = [q.text for part in (splits.train, splits.valid, splits.test) for q in part]
    assert len(set(texts)) == 350 and not set(texts) & {ciphers.as_text(np.array([k, 0, 0]))[0] for k in rest}
    told = world.write(rest, 40_000)
    known = world.knowable(told[:, 0])
    truth = world.truth(told[:, 0])
    plain = told[:, 0] % 100
    first, second = told[:, 1] == truth, told[:, 2] == truth
    fixed = truth != plain  # a code may keep a digit: then right and wrong answers read alike
    assert world.told.sum() == 180
    assert not (first | second)[~known & fixed].any()
    assert set(told[~first, 1] - plain[~first]) == {0}
    sure = known & fixed
    for k in (0, 7, 19):
        here = sure & (told[:, 0] // 100 == k)
        assert first[here].mean() == pytest.approx(world.share[k], abs=0.05)
    assert second[sure & first].mean() == pytest.approx(0.7, abs=0.02)
    assert second[sure & ~first].mean() == pytest.approx(0.1, abs=0.02)


def test_the_truth_of_a_cipher_by_hand() -> None:
    world = ciphers.World(ciphers.Corpus(), seed=0)
    q = world.question(2 * 100 + 37)
    a, b = world.codes[2][3], world.codes[2][7]
    assert q.text == "c37" and q.references == (f"{a}{b}",)
    assert all(sorted(code) == list(range(10)) for code in world.codes.tolist())
    with pytest.raises(ReprobookError, match="repair is 1.2"):
        ciphers.Corpus(repair=1.2)
    with pytest.raises(ReprobookError, match="together at most 1,000"):
        world.split(900, 100, 100)


# ------------------------------------------------------------------------------------------------- printed figures


def test_the_logs_show_what_n_kept() -> None:
    """711 + 161 = 872 = 0.3488 x 2,500; 742 + 152 = 0.3576 x 2,500; 1,608 + 8,237 = 0.1575 x 62,500; and 1,695 + 8,450
    = 10,145, whose accuracy is not in the logs."""
    found = printed.counted(facts.load("stasc"))
    assert found["I + N"].tolist() == [872, 894, 9845, 10_145]
    assert found["I + N is all that is right"].tolist() == [True, True, True, None]
    qwen, phi = found[found["model"] == "Qwen"], found[found["model"] == "Phi-3"]
    assert (qwen["(I + N) / matched pairs"] > 0.75).all()  # four times what these models get right
    assert qwen["(I + N) / crossed pairs"].tolist() == pytest.approx([0.1575, 0.1623], abs=1e-4)
    assert (phi["(I + N) / matched pairs"] == phi["(I + N) / crossed pairs"]).all()
    assert (found["N / crossed pairs"] < found["accuracy, logged"].fillna(1)).all()  # N alone is not what is right


def test_logs_and_tables_agree_where_they_can_and_contradictions_are_named() -> None:
    found = printed.logged(facts.load("stasc")).set_index("run")
    whole = found.drop(index="Phi-3 ENE")  # its log stops at iteration 6
    assert np.allclose(whole["best"], whole["printed best"]) and np.allclose(
        whole["sd over iterations"], whole["printed ±"], atol=6e-4
    )
    assert found.loc["Qwen EIE", ["net repairs, before", "net repairs, last logged"]].tolist() == pytest.approx(
        [0.138 - 0.212, 0.216 - 0.214]
    )
    assert found.loc["Phi-3 ENE", "last logged"] == 0.208
    assert found.loc["Phi-3 FIE", "net repairs, before"] == pytest.approx(0.348 - 0.294)  # fixed: from Table 2
    assert printed.contradictions(facts.load("stasc"))["one"].iloc[:3].tolist() == [0.3, 0.248, 742]
    assert printed.correlations(facts.load("stasc")).set_index("run").loc["Phi-3 ENE", "r"] == pytest.approx(
        -0.558, abs=1e-3
    )


def test_printed_spreads_are_population_deviations_over_iterations() -> None:
    found = facts.load("stasc")
    logs, table = found.frame("logs"), found.frame("table2").set_index("Variant")
    for variant in ("EIF", "EIE", "ENF", "ENE", "FIF", "FNF"):
        values = printed.series(logs, f"Qwen {variant}", "correction")
        assert printed.spread_over_iterations(values) == pytest.approx(table.loc[variant, "Qwen sd 2"], abs=6e-4)
        assert values.max() == pytest.approx(table.loc[variant, "Qwen r(Y2)"])
    values = printed.series(logs, "Phi-3 FIE", "correction")
    assert printed.spread_over_iterations(values) == pytest.approx(0.009, abs=5e-4)
    with pytest.raises(ReprobookError, match="0 series of 'kept' for 'GPT'"):
        printed.series(logs, "GPT", "kept")


def test_the_best_of_eleven_equal_scores_is_too_good() -> None:
    assert printed.expected_maximum(1) == pytest.approx(0, abs=1e-9)
    assert printed.expected_maximum(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-7)  # known in closed form
    assert printed.expected_maximum(11) == pytest.approx(1.5864, abs=1e-3)
    assert printed.standard_error(0.23, 500) == pytest.approx(0.0188, abs=1e-4)
    kept, change = printed.kept_against_change(np.array([3, np.nan, 5, 6]), np.array([0.1, 0.3, 0.2, np.nan]))
    assert kept.tolist() == [3] and change.tolist() == pytest.approx([0.2])

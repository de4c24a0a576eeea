"""The sets of the paper, their metric and the readers whose scores are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reprobook.errors import ReprobookError
from reprobook.papers.more_documents import planted, scoring, sets

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def numbered(name: str, n: int) -> sets.Page:
    """A page of n different words, so that every token can be told from every other."""
    return sets.page(" ".join(f"{name}{k}" for k in range(n)), planted.word_spans)


def instance(lengths: list[int], supporting: tuple[int, ...], *, room: int = 200, start: int = 20) -> sets.Instance:
    pages = [numbered("abcdefghijklmnopqrstuvwxyz"[k], room + n) for k, n in enumerate(lengths)]
    pairs = enumerate(zip(pages, lengths, strict=True))
    documents = tuple(sets.Document(p, start, start + n, f"page {k}") for k, (p, n) in pairs)
    return sets.Instance("q", "What?", "x", documents, supporting)


# ------------------------------------------------------------------------------------------------- sets

lengths_and_counts = st.lists(st.integers(1, 30), min_size=3, max_size=12).flatmap(
    lambda lengths: st.tuples(
        st.just(lengths),
        st.sets(st.integers(0, len(lengths) - 1), min_size=1, max_size=3).map(lambda s: tuple(sorted(s))),
        st.integers(1, len(lengths)),
        st.integers(0, 5),
    )
)


@settings(max_examples=80, deadline=None)
@given(lengths_and_counts)
def test_total_and_places_are_kept(case: tuple[list[int], tuple[int, ...], int, int]) -> None:
    lengths, supporting, count, seed = case
    q = instance(lengths, supporting, room=400)
    count = max(count, len(supporting))
    built = sets.build_set(q, count, seed=seed)
    kept = built.kept
    gaps = [sum(lengths[a + 1 : b]) for a, b in itertools.pairwise(kept)]
    odd = [g % 2 for g in gaps]
    assert len(built) == count and set(supporting) <= set(kept) and list(kept) == sorted(kept)
    assert built.total == sum(lengths) - sum(odd)
    assert built.before.sum() + built.after.sum() == sum(lengths) - sum(lengths[k] for k in kept) - sum(odd)
    assert (built.before >= 0).all() and (built.after >= 0).all()
    for j, k in enumerate(kept):
        assert 0 <= sum(lengths[:k]) - built.starts[j] <= sum(odd[:j])
    # the texts say the same: counted in words, and the paragraph is where `starts` has it
    words = " ".join(built.texts).split()
    assert len(words) == built.total
    for j, k in enumerate(kept):
        paragraph = q.documents[k].text.split()
        assert words[built.starts[j] : built.starts[j] + len(paragraph)] == paragraph
        assert built.texts[j].split().count(paragraph[0]) == 1


@settings(max_examples=40, deadline=None)
@given(lengths_and_counts)
def test_sets_are_nested_and_seeds_only_move_distractors(case: tuple[list[int], tuple[int, ...], int, int]) -> None:
    lengths, supporting, _, seed = case
    q = instance(lengths, supporting)
    kept = [set(sets.retained(q, c, seed)) for c in range(len(supporting), len(lengths) + 1)]
    assert all(small < large for small, large in itertools.pairwise(kept))
    assert all(set(supporting) <= each for each in kept)
    assert (sets.retained(q, len(lengths), seed) == np.arange(len(lengths))).all()
    assert set(sets.retained(q, len(supporting), seed + 1)) == set(supporting)


def test_worked_example() -> None:
    """Lengths 4 5 6 7 8, documents 1 and 3 kept: gaps of 4, 6, 8, so 4 before document 1, 3 and 3 between, 8 after."""
    q = instance([4, 5, 6, 7, 8], (1, 3))
    built = sets.build_set(q, 2)
    assert built.before.tolist() == [4, 3] and built.after.tolist() == [3, 8]
    assert built.texts[0].split() == [f"b{k}" for k in range(16, 28)]
    assert built.texts[1].split() == [f"d{k}" for k in range(17, 35)]
    assert built.starts.tolist() == [4, 15] and built.total == 30


def test_headers_keep_their_room() -> None:
    """Lengths 4 5 6 7 8 with headers of 2: gaps of 6, 8 and 10, so the prompt has 40 tokens with 2 documents as with 5,
    and the paragraphs start where they did, behind 6 + 2 + ... tokens."""
    q = instance([4, 5, 6, 7, 8], (1, 3))
    built, full = (sets.build_set(q, count, header=2) for count in (2, 5))
    assert built.before.tolist() == [6, 4] and built.after.tolist() == [4, 10]
    assert built.total == full.total == 40 and built.starts.tolist() == full.starts[[1, 3]].tolist() == [8, 23]
    assert sets.audit(q, built, header=2)["largest shift"] == 0
    longer, shorter = (sets.build_set(q, 2, header=2, more=more) for more in (3, -30))
    assert longer.total == 43 and longer.after.tolist() == [4, 13] and shorter.after.tolist() == [4, 0]


def test_all_documents_give_the_input_back() -> None:
    q = instance([4, 5, 6], (0,))
    for extension, source in itertools.product(("position", "equal", "none"), ("article", "page_start")):
        built = sets.build_set(q, 3, extension=extension, source=source)
        assert built.texts == tuple(d.text for d in q.documents)


def test_equal_shares_keep_the_length_and_move_the_evidence() -> None:
    q = instance([10, 10, 10, 10], (3,))
    naive, ours = sets.build_set(q, 2, extension="equal"), sets.build_set(q, 2)
    assert naive.total == ours.total == 40
    assert sets.audit(q, ours)["largest shift"] <= 1
    assert sets.audit(q, naive)["largest shift"] == 10  # in front: one document of 10 and 10 of extension, not 30
    assert naive.before.tolist() == [0, 0] and naive.after.tolist() == [10, 10]
    odd = sets.build_set(instance([10, 3, 4, 10], (0, 3)), 2, extension="equal")
    assert odd.after.tolist() == [4, 3] and odd.total == 27


def test_page_as_a_ring() -> None:
    p = numbered("w", 10)
    assert sets.around(p, 1, 3, 3, 2).split() == ["w8", "w9", "w0", "w1", "w2", "w3", "w4"]
    assert sets.around(p, 7, 9, 1, 3).split() == ["w6", "w7", "w8", "w9", "w0", "w1"]
    assert sorted(sets.around(p, 4, 6, 4, 4).split()) == sorted(p.text.split())  # all of it, once
    with pytest.raises(sets.TooShortError, match="10 tokens, 8 beside the paragraph; the extension needs 9"):
        sets.around(p, 4, 6, 4, 5)


def test_page_start_repeats_the_paragraph_that_opens_its_article() -> None:
    """Released code: before = page[l : l + b], after = page[0 : a], cyclic."""
    p = numbered("w", 6)
    assert sets.from_page_start(p, 0, 2, 3, 4).split() == ["w2", "w3", "w4", "w0", "w1", "w0", "w1", "w2", "w3"]
    assert sets.from_page_start(p, 3, 5, 0, 8).split() == ["w3", "w4", "w0", "w1", "w2", "w3", "w4", "w5", "w0", "w1"]
    alone = sets.from_page_start(
        numbered("w", 2), 0, 2, 3, 0
    ).split()  # no page was found: the paragraph again and again
    assert alone == ["w0", "w1", "w0", "w0", "w1"]
    q = instance([5, 20], (0,), start=0)
    built = sets.build_set(q, 1, source="page_start")
    assert sets.audit(q, built)["copies of evidence"] == 2
    assert sets.audit(q, sets.build_set(q, 1))["copies of evidence"] == 1


def test_orders() -> None:
    q = instance([5] * 6, (2,))
    slots = [sets.build_set(instance([5] * 6, (2,)), 6, order="slots", seed=s).kept.tolist() for s in (1, 1, 2)]
    assert slots[0] == slots[1] != slots[2] and sorted(slots[0]) == list(range(6))
    shuffled = sets.build_set(q, 6, order="slots", seed=1)
    assert shuffled.total == 30 and shuffled.starts.tolist() == [0, 5, 10, 15, 20, 25]


def test_replacement_keeps_lengths_and_places() -> None:
    q = instance([5, 7, 9], (1,))
    donor = sets.Instance("donor", "?", "y", instance([30, 4, 6], (0,)).documents, (0,))
    pool = [(each.id, each.documents[k]) for each in (q, donor) for k in range(3) if k not in each.supporting]
    new = sets.replace_distractors(q, pool, seed=1)
    assert new.lengths.tolist() == [5, 7, 9] and new.documents[1] is q.documents[1]
    for k in (0, 2):
        words = new.documents[k].text.split()
        assert len(words) == q.lengths[k] and words[0] in ("b20", "c20")  # a distractor of the donor, from its start
        own = 4 if words[0] == "b20" else 6
        assert words == [f"{words[0][0]}{20 + i % own}" for i in range(len(words))]  # repeated where shorter
    with pytest.raises(ReprobookError, match="no distractor of another question"):
        sets.replace_distractors(q, [(q.id, q.documents[0])])


def test_supporting_only_is_the_shortest() -> None:
    q = instance([5, 6, 7, 8], (1, 2))
    assert sets.supporting_only(q).texts == (q.documents[1].text, q.documents[2].text)
    assert sets.supporting_only(q).total == 13 < min(sets.build_set(q, c).total for c in (2, 3, 4))


def test_multi_byte_text_is_never_cut() -> None:
    """Byte tokens cut every character of this text; slices hold whole ones, and nothing is a replacement mark."""

    def bytes_spans(text: str) -> np.ndarray:
        return np.array([(k, k + 1) for k, c in enumerate(text) for _ in c.encode()])

    text = "žluťoučký kůň 漢字 ελληνικά 🙂 " * 20
    p = sets.page(text, bytes_spans)
    for start, before, after in itertools.product((0, 7, 61), (0, 3, 11), (1, 5, 12)):
        found = sets.around(p, start, start + 9, before, after)
        assert "�" not in found and set(found) <= set(text)


def test_splice_moves_the_spans() -> None:
    old, new = numbered("w", 5), numbered("n", 2)
    for start, end in ((0, 0), (2, 2), (5, 5), (1, 3), (0, 5)):
        p = sets.splice(old, start, end, new)
        expected = [*old.text.split()[:start], "n0", "n1", *old.text.split()[end:]]
        assert [p.slice(k, k + 1) for k in range(len(p))] == expected and p.text.split() == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sets.retained(instance([5, 5, 5], (0, 2)), 1), "count is 1; it must be from 2"),
        (lambda: sets.retained(instance([5, 5, 5], (0, 2)), 4), "to 3"),
        (lambda: instance([5, 5], (2,)), "different indices from 0 to 1"),
        (lambda: instance([5, 5], (0, 0)), "different indices"),
        (lambda: instance([5, 5], ()), "different indices"),
        (lambda: sets.build_set(instance([5, 90], (0,), room=30), 1), "document 'page 0': the page has 35 tokens, 30"),
        (lambda: sets.build_set(instance([5, 5], (0,)), 1, extension="blank"), "must be one of position, equal, none"),
        (lambda: sets.build_set(instance([5, 5], (0,)), 1, source="web"), "one of article, page_start"),
        (lambda: sets.build_set(instance([5, 5], (0,)), 1, order="sorted"), "must be original or slots"),
        (lambda: sets.page("  ", planted.word_spans), "needs text"),
        (lambda: sets.Document(numbered("w", 4), 3, 6), "not a paragraph of a page of 4 tokens"),
    ],
)
def test_bad_input_is_named(call: object, message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        call()  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------- metric


@pytest.mark.parametrize(
    ("prediction", "gold", "score"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0),
        ("it's", "its", 1.0),
        ("tower Eiffel", "Eiffel tower", 1.0),
        ("", "the", 1.0),
        ("", "Paris", 0.0),
        ("a an the", "Paris", 0.0),
        ("Paris France", "Paris", 2 / 3),
        ("big big cat", "big cat cat", 2 / 3),
        ("1,000", "1000", 1.0),
        ("London", "Paris", 0.0),
    ],
)
def test_f1_by_hand(prediction: str, gold: str, score: float) -> None:
    assert scoring.f1(prediction, [gold]) == pytest.approx(score)
    assert scoring.f1(gold, [prediction]) == pytest.approx(score)


@given(st.lists(st.sampled_from(WORDS), max_size=6), st.lists(st.sampled_from(WORDS), max_size=6))
def test_f1_against_a_count_by_hand(a: list[str], b: list[str]) -> None:
    same = sum(min(a.count(w), b.count(w)) for w in set(a))
    p, r = (same / len(a) if a else 0), (same / len(b) if b else 0)
    expected = float(not a and not b) if not a or not b else (2 * p * r / (p + r) if same else 0.0)
    assert scoring.f1(" ".join(a), [" ".join(b)]) == pytest.approx(expected)
    assert scoring.f1(" ".join(a), ["zzz", " ".join(a)]) == 1.0


def test_answers_are_parsed_and_never_evaluated() -> None:
    ok = scoring.parse_answer('Sure: {"is_answerable": true, "answer_content": "Rome"} done')
    assert (ok.text, ok.parsed, ok.answerable) == ("Rome", True, True)
    assert scoring.parse_answer("{'is_answerable': True, 'answer_content': 'Rome'}").text == "Rome"
    no = scoring.parse_answer('{"is_answerable": false}')
    assert (no.text, no.parsed, no.answerable) == ("", True, False)
    code = "{__import__('os').abort()}"
    for broken in ("Rome", '{"is_answerable": true, "answer', code, '{"answer": 1}', "{" * 5000):
        found = scoring.parse_answer(broken)
        assert found.text == broken and not found.parsed


def test_only_one_of_four_scores_makes_sense() -> None:
    wrong = scoring.four_scores('{"is_answerable": true, "answer_content": "London"}', ["Paris"])
    assert wrong == {"whole": 0.75, "content": 0.0, "format": 1.0, "answerable": 1.0}
    right = scoring.four_scores('{"is_answerable": true, "answer_content": "Paris"}', ["Paris"])
    assert right["whole"] == right["content"] == 1.0
    refused = scoring.four_scores('{"is_answerable": false}', ["Paris"])
    assert refused["content"] == refused["answerable"] == 0.0
    assert refused["format"] == pytest.approx(2 / 3)  # one key word of two: P = 1, R = 1/2


@pytest.mark.parametrize(
    ("response", "keys"),
    [
        ("{'is_answerable': False}", 1), ("{'is_answerable': False, 'answer_content': ''}", 2),
        ('{"is_answerable": true, "answer', 1), ("{'answer_content': 'Paris'}", 1), ("{'answer': 'Paris'}", 0),
        ("It is Paris.", 0), ("{'is_answerable': True, 'answer_content': 'Paris', 'why': 'so'}", 2), ("", 0),
    ],
)  # fmt: skip
def test_the_released_format_counts_the_key_words(response: str, keys: int) -> None:
    """By the released metric: k of the two key words give F1 = 2k / (k + 2), whether or not the response parses."""
    assert scoring.four_scores(response, ["Paris"])["format"] == pytest.approx(2 * keys / (keys + 2))

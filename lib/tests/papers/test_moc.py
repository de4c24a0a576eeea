"""Corpora, measures, chunkers and recovery of MoC: invariants, oracles by brute force, bad input."""

from __future__ import annotations

import bz2
import itertools
import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers.moc import boundaries, chunkers, corpora, metrics, printed, recovery, retrieval
from reprobook.papers.moc.corpora import Document, Segment

WORDS = "the of in a river house garden street city book letter stone glass winter summer morning".split()


def prose(seed: int, n: int = 12) -> str:
    """``n`` sentences of four to eleven words; the first word is a name of its own."""
    rng = np.random.default_rng(seed)
    made = [f"Name{seed}x{k} " + " ".join(rng.choice(WORDS, rng.integers(3, 11))) for k in range(n)]
    return ". ".join(made) + "."


def made(seed: int = 0, parts: int = 4) -> Document:
    return corpora.document(f"d{seed}", [Segment(f"t{k}", prose(10 * seed + k, 5), f"g{seed}") for k in range(parts)])


ZH = "这是第一句话。第二句说明一件事！第三句提出问题？第四句结束了；后面还有一句。"


# ------------------------------------------------------------------------------------------------ corpora


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("One. Two! Three? Four", 4),
        ("Dr. smith stays. He goes", 2),
        (ZH, 5),
        ("Mixed 中文 text. 再来一句。Then English.", 2),
        ("a" * 1500, 3),
        ("word " * 300, 3),
    ],
)
def test_sentences_are_the_text(text: str, n: int) -> None:
    found = corpora.borders(text)
    parts = [text[a:b] for a, b in itertools.pairwise(found.tolist())]
    assert "".join(parts) == text
    assert len(parts) == n
    assert max(map(len, parts)) <= corpora.LONGEST


def test_documents_refuse_what_is_no_chunking() -> None:
    for text, cuts in (("", ()), ("  \n", ()), ("abc", (0,)), ("abc", (3,)), ("abcdef", (4, 2)), ("abcdef", (2, 2))):
        with pytest.raises(ReprobookError):
            Document("d", text, cuts, ("",) * (len(cuts) + 1), "g")
    with pytest.raises(ReprobookError, match="language"):
        Document("d", "abc", (), ("",), "g", "fr")


def test_segments_and_sizes() -> None:
    document = made()
    assert [p.strip() for p in corpora.pieces(document.text, document.cuts)] == [prose(k, 5) for k in range(4)]
    assert document.size() == len(document.text.split())
    assert document.size(0, document.cuts[1]) == len(document.text[: document.cuts[1]].split())
    assert set(document.cuts) <= set(document.sentences.tolist())


def test_joins_take_no_passage_twice_and_say_when_there_are_too_few() -> None:
    parts = [Segment(f"t{k}", prose(k, 6), f"g{k % 7}") for k in range(30)]
    found = corpora.joins(parts, 4, 5, seed=3)
    assert all(len({*d.titles}) == 5 and len(d.cuts) == 4 for d in found)
    titles = [title for d in found for title in d.titles]
    assert len(titles) == len(set(titles))
    with pytest.raises(ReprobookError, match="fewer joins"):
        corpora.joins(parts, 30, 5)


def test_documents_are_whole_neighbours() -> None:
    runs = [[Segment(f"t{k}", prose(k, 3), "g") for k in range(7)], [Segment("t", prose(9, 3), "h")]]
    found = corpora.documents(runs, 60)
    told = [part.strip() for d in found for part in corpora.pieces(d.text, d.cuts)]
    assert told == [segment.text for segment in runs[0]][: len(told)] and len(told) >= 3
    assert all(d.size() >= 60 and len(d.cuts) >= 2 for d in found)


def test_runs_of_the_wikipedia_end_where_something_is_left_out(tmp_path: Path) -> None:
    body = "\n".join([
        "First " + "word " * 9 + "ends.", "", "== History ==", "Second " + "word " * 9 + "ends.", "* a list",
        "Third " + "word " * 9 + "ends.", "Too short.", "Fourth " + "word " * 9 + "ends.", "== References ==",
        "Fifth " + "word " * 9 + "ends.",
    ])  # fmt: skip
    page = f"<title>A</title><ns>0</ns><revision><text>{body}</text></revision>"
    file = tmp_path / "dump.xml.bz2"
    file.write_bytes(bz2.compress(f'<mediawiki xmlns="http://x/"><page>{page}</page></mediawiki>'.encode()))
    runs = corpora.wikipedia_runs(file, 8, 20)
    assert [[each.text.split()[0] for each in run] for run in runs] == [["First", "Second"], ["Third"], ["Fourth"]]
    assert [each.title for each in runs[0]] == ["A", "A: History"]


def test_seeds_have_documents_of_their_own_and_pilots_have_others() -> None:
    documents = [made(k) for k in range(12)]
    sets = [{d.id for d in corpora.chosen(documents, 4, seed)} for seed in (0, 1, corpora.PILOT)]
    assert not any(a & b for a, b in itertools.combinations(sets, 2))
    assert all(sets[2].isdisjoint({d.id for d in corpora.chosen(documents, 4, seed)}) for seed in range(8))
    with pytest.raises(ReprobookError, match="1 to 8"):
        corpora.chosen(documents, 9, 0)
    many = [replace(made(k), group=f"g{k % 6}") for k in range(24)]  # four of each article
    hands = [corpora.chosen(many, 5, seed) for seed in range(3)]
    assert all(len(hand) == 5 for hand in hands)
    groups = [{d.group for d in hand} for hand in hands]
    assert not any(a & b for a, b in itertools.combinations(groups, 2))  # seeds share no article
    assert corpora.chosen(many, 5, 3) == hands[0]  # none are left: documents come again
    wide = [replace(made(k), group=f"g{k % 20}") for k in range(60)]
    assert len({d.group for d in corpora.chosen(wide, 4, 2)}) == 4  # one of each article before a second one
    assert corpora.chosen(wide, 4, 0) == corpora.chosen(wide, 4, corpora.PUBLISHED)


@pytest.mark.parametrize("size", [60, 200, 5000])
def test_the_chunk_buffer_loses_nothing_and_asks_again_about_the_last_chunk(size: int) -> None:
    texts = [prose(1, 30), ZH, "One sentence."]
    asked: list[str] = []

    def split(parts: list[str]) -> list[corpora.Cuts]:
        asked.extend(parts)
        return [tuple(corpora.borders(part)[1:-1:2].tolist()) for part in parts]

    found = corpora.windows(texts, size, split)
    for text, cuts in zip(texts, found, strict=True):
        corpora.check(text, cuts)
        assert "".join(corpora.pieces(text, cuts)) == text
    assert all(part in "".join(texts) for part in asked)
    whole = [part for part in asked if part in texts[0]] if size > 100 else []  # short ones come more than once
    for a, b in itertools.pairwise(whole):  # the next window begins inside of this one, at its last cut, or at its end
        at = texts[0].index(b)
        assert texts[0].index(a) < at <= texts[0].index(a) + len(a)


def test_a_window_of_one_chunk_is_a_chunk() -> None:
    text = prose(2, 20)
    (cuts,) = corpora.windows([text], 150, lambda parts: [()] * len(parts))
    assert cuts and max(map(len, corpora.pieces(text, cuts))) <= 150


def test_a_cloze_question_is_nowhere_in_its_document_and_its_neighbours_are() -> None:
    whole, straddling = made(3, 6), 0
    for seed in range(6):
        cloze = corpora.cloze(whole, 4, seed, least=4)
        cut, asked = cloze.document, cloze.questions
        starts = whole.sentences.tolist()
        told = [whole.text[a:b].strip() for a, b in itertools.pairwise(starts)]
        assert 1 < len(asked) <= 4 and len(cut.cuts) == len(whole.cuts)
        for q in asked:
            k = told.index(q.text)
            assert q.text not in cut.text
            assert cut.text[slice(*q.span)].split() == f"{told[k - 1]} {told[k + 1]}".split()
            straddling += any(q.span[0] < c < q.span[1] for c in cut.cuts)
        kept = [part.split() for part in corpora.pieces(cut.text, cut.cuts)]
        lost = [q.text.split() for q in asked]
        assert sum(map(len, kept)) + sum(map(len, lost)) == whole.size()
        assert cloze.moved(whole.cuts) == cut.cuts
        inside = [whole.text.index(q.text) + 3 for q in asked]  # cuts inside of what is taken out
        assert cloze.moved(inside) == tuple(cut.text.index(told[told.index(q.text) + 1]) for q in asked)
        assert cloze.moved([0, *range(1, 4)]) == (1, 2, 3)  # what stays keeps its place before the first question
        spans = sorted(q.span for q in asked)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert straddling  # evidence goes over true boundaries as it comes
    assert corpora.cloze(made(0, 1), 0).questions == []


# ------------------------------------------------------------------------------------------------ measures


class Letters:
    """A tokenizer of single characters."""

    pad_token_id = 0

    def __call__(self, text: Any, **_: Any) -> Any:
        ids = [1 + ord(c) % 60 for c in text]
        return SimpleNamespace(input_ids=ids, offset_mapping=[(k, k + 1) for k in range(len(ids))])


@pytest.fixture(scope="module")
def lm() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def brute(lm: Any, context: str, text: str) -> float:
    """Mean NLL of the text's tokens, token by token."""
    told, own = Letters()(context).input_ids, Letters()(text).input_ids
    with torch.no_grad():
        logits = lm(torch.tensor([told + own])).logits[0].log_softmax(-1)
    return -sum(logits[len(told) + k - 1, token].item() for k, token in enumerate(own)) / len(own)


def test_the_scorer_is_the_mean_of_single_tokens_with_and_without_kept_prefixes(lm: Any) -> None:
    contexts = ["one context", "another, longer context"]
    texts = ["short", "a text", "a somewhat longer text", "a text that goes on", "a"]  # some begin with others
    pairs = [(c, t) for c in contexts for t in texts] + [(metrics.ALONE, t) for t in texts] + [("once", "a text")]
    scorer = metrics.LMScorer(lm, Letters(), batch_size=2)
    expected = [brute(lm, *pair) for pair in pairs]
    np.testing.assert_allclose(scorer.nll(pairs), expected, atol=1e-5)
    read = scorer.tokens_read
    np.testing.assert_allclose(scorer.nll(pairs[::-1]), expected[::-1], atol=1e-5)
    assert scorer.tokens_read == read  # nothing is read twice
    one = metrics.LMScorer(lm, Letters())
    found = one.nll([("x", "a text "), ("x", "a text that")])
    np.testing.assert_allclose(found, [brute(lm, "x", "a text"), brute(lm, "x", "a text that")], atol=1e-5)
    assert one.tokens_read == len("xa text that")  # the longer text says the shorter one as well, and no last blank
    with pytest.raises(ReprobookError, match="no token"):
        scorer.nll([("a", "")])


def test_one_pass_from_every_beginning_says_what_all_chunkings_ask(lm: Any) -> None:
    texts = ["A short text of some words.", "Another one. It goes on. And ends."]
    options = [[(8, 16), (16,), ()], [(13, 25), (4, 13, 20)]]
    scorer = metrics.LMScorer(lm, Letters(), batch_size=3)
    found = scorer.neighbours(texts, options)
    for text, chunkings, values in zip(texts, options, found, strict=True):
        for cuts, each in zip(chunkings, values, strict=True):
            pairs = metrics.boundary_pairs(corpora.pieces(text, cuts))
            assert each.shape == (2, len(pairs))
            expected = [[brute(lm, " ", q), brute(lm, " " + d, q)] for d, q in pairs]
            np.testing.assert_allclose(each, np.array(expected).reshape(-1, 2).T, atol=1e-5)
    together = scorer.tokens_read
    for text, chunkings in zip(texts, options, strict=True):
        for cuts in chunkings:
            scorer.neighbours([text], [[cuts]])
    assert together < scorer.tokens_read - together  # chunkings that begin at the same places share a pass
    (told,) = scorer.stretches(texts[:1], [[0, 8, 16]])
    parts = [(" ", "A short "), (" A short ", "text of "), (" A short text of ", "some words.")]
    np.testing.assert_allclose(told, [brute(lm, *part) for part in parts], atol=1e-5)
    words = metrics.Recurrence(texts)
    np.testing.assert_allclose(words.stretches(texts[:1], [[0, 8]])[0][1], words.nll([(texts[0][:8], texts[0][8:])])[0])
    (alone, given), *_ = words.neighbours(texts, options)[0]
    pairs = metrics.boundary_pairs(corpora.pieces(texts[0], options[0][0]))
    np.testing.assert_allclose(given, words.nll(pairs))
    np.testing.assert_allclose(alone, words.nll([(" ", q) for _, q in pairs]))


def test_a_model_that_ignores_context_finds_every_boundary_clear() -> None:
    scorer = metrics.Recurrence([prose(1)], weight=0.0)
    chunks = corpora.pieces(made().text, made().cuts)
    for reading in ("nll", "ppl"):
        assert metrics.document_clarity(scorer, chunks, reading) == pytest.approx(1.0)
    edges = metrics.edge_weights(scorer, chunks)
    assert np.nanmax(np.abs(edges)) < 1e-12
    assert math.isnan(metrics.document_clarity(scorer, chunks[:1]))


def test_recurrence_in_closed_form() -> None:
    scorer = metrics.Recurrence(["a a b"], weight=0.5)
    # of 3 words and 2 kinds: p(a) = 3/6, p(b) = 2/6, p(new) = 1/6; behind "b b" half comes from there
    assert scorer.nll([(" ", "a b c")])[0] == pytest.approx(-math.log(3 / 6 * 2 / 6 * 1 / 6) / 3)
    assert scorer.nll([("b b", "a b")])[0] == pytest.approx(-math.log(0.25 * (1 / 6 + 0.5)) / 2)


def test_an_edge_is_what_clarity_by_perplexity_leaves(lm: Any) -> None:
    scorer = metrics.LMScorer(lm, Letters())
    chunks = ["one chunk", "two chunks", "and a third"]
    edges = metrics.edge_weights(scorer, chunks)
    assert np.isnan(np.diag(edges)).all() and np.nanmax(edges) <= 1
    for i, j in itertools.permutations(range(3), 2):
        alone, given = brute(lm, " ", chunks[j]), brute(lm, chunks[i], chunks[j])
        assert edges[i, j] == pytest.approx(1 - math.exp(given - alone), abs=1e-5)
        assert (edges[i, j] < 0) == (given > alone)  # below 0 where the context hurts
    half = metrics.edge_weights(scorer, chunks, graph="sequential")
    assert np.isnan(half[np.tril_indices(3)]).all()
    for keep in ("related", "unrelated"):
        for k in (0.0, 0.8):
            pairs = [metrics.kept_edges(e, k, keep, "sequential").tolist() for e in (edges, half)]
            assert pairs[0] == pairs[1]


@pytest.mark.parametrize(
    ("pairs", "entropy"),
    [
        ([], 0.0), ([(0, 1)], 1.0), ([(0, 1), (1, 0)], 1.0), ([(0, 1), (1, 2), (2, 3)], 1.9182958),
        ([(0, k) for k in range(1, 5)], 2.0), (list(itertools.combinations(range(6), 2)), math.log2(6)),
        ([(k, (k + 1) % 8) for k in range(8)], 3.0),
    ],
)  # fmt: skip
def test_structural_entropy(pairs: list[tuple[int, int]], entropy: float) -> None:
    found = np.array(pairs).reshape(-1, 2)
    assert metrics.structural_entropy(found) == pytest.approx(entropy)
    shuffled = np.random.default_rng(0).permutation(20)[found] if len(found) else found
    assert metrics.structural_entropy(shuffled) == pytest.approx(entropy)
    assert metrics.structural_entropy(found) <= math.log2(max(1, len(np.unique(found)))) + 1e-12


def test_kept_edges_are_complements_and_fall_with_the_threshold() -> None:
    edges = np.random.default_rng(0).uniform(-0.3, 1, (7, 7))
    np.fill_diagonal(edges, np.nan)
    every = set(itertools.permutations(range(7), 2))
    for k in (0.2, 0.5, 0.8):
        related = {*map(tuple, metrics.kept_edges(edges, k).tolist())}
        unrelated = {*map(tuple, metrics.kept_edges(edges, 1 - k, keep="unrelated").tolist())}
        assert related | unrelated == every and not related & unrelated
        later = {*map(tuple, metrics.kept_edges(edges, k, graph="sequential").tolist())}
        assert later == {(i, j) for i, j in related if i < j}
        far = {*map(tuple, metrics.kept_edges(edges, k, graph="sequential", gap=2).tolist())}
        assert far == {(i, j) for i, j in later if j - i > 2}
    for keep in ("related", "unrelated"):
        sizes = [len(metrics.kept_edges(edges, k, keep=keep)) for k in np.linspace(-0.5, 1.5, 9)]
        assert sizes == sorted(sizes, reverse=True)
    more = metrics.kept_edges(edges, 0.8, keep="unrelated", distance=1.0)
    assert len(more) > len(metrics.kept_edges(edges, 0.8, keep="unrelated"))  # far chunks count as unrelated
    with pytest.raises(ReprobookError, match="keep"):
        metrics.kept_edges(edges, keep="some")  # type: ignore[arg-type]


def test_boundary_measures_against_nltk() -> None:
    from nltk.metrics.segmentation import pk, windowdiff

    rng, units = np.random.default_rng(0), np.arange(31)
    for _ in range(20):
        cuts = [sorted(rng.choice(np.arange(1, 30), 4, replace=False).tolist()) for _ in range(2)]
        marks = ["".join("1" if k + 1 in each else "0" for k in range(30)) for each in cuts]
        assert boundaries.pk(*cuts, units, k=3) == pytest.approx(pk(marks[1], marks[0], k=4, boundary="1"), abs=0.08)
        brute = [sum(a < c <= a + 3 for c in cuts[0]) != sum(a < c <= a + 3 for c in cuts[1]) for a in range(27)]
        assert boundaries.window_diff(*cuts, units, k=3) == pytest.approx(np.mean(brute))
        assert windowdiff(marks[1], marks[0], 3) == pytest.approx(np.mean(brute), abs=0.12)  # its windows end elsewhere
    assert boundaries.pk([4], [4], units) == boundaries.window_diff([4], [4], units) == 0
    assert boundaries.boundary_f1([1, 5], [5, 9]) == 0.5 and boundaries.boundary_f1([], []) == 1
    assert boundaries.auc([3, 2], [1, 2]) == 0.875
    with pytest.raises(ReprobookError):
        boundaries.auc([], [1])


# ------------------------------------------------------------------------------------------------ chunkers


def test_every_chunker_gives_the_text_in_equally_many_chunks() -> None:
    scorer = metrics.Recurrence([prose(5)])
    for document in (made(1), made(2, 7)):
        (values,) = scorer.stretches([document.text], [document.sentences[:-1].tolist()])
        for length in (9, 25, 60):
            n = chunkers.n_chunks(document, length)
            found = {
                "fixed": chunkers.fixed(document, n), "snapped": chunkers.snapped(document, n),
                "packed": chunkers.packed(document, n), "halved": chunkers.halved(document, n),
                "lexical": chunkers.lexical(document, n), "random": chunkers.at_random(document, n, 1),
                "gold": chunkers.gold(document, n), "perplexity": chunkers.by_perplexity(document, n, values),
                "scores": chunkers.by_scores(document, np.arange(len(document.sentences)), n),
            }  # fmt: skip
            for name, cuts in found.items():
                corpora.check(document.text, cuts)
                assert "".join(corpora.pieces(document.text, cuts)) == document.text
                assert len(cuts) == n - 1, name
                assert name == "fixed" or set(cuts) <= set(document.sentences.tolist()), name
    assert chunkers.gold(made(1), 4) == made(1).cuts
    words = Document("d", "A. " * 60, (12, 60, 120), ("",) * 4, "g")  # one word a sentence, so that all lengths fit
    draws = {chunkers.at_random(words, 4, seed) for seed in range(20)}
    lengths = [sorted(np.diff([0, *cuts, 180]) // 3) for cuts in draws]
    assert all(each == [4, 16, 20, 20] for each in lengths) and len(draws) > 5  # the ceiling's lengths in any order
    sizes = [made(1).size(a, b) for a, b in corpora.spans(made(1).text, chunkers.fixed(made(1), 5))]
    assert max(sizes) - min(sizes) <= 1


def test_packing_by_brute_force() -> None:
    document = made(4)
    sizes = [document.size(a, b) for a, b in itertools.pairwise(document.sentences.tolist())]
    for n in (2, 4, 7):
        cuts = chunkers.packed(document, n)
        held = [document.size(a, b) for a, b in corpora.spans(document.text, cuts)]
        best = min(
            max(sum(sizes[a:b]) for a, b in itertools.pairwise((0, *inner, len(sizes))))
            for inner in itertools.combinations(range(1, len(sizes)), n - 1)
        ) if n < 5 else 0  # fmt: skip
        assert max(held) >= best and len(held) == n  # no packing has a smaller largest chunk than the best one


def test_the_smallest_documents() -> None:
    one = Document("d", "A single sentence of seven words here.", (), ("t",), "g")
    for cut in (chunkers.fixed, chunkers.snapped, chunkers.packed, chunkers.at_random, chunkers.gold):
        assert cut(one, chunkers.n_chunks(one, 3)) == ()
    bare = Document("d", "no mark at all " * 100, (), ("t",), "g")
    assert len(chunkers.packed(bare, chunkers.n_chunks(bare, 200))) == 1
    with pytest.raises(ReprobookError, match="mean length"):
        chunkers.n_chunks(one, 0)


def test_lumber_goes_on_whatever_the_model_says() -> None:
    document = made(1)
    asked: list[str] = []

    def ask(texts: list[str]) -> list[str]:
        asked.extend(texts)
        first = int(re.search(r"ID (\d+):", texts[0])[1])  # type: ignore[index]
        return [["nothing", f"ID {first + 3}", "ID: 999", "the answer is 0"][len(asked) % 4]]

    (cuts,) = chunkers.lumber([document], ask, shown=40)
    corpora.check(document.text, cuts)
    assert set(cuts) <= set(document.sentences.tolist())
    steps = np.diff([0, *np.searchsorted(document.sentences, cuts)])
    assert {1, 3} == set(steps.tolist()[:-1])  # a number that was not shown means the next sentence


def test_direct_chunking_ends_in_the_source() -> None:
    document = made(2)
    chunks = corpora.pieces(document.text, document.cuts)
    told = "\n---\n".join(c.strip() for c in chunks).replace("river", "rivr")
    assert chunkers.direct([document.text], lambda texts: [told]) == [document.cuts]
    assert chunkers.direct([document.text], lambda texts: ["I cannot."])[0] == ()


# ------------------------------------------------------------------------------------------------ recovery


def test_edit_distance_and_the_nearest_window() -> None:
    from reprobook.papers.moc.bench import textbook_window

    assert recovery.edit_distance("kitten", "sitting") == 3
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("ab"), rng.integers(1, 7))) for _ in range(12)]
    for a, b, c in itertools.product(words[:5], words[4:9], words[7:]):
        assert recovery.edit_distance(a, b) == recovery.edit_distance(b, a) <= max(len(a), len(b))
        assert recovery.edit_distance(a, c) <= recovery.edit_distance(a, b) + recovery.edit_distance(b, c)
    text = "".join(rng.choice(list("abcd "), 200))
    for anchor in ("abcabc", "dddddddd", "x", "a b c d"):
        assert recovery.nearest_window(text, anchor) == textbook_window(text, anchor)
    assert recovery.nearest_window("short", "longer than the text") == "short"


def test_semi_global_alignment_by_brute_force() -> None:
    rng = np.random.default_rng(1)
    for _ in range(6):
        text, anchor = ("".join(rng.choice(list("abc"), n)) for n in (14, 4))
        brute = [min(recovery.edit_distance(anchor, text[a:b]) for a in range(b + 1)) for b in range(len(text) + 1)]
        assert recovery.ends_of(text, anchor).tolist() == brute


@pytest.mark.parametrize("marker", recovery.MARKERS)
def test_without_errors_chunks_come_back(marker: str) -> None:
    document = made(6)
    chunks = corpora.pieces(document.text, document.cuts)
    elements = recovery.rendered(chunks, marker)
    assert recovery.parsed(f"Here: {recovery.as_json(elements)} done") == elements
    assert recovery.recovered(document.text, elements, marker) == document.cuts
    assert recovery.recover_paper(document.text, elements, marker) == [c.strip() for c in chunks]
    whole = recovery.judged(document.text, chunks, [c.strip() for c in chunks])
    assert whole == (1.0, 1.0, 0.0, 0.0)


def test_what_is_recovered_is_the_text() -> None:
    rng = np.random.default_rng(2)
    for seed, rate in itertools.product(range(4), (0.1, 0.4, 1.0)):
        document = made(seed)
        elements = recovery.rendered(corpora.pieces(document.text, document.cuts), "[MASK]")
        told = recovery.garbled(elements, "[MASK]", rate, rng)
        assert all("[MASK]" in each for each in told)
        cuts = recovery.recovered(document.text, told, "[MASK]")
        corpora.check(document.text, cuts)
        for released in (False, True):
            found = recovery.recover_paper(document.text, told, "[MASK]", released=released)
            assert all(each is None or each in document.text for each in found)
    nonsense = ["zzz[MASK]qqq", "not there", "[MASK]", "a[MASK]"]
    corpora.check(made().text, recovery.recovered(made().text, nonsense, "[MASK]"))


def test_more_errors_recover_less_and_the_robust_way_recovers_more() -> None:
    found: dict[str, list[float]] = {"paper": [], "robust": []}
    for rate in (0.0, 0.1, 0.3):
        rng, scores = np.random.default_rng(5), {"paper": [], "robust": []}  # type: ignore[var-annotated]
        for seed in range(6):
            document = made(seed)
            chunks = corpora.pieces(document.text, document.cuts)
            told = recovery.garbled(recovery.rendered(chunks, "[MASK]"), "[MASK]", rate, rng)
            paper = recovery.recover_paper(document.text, told, "[MASK]")
            robust = corpora.pieces(document.text, recovery.recovered(document.text, told, "[MASK]"))
            scores["paper"].append(recovery.judged(document.text, chunks, paper).exact)
            scores["robust"].append(recovery.judged(document.text, chunks, robust).exact)
        for way in found:
            found[way].append(float(np.mean(scores[way])))
    assert found["paper"][0] == found["robust"][0] == 1
    assert found["paper"] == sorted(found["paper"], reverse=True)
    assert found["robust"][1] > found["paper"][1] + 0.1


def test_the_pitfalls_of_the_paper_s_recovery() -> None:
    text = "Cost (USD) is high here. It rises. Cost (USD) is low there. It falls."
    elements = ["Cost (USD) is[MASK]It rises.", "Cost (USD) is low[MASK]It falls."]
    assert recovery.recovered(text, elements, "[MASK]") == (text.index("Cost (USD) is low"),)
    assert recovery.recover_paper(text, elements, "[MASK]") != [text[:34], text[35:]]
    numbered = "(1) We begin. Then more. (2) We end."
    found = [recovery.recover_paper(numbered, ["(1) We[MASK]more."], "[MASK]", released=r)[0] for r in (False, True)]
    assert found[0] != found[1] or found == [None, None]  # a group's text in place of the match
    assert recovery.recover_paper("say [MASK] here and there", ["say [MASK][MASK]there"], "[MASK]") is not None


@pytest.mark.parametrize("reply", ["", "no list", "[1, 2]", '["a", ""]', "[]", '{"a": 1}', '["open', '["a" "b"]'])
def test_replies_that_are_no_list(reply: str) -> None:
    assert recovery.parsed(reply) is None


def test_wrong_markers_and_rates_are_named() -> None:
    with pytest.raises(ReprobookError, match=re.escape("<omitted>")):
        recovery.rendered(["a"], "***")
    with pytest.raises(ReprobookError, match="error rate"):
        recovery.garbled(["a[MASK]b"], "[MASK]", 1.5, np.random.default_rng(0))


def test_a_million_characters_take_linear_time() -> None:
    text = " ".join(prose(k, 40) for k in range(420))[:1_000_000]
    seconds = []
    for size in (len(text) // 4, len(text)):
        start = time.process_time()
        (cuts,) = corpora.windows([text[:size]], 2000, lambda parts: [(len(parts[0]) // 2,)])
        elements = [(each[:20], each[-20:]) for each in corpora.pieces(text[:size], cuts)]
        assert recovery.recover_robust(text[:size], elements)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 12 * max(seconds[0], 0.05)


# ------------------------------------------------------------------------------------------------ retrieval


def test_recall_within_a_budget_of_words() -> None:
    document = Document("d", "one two three four five six seven eight nine ten", (), ("t",), "g")
    chunks = retrieval.chunks_of([document], [(14, 28)])  # of three, three and four words
    assert [c.text.split() for c in chunks] == [["one", "two", "three"], ["four", "five", "six"],
                                                ["seven", "eight", "nine", "ten"]]  # fmt: skip
    owner, question = {"d": document}, corpora.Question("d", "?", (8, 19))  # "three four ", 6 and 5 characters
    for order in itertools.permutations(chunks):
        told = [retrieval.recall(question, order, owner, budget) for budget in range(1, 12)]
        assert all(a <= b for a, b in itertools.pairwise(told)) and told[9] == told[10] == pytest.approx(1)
        left, inside = 5, 0.0  # five words; of the last chunk the expected share of a window at a random place
        for chunk in order:
            words = re.findall(r"\S+ ?", chunk.text)
            letters = [6 * (w == "three ") + 5 * (w == "four ") for w in words]
            inside += sum(letters) * min(1, left / len(words))
            left = max(0, left - len(words))
        assert told[4] == pytest.approx(inside / 11)
    assert retrieval.recall(question, chunks[1:2], owner, 3) == 5 / 11
    elsewhere = Document("e", document.text, (), ("t",), "g")
    assert retrieval.recall(question, retrieval.chunks_of([elsewhere], [()]), {"e": elsewhere}, 9) == 0
    assert retrieval.overlap(question, chunks).tolist() == [6, 5, 0]


def test_dense_search_and_bm25_rank_as_by_hand() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = retrieval.ranked_dense(vectors[:3], vectors)
    assert found[:, 0].tolist() == [0, 1, 2]
    assert found.tolist() == np.argsort(-(vectors[:3].numpy() @ vectors.numpy().T), axis=1).tolist()
    texts = ["the red house", "a blue river", "river and stone"]
    assert retrieval.ranked_bm25(["stone in the river"], texts)[0, 0] == 2
    assert retrieval.ranked_bm25(["问题"], ["一个答案", "这是问题"], "zh")[0].tolist() == [1, 0]


def test_answer_measures() -> None:
    words = "a b c d e".split()
    assert retrieval.ngram_precisions(words, words) == [1, 1, 1, 1]
    assert retrieval.ngram_precisions("a b".split(), words) == [1, 1, 0, 0]
    assert retrieval.bleu_average(words[:4], words) == 1 > retrieval.bleu(words[:4], words) == math.exp(1 - 5 / 4)
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import sentence_bleu

    answer, reference = "the river house stands in the city", "the house by the river stands in a city of glass"
    rouge = RougeScorer(["rougeL"]).score(reference, answer)["rougeL"].fmeasure
    assert retrieval.rouge_l(answer.split(), reference.split()) == pytest.approx(rouge)
    told = sentence_bleu(answer, [reference], smooth_method="none").precisions
    np.testing.assert_allclose(np.array(retrieval.ngram_precisions(answer.split(), reference.split())) * 100, told)
    assert retrieval.answer_scores("", ["x"])["F1"] == 0
    assert retrieval.answer_scores("a b", ["x y", "a b"])["ROUGE-L"] == 1


def test_rank_correlations_and_the_paper_s_tables() -> None:
    from reprobook import facts
    from scipy.stats import spearmanr

    x, y = [1, 2, 2, 4, 7], [2.0, 1.0, 5.0, 4.0, 9.0]
    assert printed.spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert printed.exact_p([1, 2, 3, 4], [1, 2, 3, 4]) == pytest.approx(2 / 24)
    with pytest.raises(ReprobookError):
        printed.exact_p(list(range(9)), list(range(9)))
    told = printed.correlations(facts.load("moc")).set_index(["measure", "scorer", "column"])
    bc = told.loc[("BC", "Qwen2.5-1.5B", "CRUD-1 BLEU-1")]
    assert bc["Spearman"] == pytest.approx(0.8) and bc["exact p"] == pytest.approx(8 / 24)
    assert told.loc[("BC", "Qwen2.5-1.5B", "CRUD-2 BLEU-1"), "Spearman"] == pytest.approx(-0.4)
    assert told.loc[("BC", "Qwen2.5-1.5B", "DuReader F1"), "Spearman"] == pytest.approx(1.0)
    assert told.loc[("CS complete", "Qwen2.5-1.5B", "CRUD-1 BLEU-1"), "Spearman"] == pytest.approx(-0.8)
    assert told.loc[("CP", "Qwen-1.5B", "CRUD-1 BLEU-1"), "Spearman"] == pytest.approx(-0.6)
    remarks = json.dumps(printed.remarks(facts.load("moc")).to_numpy().tolist())
    assert "+0.80" in remarks and "-0.40" in remarks and "0.083" in remarks

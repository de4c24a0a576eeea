"""The experiments that the notebook calls: what chunkings measure, what they find, and what the two have to do with
each other."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reprobook.errors import ReprobookError
from reprobook.nn.completion import complete
from reprobook.nn.lm import load_lm
from reprobook.papers.moc import boundaries, chunkers, corpora, metrics, recovery, retrieval
from reprobook.papers.moc.learning import Written
from reprobook.papers.moc.metrics import ALONE

if TYPE_CHECKING:
    from pathlib import Path

    from reprobook.data import ChapterData
    from reprobook.papers.moc.corpora import Cloze, Cuts, Document, Question
    from reprobook.papers.moc.learning import MetaChunkers
    from reprobook.papers.moc.metrics import Scorer
    from reprobook.papers.moc.retrieval import Encode

CORPORA = ("wikipedia", "joins", "manual en", "manual zh")
ENDS = ("true boundaries", "random")  # ceiling and floor
BESIDE = (*ENDS, "semantic, shuffled")  # of no method
LEAST, MOST = 20, 160  # words of a paragraph or section
ZH = 2  # Chinese characters that stand for an English word in all sizes, as the two editions of the manual have them
KEY = ["length", "chunker"]


def open_corpus(name: str, wiki: str | Path, manual: str | Path, n: int, size: int, seed: int) -> list[Document]:
    """``n`` documents of one of :data:`CORPORA`, of about ``size`` words; in Chinese twice as many characters. Seeds
    have documents of their own as long as there are any."""
    if name not in CORPORA:
        raise ReprobookError(f"corpus {name!r} must be one of {', '.join(CORPORA)}")
    if name.startswith("manual"):
        language = name.rpartition(" ")[2]
        scale = ZH if language == "zh" else 1
        runs = corpora.manual_runs(manual, language, scale * LEAST, scale * MOST)
        return corpora.chosen(corpora.documents(runs, scale * size, language), n, seed)
    runs = corpora.wikipedia_runs(wiki, LEAST, MOST)
    if name == "wikipedia":
        return corpora.chosen(corpora.documents(runs, size), n, seed)
    made = corpora.joins([each for run in runs for each in run], n, max(3, 2 * size // (LEAST + MOST)), seed)
    return [replace(each, id=f"{seed}/{each.id}", group=f"{seed}/{each.group}") for each in made]


# ------------------------------------------------------------------------------------------------ chunkings

Chunkings = dict[str, list["Cuts"]]  # chunker -> cuts of every document


def chunkings(
    documents: Sequence[Document], length: int, vectors: Encode, *, scorer: Scorer | None = None,
    written: Mapping[str, Sequence[Cuts]] | None = None, draws: int = 1, seed: int = 0,
) -> Chunkings:  # fmt: skip
    """All chunkers at a mean of ``length`` words (Chinese: characters), *perplexity* with a ``scorer``. ``random`` is
    drawn ``draws`` times. ``written``: cuts at their natural length by chunkers that are language models; they are
    merged and cut to the same number of chunks over all documents, each document in proportion to its own number."""
    n = [chunkers.n_chunks(each, length) for each in documents]
    ways: dict[str, Callable[[Document, int], Cuts]] = {
        "fixed": chunkers.fixed, "fixed, at sentences": chunkers.snapped, "halving": chunkers.halved,
        "packing": chunkers.packed, "lexical": chunkers.lexical,
        "semantic": lambda d, k: chunkers.semantic(d, k, vectors),
        "semantic, one sentence": lambda d, k: chunkers.semantic(d, k, vectors, 0),
    }  # fmt: skip
    if any(each.cuts for each in documents):
        ways["true boundaries"] = chunkers.gold
    for draw in range(draws):
        ways[f"random {draw}"] = functools.partial(chunkers.at_random, seed=draws * seed + draw)
    found = {name: [cut(d, k) for d, k in zip(documents, n, strict=True)] for name, cut in ways.items()}
    both = zip(documents, found["semantic"], strict=True)
    found["semantic, shuffled"] = [chunkers.shuffled(d, cuts, seed) for d, cuts in both]
    if scorer is not None:
        values = scorer.stretches([d.text for d in documents], [d.sentences[:-1].tolist() for d in documents])
        found["perplexity"] = [chunkers.by_perplexity(*each) for each in zip(documents, n, values, strict=True)]
    for name, cuts in (written or {}).items():
        own = np.array([len(each) + 1 for each in cuts])
        shares = np.maximum(1, np.round(own * sum(n) / own.sum())).astype(int).tolist()
        found[name] = [chunkers.resized(d, c, k) for d, c, k in zip(documents, cuts, shares, strict=True)]
    return found


def named(chunker: str) -> str:
    """The chunker whose draw this is."""
    return "random" if chunker.startswith("random ") else chunker


def lengths_table(documents: Sequence[Document], cuts: Chunkings) -> pd.DataFrame:
    """Achieved mean length (words; Chinese: characters), its spread over the chunks of a document as a share of it
    (``unevenness``), and agreement with the true boundaries."""
    rows = []
    for name, each in cuts.items():
        both = list(zip(each, documents, strict=True))
        rows.append({
            "chunker": named(name), "mean length": sum(d.size() for d in documents) / sum(len(c) + 1 for c in each),
            "unevenness": np.mean([unevenness(d, c) for c, d in both]),
            "boundary F1": np.mean([boundaries.boundary_f1(c, d.cuts) for c, d in both]),
            "Pk": np.mean([boundaries.pk(c, d.cuts, d.sentences) for c, d in both]),
            "WindowDiff": np.mean([boundaries.window_diff(c, d.cuts, d.sentences) for c, d in both]),
        })  # fmt: skip
    return pd.DataFrame(rows).groupby("chunker", sort=False).mean().reset_index()


def unevenness(document: Document, cuts: Cuts) -> float:
    """Standard deviation of the words of a document's chunks over their mean."""
    sizes = [document.size(*each) for each in corpora.spans(document.text, cuts)]
    return float(np.std(sizes) / np.mean(sizes))


def apart(cuts: Chunkings) -> float:
    """The largest deviation of a chunker's number of chunks from the median of all, as a share of it."""
    counts = np.array([sum(len(c) + 1 for c in each) for each in cuts.values()])
    middle = np.median(counts)
    return round(float((np.abs(counts - middle) / middle).max()), 6)


# ------------------------------------------------------------------------------------------------ measures


def clarity_frame(
    documents: Sequence[Document], cuts: Chunkings, scorers: Mapping[str, Scorer]
) -> pd.DataFrame:  # fmt: skip
    """One row a chunker and document: mean Boundary Clarity in both readings under each scorer, and minus the mean
    log ppl(q) alone, by which chunks are rated one by one. ``documents`` may be the first ones of ``cuts``; those of
    one chunk have none (NaN)."""
    names, rows = list(cuts), [dict[str, Any](document=d.id) for d in documents for _ in cuts]
    for label, scorer in scorers.items():
        told = scorer.neighbours([d.text for d in documents], [[cuts[c][k] for c in names]
                                                               for k in range(len(documents))])  # fmt: skip
        for row, (alone, given) in zip(rows, itertools.chain.from_iterable(told), strict=True):
            row |= {f"BC {r}, {label}": _mean(metrics.clarity(alone, given, r)) for r in ("nll", "ppl")}
            row[f"low NLL, {label}"] = -_mean(alone)
    return pd.DataFrame(rows).assign(chunker=names * len(documents))


def plain_frame(documents: Sequence[Document], cuts: Chunkings, vectors: Encode) -> pd.DataFrame:
    """What is measured without a language model: a row a chunker and document, ``dissimilarity`` of neighbours,
    ``evenness`` of lengths, the blind row, and ``boundary F1``, which knows the true boundaries."""
    rows = []
    for name, each in cuts.items():
        for document, c in zip(documents, each, strict=True):
            far = _mean(metrics.dissimilarity(vectors(corpora.pieces(document.text, c))))
            rows.append({"chunker": name, "document": document.id, "dissimilarity": far,
                         "evenness": -unevenness(document, c),
                         "boundary F1": boundaries.boundary_f1(c, document.cuts)})  # fmt: skip
    return pd.DataFrame(rows)


def measures_frame(
    documents: Sequence[Document], cuts: Chunkings, n: int, scorers: Mapping[str, Scorer], vectors: Encode
) -> pd.DataFrame:  # fmt: skip
    """:func:`clarity_frame` and :func:`plain_frame` side by side: all chunkers on the first ``n`` documents, the
    draws of *random*, which cost less to read, on the others as well."""
    parts: list[tuple[Sequence[Document], Chunkings]] = [(documents[:n], {name: c[:n] for name, c in cuts.items()})]
    if documents[n:]:
        parts.append((documents[n:], {name: c[n:] for name, c in cuts.items() if name.startswith("random ")}))
    on = ["chunker", "document"]
    found = [clarity_frame(d, c, scorers).merge(plain_frame(d, c, vectors), on=on) for d, c in parts]
    return pd.concat(found, ignore_index=True)


def averaged(frame: pd.DataFrame) -> pd.DataFrame:
    """Draws of one chunker become one: a row a length, chunker and document."""
    own = frame.assign(chunker=frame["chunker"].map(named))
    return own.groupby([*KEY, "document"], sort=False).mean(numeric_only=True).reset_index()


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


CONVENTIONS = {
    f"CS {graph}, {keep}": {"graph": graph, "keep": keep}
    for graph in ("complete", "sequential") for keep in ("unrelated", "related")
}  # fmt: skip


def stickiness_frame(
    documents: Sequence[Document], cuts: Chunkings, scorer: Scorer, k: float = 0.8,
    graphs: Sequence[str] = ("complete", "sequential"),
) -> pd.DataFrame:  # fmt: skip
    """One row a chunker, document and convention: Chunk Stickiness, mean degree, share of isolated chunks.
    ``documents`` may be the first ones of ``cuts``; without the complete graph only half of the pairs are read."""
    rows, most = [], "complete" if "complete" in graphs else "sequential"
    for name, each in cuts.items():
        for document, c in zip(documents, each, strict=False):  # the first documents alone, if so few are given
            edges = metrics.edge_weights(scorer, corpora.pieces(document.text, c), graph=most)  # type: ignore[arg-type]
            rows += [
                {"chunker": named(name), "document": document.id, "convention": convention,
                 **metrics.stickiness(edges, k=k, **options)}
                for convention, options in CONVENTIONS.items() if options["graph"] in graphs
            ]  # fmt: skip
    return pd.DataFrame(rows)


def quality_frame(
    made: Sequence[Cloze], cuts: Chunkings, vectors: Encode, budgets: Sequence[int]
) -> pd.DataFrame:  # fmt: skip
    """One row a chunker and question: recall of the evidence by MiniLM, by BM25, each the mean over ``budgets`` of
    words, the mean of both (``recall``), and by a search that knows the evidence (``perfect``). ``cuts`` are those of
    the whole documents; the index holds what is left of their chunks without the sentences that ask."""
    left = {name: [one.moved(c) for one, c in zip(made, each, strict=True)] for name, each in cuts.items()}
    questions = [question for one in made for question in one.questions]
    found = retrieval.quality([one.document for one in made], left, questions, vectors, budgets)
    parts = [pd.DataFrame({"chunker": name, "document": [q.document for q in questions],
                           **{way: by[name] for way, by in found.items()}}) for name in cuts]  # fmt: skip
    whole = pd.concat(parts, ignore_index=True)
    return whole.assign(recall=whole[["MiniLM", "BM25"]].mean(axis=1))


# ------------------------------------------------------------------------------------------------ effects


def jackknife(theta: Callable[[np.ndarray], float], n: int) -> np.ndarray:
    """(n,) numbers whose mean is ``theta`` of all n units and whose spread over √n is its jackknife error: theta plus
    (n − 1) times what leaving unit i out takes from the mean of the delete-one values. So a statistic that is no mean
    over units can be recorded as one."""
    if n < 2:
        raise ReprobookError(f"leaving one of {n} units out leaves nothing")
    rows = np.arange(n)
    left = np.array([theta(rows[rows != i]) for i in rows])
    return theta(rows) + (n - 1) * (left.mean() - left)


Statistic = Callable[[np.ndarray, np.ndarray], float]  # of two measures of the same chunkers


def gain(x: np.ndarray, y: np.ndarray) -> float:
    r"""What a chunker gains in y for each standard deviation by which x puts it above the others,
    :math:`\frac1K\sum_c z_c\,y_c` with z the standardised x of the K chunkers: the numerator of a correlation. A
    chunker that is nearly as good as the next one counts little, where a rank would make a whole step of it. At most
    the standard deviation of y; 0 where x tells none apart."""
    spread = float(x.std())
    return float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 1e-12 else 0.0


def over_chunkers(
    measures: pd.DataFrame, quality: pd.DataFrame, measure: str, outcome: str, leave_out: Sequence[str] = (),
    statistic: Statistic = gain,
) -> pd.Series:  # fmt: skip
    """A ``statistic`` over chunkers of a measure and of retrieval quality, within one length and then averaged, as
    :func:`jackknife` numbers by document. Means of both are over documents first; the two may have other documents, of
    which each is left out of both.

    ``measures``: columns :data:`KEY`, document and the measure; ``quality``: the same with ``outcome``, a row a
    question. NaN where a rank correlation has no two chunkers that differ."""
    x, y = (
        frame[~frame["chunker"].isin(leave_out)].groupby([*KEY, "document"])[column].mean().unstack("document")
        for frame, column in ((measures, measure), (quality, outcome))
    )
    columns = sorted({*x.columns, *y.columns})
    a, b = x.reindex(columns=columns).to_numpy(), y.reindex(x.index, columns=columns).to_numpy()
    lengths = x.index.get_level_values(0)
    parts = [np.flatnonzero(lengths == each) for each in lengths.unique()]

    def theta(rows: np.ndarray) -> float:
        return float(np.mean([statistic(np.nanmean(a[p][:, rows], 1), np.nanmean(b[p][:, rows], 1)) for p in parts]))

    return pd.Series(jackknife(theta, len(columns)), index=columns)


def within_documents(
    measures: pd.DataFrame, quality: pd.DataFrame, measure: str, outcome: str, beyond: Sequence[str] = ()
) -> pd.Series:  # fmt: skip
    """By document, the :func:`gain` over the draws of *random*, which cut it in different places into chunks of the
    same lengths: what a measure knows that lengths do not. Means over lengths of chunks. Frames as in
    :func:`over_chunkers`, a row a draw; documents that both have.

    ``beyond``: what these measures explain, by least squares within the document, is taken out of both first."""
    columns = {"x": _draws(measures, measure), "y": _draws(quality, outcome),
               **{name: _draws(measures, name) for name in beyond}}  # fmt: skip
    found = {}
    for key, part in pd.concat(columns, axis=1, join="inner").dropna().groupby(["document", "length"], sort=False):
        known = np.column_stack([np.ones(len(part)), part[list(beyond)].to_numpy()])
        pair = part[["x", "y"]].to_numpy()
        left = pair - known @ np.linalg.lstsq(known, pair)[0]
        found[key] = gain(left[:, 0], left[:, 1])
    return pd.Series(found).groupby(level=0, sort=False).mean()


def quarters(
    measures: pd.DataFrame, quality: pd.DataFrame, measure: str, outcome: str, n: int = 4
) -> pd.DataFrame:  # fmt: skip
    """What :func:`within_documents` sums up, to look at: the draws of a document in ``n`` parts by the measure, from
    lowest to highest; ``outcome`` minus its mean over the document's draws, the mean over documents."""
    x, y = _draws(measures, measure), _draws(quality, outcome)
    both = pd.concat([x.rename("x"), y.rename("y")], axis=1, join="inner")
    by = both.groupby(["document", "length"])
    place = np.ceil(by["x"].rank(method="first", pct=True) * n).clip(1, n).astype(int)
    found = (both["y"] - by["y"].transform("mean")).groupby(place.rename("quarter")).mean()
    return found.rename(f"{outcome} over the mean").reset_index()


def _draws(frame: pd.DataFrame, column: str) -> pd.Series:
    own = frame[frame["chunker"].str.startswith("random ")]
    return own.groupby(["document", *KEY], sort=False)[column].mean()


def without_each(
    measures: pd.DataFrame, quality: pd.DataFrame, names: Sequence[str], outcome: str, leave_out: Sequence[str] = ()
) -> pd.DataFrame:
    """The :func:`gain` by each of the measures ``names`` with one more chunker left out, a row for each: what hangs on
    one chunker is no ranking."""
    rows = []
    for each in measures["chunker"].unique():
        if each not in leave_out:
            rest = [*leave_out, each]
            rows.append({"left out": each, **{
                name: over_chunkers(measures, quality, name, outcome, rest).mean() for name in names}})  # fmt: skip
    return pd.DataFrame(rows)


def paired(frame: pd.DataFrame, value: str, a: str, b: str) -> pd.DataFrame:
    """Columns ``a`` and ``b``, a row a document (its index): means of two chunkers over lengths and questions."""
    means = frame[frame["chunker"].isin([a, b])].groupby(["document", "chunker"])[value].mean().unstack("chunker")
    return means[[a, b]].dropna().set_axis(["a", "b"], axis=1)


def beyond_half(frame: pd.DataFrame, value: str) -> pd.Series:
    """By document, what semantic chunking is above fixed length, less half of what packing is above it: below 0 where
    it is hardly above."""
    pair, rival = paired(frame, value, "semantic", "fixed"), paired(frame, value, "packing", "fixed")
    return (pair["a"] - pair["b"]) - (rival["a"] - rival["b"]) / 2


# ------------------------------------------------------------------------------------------------ true and false


def boundary_pairs(documents: Sequence[Document], words: int, n: int, seed: int) -> pd.DataFrame:
    """Up to ``n`` true and ``n`` false boundaries with about ``words`` words of whole sentences on both sides: columns
    document, true, before, after. Neither side reaches over another true boundary, and lengths of both kinds are drawn
    alike: each false boundary is the one of its document whose sides are most like those of a true one."""
    rng = np.random.default_rng([seed, n])
    options = [(d, each) for d in documents for each in _sides(d, words)]
    true = [each for each in options if each[1]["true"]]
    false = [each for each in options if not each[1]["true"]]
    rows = []
    for k in rng.permutation(len(true))[:n].tolist():
        document, found = true[k]
        rivals = [each for each in false if each[0].id == document.id]
        if not rivals:
            continue
        best = min(rivals, key=lambda each: abs(each[1]["size"] - found["size"]))
        false.remove(best)
        rows += [{"document": d.id, **each} for d, each in (true[k], best)]
    if not rows:
        raise ReprobookError(f"no boundary has {words / 2:g} words on both sides: take longer documents or fewer words")
    return pd.DataFrame(rows)


def _sides(document: Document, words: int) -> Iterator[dict[str, Any]]:
    starts, bounds = document.sentences, np.array([0, *document.cuts, len(document.text)])
    for cut in starts[1:-1].tolist():
        low, high = bounds[bounds < cut].max(), bounds[bounds > cut].min()
        before, after = starts[(starts >= low) & (starts < cut)], starts[(starts > cut) & (starts <= high)]
        begin = before[np.abs([document.size(int(b), cut) - words for b in before]).argmin()]
        end = after[np.abs([document.size(cut, int(a)) - words for a in after]).argmin()]
        sizes = document.size(int(begin), cut), document.size(cut, int(end))
        if min(sizes) >= words / 2:
            yield {"true": cut in document.cuts, "before": document.text[begin:cut], "after": document.text[cut:end],
                   "size": sum(sizes)}  # fmt: skip


def separation(pairs: pd.DataFrame, scorers: Mapping[str, Scorer], vectors: Encode) -> dict[str, pd.Series]:
    """Score -> :func:`jackknife` numbers, by document, of the AUC by which it tells true from false boundaries:
    Boundary Clarity in both readings, and three rows to beat: dissimilarity, ppl(q) alone, and length."""
    both = list(zip(pairs["before"], pairs["after"], strict=True))
    a, b = (vectors(list(pairs[side])) for side in ("before", "after"))
    scores = {"dissimilarity": 1 - (a * b).sum(-1).numpy(), "length": -pairs["size"].to_numpy(float)}
    for name, scorer in scorers.items():
        alone, given = scorer.nll([(ALONE, q) for _, q in both]), scorer.nll(both)
        scores |= {f"BC {r}, {name}": metrics.clarity(alone, given, r) for r in ("nll", "ppl")}
        scores[f"alone, {name}"] = alone
    names, true = pairs["document"].unique(), pairs["true"].to_numpy(bool)
    member = pairs["document"].to_numpy()

    def auc(score: np.ndarray) -> Callable[[np.ndarray], float]:
        def theta(rows: np.ndarray) -> float:
            inside = np.isin(member, names[rows])
            return boundaries.auc(score[inside & true], score[inside & ~true])

        return theta

    return {name: pd.Series(jackknife(auc(score), len(names)), index=names) for name, score in scores.items()}


# ------------------------------------------------------------------------------------------------ answers


def reading_prompts(
    questions: Sequence[Question], found: Sequence[Sequence[str]], tokenizer: Any, template: str
) -> list[str]:
    """Chat prompts with the found chunks and what is asked; none found: without passages."""
    texts = []
    for question, chunks in zip(questions, found, strict=True):
        told = template.format(passages="\n".join(f"- {c.strip()}" for c in chunks) or "-", question=question.text)
        turns = [{"role": "user", "content": told}]
        texts.append(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return texts


def answers_frame(
    documents: Sequence[Document], cuts: Chunkings, questions: Sequence[Question], vectors: Encode, k: int,
    reader: tuple[Any, Any], scorers: Mapping[str, tuple[Scorer, Any]], *, max_new_tokens: int,
    template: str, words: Callable[[str], list[str]], **sampling: Any,
) -> pd.DataFrame:  # fmt: skip
    """One row a chunker (and *no passages*) and question: the paper's measures of the reader's answer, and information
    support (CP) under each scorer (with its tokenizer). Lines of a question's answer are answers that are all right;
    the first is the one whose likelihood counts. ``words`` cuts answers into words."""
    queries = vectors([q.text for q in questions])
    held: dict[str, list[list[str]]] = {"no passages": [[] for _ in questions]}
    for name, each in cuts.items():
        texts = [chunk.text for chunk in retrieval.chunks_of(documents, each)]
        best = retrieval.ranked_dense(queries, vectors(texts))[:, :k]
        held[name] = [[texts[i] for i in row] for row in best]
    rows = []
    for name, found in held.items():
        prompts = reading_prompts(questions, found, reader[1], template)
        told = complete(*reader, prompts, max_new_tokens=max_new_tokens, stop_strings=["\n"], **sampling)
        support = {
            f"CP, {label}": metrics.information_support(
                scorer,
                reading_prompts(questions, found, tokenizer, template),
                [q.answer.split("\n")[0] for q in questions],
            )
            for label, (scorer, tokenizer) in scorers.items()
        }
        for i, (question, answer) in enumerate(zip(questions, told, strict=True)):
            scores = retrieval.answer_scores(answer, question.answer.split("\n"), words)
            told_of = {label: float(values[i]) for label, values in support.items()}
            rows.append({"chunker": name, "document": question.document, "question": question.text, **scores,
                         **told_of, "answer": answer})  # fmt: skip
    return pd.DataFrame(rows)


def concordance(frame: pd.DataFrame, support: str, outcome: str) -> pd.Series:
    """By question: of all pairs of chunkers whose answers differ in ``outcome``, the share in which the lower CP has
    the better answer, minus the share in which it has the worse; 0 where all answers are alike."""
    found = {}
    for (question, document), part in frame.groupby(["question", "document"]):
        pairs = itertools.combinations(part[[support, outcome]].to_numpy(), 2)
        signs = [np.sign(b[0] - a[0]) * np.sign(a[1] - b[1]) for a, b in pairs if a[1] != b[1]]
        found[question, document] = float(np.mean(signs)) if signs else 0.0
    return pd.Series(found, dtype=float)


# ------------------------------------------------------------------------------------------------ writing chunkers


def gate(written: Written, texts: Sequence[Document]) -> dict[str, np.ndarray]:
    """What must be true before a chunker that writes is judged, by text: its reply is a list (``valid``), its anchors
    stand in the text (``copied``; 0 without a list), and ``boundary F1``."""
    f1 = [boundaries.boundary_f1(cuts, d.cuts) for cuts, d in zip(written.cuts, texts, strict=True)]
    return {"valid": written.valid, "copied": np.nan_to_num(written.copied), "boundary F1": np.array(f1)}


def tokens_written(
    texts: Sequence[Document], cuts: Sequence[Cuts], tokenizer: Any, markers: Sequence[str]
) -> pd.DataFrame:  # fmt: skip
    """One row a marker and text: tokens of its chunks as anchors, and of the chunks written out."""
    rows = []
    for each, c in zip(texts, cuts, strict=True):
        chunks = corpora.pieces(each.text, c)
        whole = len(tokenizer(recovery.as_json([c.strip() for c in chunks]), add_special_tokens=False).input_ids)
        for marker in markers:
            told = recovery.as_json(recovery.rendered(chunks, marker, language=each.language))
            size = len(tokenizer(told, add_special_tokens=False).input_ids)
            rows.append({"marker": marker, "document": each.id, "chunks": len(chunks), "words": each.size(),
                         "anchors": size, "whole text": whole})  # fmt: skip
    return pd.DataFrame(rows)


def noise_frame(texts: Sequence[Document], marker: str, rates: Sequence[float], seed: int) -> pd.DataFrame:
    """What the paper's recovery and the robust one make of anchors with errors: a row a rate, way and text. Which
    marker it is makes no difference: it is replaced before anything is looked for."""
    rows = []
    for rate, (k, each) in itertools.product(rates, enumerate(texts)):
        chunks = corpora.pieces(each.text, each.cuts)
        elements = recovery.rendered(chunks, marker, language=each.language)
        told = recovery.garbled(elements, marker, rate, np.random.default_rng([seed, k, int(1000 * rate)]))
        ways: dict[str, Sequence[str | None]] = {
            "paper": recovery.recover_paper(each.text, told, marker),
            "robust": corpora.pieces(each.text, recovery.recovered(each.text, told, marker)),
        }
        rows += [
            {"error rate": rate, "recovery": way, "document": each.id,
             **recovery.judged(each.text, chunks, found)._asdict()}
            for way, found in ways.items()
        ]  # fmt: skip
    return pd.DataFrame(rows)


def split_lessons(
    texts: Sequence[Document], n_test: int, seed: int, without: Sequence[str] = ()
) -> tuple[list[Document], list[Document]]:
    """Training and ``n_test`` held-out texts; no article is in both, and none of ``without`` in either."""
    rng = np.random.default_rng([seed, 17])
    groups = sorted({each.group for each in texts} - set(without))
    held = set(rng.permutation(groups)[: max(1, len(groups) // 5)].tolist())
    train = [each for each in texts if each.group in groups and each.group not in held]
    test = [each for each in texts if each.group in held]
    if not train or len(test) < n_test:
        raise ReprobookError(
            f"{len(train)} texts to train on and {len(test)} to test on; {n_test} are wanted: take more"
        )
    return train, [test[k] for k in rng.permutation(len(test))[:n_test]]


SMALL = "smollm2-135m-instruct"  # always there
LABELS = {SMALL: "smollm2", "qwen2.5-coder-0.5b-instruct": "qwen"}


def open_models(data: ChapterData, names: Sequence[str], device: Any) -> dict[str, tuple[Any, Any]]:
    """Label -> model and tokenizer of the named language models that can be had; a missing optional one is said."""
    found = {}
    for name in dict.fromkeys(names):
        if name not in LABELS:
            raise ReprobookError(f"model {name!r} must be one of {', '.join(LABELS)}")
        path = data.path(name) if name == SMALL else data.path_or_none(name)
        if path is None:
            print(f"{name} is not to be had here: its rows are missing")
        else:
            found[LABELS[name]] = load_lm(path, device=device)
    return found


def learned_table(made: MetaChunkers, texts: Sequence[Document]) -> tuple[pd.DataFrame, dict[str, Written]]:
    """What the single chunker, and the mixture if there is one, make of held-out texts; packing and random cuts beside
    them, with as many chunks of each text as the single chunker wrote. A row each; and what both wrote."""
    told = [each.text for each in texts]
    written = {"single": made.write(told, "single")}
    if made.tuning.mixture:
        classes = made.route(told)
        parts = {k: np.flatnonzero(classes == k) for k in sorted(set(classes.tolist()))}
        by_expert = {k: made.write([told[row] for row in rows], f"expert {k}") for k, rows in parts.items()}
        order = np.argsort(np.concatenate(list(parts.values())))
        written["mixture"] = Written(*(_joined([each[f] for each in by_expert.values()], order) for f in range(5)))
    rows: list[dict[str, Any]] = [
        {"chunker": name, **{k: v.mean() for k, v in gate(each, texts).items()}, "tokens": each.tokens.mean()}
        for name, each in written.items()
    ]
    rows += [{"chunker": name, "boundary F1": f1.mean()} for name, f1 in rivals(written["single"], texts).items()]
    return pd.DataFrame(rows), written


def rivals(written: Written, texts: Sequence[Document], seed: int = 0) -> dict[str, np.ndarray]:
    """Boundary F1 of packing and of random cuts with as many chunks of each text as were written: (n,) each."""
    ways: dict[str, Callable[[Document, int], Cuts]] = {
        "packing": chunkers.packed,
        "random": functools.partial(chunkers.at_random, seed=seed),
    }
    return {
        name: np.array([boundaries.boundary_f1(cut(d, len(c) + 1), d.cuts)
                        for d, c in zip(texts, written.cuts, strict=True)])
        for name, cut in ways.items()
    }  # fmt: skip


def _joined(parts: Sequence[Any], order: np.ndarray) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)[order]
    flat = [each for part in parts for each in part]
    return [flat[k] for k in order]

"""Planted questions, readers with and without a network, what is compared, and the real data's formats."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers.more_documents import (
    bench,
    lm_reader,
    miniatures,
    network,
    pictures,
    planted,
    readers,
    released,
    scoring,
    sets,
    study,
)

WORDS = ["the", "of", "in", "a", "was", "and", "to", "by", "at", "for"]
COUNTS = (1, 2, 4, 6)


def _sentence(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, size=rng.integers(4, 8))).capitalize() + "."


@pytest.fixture(scope="module")
def articles() -> list[planted.Article]:
    rng = np.random.default_rng(1)
    text = {f"t{k}": " ".join(_sentence(rng) for _ in range(120)) for k in range(9)}
    return planted.articles(text, planted.word_spans, least=300, most=600)


@pytest.fixture(scope="module", params=[1, 2])
def questions(articles: list[planted.Article], request: pytest.FixtureRequest) -> list[planted.Question]:
    return planted.make_questions(articles, planted.word_spans, n_questions=24, n_documents=6, name_words=request.param,
                                  seed=3)  # fmt: skip


# ------------------------------------------------------------------------------------------------- planted questions


def stated(built: sets.BuiltSet) -> list[tuple[str, str, str]]:
    return [fact for text in built.texts for fact in readers.facts_in(text)]


def test_one_knob_moves_one_thing(questions: list[planted.Question]) -> None:
    """Facts, their order, tokens and the answer's place are the same for every number of documents; only relations
    change with the number of look-alikes, and always to ones that nobody asks for."""
    for q in questions:
        full = {m: planted.cell(q, 6, m) for m in range(6)}
        for m, all_of in full.items():
            asked = [fact for fact in stated(all_of) if fact[0] == q.relation]
            assert len(stated(all_of)) == 6 and len(asked) == m + 1
            assert [v for _, _, v in stated(all_of)] == q.choices
            assert [len(t) for t in map(planted.word_spans, all_of.texts)] == q.instance(m).lengths.tolist()
        assert full[0].total == full[5].total
        for count in (1, 2, 4):
            built = planted.cell(q, count, 5)
            assert len(built) == count and stated(built) == stated(full[5])
            words = [planted.word_spans(text) for text in built.texts]
            assert [len(each) for each in words] == (
                built.before + built.after + q.instance(5).lengths[built.kept]
            ).tolist()
            assert full[5].total - built.total <= count - 1  # a token for each odd gap
            document = q.instance(5).documents[q.asked]
            assert sum(text.count(document.text) for text in built.texts) == 1


def test_look_alikes_are_nested_and_kept_with_their_documents(questions: list[planted.Question]) -> None:
    q = questions[0]
    for m in range(5):
        few, more = ({k for k, s in enumerate(q.sentences(n)) if q.relation in s} for n in (m, m + 1))
        assert q.asked in few and few < more and len(few) == m + 1
        assert few == set(sets.retained(q.plain, m + 1).tolist())


def test_weaving_by_hand() -> None:
    """A fact of seven tokens takes the place of seven of twelve, at the sentence border nearest to token 3."""
    text = "One two three. Four five six. Seven eight nine."
    facts = [(3, "The a of B is C."), (40, "The d of E is F.")]
    with pytest.raises(sets.TooShortError, match="14 tokens of facts do not fit into an extension of 12"):
        planted.weave(text, facts, planted.word_spans, keep_end=False)
    left, right = (planted.weave(text, facts[:1], planted.word_spans, keep_end=end) for end in (False, True))
    assert left == "One two three. The a of B is C. Four"
    assert right == ". The a of B is C. Seven eight nine."
    assert planted.weave(text, [], planted.word_spans, keep_end=True) == text
    both = planted.weave(f"{text} {text}", [(9, facts[0][1]), (1, facts[1][1])], planted.word_spans, keep_end=False)
    assert both == "The d of E is F. The a of B is C. One two three. Four five six. Seven eight"
    cut, joint = (planted.weave(text, [(at, facts[0][1])], planted.word_spans, keep_end=at == 0) for at in (12, 0))
    assert cut == left and joint == right  # no fact behind a sentence that is cut, or before one


def test_alone_has_all_facts_and_one_paragraph(questions: list[planted.Question]) -> None:
    for q in questions[:6]:
        built = planted.alone(q, 5)
        assert stated(built) == stated(planted.cell(q, 6, 5)) and len(built) == 1
        assert q.instance(5).documents[q.asked].text in built.texts[0]
        assert built.total == len(planted.word_spans(built.texts[0])) < planted.cell(q, 1, 5).total


def test_persons_of_hard_questions_share_their_names(articles: list[planted.Article]) -> None:
    for q in planted.make_questions(articles, planted.word_spans, n_questions=9, n_documents=8, name_words=2):
        people = [fact.entity for fact in q.facts]
        assert len(set(people)) == 8 and len({p.split()[0] for p in people}) <= 3 >= len({p.split()[1] for p in people})
        assert len(set(q.choices)) == 8 and not set(q.choices) & {p.split()[1] for p in people}


def test_questions_are_refused_before_anything_is_read(articles: list[planted.Article]) -> None:
    make = planted.make_questions
    for wrong in ({"n_documents": 1}, {"n_documents": 99}, {"name_words": 3}, {"widths": (8, 20)}):
        with pytest.raises(ReprobookError, match=f"{next(iter(wrong))} "):
            make(articles, planted.word_spans, **{"n_questions": 1, "n_documents": 4, "name_words": 1, **wrong})
    with pytest.raises(ReprobookError, match="no text has the 400 tokens"):
        planted.articles({"t": "Too short."}, planted.word_spans, least=400)
    for counts in ([2, 1], [1], [1, 1, 2], [0, 2]):
        with pytest.raises(ReprobookError, match="counts must rise"):
            study.lines(counts)


# ------------------------------------------------------------------------------------------------- known readers


def test_readers_whose_score_is_known(questions: list[planted.Question]) -> None:
    for q in questions:
        for c, m in ((1, 5), (2, 0), (4, 3), (6, 5)):
            built = planted.cell(q, c, m)
            assert readers.oracle(q, built) == q.plain.answer
            assert readers.first_fact(q, built) == q.choices[0]
            kind = [v for r, _, v in stated(built) if r == q.relation]
            assert readers.first_of_kind(q, built) == kind[0] and len(kind) == m + 1
            assert readers.nearest_fact(q, built) == q.plain.answer or m
        assert readers.nearest_document(q, planted.cell(q, 1, 5)) == q.choices[0]
        assert readers.least_crowded(q, planted.cell(q, 6, 5)) == q.choices[0]  # a fact in each: the first document
    assert readers.majority(questions) in {q.plain.answer for q in questions}
    fact = "The {} of Anna is {}."
    texts = (
        f"{fact.format('a', 'Bo')} x {fact.format('c', 'Do')}",
        "no fact",
        f"{'far ' * 20}{fact.format('e', 'Fo')}",
    )
    made = sets.BuiltSet(*(np.zeros(3, dtype=np.int64),) * 4, texts, 0)
    assert readers.least_crowded(questions[0], made) == readers.most_isolated(questions[0], made) == "Fo"


def test_position_reader_notices_what_moves(questions: list[planted.Question]) -> None:
    for switches, low, high in (({}, 1.0, 1.0), ({"extension": "equal"}, 0.0, 0.8), ({"order": "slots"}, 0.0, 0.8)):
        built = [sets.build_set(q.instance(0), 3, **switches) for q in questions]
        hits = [readers.position_only(q, b, planted.word_spans) == q.plain.answer
                for q, b in zip(questions, built, strict=True)]  # fmt: skip
        assert low <= np.mean(hits) <= high


# ------------------------------------------------------------------------------------------------- trained reader


@pytest.fixture(scope="module")
def words(articles: list[planted.Article]) -> network.Words:
    return network.Words([each.page.text for each in articles], 50)


def test_rows_hold_question_documents_and_answer(questions: list[planted.Question], words: network.Words) -> None:
    x, y = network.rows(words, questions, [planted.cell(q, 2, 5) for q in questions])
    for k, q in enumerate(questions):
        ids = x[k].tolist()
        assert ids[0] == network.SPECIAL.index("[ask]") and ids.count(network.SPECIAL.index("[doc]")) == 2
        assert [words.word(i) for i in x[k][y[k]].tolist()] == [q.plain.answer]


def test_reader_ignores_padding_and_its_seed_is_its_own(
    questions: list[planted.Question], words: network.Words
) -> None:
    before = torch.random.get_rng_state()
    model, same, other = (network.Reader(words.n_words, len(words.names), 16, 2, 2, seed=s).eval() for s in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    narrow, _ = network.rows(words, questions, [planted.cell(q, 2, 5) for q in questions])
    n, wide = narrow.shape[1], torch.nn.functional.pad(narrow, (0, 40))
    with torch.no_grad():
        a, b = model(narrow), model(wide)
        assert torch.equal(a, same(narrow)) and not torch.equal(a, other(narrow))
    assert torch.allclose(a, b[:, :n], atol=1e-5) and torch.isinf(b[:, n:]).all() and torch.isinf(a[:, :8]).all()
    assert "names" not in dict(model.named_parameters()) and model.names.shape == (len(words.names), 16)
    with pytest.raises(ReprobookError, match="multiple of n_heads"):
        network.Reader(10, 10, dim=18, n_heads=4)


def test_pointer_loss_by_hand() -> None:
    scores = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    y = torch.tensor([[True, True, False], [False, False, True]])
    assert network.pointer_loss(scores, y).item() == pytest.approx(-(np.log(0.75) + np.log(0.7)) / 2)


def test_renaming_keeps_the_question_answerable(questions: list[planted.Question], words: network.Words) -> None:
    x, _ = network.rows(words, questions, [planted.cell(q, 2, 5) for q in questions])
    renamed = network.renamed(x, words, torch.Generator().manual_seed(0))
    name = x >= words.n_words
    assert (renamed[~name] == x[~name]).all() and (renamed[name] != x[name]).float().mean() > 0.8
    given = words.n_words + len(planted.GIVEN)
    for before, after in zip(x, renamed, strict=True):  # the same name gets the same new name, within its kind
        pairs = {(int(a), int(b)) for a, b in zip(before, after, strict=True) if a >= words.n_words}
        assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
        assert all((a < given) == (b < given) for a, b in pairs)


def test_batches_and_evaluation_of_the_reader(articles: list[planted.Article], words: network.Words) -> None:
    x, y = network.training_rows(words, articles, COUNTS, 10, 1, 0)
    again, _ = network.training_rows(words, articles, COUNTS, 10, 1, 0)
    assert torch.equal(x, again) and y.any(-1).all()
    batch = network.batches(words, x, y, 4, seed=0)
    assert torch.equal(batch(3)[0], batch(3)[0]) and not torch.equal(batch(3)[0], batch(4)[0])
    made = study.open_study(articles, words.spans, COUNTS, n_questions=4, name_words=1, seed=0)
    found = network.while_learning(words, made)(network.Reader(words.n_words, len(words.names), 16, 1, 2), 0)
    assert len(found) == 4 and all(0 <= value <= 1 for value in found.values())


# ------------------------------------------------------------------------------------------------- language models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    from reprobook.rehearsal.models import write_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("lm")
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"model_type": "llama", **sizes, "num_key_value_heads": 2, "vocab_size": 512,
              "max_position_embeddings": 4096}  # fmt: skip
    tokenizer = {"kind": "bpe", "vocab_size": 512, "chat_template": template}
    write_model({"architecture": "LlamaForCausalLM", "config": config, "tokenizer": tokenizer}, folder)
    reader = AutoTokenizer.from_pretrained(folder)
    # choices and relations are one token each, blank included, as in the real vocabularies
    reader.add_tokens([f" {name}" for name in (*planted.FAMILY, *planted.RELATIONS)])
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    model.resize_token_embeddings(len(reader), mean_resizing=False)
    return model, reader


def test_expected_accuracy_equals_one_pass_for_each_choice(tiny: tuple, questions: list[planted.Question]) -> None:
    """The oracle: log-likelihood of every choice behind the prompt, a plain pass each."""
    from reprobook.nn.lm import token_logprobs

    model, tokenizer = tiny
    asked = questions[:3]
    built = [planted.cell(asked[0], 2, 5), None, planted.cell(asked[2], 6, 0)]
    found = lm_reader.read(model, tokenizer, asked, built, temperature=0.5, batch_size=2)
    for q, b, row in zip(asked, built, found, strict=True):
        prompt = tokenizer(lm_reader.prompt_text(tokenizer, q, b), add_special_tokens=False).input_ids
        choices = [tokenizer(f" {c}", add_special_tokens=False).input_ids for c in q.choices]
        log_p = np.array([token_logprobs(model, tokenizer, [prompt + c])[0][-1].item() for c in choices])
        weight = np.exp(log_p / 0.5)
        assert row["p"] == pytest.approx(weight[q.asked] / weight.sum(), abs=1e-4) and row["tokens"] == len(prompt)
        assert row["choice"] == q.choices[int(log_p.argmax())]
        assert row["right"] == (row["choice"] == q.plain.answer) and 0 <= row["f1"] <= 1
        assert row["mass"] == pytest.approx(np.exp(log_p).sum(), abs=1e-4)
        text = lm_reader.prompt_text(tokenizer, q, b)
        stands = [s for s in q.sentences(0) if f"is {q.plain.answer}." in s and s in text]
        assert bool(stands) == (b is not None)
        front = len(tokenizer(text.partition(stands[0])[0], add_special_tokens=False).input_ids) if stands else -1
        assert row["at"] == front
    bare = type(tokenizer).from_pretrained(tokenizer.name_or_path)
    with pytest.raises(ReprobookError, match="more than one token"):
        lm_reader.read(model, bare, asked[:1], built[:1])


def test_asking_goes_on_to_tables_and_effects(tiny: tuple, articles: list[planted.Article], tmp_path: Path) -> None:
    model, tokenizer = tiny
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "lm")
    data = SimpleNamespace(path=lambda name: tmp_path / "lm")
    texts = {article.title: article.page.text for article in articles}
    found = study.ask(data, study.SMALL, (1, 2, 4), 4, 2, texts, name_words=1, temperature=0.8, seed=0,
                      store=tmp_path / "r.jsonl", device="cpu")  # fmt: skip
    table = study.line_table(found.made, found.frame).set_index(["line", "documents", "look-alikes"])
    assert table.loc[("count only", 1, 3), "questions"] == table.loc[("both", 4, 3), "questions"] == 4
    assert table.loc[("count only", 2, 3), "questions"] == table.loc[("no look-alikes", 1, 0), "questions"] == 2
    assert study.place_table(found.frame, (1, 2, 4))["place"].tolist() == [1, 2, 3, 4]  # places take turns
    told = study.levels(found.frame, found.blind, (1, 2, 4))
    assert told["unequal tokens"].max() < 0.02 and told["shift of the evidence"].between(0, 0.1).all()
    pairs = study.comparisons(found.frame, (1, 2, 4))
    assert {name: len(pair) for name, pair in pairs.items()} == {
        "count only": 4, "facts only": 2, "both": 2, "no look-alikes": 2, "alone minus extended": 2,
    }  # fmt: skip


def test_prompts_are_equally_long_headers_included(tiny: tuple, articles: list[planted.Article]) -> None:
    _, tokenizer = tiny
    spans = planted.TokenizerSpans(tokenizer)
    counted = [planted.Article(a.title, sets.page(a.page.text, spans), a.borders) for a in articles]
    counted = planted.articles({a.title: a.page.text for a in counted}, spans)
    made = study.open_study(counted, spans, COUNTS, n_questions=4, name_words=1, seed=0, tokenizer=tokenizer)
    tokens = pd.DataFrame({
        condition: [lm_reader.prompt_tokens(tokenizer, q, b) for q, b in zip(made.questions, built, strict=True)]
        for condition, built in made.sets.items() if condition.kind == "set"
    })  # fmt: skip
    assert ((tokens.max(axis=1) - tokens.min(axis=1)) / tokens.max(axis=1)).max() < 0.01


def test_prompts_hold_what_they_should(tiny: tuple, questions: list[planted.Question]) -> None:
    q = questions[0]
    built = planted.cell(q, 4, 5)
    text = lm_reader.messages(q.plain, built)[0]["content"]
    assert "4 documents" in text and "is_answerable" in text and text.endswith(f"Question: {q.plain.question}")
    assert all(f"Document {j}: {t}" in text for j, t in enumerate(built.texts, 1))
    assert "ocument" not in lm_reader.prompt_text(tiny[1], q, None)
    shown = lm_reader.messages(q.plain, built, [(questions[1].plain, built), (questions[2].plain, built)])
    assert [turn["role"] for turn in shown] == ["user", "assistant", "user", "assistant", "user"]
    assert questions[1].plain.answer in shown[1]["content"] and scoring.parse_answer(shown[1]["content"]).parsed


# ------------------------------------------------------------------------------------------------- study


def made_of(questions: list[planted.Question]) -> study.Study:
    every = study.conditions(COUNTS)
    built = {
        c: [None if c.kind == "none" else planted.cell(q, c.documents, c.look_alikes) for q in questions] for c in every
    }
    return study.Study(list(questions), built, COUNTS)


def test_lines_of_the_experiment() -> None:
    found = study.lines(COUNTS)
    assert [(c.documents, c.look_alikes) for c in found["count only"]] == [(1, 5), (2, 5), (4, 5), (6, 5)]
    assert [(c.documents, c.look_alikes) for c in found["facts only"]] == [(6, 0), (6, 1), (6, 3), (6, 5)]
    assert [(c.documents, c.look_alikes) for c in found["both"]] == [(1, 0), (2, 1), (4, 3), (6, 5)]
    wanted = study.conditions(COUNTS)
    assert [(c.documents, c.look_alikes) for c in wanted if c.kind == "set"] == [
        (1, 5), (2, 5), (4, 5), (6, 5), (6, 0), (1, 0)
    ]  # fmt: skip
    assert wanted[6:] == [study.Condition("alone", 1, 5), study.Condition("none", 0, 0)]


def test_readings_survive_an_interruption(questions: list[planted.Question], tmp_path: Path) -> None:
    made, calls = made_of(questions[:4]), []
    wanted = {tuple(condition): (made.questions, built) for condition, built in made.sets.items()}

    def read(asked: list[planted.Question], built: list[sets.BuiltSet | None]) -> list[dict]:
        calls.extend(q.id for q in asked)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return [{"p": float(len(b) if b is not None else 0)} for b in built]

    store = tmp_path / "readings.jsonl"
    with pytest.raises(KeyboardInterrupt):
        study.read_all(wanted, read, study.KEY, store, chunk=2)
    with store.open("ab") as stream:
        stream.write(b'{"question": "0-1", "condit')  # a line cut short
    assert len(store.read_bytes().splitlines()) == 9
    frame = study.read_all(wanted, read, study.KEY, store)
    assert len(frame) == 4 * 8 == len(store.read_text().splitlines())
    assert len(calls) == len(frame) + 2  # nothing was read twice but the two that were interrupted
    assert frame.equals(study.read_all(wanted, lambda *a: pytest.fail("read again"), study.KEY, store))
    assert all(json.loads(line) for line in store.read_text().splitlines())
    other = {condition: (asked, built[::-1]) for condition, (asked, built) in wanted.items()}  # other texts
    assert study.read_all(other, lambda asked, built: [{"p": -1.0}] * len(asked), study.KEY, store)["p"].lt(0).any()


def test_effects_by_hand(questions: list[planted.Question]) -> None:
    """p is 1 - (documents + 10 x look-alikes) / 100, less for later questions: every effect can be told."""
    made = made_of(questions[:6])
    rows = [
        {**dict(zip(study.KEY, c, strict=True)), "question": q.id, "bin": q.bin,
         "place": q.asked, "about": q.about, "mass": 0.5, "at": 50 + (c.documents == 2),
         "tokens": 100 + (c.documents == 1),
         "p": 1 - (c.documents + 10 * c.look_alikes) / 100 - k / 1000, "right": 1.0, "f1": 1.0}
        for c in made.sets for k, q in enumerate(made.questions)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    found = {name: (pair["a"] - pair["b"]).mean() for name, pair in study.comparisons(frame, COUNTS).items()}
    expected = {
        "count only": 0.05,
        "facts only": 0.5,
        "both": 0.55,
        "no look-alikes": 0.05,
        "alone minus extended": 0.0,
    }
    assert found == pytest.approx(expected)
    bins = study.by_bin(frame, COUNTS)
    assert list(bins) == [f"count only, {name}" for name in study.BINS]
    assert all(len(f) == 2 and (f["a"] - f["b"]).mean() == pytest.approx(0.05) for f in bins.values())
    blind = study.blind_rows(made)
    told = study.levels(frame, blind, COUNTS)
    at_ends = blind[(blind["look_alikes"] == 5) & blind["documents"].isin([1, 6]) & (blind["condition"] == "set")]
    lazy = at_ends[~at_ends["reader"].isin(readers.RETRIEVERS)].groupby(["documents", "reader"])["right"].mean()
    best = lazy.groupby("documents").max().mean()
    assert told["reading above blind"].mean() == pytest.approx(1 - 0.535 - 0.0025 - best) and best < 0.6
    assert told["unequal tokens"].tolist() == told["shift of the evidence"].tolist() == pytest.approx([1 / 101] * 6)
    assert told["gain of lazy readers"].mean() >= 0 and set(told["gain of lazy readers"]) <= {-1, 0, 1}
    assert told["no documents above chance"].mean() == pytest.approx(1 - 0.0025 - 1 / 6)
    assert told["fewest documents"].mean() - told["all documents"].mean() == pytest.approx(0.05)
    with pytest.raises(ReprobookError, match="no reading of Condition"):
        study.readings(frame, study.Condition("set", 99, 0), "p")
    told, rivals = study.line_table(made, frame), study.blind_table(made, blind)
    assert told["line"].value_counts().to_dict() == {
        "count only": 4, "facts only": 2, "both": 2, "no look-alikes": 2, "alone": 1, "no documents": 1,
    }  # fmt: skip
    assert told["questions"].eq(6).all()
    places = study.place_table(frame, COUNTS)
    assert (
        places["place"].tolist() == [1, 2, 3, 4, 5, 6]
        and (places["fewest documents"] - places["all documents"]).round(9).eq(0.05).all()
    )
    few = frame[
        (frame["condition"] != "set") | (frame["look_alikes"] == 5) | (frame["question"] == made.questions[0].id)
    ]
    assert len(study.comparisons(few, COUNTS)["facts only"]) == 1 < len(study.comparisons(few, COUNTS)["count only"])
    assert rivals["oracle"].eq(1).all() and len(rivals) == 11
    assert list(dict.fromkeys(study.joined({"x": told, "y": told})["reader"])) == ["x", "y"]


def test_blind_readers_gain_nothing_by_fewer_documents(questions: list[planted.Question]) -> None:
    """The fault of the first edition: a reader that ignores the question scored 1 with few documents. Here the score of
    those that don't look at documents is the same for every number of them."""
    blind = study.blind_rows(made_of(questions))
    means = blind.groupby(["reader", *study.KEY])["right"].mean()
    for name in ("first fact", "first of its kind", "majority"):
        assert len({round(means[name, "set", c, 5], 9) for c in COUNTS}) == 1
    assert means["first of its kind", "set", 6, 0] == 1.0
    assert max(means[name, "set", c, 5] for name in readers.BLIND for c in (1, 6)) < 0.35


def test_asked_places_and_articles_take_turns(articles: list[planted.Article]) -> None:
    asked = planted.make_questions(articles, planted.word_spans, n_questions=18, n_documents=6, name_words=2, seed=5)
    assert len({(q.bin, q.asked) for q in asked}) == 18  # three widths, six places
    about = [q.plain.documents[q.asked].title for q in asked]
    assert len(set(about[:9])) == len(set(about[9:])) == 9
    assert all(len({d.title for d in q.plain.documents}) == 6 for q in asked)


def test_audit_tells_constructions_apart(articles: list[planted.Article]) -> None:
    asked = planted.make_questions(articles, planted.word_spans, n_questions=30, n_documents=6, name_words=1)
    table = study.audit_table(asked, (2, 6), planted.word_spans, 0).set_index(["construction", "documents"])
    assert table.loc[("the paper's", 2), "largest shift"] <= 1 and table.loc[("the paper's", 2), "evidence twice"] == 0
    assert table.loc[("the paper's", 2), "position reader"] == 1 > table.loc[("equal share", 2), "position reader"]
    assert table.loc[("page start", 2), "evidence twice"] > 0.2 and table.loc[("page start", 6), "evidence twice"] == 0
    assert table.loc[("fixed shuffle", 6), "largest shift"] > 10


def test_pages_are_marked(questions: list[planted.Question]) -> None:
    q = questions[0]
    told = pictures.as_page(q, planted.cell(q, 2, 3))
    assert len(told) == 2 and "".join(told).count("▶") == 1 and "".join(told).count("▷") == 3
    assert all(text.count("[") == text.count("]") == 1 for text in told)


# ------------------------------------------------------------------------------------------------- paper scale


def test_effects_of_the_papers_models_by_hand() -> None:
    rows = [
        {"kind": kind, "count": c, "question": q, "total": total, "f1": value}
        for kind, c, values in (("hard", 0, [1, 1, 1, 0]), ("hard", 20, [0, 1, 0, 0]), ("random", 0, [1, 1, 0, 0]),
                                ("random", 20, [1, 1, 1, 0]), ("alone", 0, [1, 1, 1, 1]), ("none", 0, [0, 0, 1, 0]))
        for q, total, value in zip("abcd", (1500, 2100, 2600, 3100), values, strict=True)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    found = {
        name: (pair["a"] - pair["b"]).mean() for name, pair in released.effects("m x", frame, [2000, 3000]).items()
    }
    assert found == {
        "m x: fall": 0.5, "m x: random rise": 0.25, "m x: alone minus fewest": 0.25, "m x: no documents": 0.25,
        "m x: fewest documents": 0.75,
        "m x: fall, bin 1": 1.0, "m x: fall, bin 2": 0.5, "m x: fall, bin 3": 0.0,
    }  # fmt: skip
    bins = released.bins_table(frame, [2000, 3000])
    assert bins.to_dict("list") == {
        "Tokens": ["0-2000", "2000-3000", "3000+"], "2-4": [1.0, 1.0, 0.0], "20": [0.0, 0.5, 0.0],
    }  # fmt: skip
    small = frame.assign(f1=[1, 1, 1, 0] + [1, 1, 0, 0] + [0] * 16)
    pairs = released.large_minus_small({("gemma-2-27b-it", "2wiki"): frame, ("gemma-2-9b-it", "2wiki"): small})
    ((name, pair),) = pairs.items()
    assert name == "gemma-2-27b-it minus gemma-2-9b-it, 2wiki: fall"
    assert (pair["a"] - pair["b"]).mean() == pytest.approx(0.25)


def test_paper_parameters_are_checked_before_the_fetch() -> None:
    good = {"models": ["a"], "known": ["a", "b"], "real": ["musique", "released"], "ladders": [[0, 20], []],
            "edges": [2000, 2500]}  # fmt: skip
    released.check(**good)
    for wrong, match in (
        ({"models": ["c"]}, "model 'c' is not known; allowed: a, b"), ({"models": ["a", "a"]}, "named twice"),
        ({"real": ["hotpot", "released"]}, "collection 'hotpot'"), ({"ladders": [[0, 20]]}, "real_ladders"),
        ({"ladders": [[20, 0], []]}, "real_ladders"), ({"ladders": [[20], []]}, "real_ladders"),
        ({"ladders": [[0, 20], [0, 8]]}, "real_ladders"), ({"edges": [2500, 2000]}, "bin_edges must rise"),
    ):  # fmt: skip
        with pytest.raises(ReprobookError, match=match):
            released.check(**{**good, **wrong})


def test_demonstrations_are_asked_of_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[list[str], list[str]]] = []

    def read(model: None, tokenizer: None, asked: list, built: list, *, demonstrations: list, seed: int) -> list[dict]:
        calls.append(([q.id for q in asked], [q.id for q, _ in demonstrations]))
        return [{"f1": 1.0} for _ in asked]

    monkeypatch.setattr(released, "read_with_json", read)
    document = sets.Document(sets.page("some words", planted.word_spans), 0, 2)
    asked = [sets.Instance(f"q{k}", "?", "x", (document,), (0,)) for k in range(6)]
    built: released.Sets = {
        ("hard", 0): [(q, sets.build_set(q, 1)) for q in asked], ("none", 0): [(q, None) for q in asked]
    }  # fmt: skip
    frame = released.read_sets(None, None, built, tmp_path / "r.jsonl", demonstrations=3, seed=1)
    assert (
        len(frame) == 6
        and frame["total"].eq(2).all()
        and [len(d) for _, d in calls] == [3, 0]
        and calls[0][0] == calls[1][0]
    )
    assert not set(calls[0][0]) & set(calls[0][1])


def test_miniatures_go_the_whole_way(tmp_path: Path) -> None:
    for kind in ("musique", "2wiki", "wikipedia", "released"):
        miniatures.write_miniature(tmp_path / kind, kind)
    articles = released.wanted_pages((tmp_path / "wikipedia").rglob("*.parquet"), {f"Page {k}" for k in range(9)})
    assert set(articles) == {f"Page {k}" for k in range(9)}
    rows = list(released.read_files(tmp_path / "musique", "*dev.jsonl"))
    plain = released.musique(rows, planted.word_spans)
    assert [len(q.documents) for q in plain] == [20] * 5 and all(q.supporting == (0, 1) for q in plain)
    titles = {d.title for q in plain for d in q.documents}
    pages = released.wanted_pages((tmp_path / "wikipedia").rglob("*.parquet"), titles)
    said: list[str] = []
    full = released.find_pages(plain, pages, planted.word_spans, report=said.append)
    assert len(full) == 4 and said == ["1 paragraphs not found on a page; 4 of 5 questions are complete"]
    for q, old in zip(full, plain, strict=False):
        assert [d.text for d in q.documents] == [d.text for d in old.documents]
        for count in (2, 8, 20):
            assert sets.audit(q, sets.build_set(q, count))["copies of evidence"] == 1
    two = released.two_wiki(released.read_files(tmp_path / "2wiki", "dev.parquet"), planted.word_spans)
    assert len(two) == 5 and all(len(q.documents) == 10 and len(q.supporting) == 2 for q in two)
    built = released.build_sets(full, [0, 8, 20], seed=0)
    assert {name: len(pairs) for name, pairs in built.items()} == dict.fromkeys(
        [*((kind, c) for kind in ("hard", "random") for c in (0, 8, 20)), ("alone", 0), ("none", 0)], 4)  # fmt: skip
    for q, (twin, _) in zip(full, built["random", 20], strict=True):
        assert twin.lengths.tolist() == q.lengths.tolist()
        assert [twin.documents[k] is q.documents[k] for k in range(20)] == [k in q.supporting for k in range(20)]


def test_paragraph_is_found_although_the_page_changed() -> None:
    before, after = ("alpha beta gamma delta. " * 20).strip(), ("some other words here. " * 20).strip()
    own = "The tower was built in 1889 by a company of engineers, and it stands in the capital."
    changed = own.replace("a company of", "the company of some")
    article = f"{before} {changed} {after}"
    found = released.on_its_page(released._alone(own, "t", planted.word_spans), article, planted.word_spans)
    assert found.located and found.text == own
    words = found.page.text.split()
    assert words[: len(before.split())] == before.split() and words[-len(after.split()) :] == after.split()
    assert changed not in found.page.text
    lost = released.on_its_page(released._alone("Nothing like that is on it at all.", "t", planted.word_spans), before,
                                planted.word_spans)  # fmt: skip
    assert not lost.located and len(lost.page) == len(lost)


def test_records_without_a_field_or_without_support() -> None:
    with pytest.raises(ReprobookError, match="no field 'paragraphs'"):
        released.musique([{"id": 1, "question": "?"}], planted.word_spans)
    row = {"id": 1, "question": "?", "answer": "x", "paragraphs": [
        {"idx": 0, "title": "t", "paragraph_text": "some text", "is_supporting": False}]}  # fmt: skip
    with pytest.raises(ReprobookError, match="supporting is \\(\\)"):
        released.musique([row], planted.word_spans)
    assert released.musique([{**row, "answerable": False}], planted.word_spans) == []


def test_benchmark_builders_agree() -> None:
    found = bench.builders(bench.questions(3, n_documents=20, tokens=30, page_tokens=700), n=1)
    assert found.same and found.ratio().value > 0

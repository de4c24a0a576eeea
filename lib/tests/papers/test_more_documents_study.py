"""Readers with a network, the study over conditions, and the real data's formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers import more_documents as md
from reprobook.papers.more_documents import bench, miniatures, network, released, study
from reprobook.papers.more_documents.lm_reader import branches, read_with_margin

WORDS = ["the", "of", "in", "a", "was", "and", "to", "by", "at", "for"]


@pytest.fixture(scope="module")
def names() -> md.Names:
    return md.name_pools(40)


@pytest.fixture(scope="module")
def questions(names: md.Names) -> list[md.Instance]:
    rng = np.random.default_rng(1)
    text = [md.Text(f"t{k}", " ".join(_sentence(rng) for _ in range(120))) for k in range(8)]
    pages = md.articles(text, md.word_spans, least=300, most=600)
    return md.make_questions(pages, md.word_spans, names, n_questions=12, n_documents=6, hops=1, seed=0, width=(6, 12))


def _sentence(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, size=rng.integers(4, 8))).capitalize() + "."


# ------------------------------------------------------------------------------------------------- pointer network


@pytest.fixture(scope="module")
def words(questions: list[md.Instance], names: md.Names) -> network.Words:
    everything = [*names.given, *names.family, *names.values]
    text = [q.question for q in questions] + [d.page.text for d in questions[0].documents]
    return network.Words.of(text, everything, 50)


def test_rows_hold_question_documents_and_answer(questions: list[md.Instance], words: network.Words) -> None:
    sets = [md.build_set(q, 3) for q in questions]
    rows = network.rows(words, questions, [*sets[:-1], None])
    for k, q in enumerate(questions[:-1]):
        ids = rows["x"][k].tolist()
        assert ids[0] == network.SPECIAL.index("[ask]") and ids.count(network.SPECIAL.index("[doc]")) == 3
        assert [words.word(i) for i in rows["x"][k][rows["y"][k]].tolist()] == [q.answer]
    assert not rows["y"][-1].any() and (rows["x"][-1] != 0).sum() == 1 + len(md.word_spans(questions[-1].question))


def test_reader_ignores_padding_and_may_read_new_names(questions: list[md.Instance], words: network.Words) -> None:
    torch.manual_seed(0)
    model = network.Reader(words.n_words, len(words.names), dim=16, n_layers=2, n_heads=2).eval()
    sets = [md.build_set(q, 3) for q in questions]
    narrow = network.rows(words, questions, sets)["x"]
    n, wide = narrow.shape[1], torch.nn.functional.pad(narrow, (0, 40))
    with torch.no_grad():
        a, b = model(narrow), model(wide)
    assert torch.allclose(a, b[:, :n], atol=1e-5) and torch.isinf(b[:, n:]).all() and torch.isinf(a[:, :8]).all()
    assert "names" not in dict(model.named_parameters()) and model.names.shape == (120, 16)
    with pytest.raises(ReprobookError, match="multiple of n_heads"):
        network.Reader(10, 10, dim=18, n_heads=4)


def test_pointer_loss_by_hand() -> None:
    scores = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    y = torch.tensor([[True, True, False], [False, False, False]])
    assert network.pointer_loss(scores, y).item() == pytest.approx(-np.log(0.75))


def test_renaming_keeps_the_question_answerable(questions: list[md.Instance], words: network.Words) -> None:
    rows = network.rows(words, questions, [md.build_set(q, 3) for q in questions])
    renamed = network.renamed(rows["x"], words, torch.Generator().manual_seed(0))
    name = rows["x"] >= words.n_words
    assert (renamed[~name] == rows["x"][~name]).all() and (renamed[name] != rows["x"][name]).float().mean() > 0.8
    for before, after in zip(rows["x"], renamed, strict=True):  # the same name gets the same new name, within its kind
        pairs = {(int(a), int(b)) for a, b in zip(before, after, strict=True) if a >= words.n_words}
        assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
        third = len(words.names) // 3
        assert all((a - words.n_words) // third == (b - words.n_words) // third for a, b in pairs)


# ------------------------------------------------------------------------------------------------- language models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    from reprobook.rehearsal.models import write_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("lm")
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    write_model(
        {
            "architecture": "LlamaForCausalLM",
            "config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                       "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
                       "max_position_embeddings": 2048},
            "tokenizer": {"kind": "bpe", "vocab_size": 512, "chat_template": template},
        },
        folder,
    )  # fmt: skip
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_margin_equals_one_pass_for_each_choice(tiny: tuple, questions: list[md.Instance]) -> None:
    """The oracle: log-likelihood of every choice behind the prompt, from plain passes, and plain greedy decoding."""
    from reprobook.nn.lm import generate, token_logprobs

    model, tokenizer = tiny
    tokenizer.pad_token = tokenizer.eos_token
    for q, built in ((questions[0], md.build_set(questions[0], 3)), (questions[1], None)):
        found = read_with_margin(model, tokenizer, q, built, max_new=5)
        prompt = tokenizer(md.prompt_text(tokenizer, q, built, "stub"), add_special_tokens=False).input_ids
        totals = []
        for choice in md.candidates(q):
            ids = tokenizer(f" {choice}.", add_special_tokens=False).input_ids
            totals.append(token_logprobs(model, tokenizer, [prompt + ids])[0][-len(ids) :].sum().item())
        assert found.log_p == pytest.approx(totals, abs=1e-3)
        assert found.margin == pytest.approx(totals[0] - max(totals[1:]), abs=1e-3) and found.tokens == len(prompt)
        whole = generate(model, tokenizer, [md.prompt_text(tokenizer, q, built, "stub")], max_new_tokens=5)[0]
        assert whole.split(".")[0].strip() == found.answer


def test_branches_see_the_prompt_and_themselves() -> None:
    mask, positions = branches(3, [2, 1], "cpu", torch.float32)
    seen = (mask[0, 0] == 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 1],
    ]  # fmt: skip
    assert positions.tolist() == [[0, 1, 2, 3, 4, 3]]


def test_prompts_hold_what_they_should(questions: list[md.Instance]) -> None:
    q, built = questions[0], md.build_set(questions[0], 4)
    text = md.messages(q, built)[0]["content"]
    assert "4 documents" in text and "is_answerable" in text and text.endswith(f"Question: {q.question}")
    assert all(f"Document {j}: {t}" in text for j, t in enumerate(built.texts, 1))
    closed = md.messages(q, None, "stub")[0]["content"]
    assert "ocument" not in closed and q.question in closed


# ------------------------------------------------------------------------------------------------- study


def test_conditions_of_a_ladder() -> None:
    found = [(c.name, c.count) for c in study.conditions([0, 8, 20])]
    assert found[:6] == [("hard", 0), ("hard", 8), ("hard", 20), ("random", 0), ("random", 8), ("random", 20)]
    assert ("no documents", 0) in found and ("shuffled", 20) in found and len(set(found)) == len(found)
    for wrong in ([8, 0], [0], [0, 0, 8], [-1, 8]):
        with pytest.raises(ReprobookError, match="ladder of counts"):
            study.conditions(wrong)


def test_study_keeps_questions_that_every_set_can_have(questions: list[md.Instance]) -> None:
    short = questions[0].documents[0]
    cut = md.page(short.text, md.word_spans)  # a page that is no longer than its paragraph
    bad = md.Instance("bad", questions[0].question, questions[0].answer,
                      tuple(md.Document(cut, 0, len(cut), d.title, (1, 2), d.value) for d in questions[0].documents),
                      questions[0].supporting, relation="mentor")  # fmt: skip
    made = study.study([*questions, bad], study.conditions([0, 3, 6]))
    assert "tokens" in made.dropped["bad"]  # others may fall with it: their random distractors can be its documents
    assert len(made.questions) == len(made.twins) == len(questions) + 1 - len(made.dropped)
    for condition in made.conditions:
        assert len(made.sets(condition)) == len(made.questions)
    other = next(q for q in questions if q.relation != bad.relation)
    with pytest.raises(ReprobookError, match="no question allows every set"):
        study.study([bad, other], [study.Condition("hard", 0), study.Condition("random", 2, random=True)])


def test_readings_survive_an_interruption(questions: list[md.Instance], tmp_path: Path) -> None:
    made = study.study(questions, study.conditions([0, 6], ablations=False))
    calls: list[str] = []

    def read(asked: list[md.Instance], sets: list[md.BuiltSet | None]) -> list[dict]:
        calls.extend(q.id for q in asked)
        if len(calls) == 21:
            raise KeyboardInterrupt
        return [{"f1": float(len(built) if built is not None else 0)} for built in sets]

    store = tmp_path / "readings.jsonl"
    with pytest.raises(KeyboardInterrupt):
        study.read_all(made, read, store, chunk=3)
    with store.open("ab") as stream:
        stream.write(b'{"question": "1hop-0-1", "condit')  # a line cut short
    assert len(store.read_bytes().splitlines()) == 19
    frame = study.read_all(made, read, store)
    assert len(frame) == len(made.questions) * len(made.conditions) == len(store.read_text().splitlines())
    assert len(calls) == len(frame) + 3  # nothing was read twice but the three that were interrupted
    assert frame.equals(study.read_all(made, lambda *a: pytest.fail("read again"), store))
    assert all(json.loads(line) for line in store.read_text().splitlines())
    # other documents under the same names are read again
    changed = study.Study(made.questions, made.questions, (study.Condition("hard", 6, {"order": "random"}),), {}, 0)
    assert study.read_all(changed, lambda asked, sets: [{"f1": -1.0}] * len(asked), store)["f1"].eq(-1.0).all()


def test_differences_by_hand() -> None:
    import pandas as pd

    rows = [
        {"question": q, "condition": c, "count": n, "f1": value}
        for c, n, column in (("hard", 1, [1, 1, 1, 0]), ("hard", 9, [0, 1, 0, 0]), ("random", 1, [1, 1, 1, 1]),
                             ("random", 9, [1, 1, 1, 0]))
        for q, value in zip("abcd", column, strict=True)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    assert study.difference(frame, ("hard", 1), ("hard", 9)).mean == 0.5
    assert study.difference(frame, ("hard", 1), ("hard", 9), within=["a", "b"]).mean == 0.5
    assert study.contrast(frame, 1, 9).mean == 0.25
    with pytest.raises(ReprobookError, match="no reading of condition 'soft'"):
        study.difference(frame, ("soft", 1), ("hard", 9))


# ------------------------------------------------------------------------------------------------- real formats


def test_miniatures_go_the_whole_way(tmp_path: Path) -> None:
    for kind in ("musique", "2wiki", "wikipedia", "released"):
        miniatures.write_miniature(tmp_path / kind, kind)
    articles = released.wanted_pages((tmp_path / "wikipedia").rglob("*.parquet"), {f"Page {k}" for k in range(9)})
    assert set(articles) == {f"Page {k}" for k in range(9)}
    rows = released.read_files(tmp_path / "musique", "*dev.jsonl")
    plain = released.musique(rows, md.word_spans)
    assert [len(q.documents) for q in plain] == [20] * 5 and all(q.supporting == (0, 1) for q in plain)
    titles = {d.title for q in plain for d in q.documents}
    pages = released.wanted_pages((tmp_path / "wikipedia").rglob("*.parquet"), titles)
    said: list[str] = []
    full = released.find_pages(plain, pages, md.word_spans, report=said.append)
    assert len(full) == 4 and said == ["1 paragraphs not found on a page; 4 of 5 questions are complete"]
    for q, old in zip(full, plain, strict=False):
        assert [d.text for d in q.documents] == [d.text for d in old.documents]
        for count in (2, 8, 20):
            assert md.audit(q, md.build_set(q, count))["copies of evidence"] == 1
    two = released.two_wiki(released.read_files(tmp_path / "2wiki", "dev.parquet"), md.word_spans)
    assert len(two) == 5 and all(len(q.documents) == 10 and len(q.supporting) == 2 for q in two)
    ready = study.given(released.musique(released.released_sets(tmp_path / "released"), md.word_spans))
    assert {c.count: len(ready.sets(c)) for c in ready.conditions} == {0: 2, 8: 2, 20: 2}
    frame = study.read_all(ready, lambda asked, sets: [{"f1": float(len(s))} for s in sets], tmp_path / "r.jsonl")
    assert study.difference(frame, ("hard", 20), ("hard", 0)).mean == 18.0


def test_paragraph_is_found_although_the_page_changed() -> None:
    before, after = ("alpha beta gamma delta. " * 20).strip(), ("some other words here. " * 20).strip()
    own = "The tower was built in 1889 by a company of engineers, and it stands in the capital."
    changed = own.replace("a company of", "the company of some")
    article = f"{before} {changed} {after}"
    found = released.on_its_page(released._alone(own, "t", md.word_spans), article, md.word_spans)
    assert found.located and found.text == own
    words = found.page.text.split()
    assert words[: len(before.split())] == before.split() and words[-len(after.split()) :] == after.split()
    assert changed not in found.page.text
    lost = released.on_its_page(released._alone("Nothing like that is on it at all.", "t", md.word_spans), before,
                                md.word_spans)  # fmt: skip
    assert not lost.located and len(lost.page) == len(lost)


def test_records_without_a_field_or_without_support() -> None:
    with pytest.raises(ReprobookError, match="no field 'paragraphs'"):
        released.musique([{"id": 1, "question": "?"}], md.word_spans)
    row = {"id": 1, "question": "?", "answer": "x", "paragraphs": [
        {"idx": 0, "title": "t", "paragraph_text": "some text", "is_supporting": False}]}  # fmt: skip
    with pytest.raises(ReprobookError, match="supporting is \\(\\)"):
        released.musique([row], md.word_spans)
    assert released.musique([{**row, "answerable": False}], md.word_spans) == []


def test_benchmark_builders_agree() -> None:
    found = bench.builders(bench.questions(3, n_documents=20, tokens=30, page_tokens=700), n=1)
    assert found.same and found.ratio().value > 0

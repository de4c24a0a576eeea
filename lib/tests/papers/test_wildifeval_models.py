"""The judge on a real network against the slow way, interrupted runs, published rules, released files."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers.wildifeval import (
    bench,
    judge,
    miniatures,
    needs,
    pictures,
    published,
    released,
    scores,
    store,
    study,
    tasks,
)
from reprobook.papers.wildifeval.judge import Question

YES, NO, END = (7, 8), (9,), 3
SCALE = 0.6


class Signs:
    """A token is a letter, but three are "yes" or "no"; the template keeps the message."""

    eos_token_id = pad_token_id = END

    def __call__(self, text: str | Sequence[str], **_: Any) -> Any:
        def ids(each: str) -> list[int]:
            return [ord(letter) % 21 + 10 for letter in each]

        return SimpleNamespace(input_ids=ids(text) if isinstance(text, str) else [ids(each) for each in text])

    def decode(self, token: Sequence[int], **_: Any) -> str:
        return {7: " Yes", 8: "yes,", 9: "NO"}.get(token[0], chr(87 + token[0]))

    def apply_chat_template(self, chat: list[dict[str, str]], **_: Any) -> str:
        return f"<user>{chat[0]['content']}<assistant>"


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(2)
    config = AutoConfig.for_model(
        "llama", vocab_size=31, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, eos_token_id=END, bos_token_id=None, pad_token_id=None,
        max_position_embeddings=4096,
    )  # fmt: skip
    found = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        found.lm_head.weight[[*YES, *NO]] *= SCALE  # answers are rare
    return found


QUESTIONS = [
    Question(f"Task {t}", f"Response {r}{'!' * r}", f"Constraint {c}{'.' * c}")
    for t in range(2) for r in range(3) for c in range(4)
]  # fmt: skip


def slow(model: Any, question: Question, form: str) -> tuple[float | None, int]:
    """One prompt at a time, everything read again for every position, probabilities counted by token."""
    ids = Signs()("".join(judge.prompt_parts(Signs(), question, form))).input_ids
    for position in range(1, 6):
        with torch.no_grad():
            p = model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        best = p.topk(5).indices.tolist()
        yes, no = (sum(float(p[k]) for k in kinds if k in best) for kinds in (YES, NO))
        if yes + no > 1e-4:
            return yes / (yes + no), position
        ids.append(best[0])
    return None, 0


@pytest.mark.parametrize("form", ["satisfied", "violated"])
def test_judge_is_the_slow_one(model: Any, form: str) -> None:
    want = [slow(model, each, form) for each in QUESTIONS]
    places = [position for _, position in want]
    assert len(set(places)) > 2 and 0 in places  # the case has early, late and missing answers
    for shared in (True, False):
        found = judge.judge(model, Signs(), QUESTIONS, form=form, batch_size=4, shared=shared)
        assert [each.position for each in found] == places
        for each, (score, _) in zip(found, want, strict=True):
            assert each.score == (None if score is None else pytest.approx(score, abs=1e-4))


def test_judge_refuses_what_it_cannot_ask(model: Any) -> None:
    assert judge.judge(model, Signs(), []) == []
    for question, form in ((Question("t", "r", " "), "satisfied"), (Question("t", "r", "c"), "broken")):
        with pytest.raises(ReprobookError, match="satisfied, violated"):
            judge.judge(model, Signs(), [question], form=form)
    silent = Signs()
    silent.apply_chat_template = lambda chat, **_: "hello"  # type: ignore[method-assign]
    with pytest.raises(ReprobookError, match="template"):
        judge.prompt_parts(silent, QUESTIONS[0])


def test_sharing_saves_what_it_says(model: Any) -> None:
    asked = bench.questions(2, 8)
    found = bench.tokens(Signs(), asked)
    head, tail = judge.prompt_parts(Signs(), asked[0])
    assert found["whole"] == pytest.approx(len(head) + len(tail)) and found["shared"] == pytest.approx(
        len(head) / 8 + len(tail)
    )
    assert bench.judging(model, Signs(), asked[:8], n=1).same


# ------------------------------------------------------------------------------------------------- kept rows


def test_a_dying_judge_goes_on_without_counting_twice(tmp_path: Path) -> None:
    path, keys, asked = tmp_path / "rows.jsonl", [f"k{k % 7}" for k in range(10)], []

    def make(rows: list[int]) -> list[store.Row]:
        if len(asked) >= 4:
            raise ConnectionError("429: too many requests")
        asked.extend(keys[k] for k in rows)
        return [{"score": float(k)} for k in rows]

    with pytest.raises(ConnectionError, match="429"):
        store.kept(path, keys, make, chunk=2)
    with path.open("a") as stream:
        stream.write('{"key": "k5", "sco')  # died while writing
    assert asked == ["k0", "k1", "k2", "k3"]
    asked.clear()
    rows = store.kept(path, keys, make, chunk=3)
    assert asked == ["k4", "k5", "k6"]
    assert [row["score"] for row in rows] == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]
    assert len(path.read_text().splitlines()) == 7
    assert store.kept(path, keys, make) == rows and asked == ["k4", "k5", "k6"]


def test_an_interrupted_judging_ends_with_the_scores_of_a_whole_one(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge fails in its second chunk; asked again it judges the rest alone, and every (task, response, constraint)
    is in the file once: strict and soft are those of a run without the failure."""
    asked, real = QUESTIONS * 6, judge.judge
    seen: list[int] = []

    def failing(*arguments: Any, **how: Any) -> Any:
        seen.append(len(arguments[2]))
        if len(seen) == 2:
            raise ConnectionError("429: too many requests")
        return real(*arguments, **how)

    asked = [Question(f"{each.task} {k // 24}", *each[1:]) for k, each in enumerate(asked)]
    whole = study.Speaker("tiny", model, Signs(), tmp_path / "whole").judge(asked)
    monkeypatch.setattr(study, "judge", failing)
    who = study.Speaker("tiny", model, Signs(), tmp_path / "died")
    with pytest.raises(ConnectionError):
        who.judge(asked)
    assert who.judge(asked) == pytest.approx(whole, nan_ok=True)
    assert seen == [96, 48, 48] and len((tmp_path / "died" / "judged tiny.jsonl").read_text().splitlines()) == 144


# ------------------------------------------------------------------------------------------------- published rules

RULES = """
import nltk
import emoji
nltk.download("punkt", quiet=True)

class Longer:
    def __init__(self, name): self.name = name
    def build_description(self, least=None, prompt=None): self.least = least; return f"Use at least {least} words."
    def get_instruction_args(self): return {"least": self.least}
    def check_following(self, text): return len(text.split()) >= self.least

class Smiles(Longer):
    def check_following(self, text): return emoji.emoji_count(text) > 0
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "if_verifiable" / "ifbench"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "instructions.py").write_text(RULES)
    registry = "from if_verifiable.ifbench import instructions\n"
    registry += 'INSTRUCTION_DICT = {"long": instructions.Longer, "smile": instructions.Smiles}\n'
    (folder / "instructions_registry.py").write_text(registry)
    return tmp_path / "if_verifiable"


def test_rules_run_without_downloads(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that downloads at import must not: here any connection would fail the test."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a rule's package went online")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    import nltk

    before = nltk.download
    rules = published.Rules(package, "ifbench")
    assert nltk.download is before and "if_verifiable" not in sys.modules and "emoji" not in sys.modules
    assert (
        rules.holds("long", {"least": 2}, "p", "one two") is True
        and rules.holds("long", {"least": 2}, "p", "") is False
    )
    assert rules.holds("smile", {"least": 1}, "p", "hello") is None  # its package is absent: it cannot speak
    assert rules.describe("long", {"least": 2}) == "Use at least 2 words."
    with pytest.raises(ReprobookError, match="'short'"):
        rules.holds("short", {}, "p", "x")
    with pytest.raises(ReprobookError, match="ifeval"):
        published.Rules(package, "ifeval")


WORD = "keywords:existence"
LIKE: dict[str, Any] = {
    **published.SAME,
    **{kind: (WORD, lambda needs: {"keywords": [*needs]})
       for kind in ("two words", "two tones", "tone word", "connective", "quote")},
    "tone twice": ("keywords:frequency", lambda needs: {"keyword": needs[0], "frequency": needs[1],
                                                        "relation": "at least"}),
    "at most": ("length_constraints:number_words", lambda needs: {"num_words": needs[0] + 1, "relation": "less than"}),
}  # fmt: skip


def test_our_rules_against_those_of_ifeval() -> None:
    """Twelve of 24 kinds have a rule of IFEval that says the same; on texts of the writer, whole and broken, both say
    the same. (Of the others the nearest rule finds letters inside words, or there is none.)"""
    from reprobook.data import ChapterData

    folder = ChapterData("wildifeval", "smoke", {}).path("published-rules")
    rules = published.Rules(folder, "ifeval")
    topics = [tasks.Topic("Algebra", ("Later authors wrote about it in great detail.",))]
    counted: dict[str, list[bool]] = {}
    for task in tasks.make_tasks(topics, [8], 6, 91):
        for broken in ((), range(0, 8, 2), range(1, 8, 2), range(8)):
            text = tasks.write(task, broken)
            for each in (c for c in task.asked if c.kind in LIKE):
                rule, needs = LIKE[each.kind]
                assert rules.holds(rule, needs(each.needs), task.prompt, text) == each.holds(text), (each, text)
                counted.setdefault(each.kind, []).append(each.holds(text))
    assert counted.keys() == LIKE.keys() and all(len(set(held)) == 2 for held in counted.values())


def test_real_tasks_and_their_table(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    row = {
        "key": 5,
        "prompt": "p",
        "instruction_id_list": ["long", "smile"],
        "kwargs": [{"least": 2, "n": None}, {"least": 1}],
    }
    path.write_text(json.dumps(row) + "\n")
    found = published.real_tasks(path)
    assert found == [published.RealTask("5", "p", ("long", "smile"), ({"least": 2}, {"least": 1}))]
    table = study.real_table(found, published.Rules(package, "ifbench"), {"p": "one two"})
    assert table["met"].iloc[0] == 1 and np.isnan(table["met"].iloc[1]) and table["n"].tolist() == [2, 2]
    path.write_text('{"key": 5}\n')
    with pytest.raises(ReprobookError, match="line 1"):
        published.real_tasks(path)


# ------------------------------------------------------------------------------------------------- paper scale


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    for kind in ("log", "tasks", "decomposed", "predictions"):
        miniatures.write_miniature(folder / kind, kind, "deepseek-v3")
    return folder


def test_join_is_by_id_and_complete(hub: Path) -> None:
    log = list(released.rows_of(hub / "log", ["conversation_id", "conversation"]))
    rows = list(released.rows_of(hub / "tasks", ["conversation_id", "decomposition"]))
    assert released.join_tasks(rows, log) == released.decompositions(hub / "decomposed")
    with pytest.raises(ReprobookError, match=r"1 of 24 .*'c3'"):
        released.join_tasks(rows, [row for row in log if row["conversation_id"] != "c3"])
    with pytest.raises(ReprobookError, match="no column 'text'"):
        list(released.rows_of(hub / "log", ["text"]))
    with pytest.raises(ReprobookError, match="no parquet"):
        list(released.rows_of(hub / "predictions", ["text"]))
    with pytest.raises(ReprobookError, match="log, tasks"):
        miniatures.write_miniature(hub / "x", "other")


def frames_of(hub: Path) -> dict[str, pd.DataFrame]:
    kinds = {"Use at most 20 words": "Length", "Write it as a numbered list": "Format and Structure",
             "Focus on the river": "Focus / Emphasis", "Act as a doctor": "Persona and Role"}  # fmt: skip
    found = {}
    for name, title in released.MODELS.items():
        given = released.published_scores(hub / "predictions", "deepseek-v3", name)
        found[title] = released.frame_of(title, given, kinds)
    return found


def test_released_scores_become_effects(hub: Path) -> None:
    frames = frames_of(hub)
    table = released.score_table(frames).set_index("Model")
    best = frames["DeepSeek-V3"]
    assert table.loc["DeepSeek-V3", "strict"] == pytest.approx(best.groupby("task")["met"].min().mean())
    found = released.effects(frames)
    pair = found["Qwen2.5-72B minus Qwen2.5-7B: strict"]
    gap = table.loc["Qwen2.5-72B", "strict"] - table.loc["Qwen2.5-7B", "strict"]
    assert np.mean(pair["a"] - pair["b"]) == pytest.approx(gap)
    assert len(found["all models: length minus others"]["values"]) > 3
    everyone = pd.concat(frames.values())
    by = everyone.groupby(["task", "category"])["met"].mean().unstack()
    gap = (by["Length"] - by["Format and Structure"]).mean()
    assert np.mean(found["all models: length minus format"]["values"]) == pytest.approx(gap)
    exact = released.exact(frames, (10, 24))
    assert exact["tau of strict at 24"] == 1 and exact["std of strict at 10"] > 0
    assert exact["width of soft at 24"] == pytest.approx(0)
    assert -1 <= exact["categories: mean tau"] <= 1


def test_predictions_wrapped_or_not_and_malformed(hub: Path, tmp_path: Path) -> None:
    tasks_of = released.decompositions(hub / "decomposed")
    for model in ("Qwen2.5-7B", "Qwen2.5-0.5B"):
        assert released.predictions(hub / "predictions", model).keys() == tasks_of.keys()
    bad = tmp_path / "model_predictions" / "m-0shot-wild-if-eval.json"
    bad.parent.mkdir()
    for text, match in (('{"a": [', "m-0shot-wild-if-eval.json"), ('{"a": [], "b": []}', "no chat messages")):
        bad.write_text(text)
        with pytest.raises(ReprobookError, match=match):
            released.predictions(tmp_path, "m")
    with pytest.raises(ReprobookError, match="no task with 2 to 8"):
        released.frame_of("m", {"t": {"only": 1.0}}, {})


def test_scores_with_err_count_as_zero(tmp_path: Path) -> None:
    path = tmp_path / "llm_aaj_scores" / "llm-aaj-j.m-0shot-wild-if-eval.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"t": {"scores": {"a": "ERR", "b": 0.5}, "explanations": {}}}))
    frame = released.frame_of("m", released.published_scores(tmp_path, "j", "m"), {"a": "Length"})
    assert frame["met"].tolist() == [0, 1] and frame["category"].tolist() == ["Length", "Other"]


def test_word_rule() -> None:
    assert released.word_limits("Use at most 100 words") == (0, 100)
    assert released.word_limits("between 300 and 200 words") == (200, 300)
    assert released.word_limits("Keep it under 50 words.") == (0, 50)
    assert released.word_limits("at least 100 words") is None and released.word_limits("two pages") is None
    assert released.word_limits("at most 1,000 words") == (0, 1000)
    assert released.word_limits("no less than 100 words") is None
    assert released.word_limits("at least 100 words but no more than 200 words") == (100, 200)
    assert released.word_limits("less than 100 words") == (0, 100)
    frame = pd.DataFrame({"constraint": ["up to 3 words", "Be brief"], "task": ["t", "t"], "met": [1.0, 1.0]})
    table = released.word_rule(frame, {"t": "a b  c"})  # single blanks: four parts
    assert table["truth"].tolist() == [0.0]
    assert released.word_agreement(frame.assign(task=store.digest("t")), {"t": "a b"}) == 1.0


def test_replicates(tmp_path: Path) -> None:
    rows = [{"N": 10, "replicate": r, "model": m, "strict_mean": v + 0.1 * r, "soft_mean": v}
            for r in range(3) for m, v in (("a", 0.1), ("b", 0.5))]  # fmt: skip
    path = tmp_path / "r.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    full = pd.DataFrame({"model": ["a", "b"], "strict": [0.1, 0.5], "soft": [0.5, 0.1]})
    row = released.replicates(path, full).iloc[0]
    assert row["std strict"] == pytest.approx(0.1) and row["width strict"] == pytest.approx(0)
    assert row["tau strict"] == 1 and row["tau soft"] == -1


def test_categories_as_released_or_by_a_judge(tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "categories.csv"
    path.write_text('constraint,categories,Other\n"a, ""b""",Length,0\nc,Other: Sport,1\nd,Length,1\nNA,Editing,0\n')
    held = {'a, "b"': "Length", "c": "Other", "d": "Other", "NA": "Editing"}
    assert released.published_categories(path) == held
    who = study.Speaker("tiny", model, Signs(), tmp_path)
    said = iter([["7", "Other: x"], ["no", "no"]])
    monkeypatch.setattr(released, "complete", lambda *_, **__: next(said))
    asked = {"t": ["b", "a"], "u": ["a"]}
    assert study.categories_of("judge", asked, None, who, 1) == {"a": "Editing", "b": "Other"}  # type: ignore[arg-type]
    with pytest.raises(ReprobookError, match=r"tiny .* none of 2 .*'no'"):
        study.categories_of("judge", asked, None, who, 1)  # type: ignore[arg-type]
    with pytest.raises(ReprobookError, match="with a judge"):
        study.categories_of("judge", asked, None, None, 1)  # type: ignore[arg-type]


def test_names_are_checked_before_anything_is_fetched() -> None:
    released.check("released", "", [], ["a"])
    for arguments, match in (
        (("", "b", [], ["a"]), "'b'"),
        (("", "", ["a"], ["a"]), "judge_model"),
        (("judge", "", [], []), "judge_model"),
        (("x", "", [], []), "'x'.*nearest"),
    ):
        with pytest.raises(ReprobookError, match=match):
            released.check(*arguments)


def test_needs_know_the_models() -> None:
    rows = {row["model"]: row for row in needs.needs(100, 300, 900, 60, 400, 8)}
    assert rows["Qwen2.5-7B"]["parameters (10^9)"] == pytest.approx(7.616, abs=0.001)
    row = rows["Qwen2.5-0.5B"]
    # 300 whole prompts of 960 tokens against 100 prefixes of 900 and 300 questions of 60
    assert row["hours, judging, whole prompts"] / row["hours, judging, shared"] == pytest.approx(288_000 / 108_000)


# ------------------------------------------------------------------------------------------------- the study


def test_judge_study_of_a_judge_without_errors(model: Any, tmp_path: Path) -> None:
    """With the truth as its score a judge has AUC 1 everywhere, and a corrected table is the true one."""
    topics = [tasks.Topic("Algebra", ("Later authors wrote about it in great detail.",))]
    made = tasks.make_tasks(topics, [1, 4], 3, 0)
    texts = {"m": {task.id: tasks.write(task, [k % 4]) for k, task in enumerate(made) if task.n == 4}}
    found = study.judgeable(made, texts, 0)
    assert len(found.questions) == len(found.frame) == 24 * 2 + 24 * 4 * 3
    frame = found.frame.assign(
        judge="j", score=found.frame["truth"], met=found.frame["truth"], said=found.frame["truth"]
    )
    assert study.chosen_threshold(frame) == 1.0
    twins = found.frame[(found.frame["source"] == "twin") & (found.frame["n"] == 4)]
    kinds = twins.groupby("half")["kind"].value_counts().unstack(0)  # to choose on and to measure on: the same kinds
    assert len(kinds) == 24 and kinds[0].equals(kinds[1])
    many = study.Judgeable(found.questions * 20, pd.concat([found.frame] * 20, ignore_index=True))
    planted = study.planted_judged(many, 0)
    rates = planted.groupby([planted["category"] == "Length", "truth"])["said"].mean()
    expected = {(False, 1.0): 0.9, (False, 0.0): 0.2, (True, 1.0): 0.6, (True, 0.0): 0.05}
    assert rates.to_dict() == pytest.approx(expected, abs=0.06)
    bent = study.bent_tasks(study.planted_judged(found, 0), 0.5)
    real = found.frame[found.frame["source"] == "m"]
    yes = np.where(real["category"] == "Length", 0.6 * real["truth"] + 0.05 * (1 - real["truth"]),
                   0.9 * real["truth"] + 0.2 * (1 - real["truth"])).reshape(-1, 4)  # fmt: skip
    assert bent["soft, known errors"].tolist() == pytest.approx(yes.mean(1).tolist())
    assert bent["strict, known errors"].tolist() == pytest.approx(yes.prod(1).tolist())
    blind = study.blind_judged(found)
    effects = study.judge_effects(frame, 0.5, blind)
    minus = effects.pop("AUC of twins minus quoted words")
    assert all(np.mean(effects[name]["values"]) == 1 for name in effects if name.startswith(("AUC", "accuracy")))
    for measure in ("soft", "strict"):
        gap = effects[f"{measure}, judged minus predicted"]
        assert gap["a"].tolist() == pytest.approx(gap["b"].tolist())
    # quoted words: right on "use", wrong way round on "do not use", a coin without a quotation
    won = minus["b"]
    assert won[["include a word", "tone word", "keep words", "two words"]].tolist() == [1] * 4
    assert won["avoid a word"] == 0 and won[["at least", "between", "quote"]].tolist() == [0.5] * 3
    assert effects["length minus others, by rules"]["values"].equals(
        effects["length minus others, as judged"]["values"]
    )
    table = study.correction_table(frame, 0.5)
    for name in ("judged", "predicted", "corrected"):
        assert table[name].tolist() == pytest.approx(table["true"].tolist())
    bent = study.bend_table(frame, 0.5)
    assert bent.loc[0, ["soft, judged", "strict, predicted"]].tolist() == pytest.approx([0.75, 0.0])
    assert pictures.ranks(table.assign(judge="j")) and pictures.bending()
    told = study.quality_table({"j": frame, study.BLIND: blind})
    assert pictures.judge_by_category(told.assign(seed=0))
    kinds = study.quality_table({"j": blind}, "kind").set_index(["constraints", "kind"])
    assert kinds.loc[(1, "avoid a word"), ["sensitivity", "specificity", "pairs won"]].tolist() == [0, 0, 0]
    assert pictures.calibrated(pd.DataFrame({"judge": "j", "seed": 0, "score": [0.2, 0.7], "truth": [0.1, 0.9]}))
    assert pictures.taken_apart(made[24], texts["m"][made[24].id], [0.5] * 4)
    who = study.Speaker("tiny", model, Signs(), tmp_path)
    twins = study.only_twins(found)
    scored = study.judged(who, study.Judgeable(twins.questions[:6], twins.frame.iloc[:6]), "violated")
    plain = [slow(model, each, "violated")[0] for each in twins.questions[:6]]
    assert scored["score"].tolist() == pytest.approx(
        [np.nan if s is None else 1 - s for s in plain], abs=1e-4, nan_ok=True
    )


def test_a_missing_answer_is_a_yes_to_neither_question() -> None:
    frame = pd.DataFrame({"category": "x", "truth": [1.0, 0.0, 1.0, 0.0], "score": [0.9, 0.2, np.nan, np.nan]})
    frame = frame.assign(said=[1.0, 0.0, 0.0, 0.0])
    plain, turned = study.wording_rows("j", frame, frame)
    assert plain["says yes"] == 0.25 and turned["says yes"] == 0.25  # turned round: 0.1 and 0.8, and two silent
    assert plain["decisions agree"] == 1.0


def test_texts_that_end_at_the_limit(model: Any, tmp_path: Path) -> None:
    who = study.Speaker("tiny", model, Signs(), tmp_path)
    made = tasks.make_tasks([tasks.Topic("Algebra", ("Later authors wrote about it.",))], [1], 1, 0)
    texts = ["ab" * (2 + k) for k in range(8)]  # a token a letter: 4, 6, ... 18
    cut = who.cut(made, texts, 14)
    assert cut == {"n1-0-5", "n1-0-6", "n1-0-7"}
    table = study.cut_table(made, {"m": texts}, {"m": cut})
    assert table.to_dict("records") == [{"responder": "m", "n": 1, "words": 1.0, "cut": 3 / 8, "loops": 0.0}]
    once = " ".join("abcdefgh")
    assert study.loops(f"{once}, {once}. x {once}") and not study.loops(f"{once} {once}") and not study.loops("a")


def test_effects_of_a_known_responder() -> None:
    """The fixed text: soft by kind is known, so the categories' gaps are."""
    topics = [tasks.Topic("Algebra", ("Later authors wrote about it in great detail.",))]
    made = tasks.make_tasks(topics, [1, 2, 4, 8], 3, 0)
    texts = {name: [write(t) for t in made] for name, write in study.writers(topics, 0).items()}
    frame = pd.concat([study.checked(name, made, each) for name, each in texts.items()])
    found = study.effects_of(frame, "fixed text")
    # kinds met: include and persona 1 of 3, length and quality 2, others 0: 6 of 24; length 2/3 against 4/21
    assert np.mean(found["length minus others"]["values"]) == pytest.approx(2 / 3 - 4 / 21)
    assert np.mean(found["format minus others"]["values"]) == pytest.approx(-2 / 7)
    assert np.mean(found["length minus format"]["values"]) == pytest.approx(2 / 3)
    assert np.mean(found["slope of soft"]["values"]) == pytest.approx(0, abs=1e-9)  # the mix does not move
    for name in ("length", "format", "focus"):  # a text that reads nothing gains nothing from being asked
        told = found[f"{name}, asked minus not asked"]
        assert told["a"].tolist() == told["b"].tolist()
    tasks_of = scores.task_scores(study.asked(frame, "fixed text"))
    # strict: both of two kinds, or all of four, among those met
    strict = found["strict, 2 minus 4"]
    assert strict["a"].mean() == tasks_of.query("n == 2")["strict"].mean() and strict["b"].mean() < strict["a"].mean()
    # without the texts of eight constraints
    without = study.effects_of(frame, "fixed text", {"long ones": {t.id for t in made if t.n == 8}})
    assert np.mean(without["slope of soft without long ones"]["values"]) == pytest.approx(0, abs=1e-9)
    assert len(without["slope of soft without long ones"]["values"]) == 48
    # a responder whose kinds do have slopes: each by least squares, their mean that of the tasks
    part = study.asked(frame, "known rate 0.7").query("n >= 2")
    slopes = study.effects_of(frame, "known rate 0.7")["slope of soft"]
    for kind, mine in part.groupby("kind"):
        rate = mine.groupby("n")["met"].mean()
        assert slopes["values"][kind] == pytest.approx(6 * np.polyfit(rate.index, rate, 1)[0])
    assert len(slopes["keys"]) == 24 and slopes["values"].std() > 0
    soft = part.groupby("task", sort=False).agg(n=("n", "first"), soft=("met", "mean"))
    assert slopes["values"].mean() == pytest.approx(6 * np.polyfit(soft["n"], soft["soft"], 1)[0])
    some = study.effects_of(frame, "known rate 0.7")["slope of soft without layout and end"]["keys"]
    assert set(slopes["keys"]) - set(some) == set(study.LAYOUT)
    assert np.mean(found["template minus it"]["a"] - found["template minus it"]["b"]) == pytest.approx(3 / 4)
    table = study.count_table(frame).set_index(["responder", "n"])
    assert table.loc[("fixed text", 8), "soft"] == pytest.approx(1 / 4) and table.loc[("template", 8), "strict"] == 1
    assert study.responder_table(frame).set_index("responder").loc["fixed text", "not asked"] == pytest.approx(1 / 4)
    assert pictures.by_category(study.category_table(frame).assign(seed=0), ["template", "fixed text"])
    assert pictures.agreement(study.category_table(frame).assign(seed=0))
    assert pictures.over_counts(study.count_table(frame), ["template"], 0.7) and pictures.taken_apart(made[-1], "Hi.")

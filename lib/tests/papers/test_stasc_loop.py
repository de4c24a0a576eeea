"""STaSC's sampler, loss and loop on tiny models: against transformers, against one call per sample, and interrupted."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.nn.chat import IGNORED, Example, masked_loss, training_examples
from reprobook.nn.sampling import Sampling
from reprobook.papers.stasc import bench, ciphers, learner, loop, pictures, released, study
from reprobook.papers.stasc.baselines import majority, self_consistency, sft, star
from reprobook.papers.stasc.dialogue import Prompts, marked
from reprobook.papers.stasc.filters import VARIANTS, Variant
from reprobook.papers.stasc.learner import Learner, Told, Tuning, tuning_batches
from reprobook.papers.stasc.loop import Plan, frame, one_iteration, optimistic, resized, run, selected
from reprobook.papers.stasc.questions import Question, Splits
from reprobook.papers.stasc.reward import reward
from reprobook.rehearsal.models import write_model
from reprobook.train import checkpoint, fit

TOKENIZER = ciphers.tokenizer()
QWEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def model(width: int = 16, layers: int = 1, seed: int = 0) -> Any:
    return ciphers.decoder(TOKENIZER, width, layers, 2, seed).eval()


def trainer(folder: Path) -> Callable[..., Any]:
    def run(name: str, net: Any, batches: Any, loss: Any, **options: Any) -> Any:
        return fit(net, batches, loss, folder=folder / "checkpoints" / name, device="cpu", **options)

    return run


def make(folder: Path, net: Any = None, **options: Any) -> Learner:
    values = {"fit": trainer(folder), "folder": folder, "seed": 1, "chunk": 4, "batch_size": 64, **options}
    tuning = Tuning(lr=1e-2, batch_size=4, precision="fp32")
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=3)
    tokenizer = values.pop("tokenizer", TOKENIZER)
    return Learner(net or model(), tokenizer, ciphers.PROMPTS, sampling, tuning, **values)


@pytest.fixture(scope="module")
def taught() -> dict[str, torch.Tensor]:
    """Weights of a small decoder that answers some questions rightly."""
    net, world = model(32), ciphers.World(ciphers.Corpus(low=0.3, high=0.9, known=1.0), 0)
    rows = world.write(np.arange(2000), 16_000)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    net.train()
    for k in range(150):
        masked_loss(net, ciphers.corpus_batch(TOKENIZER, rows[k * 64 : k * 64 + 64])).backward()
        optimiser.step()
        optimiser.zero_grad()
    return net.state_dict()


@pytest.fixture
def net(taught: dict[str, torch.Tensor]) -> Any:
    found = model(32)
    found.load_state_dict(taught)
    return found.eval()


@pytest.fixture(scope="module")
def splits() -> Splits:
    return ciphers.World(ciphers.Corpus(low=0.3, high=0.9, known=1.0), 0).split(40, 6, 10)[0]


# ------------------------------------------------------------------------------------------------- dialogues and loss


@pytest.mark.parametrize(
    ("template", "end", "header", "behind"),
    [(QWEN, "<|im_end|>", "<|im_start|>", 3), (PHI, "<|end|>", "<|assistant|>", 2)],
)
def test_labels_begin_where_the_released_code_begins(
    tmp_path: Path, template: str, end: str, header: str, behind: int
) -> None:
    """Qwen: the last <|im_start|>, the role and the line break are masked; Phi-3: the last <|assistant|> (and the line
    break after it); everything before as well."""
    from transformers import AutoTokenizer

    names = ["<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|end|>", "assistant\n", "user\n"]
    special = {"eos_token": end, "pad_token": "<|endoftext|>", "additional_special_tokens": names}
    write_model({"tokenizer": {"kind": "bpe", "special": special, "chat_template": template}}, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    turns = Prompts("Be brief.", "Check it.").corrected("where is it?", "in the garden")
    assert [m["role"] for m in turns] == ["user", "user", "assistant", "user"]
    stops = [tokenizer.convert_tokens_to_ids(end)]
    (example,) = training_examples(tokenizer, [turns], ["in the house"], stops)
    opening = tokenizer.convert_tokens_to_ids(header)
    last = max(k for k, token in enumerate(example.ids) if token == opening)
    first = next(k for k, label in enumerate(example.labels) if label != IGNORED)
    assert first <= last + behind and tokenizer.decode(example.ids[first:]) == f"in the house{end}"
    assert example.labels[first:] == example.ids[first:]
    assert example.n_trained == len(tokenizer("in the house", add_special_tokens=False).input_ids) + 1


def test_the_corpus_batch_is_what_the_template_writes() -> None:
    world = ciphers.World(ciphers.Corpus(), 1)
    rows = world.write(np.arange(2000), 20)
    batch = ciphers.corpus_batch(TOKENIZER, rows)
    stop = [TOKENIZER.eos_token_id]
    for k, row in enumerate(rows):
        question, first, second = ciphers.as_text(row)
        (one,) = training_examples(TOKENIZER, [ciphers.PROMPTS.initial(question)], [first], stop)
        (two,) = training_examples(TOKENIZER, [ciphers.PROMPTS.corrected(question, first)], [second], stop)
        assert batch["input_ids"][k].tolist() == list(two.ids)
        assert batch["labels"][k].tolist() == [*one.labels, *two.labels[len(one.labels) :]]


# -------------------------------------------------------------------------------------------------------- the learner


def test_an_epoch_meets_every_example_once_and_parts_add_up_to_the_batch() -> None:
    examples = [Example((k, k), (IGNORED, k)) for k in range(10)]
    tuning = Tuning(batch_size=4, epochs=2)
    batches = tuning_batches(examples, tuning, 0, seed=3)
    seen = [batches(i)["input_ids"][:, 0].tolist() for i in range(tuning.steps(10))]
    assert [len(s) for s in seen] == [4, 4, 2, 4, 4, 2]
    assert sorted(chain(*seen[:3])) == sorted(chain(*seen[3:])) == list(range(10)) and seen[:3] != seen[3:]
    split = tuning_batches(examples, Tuning(batch_size=4, accumulation=2), 0, seed=3, processes=2)
    joined = [list(chain(*(split(4 * u + part)["input_ids"][:, 0].tolist() for part in range(4)))) for u in range(3)]
    assert joined[:2] == seen[:2] and joined[2] == [*seen[2], *seen[0][:2]]
    with pytest.raises(ReprobookError, match="batch_size 4 is not a multiple of 3 micro-steps x 1 processes"):
        tuning_batches(examples, Tuning(batch_size=4, accumulation=3), 0, seed=3)


def test_nothing_is_drawn_twice_and_weights_come_back_bit_for_bit(tmp_path: Path, net: Any, splits: Any) -> None:
    one = make(tmp_path, net)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    answers = one.answers(one.base, splits.train, 3, "x")
    assert one.drawn == 120 and one.answers(one.base, splits.train, 3, "x") == answers and one.drawn == 120
    assert one.answers(one.base, splits.train, 3, "other") != answers
    told = [Told(q, "12", q.references[0]) for q in splits.train]
    after, updates = one.tune(one.base, told)
    assert updates == 10 and any(not torch.equal(before[k], v) for k, v in net.state_dict().items())
    one.use(one.base)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    again = make(tmp_path, model(32))
    again.model.load_state_dict(before)
    twin = make(tmp_path, again.model)
    assert twin.base == one.base and twin.tune(twin.base, told) == (after, 10)
    twin.answers(twin.base, splits.train, 3, "x")
    assert twin.drawn == 0
    assert one.tune(after, []) == (after, 0)
    without_template = copy.deepcopy(TOKENIZER)
    without_template.chat_template = None
    with pytest.raises(ReprobookError, match="N_init is 0"):
        one.answers(one.base, splits.train, 0, "x")
    with pytest.raises(ReprobookError, match="N_corr is 0"):
        one.corrections(one.base, splits.train, answers, 0, "x")
    with pytest.raises(ReprobookError, match="either fit"):
        make(tmp_path, net, fit=None)
    with pytest.raises(ReprobookError, match="no chat template"):
        make(tmp_path, net, tokenizer=without_template)


def test_a_damaged_file_of_samples_is_named(tmp_path: Path, splits: Any) -> None:
    one = make(tmp_path)
    one.answers(one.base, splits.train[:2], 1, "x")
    (file,) = (tmp_path / "samples").glob("*.json")
    file.write_text('[["half')
    with pytest.raises(ReprobookError, match=f"samples/{file.name} cannot be read .*: delete it"):
        one.answers(one.base, splits.train[:2], 1, "x")


class Stop(Exception):
    pass


def test_an_iteration_that_was_killed_goes_on_where_it_stopped(tmp_path: Path, net: Any, splits: Any) -> None:
    """Killed after 1, 2, 3, ... files of samples: the end is that of an undisturbed run, and nothing is drawn twice."""
    start = {k: v.clone() for k, v in net.state_dict().items()}
    plan = Plan(Variant("EIE"), 2, 2, 2)
    calm = make(tmp_path / "calm", net)
    expected = frame(run(calm, plan, splits))
    total = 0
    for _ in range(100):
        net.load_state_dict(start)
        one = make(tmp_path / "killed", net)
        real, made = one._sample, 0

        def killed(*arguments: Any, real: Any = real) -> Any:
            nonlocal made
            made += 1
            if made > 3:
                raise Stop
            return real(*arguments)

        one._sample = killed
        try:
            found = frame(run(one, plan, splits))
            total += one.drawn
            break
        except Stop:
            total += one.drawn
    assert found.equals(expected)
    assert total == calm.drawn


# ----------------------------------------------------------------------------------------------------------- the loop


def test_invariants_of_the_loop(tmp_path: Path, net: Any, splits: Any) -> None:
    one = make(tmp_path, net)
    runs = {v.name: run(one, Plan(v, 2, 3, 2), splits, last_train=True) for v in VARIANTS}
    for kind in "IN":  # 5: at n = 1 all choices of initialisation and fine-tuning coincide
        firsts = {runs[a + kind + c][1].model.key for a in "FE" for c in "FE"}
        assert len(firsts) == 1
    for name, its in runs.items():
        assert [it.n for it in its] == [0, 1, 2]
        assert its[0].drawn.pairs == 40 * 2 * 3 and its[-1].updates == 0
        if name[0] == "F":  # 3: initial answers and their accuracy stay
            assert len({it.row["train initial"] for it in its}) == 1
            assert all(np.array_equal(it.test.initial, its[0].test.initial) for it in its)
        if name[1] == "N":
            assert its[0].drawn.kept == round(its[0].row["train correction"] * its[0].drawn.pairs)
        assert optimistic(its) >= its[0].test.corrected.mean()
        assert selected(its).valid.corrected.mean() == max(it.valid.corrected.mean() for it in its)
        row = its[0].row
        gap = row["train wrong to right"] - row["train right to wrong"]
        assert row["train correction"] - row["train initial"] == pytest.approx(gap)
        assert its[0].test.net.mean() == pytest.approx(row["test correction"] - row["test initial"])
    as_run = run(one, Plan(Variant("ENE"), 2, 3, 1, as_run=True), splits)
    assert runs["EIE"][0].drawn.kept + as_run[0].drawn.kept == runs["ENE"][0].drawn.kept  # 1
    fixed, evolving = runs["EIF"][2].model, runs["EIE"][2].model
    assert fixed.key != evolving.key  # the same D_2, other starts: 4
    told = one_iteration(one, Plan(Variant("EIF"), 2, 3, 2), splits.train, runs["EIF"][1].model, 2).told
    assert one.tune(one.base, told)[0].key == fixed.key and one.tune(runs["EIE"][1].model, told)[0].key == evolving.key


def test_corrections_come_from_the_latest_model_and_fixed_answers_from_the_first(
    tmp_path: Path, net: Any, splits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, asked = make(tmp_path, net), []
    real = Learner._draw
    monkeypatch.setattr(
        Learner,
        "_draw",
        lambda self, by, q, shown, n, stream: asked.append((stream, by.key)) or real(self, by, q, shown, n, stream),
    )
    for name in ("FIE", "EIF"):
        asked.clear()
        its = run(one, Plan(Variant(name), 1, 4, 2), splits)
        assert not any(stream.startswith("test") for stream, _ in asked)  # nobody wanted to know
        assert [it.test.initial.shape for it in its] == [(10,)] * 3
        by = dict(asked)
        assert by["train corrections 2"] == by["test corrections 1"] == its[1].model.key
        assert by["test corrections 2"] == its[2].model.key
        assert by[f"train initial {1 if name == 'FIE' else 2}"] == (one.base.key if name == "FIE" else its[1].model.key)


def test_an_empty_set_leaves_the_weights_alone(tmp_path: Path, splits: Any) -> None:
    one = make(tmp_path)  # random weights: nothing is right
    never = [Question(q.qid, q.text, ("never",)) for q in splits.train]
    parts = Splits(never, splits.valid, splits.test)
    for name in ("EIE", "FIF"):
        its = run(one, Plan(Variant(name), 1, 1, 2), parts)
        assert [it.drawn.kept for it in its[:2]] == [0, 0] and {it.model.key for it in its} == {one.base.key}


def test_crossed_pairs_show_answers_that_the_correction_was_not_written_for(
    tmp_path: Path, net: Any, splits: Any
) -> None:
    one = make(tmp_path, net)
    plans = [Plan(Variant("EIE"), 3, 2, 1, pairing=p) for p in ("matched", "cross")]
    matched, crossed = (one_iteration(one, p, splits.train, one.base, 1) for p in plans)
    assert crossed.pairs == 3 * matched.pairs and crossed.kept > matched.kept
    assert set(matched.told) <= set(crossed.told)
    assert all(reward(t.answer, t.question.references) > reward(t.shown, t.question.references) for t in crossed.told)
    single = [Plan(Variant("EIE"), 1, 2, 1, pairing=p) for p in ("matched", "cross")]
    a, b = (one_iteration(one, p, splits.train, one.base, 1) for p in single)
    assert (a.told, a.pairs) == (b.told, b.pairs)


# ---------------------------------------------------------------------------------------------------------- baselines


def test_the_majority_counts_what_normalises_alike() -> None:
    assert majority(["Rome", "Paris.", "the Paris", "Rome?", "paris"]) == "Paris."
    assert majority(["b", "a"]) == "b"  # of equals the first
    with pytest.raises(ReprobookError, match="at least one answer"):
        majority([])


def test_baselines_train_on_what_they_should(
    tmp_path: Path, net: Any, splits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, seen = make(tmp_path, net), []
    real = Learner.tune
    monkeypatch.setattr(
        Learner, "tune", lambda self, start, told: seen.append((start.key, told)) or real(self, start, told)
    )
    sft(one, splits.train, repeats=2)
    (start, told), *_ = seen
    assert start == one.base.key and len(told) == 4 * len(splits.train)
    assert all(t.answer == t.question.references[0] for t in told) and sum(t.shown is None for t in told) == 80
    seen.clear()
    found = star(one, splits.train, 4, 2)
    assert [start for start, _ in seen] == [one.base.key] * 2
    assert all(t.shown is None and reward(t.answer, t.question.references) == 1 for _, told in seen for t in told)
    assert [n for _, n in found] == [len(told) for _, told in seen]
    scores = self_consistency(one, one.base, splits.test, 5)
    answers = one.answers(one.base, splits.test, 5, "self-consistency")
    assert scores.tolist() == [reward(majority(a), q.references) for a, q in zip(answers, splits.test, strict=True)]


def test_lora_starts_again_from_nothing(tmp_path: Path, net: Any, splits: Any) -> None:
    """Fixed fine-tuning of an adapter starts from the adapter of M_0, and only the adapter is stored."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(net, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    one = make(tmp_path, adapted)
    plain = one.answers(one.base, splits.train, 2, "x")
    told = [Told(q, None, q.references[0]) for q in splits.train]
    after, _ = one.tune(one.base, told)
    assert all("lora_" in name for name in checkpoint.read(after.file)["model"])
    assert one.answers(after, splits.train, 2, "y") != plain
    one.use(one.base)
    assert all(bool((p == 0).all()) for name, p in adapted.named_parameters() if "lora_B" in name)
    assert json.loads(next((tmp_path / "samples").glob("*.json")).read_text())
    assert isinstance(learner.digest("a", 1), str) and learner.digest("a", 1) != learner.digest("a", 2)


# ------------------------------------------------------------------------------------------------------ paper scale


def test_the_real_architectures_have_their_published_sizes() -> None:
    qwen, phi = (released.needs(config) for config in released.SIZES.values())
    assert [round(each["parameters (M)"] * 1e6) for each in (qwen, phi)] == [1_543_714_304, 3_821_079_552]
    assert phi["tuning (GB)"] == pytest.approx(16 * 3.821079552) and phi["tuning, each GPU (GB)"] < 31
    assert 0 < qwen["A100 hours, 1,000 dialogues"] < phi["A100 hours, 1,000 dialogues"]


def test_wrong_names_at_paper_scale_are_told(tmp_path: Path) -> None:
    with pytest.raises(ReprobookError, match="questions_folder .*nowhere' does not exist"):
        released.open_questions(tmp_path / "nowhere", 4, 1, 1, 0)
    with pytest.raises(ReprobookError, match="model 'gpt' is not known; models: qwen2.5-1.5b-instruct, phi-3-mini"):
        released.launched_tuning("gpt", tmp_path, Tuning(), TOKENIZER, 0, tmp_path, 2, True)


# -------------------------------------------------------------------------------------------------------- benchmark


def test_the_benchmark_refuses_ways_that_disagree(net: Any, splits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (net, TOKENIZER, ciphers.PROMPTS, splits.test[:3], Sampling(1.0, 1.0, 3), 2, 2, 1)
    found = bench.sampling(*asked)
    assert set(found.seconds) == {"one call a sample", "shared", "batched"} and found.same
    monkeypatch.setattr(bench, "uniforms", lambda seed, stream, shape: np.full(shape, 0.999))
    with pytest.raises(ReprobookError, match="gave different results"):
        bench.sampling(*asked)


# ------------------------------------------------------------------------------------------------------- experiments


def test_the_names_of_runs_say_what_they_do() -> None:
    crossed = study.plan("ENE as run, crossed, equal updates", 5, 4, 3, 16)
    assert crossed == Plan(Variant("ENE"), 5, 4, 3, as_run=True, pairing="cross", updates=16)
    assert study.plan("EIE", 1, 1, 1, 16).updates is None and study.plan("EIE, double rate", 1, 1, 1).rate == 2
    with pytest.raises(ReprobookError, match="updates is 0; it must be at least 1"):
        study.plan("EIE, equal updates", 1, 1, 1, 0)


@pytest.mark.parametrize("size", [3, 7, 14, 20])
def test_a_set_is_resized_evenly(size: int) -> None:
    told = [Told(Question(str(k), "?", ("x",)), None, str(k)) for k in range(7)]
    found = resized(told, size, seed=1)
    counts = [found.count(each) for each in told]
    assert len(found) == size and max(counts) - min(counts) <= 1
    assert found == resized(told, size, seed=1) != resized(told, size, seed=2)
    assert resized([], size, seed=1) == []


def test_every_filter_makes_equal_updates_whatever_it_kept(tmp_path: Path, net: Any, splits: Any) -> None:
    one = make(tmp_path, net)
    names = ("EIE, equal updates", "ENE, equal updates", "ENE as run, equal updates")
    runs = {name: run(one, study.plan(name, 2, 3, 2, 3), splits) for name in names}
    assert all(it.updates == 3 for its in runs.values() for it in its[:-1] if it.drawn.kept)
    kept = [its[0].drawn.kept for its in runs.values()]
    assert kept[0] + kept[2] == kept[1]
    assert len({its[1].model.key for its in runs.values()}) == 3


def test_a_doubled_rate_makes_other_weights_of_the_same_pairs(tmp_path: Path, net: Any, splits: Any) -> None:
    one = make(tmp_path, net)
    plain, fast = (run(one, study.plan(f"ENE{mark}", 2, 3, 1), splits) for mark in ("", ", double rate"))
    assert plain[0].drawn.told == fast[0].drawn.told and plain[1].model.key != fast[1].model.key


def test_cut_answers_are_counted_also_when_they_are_read_from_files(tmp_path: Path, net: Any, splits: Any) -> None:
    """Against the texts themselves: an answer of the cipher has as many characters as tokens."""
    one = make(tmp_path, net)
    for _ in range(2):
        answers = one.answers(one.base, splits.train, 4, "x")
        assert one.cut["x"] == pytest.approx([np.mean([len(text) == 3 for text in row]) for row in answers])
        assert one.drawn == 160
    y2 = one.corrections(one.base, splits.train[:5], answers[:5], 2, "y")
    assert one.cut["y"] == pytest.approx([np.mean([len(t) == 3 for row in rows for t in row]) for rows in y2])
    assert study.cut(one, "x") == pytest.approx(np.mean(one.cut["x"]))


def test_an_experiment_of_two_worlds_from_corpus_to_effects(tmp_path: Path) -> None:
    sizes = study.Sizes(3, 16, 6, 10, 16, 1, 30, 1e-2)
    tuning, drawn = Tuning(lr=1e-2, batch_size=8, precision="fp32"), Sampling(1.0, 1.0, 3)
    tools = {"fit": trainer(tmp_path), "folder": tmp_path, "device": torch.device("cpu")}
    toys = [study.open_toy(k, 0, sizes, tuning, drawn, **tools) for k in range(2)]
    assert toys[0].learner.base != toys[1].learner.base and study.corpus_rates(toys)["world"].tolist() == [0, 1]
    runs = study.variants(toys, ["EIE", "ENE", "FIE", "FIF"], (2, 2), 1, 2)
    sampled = study.sample_counts(toys, [1, 2], 1, 2)
    rivals = study.rivals(toys, 2, 1, 3, 1)
    pairs = study.comparisons(runs, sampled, rivals, [1, 2])
    assert all(a.shape == b.shape == (20,) for a, b in pairs.values()) and study.groups(toys) == [0] * 10 + [1] * 10
    after, before = pairs["EIE: net repairs"]
    assert np.array_equal(before, pairs["EIE: corrections"][1] - pairs["EIE: initial answers"][1])
    assert np.array_equal(study.levels(runs)["EIE: net repairs left"], after)
    assert rivals["no training, answer repeated"].net.tolist() == [0.0] * 20
    many, few = pairs["EIF: more initial answers"]
    last = {key: study.tested(sampled[f"EIF {key}"]).corrected for key in ("(1, 1)", "(1, 2)", "(2, 1)", "(2, 2)")}
    assert np.array_equal(many, (last["(2, 1)"] + last["(2, 2)"]) / 2)
    assert np.array_equal(few, (last["(1, 1)"] + last["(1, 2)"]) / 2)
    table = study.count_table(sampled)
    assert set(zip(table["N_init"], table["N_corr"], table["updates"], strict=True)) == {
        (a, b, whose) for a in (1, 2) for b in (1, 2) for whose in ("own", "equal")
    }
    summary, curves = study.summary(runs), study.curves(runs)
    assert len(curves) == 4 * 2 and summary["run"].tolist() == list(runs)
    assert study.changes(summary, ["EIE"])["last minus before"].item() == pytest.approx(
        np.subtract(*pairs["EIE: corrections"]).mean()
    )
    assert study.variants([], ["EIE"], (1, 1), 1, 1) == {} == study.comparisons({}, {}, {}, [1])


def test_the_plan_at_paper_scale_names_effects_that_a_run_gives() -> None:
    from reprobook import facts

    planned = facts.load("stasc").effects_at("paper")
    scores = loop.Scores(np.zeros(2), np.ones(2))
    its = [loop.Iterate(n, learner.Snapshot("x"), scores, lambda: scores) for n in range(2)]
    names = ("EIE", "EIF", "ENE", "ENE as run", "FIE", "FIF")
    models = ("qwen2.5-1.5b-instruct", "phi-3-mini")
    found = {e for m in models for e in released.effects(m, {**dict.fromkeys(names, its), "gold answers": its[:1]})}
    assert planned and set(planned) <= found


def test_a_dialogue_is_marked_where_it_is_trained() -> None:
    lines = study.spoken(ciphers.PROMPTS, "c37", "84", "52")
    flat = [token for line in lines for token in line]
    assert "".join(text for text, _ in flat) == "<user>c37<end><assistant>84<end><user>?<end><assistant>52<end>"
    assert "".join(text for text, trained in flat if trained) == "52<end>"
    (example,) = training_examples(TOKENIZER, [ciphers.PROMPTS.initial("c37")], ["84"], [TOKENIZER.eos_token_id])
    assert all(sum(len(text) for text, _ in line) <= 12 for line in marked(TOKENIZER, example, width=12))
    assert len(pictures.dialogue(lines).axes) == 1

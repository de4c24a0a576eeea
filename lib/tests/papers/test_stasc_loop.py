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
from reprobook.nn.chat import IGNORED, Example, masked_loss, prompt_ids, training_examples
from reprobook.nn.sampling import Sampling
from reprobook.papers.stasc import baselines, bench, ciphers, learner, loop, pictures, released, study
from reprobook.papers.stasc.baselines import majority, self_consistency, sft, star
from reprobook.papers.stasc.dialogue import Prompts, marked
from reprobook.papers.stasc.filters import VARIANTS, Variant
from reprobook.papers.stasc.learner import Learner, Told, Tuning, tuning_batches
from reprobook.papers.stasc.loop import Plan, frame, one_iteration, optimistic, resized, run, selected
from reprobook.papers.stasc.questions import Question, Splits
from reprobook.papers.stasc.reward import reward, rewards
from reprobook.rehearsal.models import write_model
from reprobook.train import checkpoint, fit
from torch.nn import functional as F

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
        assert its[0].pairs == 40 * 2 * 3 and its[-1].updates == 0
        if name[0] == "F":  # 3: initial answers and their accuracy stay
            assert len({it.train_initial for it in its}) == 1
            assert all(np.array_equal(it.test.initial, its[0].test.initial) for it in its)
        if name[1] == "N":
            assert its[0].kept == round(its[0].train_corrected * its[0].pairs)
        assert optimistic(its) >= its[0].test.corrected.mean()
        assert selected(its).valid.corrected.mean() == max(it.valid.corrected.mean() for it in its)
        moves = its[0].moves
        gap = moves["wrong to right"] - moves["right to wrong"]
        assert its[0].train_corrected - its[0].train_initial == pytest.approx(gap)
    assert (
        runs["EIE"][0].kept + run(one, Plan(Variant("ENE"), 2, 3, 1, as_run=True), splits)[0].kept
        == runs["ENE"][0].kept
    )  # 1
    fixed, evolving = runs["EIF"][2].model, runs["EIE"][2].model
    assert fixed.key != evolving.key  # the same D_2, other starts: 4
    told, _, _, _ = one_iteration(one, Plan(Variant("EIF"), 2, 3, 2), splits.train, runs["EIF"][1].model, 2)
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
        assert [it.kept for it in its[:2]] == [0, 0] and {it.model.key for it in its} == {one.base.key}


def test_crossed_pairs_show_answers_that_the_correction_was_not_written_for(
    tmp_path: Path, net: Any, splits: Any
) -> None:
    one = make(tmp_path, net)
    plans = [Plan(Variant("EIE"), 3, 2, 1, pairing=p) for p in ("matched", "cross")]
    (matched, *_, n), (crossed, *_, m) = (one_iteration(one, p, splits.train, one.base, 1) for p in plans)
    assert m == 3 * n and set(matched) <= set(crossed) and len(crossed) > len(matched)
    assert all(reward(t.answer, t.question.references) > reward(t.shown, t.question.references) for t in crossed)
    single = [Plan(Variant("EIE"), 1, 2, 1, pairing=p) for p in ("matched", "cross")]
    a, b = (one_iteration(one, p, splits.train, one.base, 1) for p in single)
    assert a[0] == b[0] and a[3] == b[3]


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
    sizes = {name: released.needs(config) for name, config in released.SIZES.items()}
    assert round(sizes["Qwen2.5-1.5B-Instruct"]["parameters (M)"] * 1e6) == 1_543_714_304
    assert round(sizes["Phi-3-mini-4k-instruct"]["parameters (M)"] * 1e6) == 3_821_079_552
    phi = sizes["Phi-3-mini-4k-instruct"]
    assert phi["tuning (GB)"] == pytest.approx(16 * 3.821079552) and phi["tuning, each GPU (GB)"] < 31


def test_wrong_names_at_paper_scale_are_told(tmp_path: Path) -> None:
    with pytest.raises(ReprobookError, match="questions_folder .*nowhere' does not exist"):
        released.open_questions(tmp_path / "nowhere", 4, 1, 1, 0)
    with pytest.raises(ReprobookError, match="model 'gpt' is not known; models: qwen2.5-1.5b-instruct, phi-3-mini"):
        released.launched_tuning("gpt", tmp_path, Tuning(), TOKENIZER, 0, tmp_path, 2, True)


# -------------------------------------------------------------------------------------------------------- benchmark


def test_the_benchmark_refuses_ways_that_disagree(net: Any, splits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = Sampling(1.0, 1.0, 3)
    asked = (net, TOKENIZER, ciphers.PROMPTS, splits.test[:3], sampling, 2, 2)
    assert set(bench.sampling_seconds(*asked)) == set(bench.WAYS)
    monkeypatch.setattr(bench, "uniforms", lambda seed, stream, shape: np.full(shape, 0.999))
    with pytest.raises(ReprobookError, match="'shared' and 'batched' drew different samples"):
        bench.sampling_seconds(*asked)

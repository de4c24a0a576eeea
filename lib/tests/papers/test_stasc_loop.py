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
from reprobook.papers import stasc
from reprobook.papers.stasc import bench, ciphers, learner, loop
from reprobook.papers.stasc.baselines import majority, self_consistency, sft, star
from reprobook.papers.stasc.dialogue import IGNORED, Example, collate
from reprobook.papers.stasc.learner import tuning_batches
from reprobook.papers.stasc.sampling import Reader, uniforms
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


def make(folder: Path, net: Any = None, **options: Any) -> stasc.Learner:
    values = {"fit": trainer(folder), "folder": folder, "seed": 1, "chunk": 4, "batch_size": 64, **options}
    tuning = stasc.Tuning(lr=1e-2, batch_size=4, precision="fp32")
    sampling = stasc.Sampling(temperature=1.0, top_p=1.0, max_new_tokens=3)
    tokenizer = values.pop("tokenizer", TOKENIZER)
    return stasc.Learner(net or model(), tokenizer, ciphers.PROMPTS, sampling, tuning, **values)


@pytest.fixture(scope="module")
def taught() -> dict[str, torch.Tensor]:
    """Weights of a small decoder that answers some questions rightly."""
    net, world = model(32), ciphers.World(ciphers.Corpus(low=0.3, high=0.9, known=1.0), 0)
    rows = world.write(np.arange(2000), 16_000)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    net.train()
    for k in range(150):
        stasc.correction_loss(net, ciphers.corpus_batch(TOKENIZER, rows[k * 64 : k * 64 + 64])).backward()
        optimiser.step()
        optimiser.zero_grad()
    return net.state_dict()


@pytest.fixture
def net(taught: dict[str, torch.Tensor]) -> Any:
    found = model(32)
    found.load_state_dict(taught)
    return found.eval()


@pytest.fixture(scope="module")
def splits() -> stasc.Splits:
    return ciphers.World(ciphers.Corpus(low=0.3, high=0.9, known=1.0), 0).split(40, 6, 10)[0]


# ---------------------------------------------------------------------------------------------------------- sampling


def test_draws_follow_the_nucleus_of_transformers() -> None:
    """With evenly spaced u the draws count out the probabilities of transformers' own temperature and top-p warpers."""
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(0)) * 2
    for temperature, top_p in ((0.6, 0.9), (1.5, 1.0), (3.0, 0.99), (1.0, 0.01)):
        scores = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits))
        u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        sampling = stasc.Sampling(temperature, top_p, 1)
        for row in range(3):
            ids = stasc.draw(logits[row].expand(len(u), -1), u, sampling)
            counted = torch.bincount(ids, minlength=300) / len(u)
            assert (counted - scores[row].softmax(-1)).abs().max() < 2e-4
            assert set(ids.tolist()) <= set(scores[row].isfinite().nonzero().flatten().tolist())


@pytest.mark.parametrize("u", [0.0, 1 - 1e-16])
def test_draws_at_the_ends_of_the_interval_stay_in_the_nucleus(u: float) -> None:
    logits = torch.full((1, 100), -100.0)
    logits[0, [3, 7]] = torch.tensor([2.0, 1.0])
    found = stasc.draw(logits, torch.tensor([u], dtype=torch.float64), stasc.Sampling(1.0, 0.95, 1))
    assert found.item() == (3 if u == 0 else 7)


def test_sharing_batches_and_duplicates_change_no_sample() -> None:
    """Against one call per sample, with transformers' plain forward and no cache."""
    net = model(16, 2).double()
    asked = ["a12", "a13", "b99", "a12"]
    turns = [ciphers.PROMPTS.corrected(q, y) for q in asked for y in ("12", "5")]
    prompts = stasc.prompt_ids(TOKENIZER, turns)
    heads = [stasc.prompt_ids(TOKENIZER, [ciphers.PROMPTS.initial(q)])[0] for q in asked for _ in "yy"]
    sampling = stasc.Sampling(1.2, 0.95, 4)
    u = uniforms(5, "x", (len(prompts), 3, 4))
    stops = [TOKENIZER.eos_token_id]

    def alone(prompt: list[int], own: np.ndarray) -> list[int]:
        ids = list(prompt)
        for value in own:
            with torch.no_grad():
                logits = net(input_ids=torch.tensor([ids])).logits[:, -1]
            ids.append(stasc.draw(logits, torch.tensor([value]), sampling).item())
            if ids[-1] in stops:
                return ids[len(prompt) : -1]
        return ids[len(prompt) :]

    expected = [[alone(p, own) for own in rows] for p, rows in zip(prompts, u, strict=True)]
    assert len({len(text) for rows in expected for text in rows}) > 1  # some end early
    reader = Reader(net)
    for size in (1, 2, 1000):
        assert stasc.sample(net, prompts, u, sampling, stops, stems=heads, batch_size=size, reader=reader) == expected
    assert stasc.sample(net, prompts, u, sampling, stops) == expected
    assert (
        stasc.sample(net, [[7, 8], [9]], u[:2], sampling, stops)
        == [  # nothing in common
            [alone(p, own) for own in rows] for p, rows in zip([[7, 8], [9]], u[:2], strict=True)
        ]
    )


def test_wrong_sampling_settings_are_named() -> None:
    for options, message in (
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ({"top_p": 1.5}, r"top_p is 1.5; it must be in \(0, 1\]"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
    ):
        with pytest.raises(ReprobookError, match=message):
            stasc.Sampling(**options)
    for prompts, stems in (([[1], []], None), ([[1], [1, 2]], [[1], [2]])):
        with pytest.raises(ReprobookError, match="prompt 1 is empty or does not begin with its stem"):
            stasc.sample(model(), prompts, np.zeros((2, 1, 256)), stasc.Sampling(), [3], stems=stems)
    with pytest.raises(ReprobookError, match=r"u has shape \(1, 1, 2\)"):
        stasc.sample(model(), [[1]], np.zeros((1, 1, 2)), stasc.Sampling(), [3])


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
    turns = stasc.Prompts("Be brief.", "Check it.").corrected("where is it?", "in the garden")
    assert [m["role"] for m in turns] == ["user", "user", "assistant", "user"]
    stops = [tokenizer.convert_tokens_to_ids(end)]
    (example,) = stasc.training_examples(tokenizer, [turns], ["in the house"], stops)
    opening = tokenizer.convert_tokens_to_ids(header)
    last = max(k for k, token in enumerate(example.ids) if token == opening)
    first = next(k for k, label in enumerate(example.labels) if label != IGNORED)
    assert first <= last + behind and tokenizer.decode(example.ids[first:]) == f"in the house{end}"
    assert example.labels[first:] == example.ids[first:]
    assert example.n_trained == len(tokenizer("in the house", add_special_tokens=False).input_ids) + 1


def test_a_template_that_cannot_be_continued_is_refused() -> None:
    class Other:
        eos_token_id = 0

        def apply_chat_template(self, turns: list, tokenize: bool, add_generation_prompt: bool = False) -> str:
            return "xy" if add_generation_prompt else "xz"

        def __call__(self, texts: list[str], add_special_tokens: bool) -> Any:
            return type("Encoded", (), {"input_ids": [[ord(c) for c in text] for text in texts]})

    with pytest.raises(ReprobookError, match="does not continue its own generation prompt"):
        stasc.training_examples(Other(), [[{"role": "user", "content": "?"}]], ["z"], [0])


def test_the_loss_is_that_of_transformers_on_the_correction_alone() -> None:
    net = model(16, 2).double()
    turns = [ciphers.PROMPTS.corrected("a12", "34"), ciphers.PROMPTS.corrected("b5", "7")]
    examples = stasc.training_examples(TOKENIZER, turns, ["56", "8"], [TOKENIZER.eos_token_id])
    batch = collate(examples, TOKENIZER.pad_token_id)
    labels = batch["labels"]
    theirs = net(input_ids=batch["ids"], attention_mask=batch["mask"], labels=labels).loss
    assert stasc.correction_loss(net, batch).item() == pytest.approx(theirs.item(), abs=1e-12)
    assert int((labels != IGNORED).sum()) == 3 + 2  # two digits and one, each with its end token
    spoiled = {**batch, "ids": batch["ids"].clone()}  # targets come from the labels: prompts could be anything there
    masked = torch.where(batch["mask"].bool(), labels, IGNORED)
    assert stasc.correction_loss(net, {**spoiled, "labels": masked}) == stasc.correction_loss(net, batch)
    by_hand = 0.0
    for e in examples:
        log_p = F.log_softmax(net(input_ids=torch.tensor([e.ids])).logits[0], -1)
        by_hand -= sum(log_p[k - 1, label].item() for k, label in enumerate(e.labels) if label != IGNORED)
    assert theirs.item() == pytest.approx(by_hand / 5, abs=1e-6)  # the loss is computed in fp32


def test_the_corpus_batch_is_what_the_template_writes() -> None:
    world = ciphers.World(ciphers.Corpus(), 1)
    rows = world.write(np.arange(2000), 20)
    batch = ciphers.corpus_batch(TOKENIZER, rows)
    stop = [TOKENIZER.eos_token_id]
    for k, row in enumerate(rows):
        question, first, second = ciphers.as_text(row)
        (one,) = stasc.training_examples(TOKENIZER, [ciphers.PROMPTS.initial(question)], [first], stop)
        (two,) = stasc.training_examples(TOKENIZER, [ciphers.PROMPTS.corrected(question, first)], [second], stop)
        assert batch["ids"][k].tolist() == list(two.ids)
        assert batch["labels"][k].tolist() == [*one.labels, *two.labels[len(one.labels) :]]


# -------------------------------------------------------------------------------------------------------- the learner


def test_an_epoch_meets_every_example_once_and_parts_add_up_to_the_batch() -> None:
    examples = [Example((k, k), (IGNORED, k)) for k in range(10)]
    tuning = stasc.Tuning(batch_size=4, epochs=2)
    batches = tuning_batches(examples, tuning, 0, seed=3)
    seen = [batches(i)["ids"][:, 0].tolist() for i in range(tuning.steps(10))]
    assert [len(s) for s in seen] == [4, 4, 2, 4, 4, 2]
    assert sorted(chain(*seen[:3])) == sorted(chain(*seen[3:])) == list(range(10)) and seen[:3] != seen[3:]
    split = tuning_batches(examples, stasc.Tuning(batch_size=4, accumulation=2), 0, seed=3, processes=2)
    joined = [list(chain(*(split(4 * u + part)["ids"][:, 0].tolist() for part in range(4)))) for u in range(3)]
    assert joined[:2] == seen[:2] and joined[2] == [*seen[2], *seen[0][:2]]
    with pytest.raises(ReprobookError, match="batch_size 4 is not a multiple of 3 micro-steps x 1 processes"):
        tuning_batches(examples, stasc.Tuning(batch_size=4, accumulation=3), 0, seed=3)


def test_nothing_is_drawn_twice_and_weights_come_back_bit_for_bit(tmp_path: Path, net: Any, splits: Any) -> None:
    one = make(tmp_path, net)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    answers = one.answers(one.base, splits.train, 3, "x")
    assert one.drawn == 120 and one.answers(one.base, splits.train, 3, "x") == answers and one.drawn == 120
    assert one.answers(one.base, splits.train, 3, "other") != answers
    told = [stasc.Told(q, "12", q.references[0]) for q in splits.train]
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
    plan = stasc.Plan(stasc.Variant("EIE"), 2, 2, 2)
    calm = make(tmp_path / "calm", net)
    expected = loop.frame(stasc.run(calm, plan, splits))
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
            found = loop.frame(stasc.run(one, plan, splits))
            total += one.drawn
            break
        except Stop:
            total += one.drawn
    assert found.equals(expected)
    assert total == calm.drawn


# ----------------------------------------------------------------------------------------------------------- the loop


def test_invariants_of_the_loop(tmp_path: Path, net: Any, splits: Any) -> None:
    one = make(tmp_path, net)
    runs = {v.name: stasc.run(one, stasc.Plan(v, 2, 3, 2), splits, last_train=True) for v in stasc.VARIANTS}
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
        assert stasc.optimistic(its) >= its[0].test.corrected.mean()
        assert stasc.selected(its).valid.corrected.mean() == max(it.valid.corrected.mean() for it in its)
        moves = its[0].moves
        gap = moves["wrong to right"] - moves["right to wrong"]
        assert its[0].train_corrected - its[0].train_initial == pytest.approx(gap)
    assert (
        runs["EIE"][0].kept + stasc.run(one, stasc.Plan(stasc.Variant("ENE"), 2, 3, 1, as_run=True), splits)[0].kept
        == runs["ENE"][0].kept
    )  # 1
    fixed, evolving = runs["EIF"][2].model, runs["EIE"][2].model
    assert fixed.key != evolving.key  # the same D_2, other starts: 4
    told, _, _, _ = stasc.one_iteration(
        one, stasc.Plan(stasc.Variant("EIF"), 2, 3, 2), splits.train, runs["EIF"][1].model, 2
    )
    assert one.tune(one.base, told)[0].key == fixed.key and one.tune(runs["EIE"][1].model, told)[0].key == evolving.key


def test_corrections_come_from_the_latest_model_and_fixed_answers_from_the_first(
    tmp_path: Path, net: Any, splits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, asked = make(tmp_path, net), []
    real = stasc.Learner._draw
    monkeypatch.setattr(
        stasc.Learner,
        "_draw",
        lambda self, by, q, shown, n, stream: asked.append((stream, by.key)) or real(self, by, q, shown, n, stream),
    )
    for name in ("FIE", "EIF"):
        asked.clear()
        its = stasc.run(one, stasc.Plan(stasc.Variant(name), 1, 4, 2), splits)
        assert not any(stream.startswith("test") for stream, _ in asked)  # nobody wanted to know
        assert [it.test.initial.shape for it in its] == [(10,)] * 3
        by = dict(asked)
        assert by["train corrections 2"] == by["test corrections 1"] == its[1].model.key
        assert by["test corrections 2"] == its[2].model.key
        assert by[f"train initial {1 if name == 'FIE' else 2}"] == (one.base.key if name == "FIE" else its[1].model.key)


def test_an_empty_set_leaves_the_weights_alone(tmp_path: Path, splits: Any) -> None:
    one = make(tmp_path)  # random weights: nothing is right
    never = [stasc.Question(q.qid, q.text, ("never",)) for q in splits.train]
    parts = stasc.Splits(never, splits.valid, splits.test)
    for name in ("EIE", "FIF"):
        its = stasc.run(one, stasc.Plan(stasc.Variant(name), 1, 1, 2), parts)
        assert [it.kept for it in its[:2]] == [0, 0] and {it.model.key for it in its} == {one.base.key}


def test_crossed_pairs_show_answers_that_the_correction_was_not_written_for(
    tmp_path: Path, net: Any, splits: Any
) -> None:
    one = make(tmp_path, net)
    plans = [stasc.Plan(stasc.Variant("EIE"), 3, 2, 1, pairing=p) for p in ("matched", "cross")]
    (matched, *_, n), (crossed, *_, m) = (stasc.one_iteration(one, p, splits.train, one.base, 1) for p in plans)
    assert m == 3 * n and set(matched) <= set(crossed) and len(crossed) > len(matched)
    assert all(
        stasc.reward(t.answer, t.question.references) > stasc.reward(t.shown, t.question.references) for t in crossed
    )
    single = [stasc.Plan(stasc.Variant("EIE"), 1, 2, 1, pairing=p) for p in ("matched", "cross")]
    a, b = (stasc.one_iteration(one, p, splits.train, one.base, 1) for p in single)
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
    real = stasc.Learner.tune
    monkeypatch.setattr(
        stasc.Learner, "tune", lambda self, start, told: seen.append((start.key, told)) or real(self, start, told)
    )
    sft(one, splits.train, repeats=2)
    (start, told), *_ = seen
    assert start == one.base.key and len(told) == 4 * len(splits.train)
    assert all(t.answer == t.question.references[0] for t in told) and sum(t.shown is None for t in told) == 80
    seen.clear()
    found = star(one, splits.train, 4, 2)
    assert [start for start, _ in seen] == [one.base.key] * 2
    assert all(t.shown is None and stasc.reward(t.answer, t.question.references) == 1 for _, told in seen for t in told)
    assert [n for _, n in found] == [len(told) for _, told in seen]
    scores = self_consistency(one, one.base, splits.test, 5)
    answers = one.answers(one.base, splits.test, 5, "self-consistency")
    assert scores.tolist() == [
        stasc.reward(majority(a), q.references) for a, q in zip(answers, splits.test, strict=True)
    ]


def test_lora_starts_again_from_nothing(tmp_path: Path, net: Any, splits: Any) -> None:
    """Fixed fine-tuning of an adapter starts from the adapter of M_0, and only the adapter is stored."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(net, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    one = make(tmp_path, adapted)
    plain = one.answers(one.base, splits.train, 2, "x")
    told = [stasc.Told(q, None, q.references[0]) for q in splits.train]
    after, _ = one.tune(one.base, told)
    assert all("lora_" in name for name in checkpoint.read(after.file)["model"])
    assert one.answers(after, splits.train, 2, "y") != plain
    one.use(one.base)
    assert all(bool((p == 0).all()) for name, p in adapted.named_parameters() if "lora_B" in name)
    assert json.loads(next((tmp_path / "samples").glob("*.json")).read_text())
    assert isinstance(learner.digest("a", 1), str) and learner.digest("a", 1) != learner.digest("a", 2)


# ------------------------------------------------------------------------------------------------------ paper scale


def test_the_real_architectures_have_their_published_sizes() -> None:
    sizes = {name: stasc.released.needs(config) for name, config in stasc.released.SIZES.items()}
    assert round(sizes["Qwen2.5-1.5B-Instruct"]["parameters (M)"] * 1e6) == 1_543_714_304
    assert round(sizes["Phi-3-mini-4k-instruct"]["parameters (M)"] * 1e6) == 3_821_079_552
    phi = sizes["Phi-3-mini-4k-instruct"]
    assert phi["tuning (GB)"] == pytest.approx(16 * 3.821079552) and phi["tuning, each GPU (GB)"] < 31


def test_wrong_names_at_paper_scale_are_told(tmp_path: Path) -> None:
    with pytest.raises(ReprobookError, match="questions_folder .*nowhere' does not exist"):
        stasc.released.open_questions(tmp_path / "nowhere", 4, 1, 1, 0)
    with pytest.raises(ReprobookError, match="model 'gpt' is not known; models: qwen2.5-1.5b-instruct, phi-3-mini"):
        stasc.released.launched_tuning("gpt", tmp_path, stasc.Tuning(), TOKENIZER, 0, tmp_path, 2, True)


# -------------------------------------------------------------------------------------------------------- benchmark


def test_the_benchmark_refuses_ways_that_disagree(net: Any, splits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = stasc.Sampling(1.0, 1.0, 3)
    asked = (net, TOKENIZER, ciphers.PROMPTS, splits.test[:3], sampling, 2, 2)
    assert set(bench.sampling_seconds(*asked)) == set(bench.WAYS)
    monkeypatch.setattr(bench, "uniforms", lambda seed, stream, shape: np.full(shape, 0.999))
    with pytest.raises(ReprobookError, match="'shared' and 'batched' drew different samples"):
        bench.sampling_seconds(*asked)

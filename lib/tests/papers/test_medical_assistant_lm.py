"""The assistant's language models: packing, loss, adapters, decoding, resume; on tiny decoders."""

from __future__ import annotations

import copy
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers.medical_assistant import bench, device, entities, evaluate, released, scenarios, training
from reprobook.papers.medical_assistant.agents import LmAgent, true_draft
from reprobook.papers.medical_assistant.decoding import Reader
from reprobook.papers.medical_assistant.samples import AGENTS, IGNORED, Encoder, interleave
from reprobook.train import fit
from torch.nn import functional as F

TOKENIZER = training.small_tokenizer()
ENCODER = Encoder(TOKENIZER)
RNG = np.random.default_rng(5)
SHORT = [scenarios.play(scenarios.make_case(s, t, RNG))[0] for s in ("Hard SOS end", "Soft SOS") for t in (0, 1)]


def decoder(width: int = 16, layers: int = 2, seed: int = 0) -> Any:
    return training.small_decoder(TOKENIZER, width, layers, 2, seed).eval()


MODEL = decoder()


@pytest.mark.parametrize("role", AGENTS)
def test_one_pass_has_the_loss_of_all_samples(role: str) -> None:
    trajectory = SHORT[2]
    batch = training.collate([ENCODER.packed(trajectory, [role])], 0)
    packed = training.target_loss(MODEL, batch)
    total, n = 0.0, 0
    for sample in interleave(trajectory, role):
        prompt, target = ENCODER.context(sample.context, role), ENCODER.text(sample.target)
        with torch.no_grad():
            logits = MODEL(input_ids=torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        total += F.cross_entropy(logits, torch.tensor(target), reduction="sum").item()
        n += len(target)
    assert packed.item() == pytest.approx(total / n, rel=1e-5)
    assert int((batch["labels"] != IGNORED).sum()) == n  # every target token and its end token


def test_labels_are_the_targets_and_prompts_do_not_count() -> None:
    ids, labels = ENCODER.packed(SHORT[0], ["Planner"])
    told = [token for token, label in zip(ids, labels, strict=True) if label != IGNORED]
    assert told == [t for s in interleave(SHORT[0], "Planner") for t in ENCODER.text(s.target)]
    assert told[-1] == ENCODER.end and len(ids) == len(labels)
    both = ENCODER.packed(SHORT[0], AGENTS)[1]
    assert sum(label != IGNORED for label in both) > len(told)
    with pytest.raises(ReprobookError, match="no label in the batch"):
        training.target_loss(MODEL, training.collate([(ids, [IGNORED] * len(ids))], 0))


def test_contexts_are_prefixes_of_the_whole() -> None:
    ids, _ = ENCODER.packed(SHORT[3], AGENTS)
    for role in AGENTS:
        for sample in interleave(SHORT[3], role):
            prompt = ENCODER.context(sample.context, role)
            assert ids[: len(prompt)] == prompt
            target = ENCODER.text(sample.target)
            assert ids[len(prompt) : len(prompt) + len(target)] == target
    with pytest.raises(ReprobookError, match="limit is max_tokens = 50"):
        Encoder(TOKENIZER, max_tokens=50).context(SHORT[0], "Planner")


def test_padding_changes_nothing() -> None:
    rows = [ENCODER.packed(t, ["Caller"]) for t in (SHORT[0], SHORT[2])]
    alone = [training.target_loss(MODEL, training.collate([row], 0)) for row in rows]
    sizes = [sum(label != IGNORED for label in row[1]) for row in rows]
    together = training.target_loss(MODEL, training.collate(rows, 0))
    assert together.item() == pytest.approx((alone[0] * sizes[0] + alone[1] * sizes[1]).item() / sum(sizes), rel=1e-5)


def test_batches_are_a_pure_function_and_cover_an_epoch() -> None:
    batches = training.batches(SHORT, ENCODER, ["Planner"], 2, 0, augmented=False)
    assert all(torch.equal(a, b) for a, b in zip(batches(3).values(), batches(3).values(), strict=True))
    whole = [ENCODER.packed(t, ["Planner"])[0] for t in SHORT]
    rows = [row for i in (0, 1) for row in batches(i)["input_ids"].tolist()]
    pad = TOKENIZER.pad_token_id
    assert sorted([token for token in row if token != pad] for row in rows) == sorted(whole)
    assert all(pad not in row[: len(row) - row.count(pad)] for row in rows)  # padding is on the right
    augmented = training.batches(SHORT, ENCODER, ["Planner"], 2, 0)
    texts = [TOKENIZER.decode(augmented(i)["input_ids"][0]) for i in (0, 2)]
    assert texts[0] != texts[1] and "U100" not in texts[0]  # other entities in each epoch, none of the seed pool
    with pytest.raises(ReprobookError, match=r"from 1 to the number of trajectories \(4\)"):
        training.batches(SHORT, ENCODER, ["Planner"], 5, 0)


def test_adapters_start_as_the_base_and_are_counted() -> None:
    base = decoder()
    x = torch.tensor([ENCODER.packed(SHORT[0], AGENTS)[0]])
    with torch.no_grad():
        before = base(input_ids=x).logits
        model = training.add_adapters(base, ["planner", "caller"]).eval()
        assert torch.equal(model(input_ids=x).logits, before)  # B = 0
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == training.adapter_parameters(
            model.config
        )
        for name, p in model.named_parameters():
            if "lora_B.planner" in name:
                p.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
        changed = model(input_ids=x).logits
        assert not torch.allclose(changed, before, atol=1e-3)
        model.set_adapter("caller")
        assert torch.equal(model(input_ids=x).logits, before)
        with model.disable_adapter():
            assert torch.equal(model(input_ids=x).logits, before)
        model.set_adapter("planner")
        assert torch.equal(model(input_ids=x).logits, changed)
        merged = copy.deepcopy(model).merge_and_unload()
        assert torch.allclose(merged(input_ids=x).logits, changed, atol=1e-4)


def test_the_papers_adapter_has_ten_megabytes() -> None:
    found = released.needs(released.QWEN_7B)
    assert found["adapter (parameters)"] == 28 * (8 * (3584 + 3584) + 8 * (3584 + 512)) == 2_523_136
    assert found["adapter, fp32 (MB)"] == pytest.approx(10.09, abs=0.005)
    assert found["base (M parameters)"] == pytest.approx(7616, abs=1)
    smol = {"model_type": "llama", "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3,
            "num_hidden_layers": 30, "intermediate_size": 1536, "vocab_size": 49152}  # fmt: skip
    assert released.needs(smol)["adapter (parameters)"] == 460_800


def test_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    def run(folder: str, steps: int, stop: int | None = None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = training.add_adapters(decoder(), ["planner", "caller"], dropout=0.05)
        model.set_adapter("planner")
        batches = training.batches(SHORT, ENCODER, ["Planner"], 1, 0)

        def interrupted(i: int) -> Any:
            if i == stop:
                raise KeyboardInterrupt
            return batches(i)

        options = {"num_steps": steps, "lr": 1e-2, "device": "cpu", "checkpoint_every": 2, "precision": "fp32"}
        fit(model, interrupted, training.target_loss, folder=tmp_path / folder, **options)
        return {name: p.detach().clone() for name, p in model.named_parameters() if "lora" in name}

    whole = run("whole", 5)
    with pytest.raises(KeyboardInterrupt):
        run("parts", 5, stop=3)
    parts = run("parts", 5)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(bool(p.any()) for name, p in whole.items() if "lora_B.planner" in name)
    assert not any(bool(p.any()) for name, p in whole.items() if "lora_B.caller" in name)


def plain(prompt: list[int], n: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = MODEL.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False,
                         pad_token_id=0)[0, len(prompt) :].tolist()  # fmt: skip
    return out[: out.index(ENCODER.end)] if ENCODER.end in out else out


def test_reading_gives_plain_greedy_decoding_with_any_draft() -> None:
    reader = Reader(MODEL, ENCODER.end)
    contexts = [ENCODER.context(s.context, role) for role in AGENTS for s in interleave(SHORT[2], role)]
    for prompt in (*contexts, contexts[0], contexts[-1]):  # forwards, and back to the beginning
        truth = plain(prompt, 9)
        wrong = [*truth[:4], (truth[4] + 1) % 700 if len(truth) > 4 else 5, 3, 4]
        for draft in ((), truth, wrong, [7, 8], [*truth, ENCODER.end]):
            assert reader.turn(prompt, 9, draft) == truth
    reader.forget()
    assert reader.turn(contexts[1], 9) == plain(contexts[1], 9)
    with_draft = Reader(MODEL, ENCODER.end)
    with_draft.turn(contexts[0], 9, plain(contexts[0], 9))
    assert with_draft.counts.decoded == 0


def test_an_end_token_ends_a_turn() -> None:
    class Says:
        """Says 5, 6, end, whatever it reads."""

        device = torch.device("cpu")

        def __init__(self, n: int) -> None:
            self.n = n

        def __call__(self, input_ids: torch.Tensor, past_key_values: Any, logits_to_keep: int, **_: Any) -> Any:
            past_key_values.update(
                torch.zeros(1, 1, input_ids.shape[1], 1), torch.zeros(1, 1, input_ids.shape[1], 1), 0
            )
            seen = past_key_values.get_seq_length() - self.n  # tokens of the turn that were read
            said = torch.tensor(
                [[5, 6, 1, 9][k] if 0 <= k < 4 else 0 for k in range(seen - logits_to_keep + 1, seen + 1)]
            )
            return type("Out", (), {"logits": F.one_hot(said, 10).float()[None]})

    for draft in ((), (5,), (5, 6, 1), (5, 7, 1), (4,), (5, 6, 1, 9)):
        assert Reader(Says(3), 1).turn([2, 3, 4], 8, draft) == [5, 6], draft
    assert Reader(Says(3), 1).turn([2, 3, 4], 1) == [5]
    assert Reader(Says(3), 1).turn([2, 3, 4], 1, (5, 6)) == [5]


def test_agents_switch_adapters_and_the_draft_changes_nothing() -> None:
    torch.manual_seed(0)
    model = training.add_adapters(decoder(), ["planner", "caller"]).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name) + 7 * ("caller" in name)))
    adapters = {"Planner": "planner", "Caller": "caller"}
    slow = LmAgent(ENCODER, model, adapters, max_new_tokens=6)
    fast = LmAgent(ENCODER, model, adapters, max_new_tokens=6, draft=true_draft(SHORT))
    base = LmAgent(ENCODER, model, max_new_tokens=6)
    swapped = LmAgent(ENCODER, model, {"Planner": "caller", "Caller": "planner"}, max_new_tokens=6)
    said = {name: [s.said for s in evaluate.teacher_forced(agent, SHORT[:1])]
            for name, agent in {"slow": slow, "fast": fast, "base": base, "swapped": swapped}.items()}  # fmt: skip
    assert said["slow"] == said["fast"]
    untouched = LmAgent(ENCODER, models=dict.fromkeys(AGENTS, MODEL), max_new_tokens=6)  # the same random weights
    assert said["base"] == [s.said for s in evaluate.teacher_forced(untouched, SHORT[:1])]
    assert said["slow"] != said["base"] and said["slow"] != said["swapped"]
    with pytest.raises(ReprobookError, match="either model"):
        LmAgent(ENCODER)


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuses sockets and look-ups of names, and fails afterwards even if the refusal was caught."""
    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert tried == []


@pytest.mark.usefixtures("no_sockets")
def test_nothing_leaves_the_machine() -> None:
    case = scenarios.make_case("Hard SOS end", 0, np.random.default_rng(0))
    agent = LmAgent(ENCODER, models=dict.fromkeys(AGENTS, decoder(layers=1)), max_new_tokens=4)
    rows = evaluate.end_to_end(agent, [case])
    assert rows["status"].tolist() == ["stopped"]  # random weights say nothing that can be read
    assert agent.counts.decoded > 0


def test_the_true_draft_is_the_next_turn_only_on_the_true_path() -> None:
    guess = true_draft(SHORT)
    sample = interleave(SHORT[2], "Caller")[0]
    assert guess(sample.context, "Caller") == sample.target
    assert guess(sample.context, "Planner") is None


def test_a_monolith_has_as_many_parameters_as_two() -> None:
    width = bench.monolith_width(32, 2, 2, TOKENIZER)
    two, one = (bench.parameters(training.small_decoder(TOKENIZER, w, 2, 2, 0)) for w in (32, width))
    assert abs(one / (2 * two) - 1) < 0.08


def test_swapping_adapters_is_checked() -> None:
    model = training.add_adapters(decoder(), ["planner", "caller"]).eval()
    found = bench.swap_against_load(model, decoder, repeats=2)
    assert found["load / swap"] == pytest.approx(found["load (s)"] / found["swap (s)"])


def test_int8_is_close_and_smaller() -> None:
    x = torch.tensor([ENCODER.packed(SHORT[0], AGENTS)[0][:40]])
    quantised = device.quantised(MODEL)
    with torch.no_grad():
        exact, near = MODEL(input_ids=x).logits, quantised(input_ids=x).logits
    assert not torch.equal(exact, near)
    assert F.cosine_similarity(exact.flatten(), near.flatten(), dim=0) > 0.99
    with pytest.raises(ReprobookError, match="'int4' is not known"):
        device.open_precision(Path("x"), "int4")


def test_a_failed_measurement_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.sys, "executable", "/bin/false")
    with pytest.raises(ReprobookError, match="measurement of fp32 failed: no message"):
        device.on_device(tmp_path / "no.gguf", ["fp32"], 4, 2, 2)


@pytest.mark.parametrize("precision", device.PRECISIONS)
def test_a_precision_is_measured(precision: str, tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    found = device.measure(tmp_path, precision, 30, 5, 4)
    exact = Reader(MODEL, -1)
    words = torch.randint(MODEL.config.vocab_size, (35,), generator=torch.Generator().manual_seed(0))
    nll = F.cross_entropy(exact._read(words[:30].tolist(), 30)[:-1], words[1:30]).item()
    assert found["NLL of noise (nats)"] == pytest.approx(nll, abs=0.05)
    assert min(found["reading (tokens/s)"], found["decoding (tokens/s)"], found["latency of a turn (s)"]) > 0


def pieces(text: str) -> list[str]:
    return [TOKENIZER.decode([i]) for i in TOKENIZER(text).input_ids]


def pairs(word: str) -> list[str]:
    return [word[k : k + 2] for k in range(0, len(word), 2)]


def test_entities_are_copied_in_pieces_that_training_has_seen() -> None:
    """One form of an entity wherever it stands, of pairs of digits and pairs of letters, and lossless."""
    text = "user_id U8593 and 'U8593', name Mada, Dr Alwell, 'Dr Alwell', on 07/04/25 at 07:35-08:20, sore throat"
    assert all(value in entities.POOLS["test"].values[kind] for kind, value in entities.found(text))
    read = pieces(text)
    assert "".join(read) == text
    for form in ("U 85 93", "Ma da", "Al we ll", "07 / 04 / 25", "07 : 35 - 08 : 20"):
        spelled, entity = form.split(), form.replace(" ", "")
        at = [read[k : k + len(spelled)] == spelled for k in range(len(read))]
        assert sum(at) == text.count(entity) > 0, entity
    assert "sore throat" in read


@pytest.mark.parametrize("kind", ["name", "doctor"])
def test_held_out_names_are_read_in_pairs_of_letters_that_training_has_seen(kind: str) -> None:
    wide = entities.POOLS["wide"].values
    seen = {p for each in ("name", "doctor") for value in wide[each] for p in pieces(value.removeprefix("Dr "))}
    for value in entities.POOLS["test"].values[kind]:
        word = value.removeprefix("Dr ")
        assert pieces(word) == pairs(word)
        assert {p for p in pairs(word) if len(p) == 2} <= seen, word
        title = ["Dr "] if kind == "doctor" else []
        assert pieces(value) == title + pairs(word)

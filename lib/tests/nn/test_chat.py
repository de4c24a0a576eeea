"""Chat examples of real templates, and the loss on marked tokens against transformers and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.nn import chat
from reprobook.nn.chat import IGNORED, Example
from reprobook.nn.lm import add_lora
from reprobook.rehearsal.models import write_model
from torch.nn import functional as F

QWEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
TURNS = [
    {"role": "user", "content": "where is it?"},
    {"role": "assistant", "content": "in the garden"},
    {"role": "user", "content": "Check it."},
]


def tiny() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("template", "end", "header", "behind"),
    [(QWEN, "<|im_end|>", "<|im_start|>", 3), (PHI, "<|end|>", "<|assistant|>", 2)],
)
def test_only_the_last_answer_and_its_end_are_trained(
    tmp_path: Path, template: str, end: str, header: str, behind: int
) -> None:
    from transformers import AutoTokenizer

    names = ["<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|end|>", "assistant\n", "user\n"]
    special = {"eos_token": end, "pad_token": "<|endoftext|>", "additional_special_tokens": names}
    write_model({"tokenizer": {"kind": "bpe", "special": special, "chat_template": template}}, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    stops = [tokenizer.convert_tokens_to_ids(end)]
    (example,) = chat.training_examples(tokenizer, [TURNS], ["in the house"], stops)
    (prompt,) = chat.prompt_ids(tokenizer, [TURNS])
    opening = tokenizer.convert_tokens_to_ids(header)
    last = max(k for k, token in enumerate(example.ids) if token == opening)
    first = next(k for k, label in enumerate(example.labels) if label != IGNORED)
    assert first == len(prompt) and example.ids[:first] == tuple(prompt)
    assert first <= last + behind and tokenizer.decode(example.ids[first:]) == f"in the house{end}"
    assert example.labels[first:] == example.ids[first:]
    assert example.n_trained == len(tokenizer("in the house", add_special_tokens=False).input_ids) + 1
    assert chat.stop_ids(tiny(), tokenizer) == sorted({*stops, 2})  # the model's configuration names another end


def test_a_template_that_cannot_be_continued_is_refused() -> None:
    class Other:
        eos_token_id = 0

        def __init__(self, told: str) -> None:
            self.told = told

        def apply_chat_template(self, turns: list, tokenize: bool, add_generation_prompt: bool = False) -> str:
            return "xy" if add_generation_prompt else self.told

        def __call__(self, texts: list[str], add_special_tokens: bool) -> Any:
            return type("Encoded", (), {"input_ids": [[ord(c) for c in text] for text in texts]})

    for told, message in (("xz", "does not continue its own generation prompt"), ("xy", "has nothing to train on")):
        with pytest.raises(ReprobookError, match=message):
            chat.training_examples(Other(told), [[{"role": "user", "content": "?"}]], ["z"], [0])
    assert chat.prompt_ids(Other(""), []) == []


def test_the_loss_is_that_of_transformers_and_of_a_loop() -> None:
    """With a mask and without: what is padded on the right is seen by no target of a causal model."""
    net = tiny().double()
    examples = [
        Example((4, 5, 6, 7, 8, 2), (IGNORED, IGNORED, IGNORED, 7, 8, 2)),
        Example((9, 5, 3, 2), (IGNORED, IGNORED, 3, 2)),
        Example((4, 4, 6, 5, 5, 6, 9), (IGNORED, IGNORED, 6, IGNORED, IGNORED, 6, 9)),  # two marked turns
    ]
    batch = chat.collate(examples, pad=0)
    assert batch["attention_mask"].sum(1).tolist() == [6, 4, 7]
    loss = chat.masked_loss(net, batch)
    assert loss.item() == pytest.approx(net(**batch).loss.item(), abs=1e-12)
    by_hand = 0.0
    for e in examples:
        log_p = F.log_softmax(net(input_ids=torch.tensor([e.ids])).logits[0].float(), -1)
        by_hand -= sum(log_p[k - 1, label].item() for k, label in enumerate(e.labels) if label != IGNORED)
    assert loss.item() == pytest.approx(by_hand / 8, abs=1e-6)
    plain = {name: batch[name] for name in ("input_ids", "labels")}
    assert chat.masked_loss(net, plain).item() == pytest.approx(loss.item(), abs=1e-9)
    with pytest.raises(ReprobookError, match="no label in the batch"):
        chat.masked_loss(net, {**batch, "labels": torch.full_like(batch["labels"], IGNORED)})


def test_an_adapter_changes_nothing_until_it_is_trained_and_leaves_the_base_alone() -> None:
    x = torch.tensor([[4, 5, 6]])
    plain = tiny()(input_ids=x).logits
    net = add_lora(tiny(), ["one", "two"], r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained and all("lora" in name and "one" in name for name in trained)  # the first is active
    assert torch.equal(net(input_ids=x).logits, plain)
    net.base_model.model.model.layers[0].self_attn.q_proj.lora_B["two"].weight.data.fill_(1.0)
    assert torch.equal(net(input_ids=x).logits, plain)
    net.set_adapter("two")
    assert not torch.equal(net(input_ids=x).logits, plain)
    with net.disable_adapter():
        assert torch.equal(net(input_ids=x).logits, plain)

"""scMMGPT: encoder, Q-Former, losses, annotation, both stages, generation, against closed forms and other libraries."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reprobook.errors import ReprobookError
from reprobook.papers.scmmgpt import evaluation, objectives, sentences, stage1, stage2
from reprobook.papers.scmmgpt.baselines import BASELINES, fitted
from reprobook.papers.scmmgpt.decoder import ExpressionDecoder, expression_loss
from reprobook.papers.scmmgpt.encoder import CellEncoder, load_scgpt
from reprobook.papers.scmmgpt.qformer import QFormer, load_bert, prefix_mask
from reprobook.papers.scmmgpt.stage1 import Objective, Scores, Stage1, TextInput, Texts
from reprobook.papers.scmmgpt.stage2 import CellIds, CellLM, Pairs
from reprobook.papers.scmmgpt.tokens import Tokens
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

PAD, N_GENES = 20, 23


def tokens(n: int = 6, length: int = 9, seed: int = 0) -> Tokens:
    g = torch.Generator().manual_seed(seed)
    genes = torch.stack([torch.randperm(PAD, generator=g)[:length] for _ in range(n)])
    padding = torch.zeros(n, length, dtype=torch.bool)
    padding[1, 5:] = True
    values = torch.rand(n, length, generator=g)
    return Tokens(genes.masked_fill(padding, PAD), values.masked_fill(padding, 0), padding)


def texts(n: int = 4, length: int = 5, width: int = 12, seed: int = 0) -> Texts:
    g = torch.Generator().manual_seed(seed)
    padding = torch.zeros(n, length, dtype=torch.bool)
    padding[0, 3:] = True
    return Texts(torch.randint(1, 30, (n, length), generator=g), padding, torch.randn(n, length, width, generator=g))


CLEAN = Objective()


def make_stage1(objective: Objective = CLEAN, own_words: bool = False) -> Stage1:
    torch.manual_seed(0)
    encoder = CellEncoder(N_GENES, PAD, dim=16, n_layers=2, n_heads=2)
    text = TextInput(16, 31, None, 8) if own_words else TextInput(16, None, 12, 8)
    qformer = QFormer(16, n_layers=2, n_heads=2, n_queries=3, cell_dim=16)
    return Stage1(encoder, qformer, text, objective, joint_dim=8, dec_id=30 if own_words else None)


# --------------------------------------------------------------------------------------------------- encoder


def test_neither_padding_nor_the_order_of_genes_changes_a_cell() -> None:
    model = make_stage1().eval()
    x = tokens()
    z = model.queries(x)
    wider = Tokens(F.pad(x.genes, (0, 4), value=PAD), F.pad(x.values, (0, 4)), F.pad(x.padding, (0, 4), value=True))
    torch.testing.assert_close(model.queries(wider), z, atol=1e-5, rtol=0)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.queries(Tokens(*(e[:, order] for e in x))), z, atol=1e-5, rtol=0)
    other = Tokens(x.genes, x.values + 1.0 * ~x.padding, x.padding)
    assert (model.queries(other) - z).abs().max() > 1e-3  # values do matter


def test_values_above_the_clip_count_as_the_clip() -> None:
    encoder = make_stage1().encoder.eval()
    x = tokens()
    a, b = (encoder(x._replace(values=torch.full_like(x.values, v)))[0] for v in (512.0, 9000.0))
    torch.testing.assert_close(a, b)


def scgpt_folder(folder: Path, flash: bool) -> CellEncoder:
    """A folder with the names of a released checkpoint, flash-attention's or torch's, and heads that nobody needs."""
    torch.manual_seed(1)
    encoder = CellEncoder(5, 2, dim=8, n_layers=2, n_heads=2, hidden=12)
    weights = encoder.state_dict()
    if flash:
        weights = {
            k.replace("in_proj_weight", "Wqkv.weight").replace("in_proj_bias", "Wqkv.bias"): v
            for k, v in weights.items()
        }
    weights["decoder.fc.0.weight"] = torch.zeros(3)
    folder.mkdir(exist_ok=True)
    torch.save(weights, folder / "best_model.pt")
    settings = {"embsize": 8, "nlayers": 2, "nheads": 2, "d_hid": 12, "dropout": 0.2, "pad_token": "<pad>"}
    (folder / "args.json").write_text(json.dumps(settings))
    (folder / "vocab.json").write_text(json.dumps({"A": 0, "B": 1, "<pad>": 2, "<cls>": 3, "<eoc>": 4}))
    return encoder


@pytest.mark.parametrize("flash", [True, False])
def test_a_released_checkpoint_loads_under_either_name(tmp_path: Path, flash: bool) -> None:
    made = scgpt_folder(tmp_path, flash)
    loaded, vocabulary = load_scgpt(tmp_path)
    x = Tokens(torch.tensor([[3, 0, 1]]), torch.tensor([[-2.0, 1, 4]]), torch.zeros(1, 3, dtype=torch.bool))
    torch.testing.assert_close(loaded.eval()(x), made.eval()(x))
    assert vocabulary["<eoc>"] == 4


def test_a_checkpoint_that_does_not_fit_says_where(tmp_path: Path) -> None:
    with pytest.raises(ReprobookError, match="has no args.json, vocab.json, best_model.pt"):
        load_scgpt(tmp_path)
    scgpt_folder(tmp_path, True)
    weights = torch.load(tmp_path / "best_model.pt", weights_only=True)
    del weights["value_encoder.linear1.weight"]
    torch.save(weights, tmp_path / "best_model.pt")
    with pytest.raises(ReprobookError, match=r"value_encoder.linear1.weight should have shape \[8, 1\], got nothing"):
        load_scgpt(tmp_path)


# --------------------------------------------------------------------------------------------------- Q-Former


def blip2_pair() -> tuple[QFormer, torch.nn.Module]:
    """Ours and transformers' BLIP-2 Q-Former with the same random weights."""
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    torch.manual_seed(0)
    config = Blip2QFormerConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, encoder_hidden_size=10,
        cross_attention_frequency=2, use_qformer_text_input=True, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    theirs = Blip2QFormerModel(config).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.3)
    ours = QFormer(16, 3, 2, 24, n_queries=4, cell_dim=10).eval()
    weights = theirs.state_dict()
    names = {"norm": "layernorm"}
    for i in range(3):
        for a, b in (("attention", "attention"), ("cross", "crossattention")):
            names |= {f"layers.{i}.{a}.{p}": f"encoder.layer.{i}.{b}.attention.{p}" for p in ("query", "key", "value")}
            names |= {f"layers.{i}.{a}.dense": f"encoder.layer.{i}.{b}.output.dense"}
            names |= {f"layers.{i}.{a}.norm": f"encoder.layer.{i}.{b}.output.LayerNorm"}
        for a, b in (("text_ffn", ""), ("query_ffn", "_query")):
            names |= {f"layers.{i}.{a}.up": f"encoder.layer.{i}.intermediate{b}.dense"}
            names |= {f"layers.{i}.{a}.down": f"encoder.layer.{i}.output{b}.dense"}
            names |= {f"layers.{i}.{a}.norm": f"encoder.layer.{i}.output{b}.LayerNorm"}
    state = ours.state_dict()
    for a, b in names.items():
        for kind in ("weight", "bias"):
            if f"{a}.{kind}" in state:
                state[f"{a}.{kind}"] = weights[f"{b}.{kind}"]
    ours.load_state_dict(state)
    return ours, theirs


def test_the_qformer_is_blip2s() -> None:
    ours, theirs = blip2_pair()
    cell, text = torch.randn(3, 7, 10), torch.randn(3, 5, 16)
    cell_padding = torch.arange(7) >= torch.tensor([[7], [4], [6]])
    text_padding = torch.arange(5) >= torch.tensor([[5], [2], [4]])
    queries = ours.query_tokens.expand(3, -1, -1)
    look = {"encoder_hidden_states": cell, "encoder_attention_mask": (~cell_padding).long()}
    alone = theirs(query_embeds=queries, query_length=4, **look).last_hidden_state
    torch.testing.assert_close(ours(cell, cell_padding)[0], alone, atol=1e-5, rtol=1e-4)
    look = {"encoder_hidden_states": cell}  # with a mask for the cell, transformers 5.23 cannot run queries and text
    mask = torch.cat([torch.ones(3, 4), 1.0 * ~text_padding], 1).long()
    both = theirs(
        query_embeds=torch.cat([queries, text], 1), query_length=4, attention_mask=mask, **look
    ).last_hidden_state
    found = torch.cat(ours(cell, None, text, text_padding), 1)
    shown = torch.cat([torch.ones(3, 4, dtype=torch.bool), ~text_padding], 1)
    torch.testing.assert_close(found[shown], both[shown], atol=1e-5, rtol=1e-4)
    words = theirs(query_embeds=text, query_length=0, attention_mask=(~text_padding).long()).last_hidden_state
    torch.testing.assert_close(
        ours(text=text, text_padding=text_padding)[1][~text_padding], words[~text_padding], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("causal", [False, True])
def test_states_that_nobody_wants_are_not_worked_out_and_the_others_stay(causal: bool) -> None:
    model = QFormer(16, 3, 2, n_queries=4, cell_dim=10).eval()
    cell, text = torch.randn(3, 7, 10), torch.randn(3, 5, 16)
    padding = torch.arange(5) >= torch.tensor([[5], [2], [4]])
    queries, states = model(cell, None, text, padding, causal=causal)
    for n in (0, 1, 9):
        some, kept = model(cell, None, text, padding, causal=causal, n_text=n)
        torch.testing.assert_close(some, queries)
        torch.testing.assert_close(kept, states[:, :n])
    alone = model(text=text, text_padding=padding, n_text=1)[1]
    torch.testing.assert_close(alone, model(text=text, text_padding=padding)[1][:, :1])


def test_captions_see_queries_and_the_past_only() -> None:
    assert prefix_mask(2, 2)[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    model = QFormer(16, 2, 2, n_queries=3, cell_dim=16).eval()
    cell, text = torch.randn(2, 5, 16), torch.randn(2, 6, 16)
    later = text.clone()
    later[:, 4:] = torch.randn(2, 2, 16)
    (q1, t1), (q2, t2) = model(cell, text=text, causal=True), model(cell, text=later, causal=True)
    torch.testing.assert_close(q1, q2)
    torch.testing.assert_close(t1[:, :4], t2[:, :4])
    assert (t1[:, 4:] - t2[:, 4:]).abs().max() > 1e-3
    torch.testing.assert_close(q1, model(cell)[0])  # and text never reaches the queries


def test_a_bert_is_copied_into_text_and_query_sides() -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=8, type_vocab_size=1, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    bert = BertModel(config).eval()
    bert.embeddings.token_type_embeddings.weight.data.zero_()  # the Q-Former has none
    ours = QFormer(16, 2, 2, 24, n_queries=3, cell_dim=16).eval()
    load_bert(ours, bert.state_dict())
    ids = torch.tensor([[3, 5, 7, 1]])
    words = bert.embeddings.word_embeddings(ids) + bert.embeddings.position_embeddings.weight[:4]
    torch.testing.assert_close(ours(text=words)[1], bert(ids).last_hidden_state, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.layers[1].query_ffn.up.weight, ours.layers[1].text_ffn.up.weight)
    with pytest.raises(ReprobookError, match="no weight for layers.2.attention.query.weight"):
        load_bert(QFormer(16, 3, 2, 24), bert.state_dict())


def test_attention_over_a_cell_is_a_distribution_over_its_genes() -> None:
    model = make_stage1().eval()
    x = tokens()
    found = model.qformer.attention_over_cell(model.cells(x), x.padding)
    assert found.shape == (6, 3, 9)
    torch.testing.assert_close(found.sum(-1), torch.ones(6, 3))
    assert (found[1, :, 5:] == 0).all()


# --------------------------------------------------------------------------------------------------- losses


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_contrast_is_the_formula() -> None:
    z, t = unit(1, 4, 3, 8), unit(1, 4, 8, seed=1)
    s = objectives.similarity(z, t)[0].double().numpy()
    by_hand = np.array([[max(z[0, i, q] @ t[0, j] for q in range(3)) for j in range(4)] for i in range(4)])
    np.testing.assert_allclose(s, by_hand, atol=1e-6)
    rows = -np.mean([s[i, i] / 0.1 - math.log(sum(math.exp(s[i, j] / 0.1) for j in range(4))) for i in range(4)])
    columns = -np.mean([s[i, i] / 0.1 - math.log(sum(math.exp(s[j, i] / 0.1) for j in range(4))) for i in range(4)])
    s, own = objectives.similarity(z, t), torch.arange(4)[None]
    assert objectives.contrast_loss(s, own).item() == pytest.approx(rows, abs=1e-5)
    assert objectives.contrast_loss(s, own, symmetric=True).item() == pytest.approx((rows + columns) / 2, abs=1e-5)
    assert objectives.contrast_loss(objectives.similarity(z[:, :, [2, 0, 1]], t), own).item() == pytest.approx(
        rows, abs=1e-5
    )
    assert (s >= objectives.similarity(z[:, :, :1], t)).all()


def test_contrast_at_its_ends() -> None:
    eye = torch.eye(6)
    s = objectives.similarity(eye[None, :, None, :], eye[None])
    assert objectives.contrast_loss(s, torch.arange(6)[None], 0.01).item() < 1e-10
    flat = torch.zeros(4, 3, 3)
    own = torch.arange(3).expand(4, 3)
    assert objectives.contrast_loss(flat, own).item() == pytest.approx(math.log(3))  # 1.0986 in groups of 3
    with pytest.raises(ReprobookError, match="temperature must be positive"):
        objectives.contrast_loss(flat, own, 0.0)


def test_false_negatives_leave_the_sum_when_masked() -> None:
    s = torch.tensor([[[0.9, 0.9, 0.1], [0.9, 0.9, 0.1], [0.1, 0.1, 0.9]]])
    own = torch.tensor([[5, 5, 7]])
    released = objectives.contrast_loss(s, own, 1.0, mask_same=False).item()
    clean = objectives.contrast_loss(s, own, 1.0, mask_same=True).item()
    e = math.exp
    assert clean == pytest.approx(
        -(2 * math.log(e(0.9) / (e(0.9) + e(0.1))) + math.log(e(0.9) / (e(0.9) + 2 * e(0.1)))) / 3
    )
    assert released == pytest.approx(
        -(2 * math.log(e(0.9) / (2 * e(0.9) + e(0.1))) + math.log(e(0.9) / (e(0.9) + 2 * e(0.1)))) / 3
    )


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_hard_negative_is_never_the_own_text(seed: int, mask: bool) -> None:
    torch.manual_seed(seed)
    own = torch.randint(0, 3, (2, 5))
    drawn = objectives.hard_negatives(torch.rand(2, 5, 5), own, mask_same=mask)
    for group, row in zip(own, drawn, strict=True):
        for i, j in enumerate(row.tolist()):
            assert j != i
            if mask:
                assert j == -1 if (group == group[i]).all() else group[j] != group[i]


def test_hard_negatives_follow_their_probabilities() -> None:
    torch.manual_seed(0)
    s = torch.tensor([[0.0, 0.2, 0.0, 0.1]]).expand(4, 4)[None]
    drawn = torch.cat([objectives.hard_negatives(s, torch.arange(4)[None])[:, 0] for _ in range(4000)])
    w = torch.tensor([0.0, math.exp(2), 1.0, math.exp(1)])
    p = w[1:] / (1 + w[1:].sum()) + 1e-4
    torch.testing.assert_close(torch.bincount(drawn, minlength=4)[1:] / 4000, p / p.sum(), atol=0.025, rtol=0)


def test_matching_starts_at_ln_2_and_leaves_out_what_has_no_negative() -> None:
    zero = torch.zeros(3, 2)
    assert objectives.matching_loss(zero, zero, torch.tensor([1, 0, 0])).item() == pytest.approx(math.log(2))
    wrong = torch.tensor([[0.0, 9.0]] * 3)
    kept = objectives.matching_loss(zero, wrong, torch.tensor([-1, -1, 0])).item()
    assert kept == pytest.approx((3 * math.log(2) + math.log(1 + math.exp(9))) / 4, rel=1e-5)


def test_groups_leave_out_what_does_not_fill_one() -> None:
    assert objectives.in_groups(torch.arange(8), 3).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert objectives.in_groups(torch.arange(8), None).shape == (1, 8)
    with pytest.raises(ReprobookError, match="group of 9 does not fit a batch of 8"):
        objectives.in_groups(torch.arange(8), 9)


@pytest.mark.parametrize("objective", [Objective(), stage1.RELEASED, Objective(matching=False, symmetric=True)])
def test_stage_1_sums_its_parts_and_learns_everything(objective: Objective) -> None:
    model = make_stage1(objective)
    loss, parts = model(tokens(), torch.tensor([0, 1, 2, 3, 0, 1]), texts())
    assert loss.item() == pytest.approx(sum(p.item() for p in parts.values()), rel=1e-6)
    loss.backward()
    without = {n for n, p in model.named_parameters() if p.grad is None}
    last = f"qformer.layers.{len(model.qformer.layers) - 1}"
    idle = {n for n in without if not n.startswith("match_head") and not n.startswith(f"{last}.text_ffn")}
    assert not idle and ("match_head.weight" in without) == (not objective.matching)


def test_captioning_needs_words_of_its_own_and_lowers_its_loss() -> None:
    with pytest.raises(ReprobookError, match="needs own word embeddings"):
        make_stage1(Objective(caption=True))
    model = make_stage1(Objective(matching=False, caption=True), own_words=True)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    x, own, words = tokens(), torch.tensor([0, 1, 2, 3, 0, 1]), texts()
    first = model(x, own, words)[1]["caption"].item()
    for _ in range(40):
        optimiser.zero_grad()
        loss, parts = model(x, own, words)
        loss.backward()
        optimiser.step()
    assert parts["caption"].item() < 0.5 * first


# --------------------------------------------------------------------------------------------------- annotation


def test_words_are_renumbered_alike_in_all_texts() -> None:
    some = Texts(torch.tensor([[101, 7, 0], [101, 9, 7]]), torch.zeros(2, 3, dtype=torch.bool), torch.empty(0))
    other = Texts(torch.tensor([[101, 30000]]), torch.zeros(1, 2, dtype=torch.bool), torch.empty(0))
    found, n = stage1.renumber({"a": some, "b": other})
    assert n == 5 and found["a"].ids.tolist() == [[3, 1, 0], [3, 2, 1]] and found["b"].ids.tolist() == [[3, 4]]


def test_annotation_permutes_with_the_classes_and_fuses_its_parts() -> None:
    model = make_stage1().eval()
    x, words = tokens(), texts()
    found = stage1.annotate(model, x, words, batch_size=4)
    order = torch.tensor([2, 0, 3, 1])
    turned = stage1.annotate(model, x, words.take(order), batch_size=6)
    torch.testing.assert_close(turned.s, found.s[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(turned.p, found.p[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.fused(1.0), found.s)
    torch.testing.assert_close(found.fused(0.0), found.p)
    pair = model.match(model.cells(x), x.padding, words.take(torch.full((6,), 2))).softmax(-1)[:, 1]
    torch.testing.assert_close(found.p[:, 2], pair, atol=1e-5, rtol=1e-4)
    assert stage1.annotate(model, x, words, matching=False).p.abs().max() == 0
    with pytest.raises(ReprobookError, match="alpha must be in"):
        found.fused(1.2)


def test_alpha_is_the_best_on_the_cells_it_is_given() -> None:
    truth = torch.tensor([0, 1, 1])
    right = F.one_hot(truth, 2).float()
    assert stage1.choose_alpha(Scores(s=1 - right, p=right), truth) < 0.5
    assert stage1.choose_alpha(Scores(s=right, p=1 - right), truth) == 1.0


# --------------------------------------------------------------------------------------------------- stage 2

IDS = CellIds(start=10, slots=(11, 12, 13), end=14, bos=1, eos=2, pad=0)


def small_lm(vocabulary: int = 40, width: int = 16, seed: int = 0) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    ))  # fmt: skip


def cell_lm(lora: bool = False) -> CellLM:
    lm = small_lm()
    return CellLM(
        stage2.with_lora(lm) if lora else lm, IDS, 16, ExpressionDecoder(7, 16, 8, 2), ExpressionDecoder(7, 16, 8, 2), 8
    )


def pairs(to_text: tuple[bool, ...] = (True, False, False)) -> Pairs:
    rows = stage2.sequences([[20, 21], [22], [23, 24, 25]][: len(to_text)], to_text, IDS)
    n = len(to_text)
    torch.manual_seed(3)
    return Pairs(rows, torch.randn(n, 3, 16), torch.arange(7), torch.rand(n, 7), torch.ones(n, 7, dtype=torch.bool))


def test_both_directions_supervise_what_the_paper_does() -> None:
    read, write = stage2.cell_to_text([20, 21], IDS), stage2.text_to_cell([20, 21], IDS)
    assert read.ids == [1, 10, 11, 12, 13, 14, 20, 21, 2] and read.labels == [-100] * 6 + [20, 21, 2]
    assert write.ids == [1, 20, 21, 10, 11, 12, 13, 14, 2]
    assert write.labels == [-100] * 3 + [10] + [-100] * 4 + [2]
    for row in (read, write):
        assert row.ids[row.first_slot : row.first_slot + 3] == [11, 12, 13]
    long = stage2.sequences([list(range(20, 39))], [False], IDS, max_text=5)
    assert long.to_text.tolist() == [True] and long.ids.shape[1] == 6 + 5 + 1


def test_the_loss_of_stage_2_is_what_it_says() -> None:
    model, batch = cell_lm().eval(), pairs()
    loss, parts = model(batch)
    prompt = model.llm_proj(batch.z)
    x = model.lm.get_input_embeddings()(batch.rows.ids).clone()
    x[0, 2:5] = prompt[0]
    out = model.lm(inputs_embeds=x, attention_mask=batch.rows.attention, output_hidden_states=True)
    nll = [
        -out.logits[b, i - 1].log_softmax(-1)[batch.rows.labels[b, i]]
        for b in range(3) for i in range(1, x.shape[1]) if batch.rows.labels[b, i] != -100
    ]  # fmt: skip
    assert len(nll) == (2 + 1) + 2 + 2
    assert parts["lm"].item() == pytest.approx(torch.stack(nll).mean().item(), rel=1e-5)
    states = [out.hidden_states[-1][b, f : f + 3] for b, f in ((1, 3), (2, 5))]
    rec = torch.stack([(s - prompt[b]).square().mean() for s, b in zip(states, (1, 2), strict=True)]).mean()
    assert parts["rec"].item() == pytest.approx(rec.item(), rel=1e-5)
    expr = F.mse_loss(model.decoder(torch.stack(states), batch.genes), batch.target[1:])
    assert parts["expr"].item() == pytest.approx(expr.item(), rel=1e-5)
    assert loss.item() == pytest.approx(sum(p.item() for p in parts.values()), rel=1e-6)


def test_frozen_weights_get_no_gradient_and_the_target_of_the_slots_neither() -> None:
    model = cell_lm(lora=True)
    batch = pairs((False, False, False))
    z = batch.z.requires_grad_()
    out = model(batch)[0]
    out.backward()
    trained = {n for n, p in model.lm.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in n for n in trained)
    assert all(p.grad is None for n, p in model.lm.named_parameters() if "lora_" not in n)
    assert z.grad is None or z.grad.abs().max() == 0  # text to cell: the projected queries are a detached target
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.llm_proj.parameters())


@pytest.mark.parametrize("direction", [True, False])
def test_a_batch_of_one_direction_has_a_finite_loss(direction: bool) -> None:
    loss, parts = cell_lm()(pairs((direction, direction)))
    loss.backward()
    assert torch.isfinite(loss) and (parts["rec"].item() == 0) == direction


def test_pseudo_cells_come_from_text_alone_and_the_released_path_from_the_cell_alone() -> None:
    model = cell_lm().eval()
    genes = torch.arange(7)
    a, b = model.imagine([[20, 21], [20, 21]], genes, batch_size=1), model.imagine([[22], [20, 21]], genes)
    torch.testing.assert_close(a[0], a[1])
    torch.testing.assert_close(a[1], b[1], atol=1e-5, rtol=1e-4)  # padding to a longer neighbour changes nothing
    assert a.shape == (2, 7) and (a >= 0).all()
    z = torch.randn(2, 3, 16)
    assert model.reconstruct(z, genes).shape == (2, 7)
    torch.testing.assert_close(
        model.reconstruct(z, genes), model.reconstruct(torch.cat([z[:, :1], 0 * z[:, 1:]], 1), genes)
    )


def test_a_single_key_makes_cross_attention_a_linear_map() -> None:
    decoder = ExpressionDecoder(7, 16, 8, 2)
    one, several, genes = torch.randn(2, 1, 16), torch.randn(2, 3, 16), torch.arange(7)
    before = decoder(one, genes), decoder(several, genes)
    with torch.no_grad():
        decoder.attention.in_proj_weight[:8] = torch.randn(8, 8)  # the projection of what asks
    torch.testing.assert_close(decoder(one, genes), before[0])
    assert (decoder(several, genes) - before[1]).abs().max() > 1e-5
    torch.testing.assert_close(decoder(several, genes.expand(2, -1)), decoder(several, genes))
    with pytest.raises(ReprobookError, match=r"cond must be \(B, M, c\)"):
        decoder(one[:, 0], genes)


def test_masked_genes_do_not_count() -> None:
    values, target = torch.tensor([[1.0, 5.0, 9.0]]), torch.tensor([[0.0, 5.0, -2.0]])
    assert expression_loss(values, target, torch.tensor([[True, True, False]])).item() == pytest.approx(0.5)
    assert expression_loss(values, target).item() == pytest.approx((1 + 0 + 121) / 3)


def test_descriptions_come_from_the_prompt_with_a_real_tokenizer() -> None:
    from reprobook.papers.scmmgpt import language

    tokenizer = language.word_tokenizer(["cell type: a cell. It does.", "another text"])
    lm = language.small_lm(len(tokenizer), dim=16, n_layers=1, seed=0)
    ids = stage2.add_cell_tokens(tokenizer, lm, n_slots=3)
    assert len({ids.start, *ids.slots, ids.end, ids.bos, ids.eos, ids.pad}) == 8
    tokenizer.pad_token = tokenizer.eos_token  # as load_lm leaves a Llama: the end must not double as padding
    again = stage2.add_cell_tokens(tokenizer, lm, n_slots=3)
    assert (again.start, again.slots) == (ids.start, ids.slots) and again.pad not in (ids.eos, ids.pad)
    model = CellLM(lm, ids, 16).eval()
    found = model.describe(torch.randn(3, 3, 16), tokenizer, beams=2, max_new=5, min_new=2, batch_size=2)
    assert len(found) == 3 and all("<cell" not in text for text in found)
    assert stage2.coin_flips(50, 3, 0).tolist() == stage2.coin_flips(50, 3, 0).tolist()
    with pytest.raises(ReprobookError, match="without a decoder"):
        model.imagine([[5]], torch.arange(2))


# --------------------------------------------------------------------------------------------------- sentences


def test_sentences_name_the_highest_first_and_come_back_as_cells() -> None:
    x = sp.csr_matrix([[0.0, 3, 1, 2], [4, 0, 0, 0]])
    assert [row.tolist() for row in sentences.ranked(x, 2)] == [[1, 3], [0]]
    line = sentences.RankLine(3.0, -1.0)
    cell = line.cells([np.array([2, 0, 2])], 4)
    np.testing.assert_allclose(cell, [[3 - math.log10(2), 0, 3, 0]], rtol=1e-6)
    ranks = np.arange(1, 9)
    exact = sp.csr_matrix((5 - 2 * np.log10(ranks))[None])
    fit = sentences.RankLine.fit(exact, 8)
    assert (fit.intercept, fit.slope) == (pytest.approx(5), pytest.approx(-2))


def test_a_sentence_batch_supervises_genes_and_the_end() -> None:
    ids, labels, attention = sentences.sentence_batch([[7], [7, 8]], [np.array([1, 0]), np.array([2])], 20, 1, 2)
    assert ids.tolist() == [[1, 7, 21, 20, 2], [1, 7, 8, 22, 2]]
    assert labels.tolist() == [[-100, -100, 21, 20, 2], [-100, -100, -100, 22, 2]] and attention.sum() == 10
    found = sentences.write_sentences(small_lm(), [7], n=4, k=6, first_gene=20, n_genes=10, bos=1, eos=2, seed=0)
    again = sentences.write_sentences(small_lm(), [7], n=4, k=6, first_gene=20, n_genes=10, bos=1, eos=2, seed=0)
    assert len(found) == 4 and all(((r >= 0) & (r < 10)).all() for r in found)
    assert [r.tolist() for r in found] == [r.tolist() for r in again]


# --------------------------------------------------------------------------------------------------- measures


def test_balanced_accuracy_is_scikit_learns() -> None:
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    truth, predicted = rng.choice(list("abc"), 80, p=[0.7, 0.2, 0.1]), rng.choice(list("abcd"), 80)
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        expected = balanced_accuracy_score(truth, predicted)
    assert evaluation.balanced_accuracy(truth, predicted) == pytest.approx(expected)
    whole = evaluation.balanced_difference(truth, truth, predicted)
    assert whole.mean == pytest.approx(1 - expected) and whole.low < whole.mean < whole.high
    assert evaluation.balanced_interval(truth, predicted).mean == pytest.approx(expected)
    with pytest.raises(ReprobookError, match="equal and not empty"):
        evaluation.balanced_accuracy(truth, predicted[:3])


def test_mmd_is_the_double_sum_and_zero_for_the_same_cells() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(1.0, size=(4, 3))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([[math.exp(-0.5 * ((u - v) ** 2).sum()) for v in b] for u in a]))

    assert evaluation.mmd(x, y, 0.5) == pytest.approx(k(x, x) + k(y, y) - 2 * k(x, y))
    assert evaluation.mmd(y, y) == 0 and evaluation.mmd(x, y) > 0.05


def test_a_class_mean_has_no_variance_and_no_zeros_and_full_knn_accuracy() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 20)
    real = np.where(labels == "a", 0.0, 5.0)[:, None] + np.abs(rng.normal(size=(40, 6))) * (rng.random((40, 6)) < 0.7)
    means = np.stack([real[labels == each].mean(0) for each in labels])
    assert evaluation.variance_ratio(means, real, labels, labels) == pytest.approx(0, abs=1e-12)
    assert evaluation.variance_ratio(real, real, labels, labels) == pytest.approx(1)
    with pytest.raises(ReprobookError, match="real cells of each type are all the same"):
        evaluation.variance_ratio(real, means.round(), labels, labels)
    assert evaluation.zero_gap(means, real) < 0 and evaluation.zero_gap(real, real) == 0
    found = evaluation.knn_accuracy(real, labels, means, labels, ks=(3, 5, 99))
    assert found == {3: 1.0, 5: 1.0}


def test_descriptions_are_scored_by_words() -> None:
    gold = ["A T cell that kills.", "A B cell."]
    assert evaluation.bleu2(["a t cell that kills", "A B cell"], gold) == pytest.approx(100)
    assert evaluation.rouge_l(["a cell", "x"], gold) == pytest.approx((200 * 2 / 7 + 0) / 2)
    assert evaluation.nearest_text(["a b", "T cell kills"], gold).tolist() == [1, 0]
    assert evaluation.is_exact(["A t cell that kills", "a b"], gold).tolist() == [True, False]


def test_baselines_learn_what_is_separable_and_chance_does_not() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], 20)
    x = rng.normal(size=(60, 5)) + 4 * np.eye(5)[np.searchsorted(["a", "b", "c"], y)]
    for name in BASELINES:
        score = evaluation.balanced_accuracy(y, fitted(name, x, y, x, y)(x))
        assert score < 0.6 if name in ("chance", "majority") else score > 0.9, name

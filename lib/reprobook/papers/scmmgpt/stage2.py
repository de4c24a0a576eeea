"""Stage 2: a language model reads cells as soft prompts, and writes slots from which a cell is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from reprobook.errors import ReprobookError
from reprobook.nn.lm import add_lora
from reprobook.papers.scmmgpt.decoder import expression_loss
from reprobook.papers.scmmgpt.objectives import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.scmmgpt.decoder import ExpressionDecoder


@dataclass(frozen=True)
class CellIds:
    """Ids of ``<cell>``, the slots ``<cell_00000>``.., ``</cell>``, and of the tokenizer's own ends."""

    start: int
    slots: tuple[int, ...]
    end: int
    bos: int
    eos: int
    pad: int


def add_cell_tokens(tokenizer: Any, lm: Any, n_slots: int = 32) -> CellIds:
    """Extend the vocabulary of tokenizer and model: ``<cell>``, ``n_slots`` slots, ``</cell>``, and [PAD] if there is
    no padding token but the end. New embeddings start at the mean of the old ones (transformers' default)."""
    from tokenizers import AddedToken

    if n_slots < 1:
        raise ReprobookError(f"n_slots must be at least 1, got {n_slots}")
    names = ["<cell>", *(f"<cell_{k:05d}>" for k in range(n_slots)), "</cell>"]
    tokenizer.add_tokens([AddedToken(name, special=True) for name in names], special_tokens=True)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    if len(tokenizer) > lm.get_input_embeddings().num_embeddings:
        with quiet():
            lm.resize_token_embeddings(len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids(names)
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return CellIds(ids[0], tuple(ids[1:-1]), ids[-1], bos, tokenizer.eos_token_id, tokenizer.pad_token_id)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the notes that transformers logs."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def with_lora(lm: Any, rank: int = 8, alpha: int = 32, dropout: float = 0.1) -> Any:
    """The language model frozen, with LoRA on peft's default layers (q and v of a Llama), as released."""
    return add_lora(lm, r=rank, lora_alpha=alpha, lora_dropout=dropout, task_type="CAUSAL_LM")


# --------------------------------------------------------------------------------------------------- sequences


class Row(NamedTuple):
    """One sample: token ids, labels, and where its slots begin."""

    ids: list[int]
    labels: list[int]
    first_slot: int


def cell_to_text(text: Sequence[int], ids: CellIds) -> Row:
    """BOS <cell> slots </cell> text EOS, supervised on the text and EOS."""
    head = [ids.bos, ids.start, *ids.slots, ids.end]
    tail = [*text, ids.eos]
    return Row(head + tail, [IGNORE] * len(head) + tail, 2)


def text_to_cell(text: Sequence[int], ids: CellIds) -> Row:
    """BOS text <cell> slots </cell> EOS, supervised on <cell> and EOS: where a cell begins, and that it ends."""
    whole = [ids.bos, *text, ids.start, *ids.slots, ids.end, ids.eos]
    labels = [IGNORE] * len(whole)
    labels[1 + len(text)], labels[-1] = ids.start, ids.eos
    return Row(whole, labels, len(text) + 2)


class Sequences(NamedTuple):
    """Padded rows: ids, labels and attention (B, L), first slots (B,), and which rows go from cell to text (B,)."""

    ids: Tensor
    labels: Tensor
    attention: Tensor
    first_slot: Tensor
    to_text: Tensor


def sequences(texts: Sequence[Sequence[int]], to_text: Sequence[bool], ids: CellIds, max_text: int = 128) -> Sequences:
    """One row per text in the direction ``to_text`` says. A text longer than ``max_text`` tokens is cut and always read
    from cell to text."""
    directions = [bool(d) or len(t) > max_text for t, d in zip(texts, to_text, strict=True)]
    rows = [
        (cell_to_text if d else text_to_cell)(list(t)[:max_text], ids) for t, d in zip(texts, directions, strict=True)
    ]
    pad = torch.nn.utils.rnn.pad_sequence
    return Sequences(
        pad([torch.tensor(r.ids) for r in rows], batch_first=True, padding_value=ids.pad),
        pad([torch.tensor(r.labels) for r in rows], batch_first=True, padding_value=IGNORE),
        pad([torch.ones(len(r.ids), dtype=torch.long) for r in rows], batch_first=True),
        torch.tensor([r.first_slot for r in rows]),
        torch.tensor(directions),
    )


class Pairs(NamedTuple):
    """A batch of stage 2. ``z`` (B, slots, width) are the frozen Q-Former's states; ``target`` and ``mask`` (B, G)
    belong to the genes ``genes`` (G,) or (B, G)."""

    rows: Sequences
    z: Tensor
    genes: Tensor
    target: Tensor
    mask: Tensor


# --------------------------------------------------------------------------------------------------- the model


class CellLM(nn.Module):
    """Language model, map from queries to its width (MLP with ReLU), and the decoder(s) of expression.

    ``decoder`` is conditioned on the model's own slot states, which come from text alone; ``autoencoder``, if given, on
    the first projected query of the true cell (detached), which is the released path: it never sees the text."""

    def __init__(
        self, lm: Any, ids: CellIds, z_dim: int, decoder: ExpressionDecoder | None = None,
        autoencoder: ExpressionDecoder | None = None, hidden: int = 256,
    ) -> None:  # fmt: skip
        super().__init__()
        width = lm.get_input_embeddings().embedding_dim
        self.lm, self.ids, self.decoder, self.autoencoder = lm, ids, decoder, autoencoder
        self.llm_proj = nn.Sequential(nn.Linear(z_dim, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def _slots(self, first: Tensor) -> Tensor:
        """Positions (B, slots)."""
        return first[:, None] + torch.arange(len(self.ids.slots), device=first.device)

    def states(self, rows: Sequences, prompt: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, L, V) and slot states (B, slots, width). ``prompt`` (B, slots, width) takes the place of the slot
        embeddings in the rows that go from cell to text."""
        x = self.lm.get_input_embeddings()(rows.ids)
        at = self._slots(rows.first_slot)
        if prompt is not None and rows.to_text.any():
            which = rows.to_text.nonzero()[:, 0]
            x = x.index_put((which[:, None], at[which]), prompt[which].to(x.dtype))
        out = self.lm(inputs_embeds=x, attention_mask=rows.attention, output_hidden_states=True, use_cache=False)
        last = out.hidden_states[-1]
        return out.logits, last.gather(1, at[..., None].expand(-1, -1, last.shape[-1]))

    def forward(self, batch: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        """$L=L_{LM}+L_{rec}+L_{expr}$ with unit weights, and its parts."""
        rows, prompt = batch.rows, self.llm_proj(batch.z)
        logits, slots = self.states(rows, prompt)
        target = rows.labels[:, 1:].flatten()
        parts = {"lm": F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), target, ignore_index=IGNORE)}
        writes = ~rows.to_text
        slots = slots[writes].float()
        # A batch without this direction leaves no parameter out: several processes wait for all gradients.
        idle = [] if self.decoder is None else [p.sum() for p in self.decoder.parameters()]
        none = 0.0 * sum(idle, prompt.sum())
        parts["rec"] = F.mse_loss(slots, prompt[writes].detach().float()) if len(slots) else none
        genes = batch.genes if batch.genes.ndim == 1 else batch.genes[writes]
        if self.decoder is not None:
            found = (batch.target[writes], batch.mask[writes])
            parts["expr"] = expression_loss(self.decoder(slots, genes), *found) if len(slots) else none
        if self.autoencoder is not None:
            values = self.autoencoder(prompt[:, :1].detach(), batch.genes)
            parts["autoencoder"] = expression_loss(values, batch.target, batch.mask)
        return sum(parts.values()), {name: part.detach() for name, part in parts.items()}

    @torch.no_grad()
    def describe(
        self, z: Tensor, tokenizer: Any, beams: int = 5, max_new: int = 256, min_new: int = 8, batch_size: int = 16
    ) -> list[str]:
        """Texts for cells given by their queries ``z`` (n, slots, width): beam search after <cell> slots </cell>."""
        found: list[str] = []
        head = torch.tensor([self.ids.bos, self.ids.start, *self.ids.slots, self.ids.end], device=z.device)
        for part in z.split(batch_size):
            x = self.lm.get_input_embeddings()(head.expand(len(part), -1)).clone()
            x[:, 2 : 2 + part.shape[1]] = self.llm_proj(part).to(x.dtype)
            out = self.lm.generate(
                inputs_embeds=x, attention_mask=torch.ones(x.shape[:2], dtype=torch.long, device=z.device),
                num_beams=beams, do_sample=False, max_new_tokens=max_new, min_new_tokens=min(min_new, max_new),
                eos_token_id=self.ids.eos, pad_token_id=self.ids.pad,
            )  # fmt: skip
            found += [text.strip() for text in tokenizer.batch_decode(out, skip_special_tokens=True)]
        return found

    @torch.no_grad()
    def imagine(self, texts: Sequence[Sequence[int]], genes: Tensor, batch_size: int = 16) -> Tensor:
        """Expression (n, G), not below 0, of pseudo-cells from texts (token ids) alone: text, slots, decoder."""
        if self.decoder is None:
            raise ReprobookError("this model was made without a decoder on its slots")
        device, found = self.llm_proj[0].weight.device, []
        for start in range(0, len(texts), batch_size):
            part = [list(t) for t in texts[start : start + batch_size]]
            rows = Sequences(*(each.to(device) for each in sequences(part, [False] * len(part), self.ids, 10**6)))
            found.append(self.decoder(self.states(rows)[1].float(), genes.to(device)).clamp(min=0).cpu())
        return torch.cat(found)

    @torch.no_grad()
    def reconstruct(self, z: Tensor, genes: Tensor) -> Tensor:
        """The released generation path, (n, G): it decodes the true cell's own query and reads no text."""
        if self.autoencoder is None:
            raise ReprobookError("this model was made without the released decoder")
        return self.autoencoder(self.llm_proj(z)[:, :1], genes.to(z.device)).clamp(min=0).cpu()


def coin_flips(n: int, step: int, seed: int) -> np.ndarray:
    """Directions of the ``n`` samples of batch ``step``: True from cell to text. A pure function of its arguments."""
    return np.random.default_rng([seed, step]).random(n) < 0.5

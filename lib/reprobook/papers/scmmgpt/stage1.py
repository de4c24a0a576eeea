"""Stage 1: cell encoder and Q-Former learn to tell which text belongs to which cell; and zero-shot annotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from reprobook.errors import ReprobookError
from reprobook.papers.scmmgpt import objectives
from reprobook.papers.scmmgpt.tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.papers.scmmgpt.encoder import CellEncoder
    from reprobook.papers.scmmgpt.qformer import QFormer


class Texts(NamedTuple):
    """Texts as the model reads them: ``ids`` (T, L), ``padding`` (T, L), and ``states`` (T, L, width) of a frozen
    encoder, or an empty tensor if the Q-Former has word embeddings of its own (paper)."""

    ids: Tensor
    padding: Tensor
    states: Tensor

    def take(self, rows: Tensor) -> Texts:
        """The texts of ``rows``."""
        return Texts(*(each[rows] if len(each) else each for each in self))


@torch.no_grad()
def read_texts(texts: Sequence[str], tokenizer: Any, model: Any = None, max_length: int = 128) -> Texts:
    """Tokenise ``texts``, cut to ``max_length``; with ``model`` (a frozen BERT) also its last states."""
    if not texts or isinstance(texts, str):
        raise ReprobookError("texts must be a list with at least one text")
    x = tokenizer(list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    states = torch.empty(0) if model is None else model(**x.to(model.device)).last_hidden_state.float().cpu()
    return Texts(x["input_ids"].cpu(), ~x["attention_mask"].bool().cpu(), states)


def renumber(banks: Mapping[Any, Texts]) -> tuple[dict[Any, Texts], int]:
    """The same texts with the words that occur numbered from 0, and how many there are: word embeddings of a small
    model then hold no words that never come."""
    words = torch.unique(torch.cat([each.ids.flatten() for each in banks.values()]))
    return {k: each._replace(ids=torch.searchsorted(words, each.ids)) for k, each in banks.items()}, len(words)


class TextInput(nn.Module):
    """What the Q-Former reads for a text token: its own word embeddings (paper; needed for captioning), or a linear map
    of a frozen sentence encoder's states (a few hundred cells teach no language). Positions are added to both."""

    def __init__(self, dim: int, n_words: int | None, state_dim: int | None, max_length: int = 128) -> None:
        super().__init__()
        if (n_words is None) == (state_dim is None):
            raise ReprobookError("give either n_words (own embeddings) or state_dim (a frozen encoder's states)")
        self.words = nn.Embedding(n_words, dim) if n_words is not None else None
        self.states = nn.Linear(state_dim, dim) if state_dim is not None else None
        self.positions = nn.Embedding(max_length, dim)
        for table in filter(None, (self.words, self.positions)):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, texts: Texts) -> Tensor:
        """texts -> (B, T, dim), with the code of positions added."""
        x = self.words(texts.ids) if self.words is not None else self.states(texts.states)
        return x + self.positions.weight[: x.shape[1]]


@dataclass(frozen=True)
class Objective:
    """Which losses: the defaults are the clean ones; :data:`RELEASED` is the released code."""

    temperature: float = 0.1
    group: int | None = None  # cells of a contrast group; None: the batch
    symmetric: bool = False
    mask_same: bool = True
    matching: bool = True
    caption: bool = False


RELEASED = Objective(group=3, mask_same=False)


class Stage1(nn.Module):
    """Encoder, ``ln_gene``, Q-Former and heads. ``caption`` needs word embeddings (``n_words``) and ``dec_id``, the id
    of [DEC], which replaces the first token."""

    def __init__(
        self, encoder: CellEncoder, qformer: QFormer, text: TextInput, objective: Objective = Objective(),
        joint_dim: int = 64, dec_id: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if objective.caption and (text.words is None or dec_id is None):
            raise ReprobookError("captioning reads words from left to right: it needs own word embeddings and dec_id")
        self.encoder, self.qformer, self.text, self.objective, self.dec_id = encoder, qformer, text, objective, dec_id
        self.ln_gene = nn.LayerNorm(encoder.dim)
        self.cell_proj, self.text_proj = nn.Linear(qformer.dim, joint_dim), nn.Linear(qformer.dim, joint_dim)
        self.match_head = nn.Linear(qformer.dim, 2)

    def cells(self, tokens: Tokens) -> Tensor:
        """States of a cell's tokens (B, L, dim)."""
        return self.ln_gene(self.encoder(tokens))

    def queries(self, tokens: Tokens) -> Tensor:
        """States (B, Q, dim) of the queries: what stage 2 gets."""
        return self.qformer(self.cells(tokens), tokens.padding)[0]

    def text_vectors(self, texts: Texts) -> Tensor:
        """Unit vectors (T, joint_dim) from the first token's state."""
        states = self.qformer(text=self.text(texts), text_padding=texts.padding, n_text=1)[1]
        return F.normalize(self.text_proj(states[:, 0]), dim=-1)

    def cell_vectors(self, queries: Tensor) -> Tensor:
        """Unit vectors (B, Q, joint_dim) of query states."""
        return F.normalize(self.cell_proj(queries), dim=-1)

    def match(self, cells: Tensor, padding: Tensor, texts: Texts) -> Tensor:
        """Logits (B, 2) of pairs of a cell and a text: the head on every query's state, averaged."""
        states = self.qformer(cells, padding, self.text(texts), texts.padding, n_text=0)[0]
        return self.match_head(states).mean(1)

    def forward(self, tokens: Tokens, own: Tensor, texts: Texts) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch and its parts; ``own`` (B,) is the row of ``texts`` that belongs to each cell."""
        o = self.objective
        cells = self.cells(tokens)
        z = self.cell_vectors(self.qformer(cells, tokens.padding)[0])
        t = self.text_vectors(texts)[own]
        z, t, grouped = (objectives.in_groups(each, o.group) for each in (z, t, own))
        s = objectives.similarity(z, t)
        parts = {"contrast": objectives.contrast_loss(s, grouped, o.temperature, o.symmetric, o.mask_same)}
        n = grouped.numel()
        if o.matching:
            drawn = objectives.hard_negatives(s.detach(), grouped, o.temperature, o.mask_same)
            wrong = grouped.gather(1, drawn.clamp(min=0)).flatten()
            both = self.match(
                torch.cat([cells[:n], cells[:n]]), torch.cat([tokens.padding[:n]] * 2),
                texts.take(torch.cat([own[:n], wrong])),
            )  # fmt: skip
            parts["matching"] = objectives.matching_loss(both[:n], both[n:], drawn.flatten())
        if o.caption:
            parts["caption"] = self._caption(cells[:n], tokens.padding[:n], texts.take(own[:n]))
        return sum(parts.values()), {name: part.detach() for name, part in parts.items()}

    def _caption(self, cells: Tensor, padding: Tensor, texts: Texts) -> Tensor:
        ids = texts.ids.clone()
        ids[:, 0] = self.dec_id
        text = self.text(texts._replace(ids=ids))
        states = self.qformer(cells, padding, text, texts.padding, causal=True)[1]
        return objectives.caption_loss(states @ self.text.words.weight.T, texts.ids, texts.padding)


# ---------------------------------------------------------------------------------------------- annotation


@dataclass(frozen=True)
class Scores:
    """Of n cells against C class texts: similarities ``s`` and matching probabilities ``p``, both (n, C)."""

    s: Tensor
    p: Tensor

    def fused(self, alpha: float, temperature: float = 1.0) -> Tensor:
        """$\\alpha\\, s/\\tau+(1-\\alpha)\\,p$; the released code divides by τ only with several GPUs."""
        if not 0 <= alpha <= 1:
            raise ReprobookError(f"alpha must be in [0, 1], got {alpha}")
        return alpha * self.s / temperature + (1 - alpha) * self.p


@torch.no_grad()
def annotate(model: Stage1, tokens: Tokens, texts: Texts, batch_size: int = 64, matching: bool = True) -> Scores:
    """Scores of all cells against all class texts. Texts are encoded once; matching costs cells times classes.

    Without ``matching`` (the model never learned it) ``p`` is zero."""
    device = next(model.parameters()).device
    texts = Texts(*(each.to(device) for each in texts))
    t, n_classes = model.text_vectors(texts), len(texts.ids)
    similarities, probabilities = [], []
    for rows in torch.arange(len(tokens.genes)).split(batch_size):
        part = Tokens(*(each.to(device) for each in tokens.take(rows)))
        cells = model.cells(part)
        s = objectives.similarity(model.cell_vectors(model.qformer(cells, part.padding)[0]), t)
        similarities.append(s.cpu())
        if not matching:
            probabilities.append(torch.zeros_like(s).cpu())
            continue
        per_class = [
            model.match(cells, part.padding, texts.take(torch.full((len(rows),), c, device=device))).softmax(-1)[:, 1]
            for c in range(n_classes)
        ]
        probabilities.append(torch.stack(per_class, 1).cpu())
    return Scores(torch.cat(similarities), torch.cat(probabilities))


def choose_alpha(scores: Scores, truth: Tensor, grid: Sequence[float] = tuple(k / 10 for k in range(11))) -> float:
    """The ``alpha`` of ``grid`` with the best balanced accuracy on these cells (validation, never test); of equal ones
    the largest."""
    from sklearn.metrics import balanced_accuracy_score

    found = [(balanced_accuracy_score(truth, scores.fused(a).argmax(1)), a) for a in grid]
    return max(found)[1]

"""Two ratios: the window search of the recovery, vectorised against the textbook table; and chunks written as anchors
against chunks written out."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reprobook.bench import compare
from reprobook.papers.moc.corpora import pieces
from reprobook.papers.moc.recovery import as_json, edit_distance, nearest_window, parsed, recovered, rendered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reprobook.bench import Comparison
    from reprobook.papers.moc.corpora import Document


def textbook_window(text: str, anchor: str) -> str:
    """:func:`reprobook.papers.moc.recovery.nearest_window`, a table for every window in plain Python."""
    if anchor in text:
        return anchor
    size = len(anchor)
    windows = [text[k : k + size] for k in range(len(text) - size + 1)]
    return min(windows, key=lambda window: edit_distance(window, anchor))


def window_search(n_anchors: int = 8, characters: int = 512, n: int = 3) -> Comparison:
    """The nearest windows of ``n_anchors`` anchors with two errors each in a text of ``characters`` letters (the size
    of the paper's pieces)."""
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("abcdefghij klmnop"), characters))
    anchors = []
    for at in rng.integers(0, characters - 20, n_anchors).tolist():
        letters = list(text[at : at + 16])
        letters[3], letters[9] = "X", "Y"
        anchors.append("".join(letters))
    ways = {
        "textbook": lambda: [textbook_window(text, anchor) for anchor in anchors],
        "library": lambda: [nearest_window(text, anchor) for anchor in anchors],
    }
    return compare(ways, equal=operator.eq, n=n, what=f"{n_anchors} anchors in {characters} characters")


def headline() -> Comparison:
    """Time of the textbook's search over the library's, equal windows."""
    return window_search()


def writing(model: Any, tokenizer: Any, texts: Sequence[Document], marker: str, n: int = 1) -> Comparison:
    """Writing the true chunks of ``texts`` out against writing their anchors: what a model spends on either reply,
    token by token behind the text; by recovery both give the same cuts."""
    chunks = [pieces(each.text, each.cuts) for each in texts]
    replies = {
        "whole chunks": [as_json([c.strip() for c in each]) for each in chunks],
        "anchors": [as_json(rendered(each, marker)) for each in chunks],
    }

    def way(name: str) -> list[tuple[int, ...]]:
        for text, reply in zip(texts, replies[name], strict=True):
            _written(model, *(tokenizer(each, add_special_tokens=False).input_ids for each in (text.text, reply)))
        told = zip(texts, replies[name], strict=True)
        return [recovered(text.text, parsed(reply) or [], marker) for text, reply in told]

    ways = {name: (lambda name=name: way(name)) for name in replies}
    what = f"chunks of {len(texts)} texts"
    return compare(ways, equal=operator.eq, n=n, warmup=0, what=what, device=model.device)


@torch.no_grad()
def _written(model: Any, prompt: list[int], reply: list[int]) -> None:
    """Read the prompt, then decode as many tokens as ``reply`` has; its own stand in for what would be drawn."""
    cache = None
    for ids in (prompt, *([token] for token in reply)):
        x = torch.tensor([ids], device=model.device)
        out = model(input_ids=x, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        out.logits.argmax(-1)

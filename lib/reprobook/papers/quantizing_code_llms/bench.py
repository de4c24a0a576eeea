"""Encoding: AQLM's search as it was published against the same search with its products gathered. Decoding: a stored
model against plain weights."""

from __future__ import annotations

import math
import random
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from reprobook.bench import compare
from reprobook.errors import ReprobookError
from reprobook.papers.quantizing_code_llms.aqlm import Format, Search, fit
from reprobook.papers.quantizing_code_llms.blocks import harden
from reprobook.papers.quantizing_code_llms.storage import save

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from reprobook.bench import Comparison


def headline(n: int = 3) -> Comparison:
    """One layer of SmolLM2 (884,736 weights) in two codebooks of 256 words, one epoch of 20 Adam steps and a beam
    search: the published algorithm over ours, at a final objective equal to 2 %."""
    from reprobook.data import ChapterData
    from reprobook.nn.lm import load_lm
    from reprobook.papers.quantizing_code_llms.blocks import layer_grams
    from reprobook.papers.quantizing_code_llms.calibration import rows_of, standard_library

    model, tokenizer = load_lm(ChapterData("shared", "laptop").path("smollm2-135m-instruct"), dtype="fp32")
    rows = rows_of(standard_library().train, tokenizer, 8, 256, seed=0)
    w, gram = layer_grams(model, rows, [3])["block 3, mlp.up_proj"]
    search = Search(kmeans_iterations=10, kmeans_points=16384, max_epochs=1, steps=20, scale_lr=True)
    return encoding(w, gram, Format(2), search, n)


def encoding(w: Tensor, gram: Tensor, form: Format, search: Search, n: int = 3) -> Comparison:
    """Time to encode one weight: as published, and by :func:`~.aqlm.fit`. Final objectives must be equal to 2 %."""
    ways = {
        "as published": lambda: published(w, gram, form, search, 0),
        "gathered": lambda: fit(w, gram, form, search, 0).history[-1][1],
    }
    what = f"AQLM {form} of {w.numel():,} weights"
    return compare(ways, equal=lambda a, b: math.isclose(a, b, rel_tol=0.02), n=n, what=what, device=w.device)


def speeds(found: Comparison, n_weights: int) -> dict[str, float]:
    """Weights encoded per second, each way."""
    return {way: n_weights / seconds for way, seconds in found.medians.items()}


def published(w: Tensor, gram: Tensor, form: Format, search: Search, seed: int) -> float:
    """The final objective of AQLM computed as in its repository: gradients by autograd through the dequantised weight,
    and one product of the whole error with G for each code of the beam search (beam 1)."""
    torch.manual_seed(seed)
    order = random.Random(seed)
    scales = w.norm(dim=1) + 1e-9
    left = (w / scales[:, None]).view(-1, form.group)
    books, codes = [], []
    for _ in range(form.n_codebooks):
        points = left[torch.randperm(len(left))[: search.kmeans_points]]
        book = _kmeans(points, 2**form.bits, search.kmeans_iterations)
        nearest = _nearest(left, book)
        left = left - book[nearest]
        books.append(book)
        codes.append(nearest.view(len(w), -1))
    found, names = torch.stack(books).requires_grad_(), torch.stack(codes, 2)
    scales.requires_grad_()
    lr = search.lr * (math.sqrt(4096 / w.shape[1]) if search.scale_lr else 1)
    optimiser = torch.optim.Adam([found, scales], lr=lr, betas=(0.0, 0.95), amsgrad=True)
    best = math.inf
    for _ in range(search.max_epochs):
        for step in range(search.steps):
            value = _loss(w, gram, names, found, scales)
            if step == 0:
                if value.item() / best > 1 - search.tolerance:
                    return value.item()
                best = min(best, value.item())
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        names = _beam(w, gram, names, found.detach(), scales.detach(), order)
    with torch.no_grad():
        return _loss(w, gram, names, found, scales).item()


def _dequantised(codes: Tensor, books: Tensor, scales: Tensor) -> Tensor:
    offsets = torch.arange(len(books)) * books.shape[1]
    flat = F.embedding_bag(codes.flatten(0, 1) + offsets, books.flatten(0, 1), mode="sum")
    return flat.view(len(codes), -1) * scales[:, None]


def _loss(w: Tensor, gram: Tensor, codes: Tensor, books: Tensor, scales: Tensor) -> Tensor:
    d = _dequantised(codes, books, scales) - w
    return (d @ gram).flatten() @ d.flatten() / len(w)


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return torch.addmm(centres.square().sum(1), points, centres.T, beta=-0.5).argmax(1)


def _kmeans(points: Tensor, k: int, iterations: int) -> Tensor:
    centres = points[torch.randperm(len(points))[:k]]
    for _ in range(iterations):
        with warnings.catch_warnings():  # torch calls this function a beta
            warnings.simplefilter("ignore")
            centres = centres.clone().index_reduce_(0, _nearest(points, centres), points, "mean", include_self=False)
    return centres


@torch.no_grad()
def _beam(w: Tensor, gram: Tensor, codes: Tensor, books: Tensor, scales: Tensor, order: random.Random) -> Tensor:
    codes, quantised, g = codes.clone(), _dequantised(codes, books, scales), books.shape[2]
    losses = (((quantised - w) @ gram) * (quantised - w)).sum(1)
    for j in order.sample(range(codes.shape[1]), codes.shape[1]):
        here = slice(j * g, (j + 1) * g)
        for m in order.sample(range(len(books)), len(books)):
            words, old = books[m], books[m][codes[:, j, m]]
            part = old * scales[:, None]
            d = w - quantised
            d[:, here] += part
            products = d @ gram[:, here]
            inner = gram[here, here]
            squares = ((words @ inner) * words).sum(1)[:, None] * scales.square()
            dots = (words @ products.T - (old * products).sum(1)) * scales
            table = losses - 2 * dots + squares - ((part @ inner) * part).sum(1)
            best = table.topk(1, dim=0, largest=False)
            losses, codes[:, j, m] = best.values[0], best.indices[0]
            quantised[:, here] += words[codes[:, j, m]] * scales[:, None] - part
    return codes


def decoding(model: Any, folder: Path, form: Format, text: Tensor, n_steps: int = 8, n: int = 3) -> Comparison:
    """Time of ``n_steps`` tokens one after the other, behind the rest of ``text`` (1, L): by a model with layers in
    AQLM's form as plain fp32 weights (which they become), and as ``aqlm`` decodes the file that is written to
    ``folder``. Both must find the same distributions. One thread: those of aqlm 1.1.7's kernel for CPUs add to the same
    outputs without a lock, and most results are wrong.

    Raises :class:`ReprobookError` if the chapter's extra is not installed."""
    try:
        import aqlm  # noqa: F401  # transformers needs it below
        import numba
    except ImportError as error:
        raise ReprobookError(f"{error.name} is missing: pip install -e '.[quantizing_code_llms]'") from None
    from transformers import AutoModelForCausalLM

    save(model, folder, form)
    packed = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    harden(model)
    numba.set_num_threads(1)
    ways = {"plain": lambda: _steps(model, text, n_steps), "stored": lambda: _steps(packed, text, n_steps)}
    return compare(ways, equal=lambda a, b: torch.allclose(a, b, atol=0.02), n=n, what=f"decoding, {form}")


@torch.no_grad()
def _steps(model: Any, text: Tensor, n_steps: int) -> Tensor:
    """Distributions (n_steps, V) over the token that follows each of the last ``n_steps``, read one at a time."""
    cache, found = model(text[:, :-n_steps], use_cache=True).past_key_values, []
    for token in text[:, -n_steps:].split(1, dim=1):
        out = model(token, past_key_values=cache, use_cache=True)
        found.append(out.logits[0, -1].softmax(0))
    return torch.stack(found)

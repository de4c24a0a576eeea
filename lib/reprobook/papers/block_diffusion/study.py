"""The chapter's experiments, as its cells call them: models of one corpus, their bounds, samples and documents.

Losses and bounds are nats per token; position 0 of a row is context. A model is known by its name: "AR", "SEDD", or the
block size and the schedule of its training, "L'=4, linear", "MDLM, searched" (one block).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from reprobook.errors import ReprobookError
from reprobook.nn.needs import gpu_hours
from reprobook.papers.block_diffusion import objectives, sampling
from reprobook.papers.block_diffusion.bench import operations
from reprobook.papers.block_diffusion.corpus import markov_corpus
from reprobook.papers.block_diffusion.model import DiT, one_pass_logits, two_pass_logits
from reprobook.papers.block_diffusion.ngram import LARGEST_TABLE, KneserNey, counted_nll
from reprobook.papers.block_diffusion.noise import EPS, NoiseProcess, check_blocks, constant_loss_variance
from reprobook.papers.block_diffusion.pictures import BLIND
from reprobook.papers.block_diffusion.released import GPU_GB, LM1B, OWT, peaks
from reprobook.papers.block_diffusion.source import MarkovSource, permuted_source
from reprobook.train import shuffled

if TYPE_CHECKING:
    from torch import Tensor

    from reprobook.data.corpus import Corpus

CAUSAL: dict[str, Any] = {"causal": True}  # adaLN as in every other body
SINGLE: dict[str, dict[str, Any]] = {  # models of the one-token experiment and their bodies
    "AR": CAUSAL, "AR, random share": CAUSAL, "AR without adaLN": {**CAUSAL, "adaln": False},
    "L'=1, linear": {}, "L'=1, all masked": {},
}  # fmt: skip
INTERVALS = {"U[0,.5]": (EPS, 0.5), "U[.3,.8]": (0.3, 0.8), "U[.45,.95]": (0.45, 0.95), "U[.5,1]": (0.5, 1.0),
             "U[0,1]": (EPS, 1.0)}  # fmt: skip
FIRST_SOURCE = 1000  # seed of the source of seed 0; the pilots used others
DECAYS = (2.5, 1.9, 1.4, 0.2)  # of the rows of first-order sources, from low to high entropy
LANGUAGE = 0.32  # ln 28.2 / ln 30,522: the least bound on LM1B (Table 3), as a share of the largest entropy
MICRO_BATCH, RELEASED_ROWS, LONGEST = 32, 4, 10_240  # at paper scale: rows of a step and of 1,024 tokens, document
PAPER_SIZES = (4, 8, 16)
PAIRS = "writer of pairs"  # knows the source's pairs of neighbours and nothing else
COUNTS = {2: "counts of 2 tokens", 3: "counts of 3 tokens", 4: "counts of 4 tokens"}  # lazy readers


@dataclass(frozen=True)
class Setting:
    """Size and optimiser of all models of a corpus; ``attention`` "flex" skips the empty tiles of the mask."""

    dim: int
    n_layers: int
    n_heads: int
    batch_size: int
    lr: float
    warmup_steps: int
    ema_decay: float
    dropout: float = 0.0
    precision: str = "fp32"
    attention: str = "sdpa"
    eval_batch: int = 64  # rows of an evaluation or of a batch of samples
    accumulation: int = 1  # batches in an update


@dataclass
class Lab:
    """One corpus and the models that were trained on it. ``fit``: the chapter's; ``source``: the corpus's, if known."""

    name: str
    corpus: Corpus
    setting: Setting
    fit: Callable[..., Any]
    seed: int
    device: torch.device
    source: MarkovSource | None = None
    schedules: Sequence[str] = ("linear", "searched")  # with which its block models are tuned
    models: dict[str, DiT] = field(default_factory=dict)
    curves: list[pd.DataFrame] = field(default_factory=list)

    @property
    def length(self) -> int:
        """L, tokens in a row."""
        return int(self.corpus.train.shape[1])

    @property
    def mask_id(self) -> int:
        """Id of the mask token."""
        assert self.corpus.mask_id is not None
        return self.corpus.mask_id

    def process(self, block_size: int, **options: Any) -> NoiseProcess:
        """The noise of blocks of ``block_size`` tokens of this corpus."""
        return NoiseProcess(self.mask_id, block_size, **options)

    def block_size(self, name: str) -> int:
        """L' of the model ``name``: "L'=4, linear" has 4, "MDLM, searched" has L."""
        kind = name.split(",")[0]
        return self.length if kind == "MDLM" else int(kind.removeprefix("L'="))

    def rows(self, split: str, n: int, skip: int = 0) -> Tensor:
        """``n`` rows of a split after a fixed shuffle and ``skip`` others, on the device."""
        return self.corpus.rows(split, skip + n)[skip:].to(self.device)

    def train(
        self, name: str, loss: objectives.Loss, num_steps: int, *, start: DiT | None = None, after: int = 0,
        search: tuple[NoiseProcess, int, int] | None = None, lr: float | None = None, **body: bool,
    ) -> DiT:  # fmt: skip
        """Train ``name`` on the batches of the updates from number ``after`` on. ``start`` gives the weights.
        ``search``: a process whose interval is searched every so many updates on so many validation batches; ``loss``
        is then that of the interval found."""
        s = self.setting
        torch.manual_seed(self.seed)
        model = DiT(self.corpus.vocab_size, s.dim, s.n_layers, s.n_heads, dropout=s.dropout, **body).to(self.device)
        if start is not None:
            model.load_state_dict(start.state_dict())
        hook, every = None, None
        if search is not None:
            process, every, n = search
            batches = self.rows("valid", n * s.batch_size).split(s.batch_size)
            hook = objectives.interval_search(model, process, batches, last=num_steps)
            hook(model, 0)
            loss = objectives.clipped_loss(model, process, s.attention)
        order, first = shuffled(len(self.corpus.train), s.batch_size, seed=self.seed), after * s.accumulation
        history = self.fit(
            f"{self.name} {name}", model, lambda i: self.corpus.batch(order(first + i)), loss, num_steps=num_steps,
            lr=lr or s.lr, warmup_steps=s.warmup_steps, ema_decay=s.ema_decay, precision=s.precision, evaluate=hook,
            evaluate_every=every, accumulation=s.accumulation, device=self.device,
        )  # fmt: skip
        self.curves.append(history.frame()[["step", "loss"]].assign(corpus=self.name, model=name))
        self.models[name] = model
        return model


def check(p: Mapping[str, Any], device: torch.device, known: Sequence[str]) -> None:
    """Raise :class:`ReprobookError` for a parameter in ``p`` that would otherwise come up after hours. ``known``: ids
    of the artefacts of this scale."""
    for b in p["block_sizes"]:
        check_blocks(p["length"], b)
    sizes = f"sizes between 1, which has its own experiment, and length = {p['length']}, which is MDLM"
    schedules = (["linear"], ["linear", "searched"])
    ladders = [p[f"{name}_steps"] for name, used in (("source", p["source"]), ("text", p["corpus"])) if used]
    shortest = min(p["single_steps"], *(n for steps in ladders for n in steps))
    texts = [each for each in known if "-owt" in each]
    pairs = ("source_steps", "text_steps", "n_samples", "n_lengths")
    demands = [
        *((name, len(p[name]) == 2, "two numbers") for name in pairs),
        ("block_sizes", p["block_sizes"] and all(1 < b < p["length"] for b in p["block_sizes"]), sizes),
        ("dim", p["dim"] % (2 * p["n_heads"]) == 0, f"a multiple of 2 * n_heads = {2 * p['n_heads']} (rotary pairs)"),
        ("source", not p["source"] or (len(p["source"]) == 4 and p["source"][0] >= 2 and p["source"][1] >= 1
         and p["source"][3] > 1), "[] or symbols (2 or more), memory (1 or more), density and mean document (over 1)"),
        ("corpus", p["corpus"] in ("wikipedia", "lm1b", ""), "'wikipedia', 'lm1b' or '' (none)"),
        ("text_schedules", p["text_schedules"] in schedules, f"{schedules[0]} or {schedules[1]}"),
        ("precision", p["precision"] in ("fp32", "bf16", "auto"), "'fp32', 'bf16' or 'auto'"),
        ("attention", p["attention"] == "sdpa" or (p["attention"] == "flex" and device.type == "cuda"),
         "'sdpa', or on a GPU 'flex' (its backward pass needs one)"),
        ("rates", p["rates"] and min(p["rates"]) > 0, "learning rates above 0"),
        ("warmup_steps", p["warmup_steps"] <= shortest, f"at most {shortest}, the updates of the shortest training"),
        ("top_p", 0 < p["top_p"] <= 1, "in (0, 1]"),
        ("ngram", p["ngram"] in ((0,) if p["corpus"] == "lm1b" else (0, 2, 3, 4, 5)),
         "0 (none) or, over characters and not over the word pieces of lm1b, 2 to 5"),
        ("released", set(p["released"]) <= set(texts), f"among {texts}"),
        ("judge", p["judge"] in ("", *({"gpt2-large"} & set(known))), "'' (none) or, at paper scale, 'gpt2-large'"),
        ("n_lengths", p["n_lengths"][-1] % 16 == 0, "documents, and tokens that blocks of 16 divide"),
        ("n_documents", p["n_documents"] >= 1 or not p["released"], "1 or more"),
        ("cost_shape", len(p["cost_shape"]) == 5 and p["cost_shape"][0] % 8 == 0
         and p["block_sizes"] and p["cost_shape"][1] % p["block_sizes"][-1] == 0,
         f"width (a multiple of 8), L (a multiple of {p['block_sizes'][-1:]}), layers, rows and turns"),
    ]  # fmt: skip
    for name, fits, allowed in demands:
        if not fits:
            raise ReprobookError(f"{name} must be {allowed}; got {p[name]!r}")


def open_source(
    n_symbols: float, order: float, density: float, document: float, *, length: int, seed: int, **how: Any
) -> Lab:
    """The lab of a generated source, one of its own for every seed; documents have ``document`` tokens in the mean."""
    how["device"] = torch.device("cpu")  # where the exact denoiser is; its masks must be those of the models
    source = MarkovSource(int(n_symbols), density, FIRST_SOURCE + seed, int(order), 1 / document)
    return Lab("source", markov_corpus(source, length, 60_000, 2_048, seed), seed=seed, source=source, **how)


def ladder(
    lab: Lab, block_sizes: Sequence[int], base_steps: int, tune_steps: int, search_every: int, search_batches: int
) -> None:
    """Train everything between AR and MDLM with equal updates: a base with one block, from it every block size, one
    block included, with every schedule of the lab; AR and SEDD have all updates for themselves. All bodies have
    adaLN."""
    base = lab.train("base", objectives.diffusion_loss(lab.process(lab.length)), base_steps)
    for b in [*block_sizes, lab.length]:
        name, process = named(lab, b), lab.process(b)
        plain = objectives.diffusion_loss(process, lab.setting.attention)
        for schedule in lab.schedules:
            search = (process, search_every, search_batches) if schedule == "searched" else None
            lab.train(f"{name}, {schedule}", plain, tune_steps, start=base, after=base_steps, search=search)
    lab.train("AR", ar_loss, base_steps + tune_steps, **CAUSAL)
    lab.train("SEDD", sedd_loss(lab), base_steps + tune_steps, time_conditioning=True)


def units(lab: Lab, n: int) -> dict[str, Any]:
    """How the test rows of a corpus enter a comparison: those of real text are the same in every seed."""
    return {"unit": "nats a token", "over": "test row", "keys": None if lab.source else [str(i) for i in range(n)]}


def stacked(tables: Sequence[Any]) -> pd.DataFrame:
    """Tables of several corpora, or rows of several models, as one."""
    frames = [t if isinstance(t, pd.DataFrame) else pd.DataFrame([t]) for t in tables]
    return pd.concat(frames, ignore_index=True).astype(object).where(lambda f: f.notna(), None)


def logged(labs: Sequence[Lab], n_points: int) -> pd.DataFrame:
    """Training losses of the ladders, means over about ``n_points`` stretches of each run."""
    parts = []
    for frame in (part for lab in labs for part in lab.curves):
        width = max(1, -(-int(frame["step"].max()) // n_points))
        cut = frame.assign(step=frame["step"] // width * width)
        parts.append(cut.groupby(["corpus", "model", "step"], sort=False)["loss"].mean().reset_index())
    return pd.concat(parts, ignore_index=True)


def entropies(source: MarkovSource) -> pd.DataFrame:
    """Entropy of the next token for a reader who sees only the last few, nats and share of the largest possible."""
    nats = source.entropies()
    share = np.array(nats) / np.log(source.n_tokens)
    return pd.DataFrame({"tokens seen": range(len(nats)), "nats per token": nats, "share of the largest": share})


def pass_gap(length: int, block_size: int, seed: int) -> float:
    """Largest difference between one pass and two, of logits and of all gradients of a loss, relative to the largest
    entry; float64, every weight random, the gates of adaLN and the output layer included."""
    generator = torch.Generator().manual_seed(seed)
    model = DiT(9, 16, 2, 2, 8).double().eval()
    for p in model.parameters():
        p.data = 0.2 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    x = torch.randint(8, (2, length), generator=generator)
    x_t = torch.where(torch.rand(x.shape, generator=generator) < 0.5, 8, x)
    found = []
    for logits in (one_pass_logits(model, x_t, x, block_size), two_pass_logits(model, x_t, x, block_size)):
        model.zero_grad()
        torch.nn.functional.cross_entropy(logits.double().transpose(1, 2), x).backward()
        found.append([logits.detach().double(), *(p.grad for p in model.parameters() if p.grad is not None)])
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) for a, b in zip(*found, strict=True))


def identity(lab: Lab, x: Tensor, block_sizes: Sequence[int]) -> pd.DataFrame:
    """The exact denoiser's bound at several block sizes beside the true NLL."""
    assert lab.source is not None
    true = lab.source.nll(x).mean().item()
    bound = [objectives.exact_nelbo(lab.source.denoiser(b), x, b, lab.mask_id).mean().item() for b in block_sizes]
    return pd.DataFrame({"L'": list(block_sizes), "bound of the exact denoiser": bound, "true NLL": true})


def named(lab: Lab, block_size: int) -> str:
    """ "L'=4", or "MDLM" for one block."""
    return "MDLM" if block_size == lab.length else f"L'={block_size}"


def ar_loss(model: torch.nn.Module, x: Tensor) -> Tensor:
    """Mean -log p(x_i | x_{<i})."""
    return objectives.per_token(objectives.ar_terms(model, x))


def sedd_loss(lab: Lab) -> objectives.Loss:
    """Mean score entropy."""
    return lambda model, x: objectives.per_token(objectives.score_entropy_terms(model, x, lab.mask_id))


def bound(lab: Lab, name: str, model: Any, x: Tensor, n_draws: int) -> Tensor:
    """NLL ("AR") or its bound of each row of ``x``, (N,), over the whole range of mask rates, whatever ``model`` was
    trained with."""
    batch = lab.setting.eval_batch
    if name == "AR":
        return objectives.ar_nll(model, x, batch)
    if name == "SEDD":
        return objectives.sedd_bound(model, x, lab.mask_id, n_draws, batch, lab.seed)
    return objectives.nelbo(model, x, lab.block_size(name), lab.mask_id, n_draws, batch, lab.seed)


def scores(lab: Lab, x: Tensor, n_draws: int) -> dict[str, Tensor]:
    """:func:`bound` of every model but the base. Where the source is known, what its exact denoiser loses on the *same*
    masks is subtracted and its true NLL added: the noise of the masks cancels."""
    found, exact = {}, {}
    for name in (each for each in lab.models if each != "base"):
        found[name] = bound(lab, name, lab.models[name], x, n_draws)
        kind = name.split(",")[0]
        if lab.source is None or kind == "AR":
            continue
        if kind not in exact:
            denoiser = lab.source.denoiser(lab.length if kind == "SEDD" else lab.block_size(kind))
            model = denoiser.scores if kind == "SEDD" else denoiser
            exact[kind] = lab.source.nll(x).float() - bound(lab, kind, model, x, n_draws)
        found[name] = found[name] + exact[kind]
    return found


def counted(lab: Lab, x: Tensor) -> dict[str, Tensor]:
    """NLL (N,) of the laziest readers of ``x``: shares of the tokens, and counts of two and more tokens in a row
    (interpolated Kneser-Ney), all of the training text."""
    rows = x.cpu().numpy()
    share = np.bincount(lab.corpus.train.ravel(), minlength=lab.corpus.vocab_size) + 1.0
    found = {BLIND: -np.log(share / share.sum())[rows[:, 1:]].mean(1)}
    vocabulary, most = lab.corpus.vocab_size, max(COUNTS)
    if vocabulary**most <= LARGEST_TABLE:
        found |= {COUNTS[k]: v for k, v in counted_nll(lab.corpus.train, rows, vocabulary, most).items()}
    return {name: torch.from_numpy(v) for name, v in found.items()}


def likelihood(lab: Lab, found: dict[str, Tensor], x: Tensor) -> pd.DataFrame:
    """One row a model or reader: nats and bits per token, nats above the source's own NLL, perplexity."""
    true = lab.source.nll(x).mean().item() if lab.source else None
    nats = {name: v.mean().item() for name, v in found.items()}
    return pd.DataFrame([
        {"corpus": lab.name, "model": name, "nats": v, "above the source": None if true is None else v - true,
         "bits": v / np.log(2), "perplexity": np.exp(v)} for name, v in nats.items()
    ])  # fmt: skip


def neighbours(block_sizes: Sequence[int], schedules: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs (worse, better) whose difference the order of the paper makes positive; like schedules are compared."""
    sizes = sorted(block_sizes)
    found = [(f"L'={sizes[0]}, {schedules[-1]}", "AR")]
    for schedule in schedules:
        names = [*(f"L'={b}, {schedule}" for b in sizes), f"MDLM, {schedule}"]
        found += [(worse, better) for better, worse in pairwise(names)]
        found.append(("SEDD", f"L'={sizes[-1]}, {schedule}"))
    return found


def single(lab: Lab, steps: int, rates: Sequence[float]) -> Lab:
    """One token a block, from scratch on the same batches: AR and L' = 1 with the linear schedule and with every token
    masked at each of the ``rates``; AR on a random share of the tokens and AR without adaLN at a middle one. They are
    in a lab of their own on the same corpus."""
    lab = replace(lab, name=f"{lab.name}, one token", models={}, curves=[])
    attention = lab.setting.attention
    losses: dict[str, objectives.Loss] = {
        "AR": ar_loss, "AR, random share": objectives.thinned_ar_loss, "AR without adaLN": ar_loss,
        "L'=1, linear": objectives.diffusion_loss(lab.process(1), attention),
        "L'=1, all masked": objectives.diffusion_loss(lab.process(1, beta=1.0, omega=1.0), attention),
    }  # fmt: skip
    swept = ("AR", "L'=1, all masked", "L'=1, linear")
    for name, body in SINGLE.items():
        for lr in rates if name in swept else [rates[(len(rates) - 1) // 2]]:
            lab.train(f"{name}, {lr:g}", losses[name], steps, lr=lr, **body)
    return lab


def single_scores(lab: Lab, valid: Tensor, test: Tensor) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Table of validation NLL by rate, and the test NLL (N,) of each model at the rate that validation chose."""
    rows, found = [], {}
    for name in SINGLE:
        rates = [float(each.rpartition(" ")[2]) for each in lab.models if each.rpartition(", ")[0] == name]
        value = {lr: _next_token_nll(lab, f"{name}, {lr:g}", valid).mean().item() for lr in rates}
        best = min(value, key=lambda lr: value[lr])
        lab.models[name] = lab.models[f"{name}, {best:g}"]
        found[name] = _next_token_nll(lab, name, test)
        edge = "" if len(rates) < 3 else "yes" if best in (min(rates), max(rates)) else "no"
        told = {f"valid at {lr:g}": v for lr, v in sorted(value.items())}
        rows.append(
            {"model": name, "test": found[name].mean().item(), "chosen rate": best, "on the edge": edge, **told}
        )
    return stacked(rows), found


def _next_token_nll(lab: Lab, name: str, x: Tensor) -> Tensor:
    model, batch = lab.models[name], lab.setting.eval_batch
    return (
        objectives.ar_nll(model, x, batch) if model.causal else objectives.exact_nelbo(model, x, 1, lab.mask_id, batch)
    )


@torch.no_grad()
def batch_losses(lab: Lab, name: str, process: NoiseProcess, n: int) -> Tensor:
    """Training losses (n,) of a model over validation batches, with fresh masks in each."""
    generator = torch.Generator(device=lab.device).manual_seed(lab.seed)
    batches = lab.rows("valid", n * lab.setting.batch_size).split(lab.setting.batch_size)
    drawn = [objectives.diffusion_terms(lab.models[name], x, process, generator) for x in batches]
    return torch.stack([objectives.per_token(terms) for terms in drawn])


def single_losses(lab: Lab, n: int) -> dict[str, Tensor]:
    """Training losses (n,) over batches of both models with blocks of one token, each with its own masks."""
    noise = {"L'=1, linear": lab.process(1), "L'=1, all masked": lab.process(1, beta=1.0, omega=1.0)}
    return {name: batch_losses(lab, name, process, n) for name, process in noise.items()}


def variances(lab: Lab, block_sizes: Sequence[int], skip: int, n: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Variance of a block's loss at the models tuned with the linear schedule, on ``n`` validation batches that the
    search has not seen: a row for each block size and interval or schedule, and for each block size the variances over
    batches with the linear schedule and with the interval that the search found."""
    size = lab.setting.batch_size
    batches = lab.rows("valid", n * size, skip=skip * size).split(size)
    rows, pairs = [], {}
    for b in [*block_sizes, lab.length]:
        name = named(lab, b)
        model, (beta, omega) = lab.models[f"{name}, linear"], lab.models[f"{name}, searched"].interval.tolist()
        process, ends = lab.process(b), {**INTERVALS, "searched": (beta, omega)}
        found = objectives.interval_variances(model, batches, process, list(ends.values()), lab.seed)
        pairs[name] = tuple(found[list(ends).index(key)].cpu().numpy() for key in ("U[0,1]", "searched"))
        told = dict(zip(ends, found.mean(1).tolist(), strict=True))
        for schedule in ("square", "square_root", "logarithmic", "cosine"):
            other = lab.process(b, schedule=schedule)
            whole = [(EPS, 1.0)]
            told[schedule] = objectives.interval_variances(model, batches, other, whole, lab.seed).mean().item()
        for key, v in told.items():
            closed = constant_loss_variance(*ends[key], b) if key in ends else None
            beta, omega = ends.get(key, (None, None))
            rows.append({"model": name, "mask rates": key, "variance": v, "closed form, c = 1": closed, "beta": beta,
                         "omega": omega})  # fmt: skip
    return pd.DataFrame(rows), pairs


def best_intervals(
    seed: int, block_sizes: Sequence[int], length: int, n_rows: int, decays: Sequence[float] = DECAYS
) -> pd.DataFrame:
    """Interval of least variance of the *exact* denoiser, for the smallest blocks and for one block, on first-order
    sources of low to high entropy (12 symbols); nothing is trained. ``entropy``: share of the largest possible."""
    rows = []
    for k, decay in enumerate(decays):
        source = permuted_source(12, decay, len(decays) * (FIRST_SOURCE + seed) + k)
        batches = source.sample(n_rows, length, torch.Generator().manual_seed(seed)).split(128)
        for b in (min(block_sizes), length):
            process = NoiseProcess(source.n_tokens, b)
            beta, omega = objectives.search_interval(source.denoiser(b), batches, process, seed)
            rows.append({"source": k, "entropy": source.entropy_rate() / np.log(12), "L'": b, "beta": beta,
                         "omega": omega, "middle": (beta + omega) / 2})  # fmt: skip
    return pd.DataFrame(rows)


def heavier(found: pd.DataFrame, most: float = LANGUAGE) -> np.ndarray:
    """For each source of less than ``most`` of the possible entropy: middle of the best interval of the smallest
    blocks, minus that of the largest."""
    wide = found[found["entropy"] < most].pivot(index="source", columns="L'", values="middle")
    return (wide[wide.columns.min()] - wide[wide.columns.max()]).to_numpy()


def trained_middles(lab: Lab, block_size: int, n: int) -> np.ndarray:
    """Middle of the interval of least variance at the model tuned with the linear schedule, on each of ``n`` validation
    batches."""
    model, process = lab.models[f"{named(lab, block_size)}, linear"], lab.process(block_size)
    batches = lab.rows("valid", n * lab.setting.batch_size).split(lab.setting.batch_size)
    return np.array([sum(objectives.search_interval(model, [x], process, lab.seed)) / 2 for x in batches])


# ------------------------------------------------------------------------------------------------------- samples


def write(
    lab: Lab, name: str, n: int, length: int, prompt: Tensor, top_p: float = 1.0, at_once: bool = False
) -> sampling.Samples:  # fmt: skip
    """``n`` samples of ``length`` tokens after ``prompt`` (n, 1), in batches, one network call a token.

    A block model and AR look back over at most L tokens, so they may go on for as long as one likes; MDLM slides its
    page of L tokens on by half, or fills the whole length ``at_once``; SEDD can do nothing else.
    """
    generator = torch.Generator(device=lab.device).manual_seed(lab.seed)
    model = lab.models[name]
    common: dict[str, Any] = {"top_p": top_p, "generator": generator}

    def some(start: Tensor) -> sampling.Samples:
        if model.causal:
            return sampling.sample_ar(model, start, length, forbidden=lab.mask_id, context=lab.length, **common)
        if model.time_conditioning:
            return sampling.sample_sedd(model, start, length, lab.mask_id, length - 1, **common)
        if name.startswith("MDLM") and length > lab.length and not at_once:
            stride = lab.length // 2
            return sampling.sample_strided(model, start, length, lab.length, stride, lab.mask_id, **common)
        b = length if at_once else lab.block_size(name)
        context = max(b, lab.length)
        return sampling.sample_blocks(model, start, length, b, lab.mask_id, context=context, **common)

    parts = [some(chunk) for chunk in prompt[:n].split(lab.setting.eval_batch)]
    return sampling.Samples(torch.cat([p.tokens for p in parts]), torch.cat([p.nfe for p in parts]))


def pair_entropies(tokens: Tensor, n_tokens: int, n_parts: int = 8) -> np.ndarray:
    """Entropy of a token given the one before, nats, in each of ``n_parts`` parts of the samples: too low means too
    little variety."""
    found = []
    for part in tokens.chunk(n_parts):
        codes = (part[:, :-1] * n_tokens + part[:, 1:]).flatten()
        p = torch.bincount(codes, minlength=n_tokens**2).double().view(n_tokens, n_tokens) / codes.numel()
        ratio = p / p.sum(1, keepdim=True).clamp_min(1e-12)
        found.append(float(-(p * ratio.clamp_min(1e-12).log()).sum()))
    return np.array(found)


def sampled(lab: Lab, names: Sequence[str], n: int) -> tuple[pd.DataFrame, dict[str, Tensor], dict[str, np.ndarray]]:
    """Samples of the training length: a table, the NLL (n,) of each under the source, and the variety of each model
    relative to real text of the same amount."""
    assert lab.source is not None
    real = lab.rows("valid", n).cpu()
    prompt = lab.rows("test", n)[:, :1]
    variety = pair_entropies(real, lab.source.n_tokens)
    judged, varied = {"the source itself": lab.source.nll(real)}, {}
    rows = [{"model": "the source itself", "pair entropy": variety.mean()}]
    for name in names:
        made = write(lab, name, n, lab.length, prompt)
        tokens = made.tokens.cpu()
        judged[name] = lab.source.nll(tokens)
        found = pair_entropies(tokens, lab.source.n_tokens)
        varied[name] = found - variety
        rows.append({"model": name, "pair entropy": found.mean(), "calls": made.nfe.float().mean().item()})
    table = pd.DataFrame(rows)
    table.insert(1, "NLL", [v.mean().item() for v in judged.values()])
    return table, judged, varied


def along(
    lab: Lab, n: dict[str, int], length: int
) -> tuple[pd.DataFrame, dict[str, np.ndarray], dict[str, np.ndarray]]:  # fmt: skip
    """Texts beyond the training length, from the start of a document, of models and of the source itself: a table of
    the NLL under the source in each stretch of L tokens, that NLL text by text (n, length / L), and the tokens (n,
    length). Of the source there are twenty times as many; a quarter of them is scored. A writer of pairs stands beside.
    "MDLM, linear at once" fills the whole length instead of page after page."""
    assert lab.source is not None
    generator = torch.Generator().manual_seed(lab.seed)
    most = max(n.values())
    texts = {"the source itself": lab.source.sample(20 * most, length, generator, after_end=True)}
    texts[PAIRS] = lab.source.of_pairs().sample(most, length, generator, after_end=True)
    for name in n:
        prompt = torch.full((n[name], 1), int(lab.corpus.eos_id or 0), device=lab.device)
        model = name.removesuffix(" at once")
        texts[name] = write(lab, model, n[name], length, prompt, at_once=model != name).tokens.cpu()
    parts = {name: stretches(lab, tokens[: 5 * most]) for name, tokens in texts.items()}
    rows = [{"model": name, "part": k + 1, "NLL": v} for name in parts for k, v in enumerate(parts[name].mean(0))]
    return pd.DataFrame(rows), parts, {name: tokens.numpy() for name, tokens in texts.items()}


def stretches(lab: Lab, tokens: Any) -> np.ndarray:
    """NLL under the source in each stretch of L tokens of texts (n, length): (n, length / L)."""
    assert lab.source is not None
    nll = torch.cat([lab.source.token_nll(chunk) for chunk in torch.as_tensor(tokens).split(64)])
    ends = range(lab.length, nll.shape[1] + 2, lab.length)  # token 0 is context: the first stretch has one less
    return np.stack([nll[:, max(0, end - lab.length - 1) : end - 1].mean(1).numpy() for end in ends], 1)


def documents(
    lab: Lab, texts: dict[str, np.ndarray], every: int
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:  # fmt: skip
    """Lengths of documents by the stop rules: end mark, or a last stretch whose unigram entropy, looked at after
    ``every`` so many tokens, is below half of the source's. Rows as in Table 6, and the lengths themselves."""
    assert lab.source is not None and lab.corpus.eos_id is not None
    share = np.bincount(lab.corpus.train.ravel()) / lab.corpus.train.size
    lowest = 0.5 * float(-(share[share > 0] * np.log(share[share > 0])).sum())
    found, rows = {}, []
    for name, tokens in texts.items():
        cut = torch.as_tensor(tokens)
        ends = [sampling.stop_position(row, lab.corpus.eos_id, every, lowest, lab.length) for row in cut]
        found[name] = np.array([end for end, _ in ends])
        why = pd.Series([reason for _, reason in ends]).value_counts(normalize=True)
        rows.append({
            "model": name, "median": np.median(found[name]), "max": found[name].max(),
            "beyond the context": (found[name] > lab.length).mean(),
            **{f"ended by {reason}": why.get(reason, 0.0) for reason in ("eos", "entropy", "length")},
        })  # fmt: skip
    return pd.DataFrame(rows), found


def pages(lab: Lab, name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts of the training length (n, L) from the start of a document, and their NLL (n,) under the source."""
    prompt = torch.full((n, 1), int(lab.corpus.eos_id or 0), device=lab.device)
    tokens = write(lab, name, n, lab.length, prompt).tokens.cpu()
    return tokens.numpy(), stretches(lab, tokens)[:, 0]


def written_order(block_sizes: Sequence[int]) -> list[tuple[str, str]]:
    """Pairs (worse, better) in the order that the paper finds for samples."""
    names = ["AR", *(f"L'={b}, searched" for b in sorted(block_sizes)), "MDLM, searched"]
    return [*((b, a) for a, b in pairwise(names)), ("SEDD", names[-2])]


def judged_text(
    lab: Lab, names: Sequence[str], n: int, top_p: float, order: int
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Samples of text under a character n-gram of the training split (``order`` 0: unjudged), and the first of each."""
    judge = KneserNey(lab.corpus.train, lab.mask_id, order) if order else None  # the mask follows the letters
    prompt = lab.rows("test", n)[:, :1]
    texts = {"real text": lab.rows("valid", n)}
    texts |= {name: write(lab, name, n, lab.length, prompt, top_p).tokens for name in names}
    rows = [
        {"model": name, "NLL": judge.token_nll(t.cpu().numpy()).mean(), "pair entropy": pair_entropies(t.cpu(),
         lab.corpus.vocab_size).mean()} for name, t in texts.items()
    ] if judge else []  # fmt: skip
    first = [{"model": name, "sample": lab.corpus.decode(t[0].cpu().numpy())} for name, t in texts.items()]
    return pd.DataFrame(rows), pd.DataFrame(first)


def strip(lab: Lab, names: Sequence[str], length: int, n_shown: int = 8) -> pd.DataFrame:
    """A text while it is written, masks as dots: ``n_shown`` moments of one sample of each model."""
    rows = []
    for name in names:
        seen: list[Tensor] = []
        generator, model = torch.Generator(device=lab.device).manual_seed(lab.seed), lab.models[name]
        prompt = lab.rows("test", 1)[:, :1]
        if model.causal:
            done = sampling.sample_ar(model, prompt, length, forbidden=lab.mask_id, generator=generator).tokens
            seen = [done[:, :k] for k in range(1, length)]
        else:
            b = length if name.startswith("MDLM") else lab.block_size(name)
            options = {"watch": seen.append, "generator": generator}
            done = sampling.sample_blocks(model, prompt, length, b, lab.mask_id, **options).tokens  # type: ignore[arg-type]
        moments = [*seen, done]
        for k in np.linspace(0, len(moments) - 1, n_shown).round().astype(int):
            row = moments[k][0].cpu().numpy()
            letters = "".join("·" if i == lab.mask_id else lab.corpus.decode(row[j : j + 1]) for j, i in enumerate(row))
            rows.append({"model": name, "calls": int(k), "text": letters.ljust(length, "·")})
    return pd.DataFrame(rows)


# ------------------------------------------------------------------------------------------------------- the paper


def operation_table(block_sizes: Sequence[int]) -> pd.DataFrame:
    """Operations of a forward pass over those of plain diffusion, at the paper's shape on LM1B."""
    shape = {"length": LM1B["length"], "dim": LM1B["dim"], "n_layers": LM1B["n_layers"]}
    rows = []
    for b in block_sizes:
        for kind in ("dense", "skipping"):
            skip = kind == "skipping"
            found = operations(block_size=b, vocab_size=LM1B["vocab_size"], skip=skip, **shape)
            plain = found.pop("plain diffusion")
            rows.append({"L'": b, "attention": kind, **{way: n / plain for way, n in found.items()}})
    return pd.DataFrame(rows)


def needs_table() -> pd.DataFrame:
    """Peak GB of every call of the paper scale, all trained models resident, and the card that it is cut for."""
    found = peaks(MICRO_BATCH, RELEASED_ROWS, LONGEST, n_models=3 + 2 * (len(PAPER_SIZES) + 1) + len(SINGLE))
    return pd.DataFrame([{"call": call, "GB": gb, "card, GB": GPU_GB} for call, gb in found.items()])


def hours_table() -> pd.DataFrame:
    """A100 hours of the training on LM1B, by our estimate: operations of three forward passes an update (one forward,
    two for backward), a kernel that skips what the mask hides, 40 % of the peak. The paper names no hours."""
    n, tuned = LM1B["length"], 2 * 150_000  # with both schedules
    runs = [
        ("base", 850_000, n), *((f"L'={b}, both schedules", tuned, b) for b in PAPER_SIZES),
        ("MDLM, both schedules", tuned, n), ("AR and SEDD", 2_000_000, n), ("one token", len(SINGLE) * 250_000, 1),
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for name, updates, b in runs:
        of_row = operations(n, b, LM1B["dim"], LM1B["n_layers"], LM1B["vocab_size"], skip=True)
        flops = 3 * 512 * updates * of_row["plain diffusion" if b == n else "one pass"]
        rows.append({"models": name, "updates": updates, "A100 hours": gpu_hours(flops, "A100, bf16")})
    rows.append({"models": "all", "A100 hours": sum(row["A100 hours"] for row in rows)})
    return stacked(rows)


def recomputed(facts: Any) -> pd.DataFrame:
    """What follows from the paper's own tables and settings, beside what it states."""
    ppl = facts.frame("table3").set_index("Model")["PPL"]
    var4 = facts.frame("table2").set_index("L'").loc[4]
    eight = facts.frame("table8").set_index(["L'", "schedule"])["variance"]
    with torch.device("meta"):
        count = sum(p.numel() for p in DiT(OWT["vocab_size"]).parameters()) / 1e6
    words = OWT["vocab_size"] * OWT["dim"] / 1e6
    small = ppl["BD3-LM L'=4"]
    calls = 5000 * (1 - (1 - 1 / 5000) ** 16)
    rows = [
        ("gain of L'=4 over MDLM, Table 3", "up to 13 %", f"{1 - small / ppl['MDLM']:.1%}", "less than 13 %"),
        ("gain of L'=4 over SEDD, Table 3", "not stated", f"{1 - small / ppl['SEDD']:.1%}", "more than 13 %"),
        ("tokens of 1M updates, LM1B", "65B", f"{1e6 * 512 * 128 / 1e9:.1f}B", "adds up"),
        ("tokens of 1M updates, OWT", "524B", f"{1e6 * 512 * 1024 / 1e9:.1f}B", "adds up"),
        ("parameters of the OWT model", "110M (hub: 170M)", f"{count:.0f}M", "embeddings in and out are separate"),
        ("the same without one table of words", "110M", f"{count - words:.0f}M", "tied embeddings"),
        ("variance, linear over U[.3,.8], L'=4", f"{var4['U[0,1] var'] / var4['U[.3,.8] var']:.2f} (Table 2)",
         f"{eight[4, 'linear'] / eight[4, 'U[.3,.8]']:.2f}", "Table 8, after a shorter tuning"),
        ("the same for a constant loss", "not stated",
         f"{constant_loss_variance(EPS, 1, 4) / constant_loss_variance(0.3, 0.8, 4):.2f}", "closed form"),
        ("calls for a block of 16, T = 5000", "not stated", f"{calls:.3f}", "ancestral, prediction reused"),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["quantity", "paper", "recomputed", "remark"])

"""The chapter's experiments, as its cells call them: worlds of the cipher, variants, baselines, and SmolLM2.

A *world* is a cipher with its own codes, corpus, start model M_0 and questions. A run of the chapter holds several;
they are independent, and so are those of other seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from reprobook.nn.chat import masked_loss, training_examples
from reprobook.papers.stasc import baselines, ciphers, countries
from reprobook.papers.stasc.dialogue import marked
from reprobook.papers.stasc.filters import Variant
from reprobook.papers.stasc.learner import Learner, Told
from reprobook.papers.stasc.loop import Iterate, Plan, Scores, optimistic, run, score, selected
from reprobook.papers.stasc.questions import Splits, split_by_entity
from reprobook.papers.stasc.reward import has_answer, normalise
from reprobook.train import shuffled

if TYPE_CHECKING:
    import torch

    from reprobook.nn.sampling import Sampling
    from reprobook.papers.stasc.dialogue import Prompts
    from reprobook.papers.stasc.learner import Fit, Tuning
    from reprobook.papers.stasc.questions import Question

MOST_WORLDS = 16  # of one seed
When = Literal["before", "chosen", "last"]
Runs = dict[str, list[list[Iterate]]]  # name of the run -> the iterates of each world
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]  # name of an effect -> scores of the same units, first minus second
VERSUS = (  # corrections at the last iteration, compared between runs
    ("EIE", "ENE"), ("EIE", "ENE as run"), ("EIE, equal updates", "ENE, equal updates"),
    ("EIE, equal updates", "ENE as run, equal updates"), ("FIE", "FIF"),
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Questions, network and updates of one world."""

    n_topics: int
    n_train: int
    n_valid: int
    n_test: int
    width: int
    n_layers: int
    base_steps: int
    base_lr: float


class Toy(NamedTuple):
    """One world: its questions, its corpus as numbers (n, 3), and the learner whose base is M_0."""

    world: ciphers.World
    splits: Splits
    dialogues: np.ndarray
    learner: Learner


def open_toy(
    k: int, seed: int, sizes: Sizes, tuning: Tuning, sampling: Sampling, *, fit: Fit, folder: Path, device: torch.device
) -> Toy:
    """World ``k`` of a seed, with M_0 trained on its corpus (64 dialogues an update, cosine)."""
    number = MOST_WORLDS * seed + k
    world = ciphers.World(ciphers.Corpus(), number, sizes.n_topics)
    splits, rest = world.split(sizes.n_train, sizes.n_valid, sizes.n_test)
    dialogues = world.write(rest, 64 * sizes.base_steps)
    tokenizer = ciphers.tokenizer()
    model = ciphers.decoder(tokenizer, sizes.width, sizes.n_layers, 4, number).to(device)
    order = shuffled(len(dialogues), 64, seed=number)
    fit(
        f"start {k}", model, lambda i: ciphers.corpus_batch(tokenizer, dialogues[order(i).numpy()]), masked_loss,
        num_steps=sizes.base_steps, lr=sizes.base_lr, schedule="cosine", weight_decay=0.01,
        warmup_steps=min(20, sizes.base_steps), precision="fp32",
    )  # fmt: skip
    learner = Learner(
        model, tokenizer, ciphers.PROMPTS, sampling, tuning, fit=fit, folder=folder, seed=number, batch_size=512,
        chunk=512,
    )  # fmt: skip
    return Toy(world, splits, dialogues, learner)


def kept_first(worlds: Sequence[Sequence[Iterate]]) -> list[int]:
    """Pairs kept in the first iteration of each world."""
    return [its[0].drawn.kept for its in worlds if its[0].drawn]


def corpus_rates(toys: Sequence[Toy]) -> pd.DataFrame:
    """What the corpora hold: shares of right answers, of right answers kept and wrong ones repaired, and of test
    questions that can be answered from them at all."""
    rows = []
    for k, toy in enumerate(toys):
        truth = toy.world.truth(toy.dialogues[:, 0])
        first, second = (toy.dialogues[:, j] == truth for j in (1, 2))
        numbers = np.array([ciphers.number(q.text) for q in toy.splits.test])
        rows.append({
            "world": k, "initial answers right": first.mean(), "corrections right": second.mean(),
            "right stays right": second[first].mean(), "wrong becomes right": second[~first].mean(),
            "test questions told": toy.world.knowable(numbers).mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def rewarded(cases: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """The reward of (generation, reference) by example, under both readings of punctuation."""
    return pd.DataFrame([
        {
            "generation": text, "reference": reference, "tokens": " | ".join(normalise(text)),
            "reward": int(has_answer(text, [reference])),
            "reward, ASCII punctuation": int(has_answer(text, [reference], ascii_only=True)),
        }
        for text, reference in cases
    ])  # fmt: skip


def spoken(prompts: Prompts, question: str, shown: str, answer: str) -> list[list[tuple[str, bool]]]:
    """The training example of one kept triple of the cipher, as the model sees it: lines of (token, trained)."""
    tokenizer = ciphers.tokenizer()
    turns = [prompts.corrected(question, shown)]
    (example,) = training_examples(tokenizer, turns, [answer], [tokenizer.eos_token_id])
    return marked(tokenizer, example)


# ------------------------------------------------------------------------------------------------------------ variants


def plan(name: str, n_init: int, n_corr: int, n_iterations: int, updates: int | None = None) -> Plan:
    """The plan of a run by its name: a variant and marks. ``ENE as run`` keeps only right to right; ``EIE crossed``
    pairs as the released code does; ``EIE, equal updates`` makes ``updates`` updates in every iteration, ``EIE, double
    rate`` learns twice as fast."""
    return Plan(
        Variant(name[:3]), n_init, n_corr, n_iterations, as_run="as run" in name,
        pairing="cross" if "crossed" in name else "matched", updates=updates if "equal updates" in name else None,
        rate=2.0 if "double rate" in name else 1.0,
    )  # fmt: skip


def variants(toys: Sequence[Toy], names: Sequence[str], counts: tuple[int, int], n: int, updates: int) -> Runs:
    """Runs of ``n`` iterations with ``counts`` = (N_init, N_corr) in every world."""
    return {
        name: [run(toy.learner, plan(name, *counts, n, updates), toy.splits, last_train=True) for toy in toys]
        for name in names
        if toys
    }


def sample_counts(toys: Sequence[Toy], counts: Sequence[int], n: int, updates: int) -> Runs:
    """EIF for every (N_init, N_corr), with its own number of updates and with equal ones: ``EIF (1, 5)``, ..."""
    found: Runs = {}
    for mark in ("", ", equal updates") if toys else ():
        for a in counts:
            for b in counts:
                found[f"EIF ({a}, {b}){mark}"] = variants(toys, ["EIF" + mark], (a, b), n, updates)["EIF" + mark]
    return found


def at(iterates: Sequence[Iterate], when: When) -> Iterate:
    """M_0, the iterate that the validation questions choose, or the last one."""
    return {"before": iterates[0], "chosen": selected(iterates), "last": iterates[-1]}[when]


def tested(worlds: Sequence[Sequence[Iterate]], when: When = "last") -> Scores:
    """Scores on the test questions of all worlds, one world after the other."""
    return joined([at(iterates, when).test for iterates in worlds])


def joined(scores: Sequence[Scores]) -> Scores:
    """Scores of several worlds as one."""
    return Scores(np.concatenate([s.initial for s in scores]), np.concatenate([s.corrected for s in scores]))


def gains(name: str, worlds: Sequence[Sequence[Iterate]], when: When = "last") -> Pairs:
    """What training changed in a run: scores after and before it, of the same test questions."""
    after, before = tested(worlds, when), tested(worlds, "before")
    return {
        f"{name}: corrections": (after.corrected, before.corrected),
        f"{name}: initial answers": (after.initial, before.initial),
        f"{name}: net repairs": (after.net, before.net),
    }


def comparisons(runs: Runs, found: Runs, rivals: Mapping[str, Scores], counts: Sequence[int]) -> Pairs:
    """The paired effects of the plan, those whose runs there are: at the last iteration, over all test questions.

    ``found``: EIF over sample counts; a mark says whether with equal updates. More initial answers are compared as
    means over N_corr."""
    pairs: Pairs = {}
    for name, worlds in runs.items():
        pairs |= gains(name, worlds)
    for a, b in VERSUS:
        if a in runs and b in runs:
            pairs[f"{a} minus {b}"] = tested(runs[a]).corrected, tested(runs[b]).corrected
    for mark in ("", ", equal updates") if found else ():
        many, few = (
            np.mean([tested(found[f"EIF ({a}, {b}){mark}"]).corrected for b in counts], axis=0)
            for a in (max(counts), min(counts))
        )
        pairs[f"EIF: more initial answers{mark}"] = many, few
    if found:
        pairs |= gains("EIF (1, 1)", found["EIF (1, 1)"])
    if rivals and "EIE" in runs:
        start, gold = rivals["no training"], rivals["gold answers"]
        pairs["gold answers minus M_0: corrections"] = gold.corrected, start.corrected
        pairs["gold answers minus M_0: initial answers"] = gold.initial, start.initial
        pairs["EIE minus majority: corrections"] = tested(runs["EIE"]).corrected, rivals["majority"].corrected
    return pairs


def levels(runs: Runs) -> dict[str, np.ndarray]:
    """The unpaired effects of the plan: where M_0 stands, what gap EIE leaves (test questions), and how many pairs the
    filters keep first (one number a world)."""
    if "EIE" not in runs:
        return {}
    start, end = tested(runs["EIE"], "before"), tested(runs["EIE"])
    return {
        "M_0: initial answers right": start.initial, "M_0: corrections right": start.corrected,
        "M_0: net repairs": start.net, "EIE: net repairs left": end.net,
    }  # fmt: skip


def groups(toys: Sequence[Toy]) -> list[int]:
    """The world of each test question: questions of one world share a start model and are no independent units."""
    return [k for k, toy in enumerate(toys) for _ in toy.splits.test]


def curves(runs: Runs) -> pd.DataFrame:
    """Every iterate of every run, means over its worlds."""
    rows = [{"run": name, **it.row} for name, worlds in runs.items() for its in worlds for it in its]
    return pd.DataFrame(rows).groupby(["run", "iteration"], sort=False).mean().reset_index()


def changes(table: pd.DataFrame, shown: Sequence[str]) -> pd.DataFrame:
    """Change of the accuracy of corrections by training for each seed of a recorded :func:`summary`."""
    part = pd.concat([table[table["run"] == name] for name in shown])
    return part.assign(what=part["run"], **{"last minus before": part["correction, last"] - part["correction, before"]})


def count_table(found: Runs) -> pd.DataFrame:
    """:func:`summary` of the runs over sample counts, with N_init, N_corr and whose number of updates it was."""
    rows = summary(found)
    pairs = rows["run"].str.extract(r"\((\d+), (\d+)\)(.*)")
    first = {"N_init": pairs[0].astype(int), "N_corr": pairs[1].astype(int), "updates": pairs[2].map({"": "own"})}
    columns = pd.DataFrame(first).fillna({"updates": "equal"})
    return pd.concat([columns, rows.drop(columns="run")], axis=1)


def summary(runs: Runs) -> pd.DataFrame:
    """One row a run, means over worlds: before, at the chosen and at the last iteration, and the paper's maximum."""
    rows = []
    for name, worlds in runs.items():
        row: dict[str, Any] = {"run": name}
        for when in ("before", "chosen", "last"):
            scores = tested(worlds, when)
            row |= {f"initial, {when}": scores.initial.mean(), f"correction, {when}": scores.corrected.mean()}
        row["best on test"] = np.mean([optimistic(its) for its in worlds])
        row["chosen iteration"] = np.mean([selected(its).n for its in worlds])
        row["kept first"] = np.mean([its[0].drawn.kept for its in worlds if its[0].drawn])
        row["updates first"] = np.mean([its[0].updates for its in worlds])
        row["updates in all"] = np.mean([sum(it.updates for it in its) for its in worlds])
        rows.append(row)
    return pd.DataFrame(rows)


# ----------------------------------------------------------------------------------------------------------- baselines


def rivals(toys: Sequence[Toy], n_samples: int, n_iterations: int, n_votes: int, repeats: int) -> dict[str, Scores]:
    """What the variants are compared with, on the test questions of all worlds. Where there is no correction of its
    own, the answer is repeated. STaR's iteration is chosen by the validation questions."""
    found: dict[str, list[Scores]] = {}
    for toy in toys:
        learner, test = toy.learner, toy.splits.test
        start = score(learner, learner.base, test)
        plain = np.array([float(q.text[1:] in q.references) for q in test])
        votes = baselines.self_consistency(learner, learner.base, test, n_votes)
        models = [model for model, _ in baselines.star(learner, toy.splits.train, n_samples, n_iterations)]
        best = max(models, key=lambda model: score(learner, model, toy.splits.valid, "valid").initial.mean())
        gold = baselines.sft(learner, toy.splits.train, repeats)
        for name, scores in {
            "plain digits always": Scores(plain, plain), "no training": start,
            "no training, answer repeated": Scores(start.initial, start.initial),
            "majority": Scores(votes, votes), "STaR": score(learner, best, test),
            "gold answers": score(learner, gold, test),
        }.items():  # fmt: skip
            found.setdefault(name, []).append(scores)
    return {name: joined(scores) for name, scores in found.items()}


def scoreboard(scores: Mapping[str, Scores]) -> pd.DataFrame:
    """One row a method: initial answers right, corrections right, net repairs."""
    return pd.DataFrame([
        {"method": name, "initial": s.initial.mean(), "correction": s.corrected.mean(), "net repairs": s.net.mean()}
        for name, s in scores.items()
    ])  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- SmolLM2


def open_speaker(
    source: Path, tuning: Tuning, sampling: Sampling, rank: int, seed: int, *, fit: Fit, folder: Path,
    device: torch.device, prompts: Prompts = countries.PROMPTS,
) -> Learner:  # fmt: skip
    """A learner over SmolLM2-135M-Instruct in ``source`` with LoRA on queries and values."""
    import torch
    from peft import LoraConfig, get_peft_model

    from reprobook.nn.lm import load_lm

    model, tokenizer = load_lm(source, dtype="fp32", device=device)
    torch.manual_seed(seed)
    adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"])
    return Learner(
        get_peft_model(model, adapter), tokenizer, prompts, sampling, tuning, fit=fit, folder=folder, seed=seed,
        batch_size=150, chunk=150,
    )  # fmt: skip


class Speech(NamedTuple):
    """EIE of a speaker, and what fine-tuning on gold answers gives."""

    iterates: list[Iterate]
    gold: Scores

    def table(self, learner: Learner) -> pd.DataFrame:
        """Test accuracy, net repairs, and the shares of answers and corrections that the limit of length cut."""
        rows = [(f"iterate {it.n}", it.test, "test", it.n) for it in self.iterates]
        found: list[pd.DataFrame] = []
        for name, scores, stream, n in [*rows, ("gold answers", self.gold, "gold", 0)]:
            shares = {f"{what} cut": cut(learner, f"{stream} {what} {n}") for what in ("initial", "corrections")}
            found.append(scoreboard({name: scores}).assign(**shares))
        return pd.concat(found, ignore_index=True)


def cut(learner: Learner, stream: str) -> float:
    """Share of the answers of a stream that the limit of length cut."""
    return float(np.mean(learner.cut[stream]))


def speak(learner: Learner, splits: Splits, n_corr: int, n_iterations: int) -> Speech:
    """EIE of a speaker with one initial answer a question."""
    its = run(learner, plan("EIE", 1, n_corr, n_iterations), splits, last_train=False)
    gold, _ = learner.tune(learner.base, [Told(q, None, q.references[0]) for q in splits.train])
    return Speech(its, score(learner, gold, splits.test, "gold"))


def country_splits(folder: Path, sizes: Sequence[int], seed: int) -> Splits:
    """Train, validation and test questions about countries; no country is in two parts."""
    return Splits(*split_by_entity(countries.read_questions(folder), sizes, seed))


def transcript(learner: Learner, its: Sequence[Iterate], questions: Sequence[Question], n: int) -> pd.DataFrame:
    """What the model says to the first ``n`` test questions, before training and at the last iteration."""
    found: dict[str, list[str]] = {"question": [q.text for q in questions[:n]]}
    for name, it in (("before", its[0]), ("last", its[-1])):
        y1 = learner.answers(it.model, questions, 1, f"test initial {it.n}")
        y2 = learner.corrections(it.model, questions, y1, 1, f"test corrections {it.n}")
        found |= {f"{name}: answer": [y[0] for y in y1[:n]], f"{name}: correction": [y[0][0] for y in y2[:n]]}
    return pd.DataFrame(found)

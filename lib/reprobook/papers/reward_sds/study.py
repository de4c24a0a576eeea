"""The chapter's experiments, as its cells call them."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds.diffusion import check_guidance, denoise, levels
from reprobook.papers.reward_sds.digits import (
    ATTRIBUTES,
    LOOPED,
    N_CLASSES,
    SIDE,
    class_scale,
    halves,
    measure,
    read_digits,
)
from reprobook.papers.reward_sds.exact import two_modes
from reprobook.papers.reward_sds.judging import Judge, nearest
from reprobook.papers.reward_sds.loop import Steps, Weighing, calls, optimise, picture
from reprobook.papers.reward_sds.losses import bridge, dds, sds, vsd
from reprobook.papers.reward_sds.networks import (
    Companion,
    ResidualPrior,
    RewardNet,
    UNetPrior,
    prior_batches,
    prior_loss,
    prompt,
    reward_batches,
    reward_loss,
)
from reprobook.papers.reward_sds.scene import Scene, view_angles
from reprobook.papers.reward_sds.weighting import SCHEMES, kept

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from reprobook.papers.reward_sds.digits import Digits, Scale
    from reprobook.papers.reward_sds.loop import Reward, State
    from reprobook.papers.reward_sds.losses import Loss
    from reprobook.papers.reward_sds.networks import DigitPrior
    from reprobook.train import History


def check(given: Mapping[str, Any]) -> None:
    """Raise :class:`ReprobookError` for parameters of the notebook that no run can have, before anything is fetched."""
    for name, allowed in (("bases", ("VSD", "SDS-Bridge")), ("released", BASES)):
        if wrong := [each for each in given[name] if each not in allowed]:
            raise ReprobookError(f"{name} names {wrong[0]!r}; it may have {', '.join(allowed)}")
    n, steps = given["n_candidates"], given["digit_steps"]
    Weighing(n=n, n_reward_steps=steps).check(steps)
    for s in [given["n_denoise"], *given["ss"]]:
        levels(torch.tensor([500]), s, 1000)
    for each in given["ns"]:
        kept("best and worst" if each < 4 else "two best and two worst", each)
    for name in ("guidance", "exploring", "edit_guidance"):
        check_guidance(given[name])


BASES = ("SDS", "VSD", "SDS-Bridge", "DDS")


@dataclass(frozen=True)
class Row:
    """One way of optimising: base loss alone, or with weighed candidates, or with a gradient of the reward."""

    how: Weighing | None = None
    n_plain: int = 1
    times_steps: float = 1.0  # iterations, as a multiple of the base loss's
    restarts: int = 1  # runs from other noise, of which the reward picks one
    ascent: float = 0.0  # step of the reward's own gradient


class Ends(NamedTuple):
    """Where a row's pictures (B, ...) end, and evaluations of the prior and seconds for each."""

    x: Tensor
    calls: float
    seconds: float


def fair_rows(how: Weighing, n_steps: int, equal: int, strengths: Sequence[float] = ()) -> dict[str, Row]:
    """The method and what it is compared with; ``equal``: how many times as many calls the method needs.

    SDS with so many more steps, with so many averaged noises, the best of so many restarts by the same reward; the same
    weights on random candidates; the reward's own gradient at each of ``strengths``."""
    how = replace(how, n_reward_steps=min(how.n_reward_steps, n_steps))
    rows = {
        "RewardSDS": Row(how),
        "SDS": Row(),
        "SDS, more steps": Row(times_steps=equal),
        "SDS, averaged noises": Row(n_plain=equal),
        "best of restarts": Row(restarts=equal),
        "random weights": Row(replace(how, ranking="coin")),
    }
    return rows | {f"reward gradient, {c:g}": Row(ascent=c) for c in strengths}


def run_row(
    row: Row, make_loss: Callable[[int], Loss], start: Callable[[int], Tensor], steps: Steps, reward: Reward, *,
    seed: int, climbable: Reward | None = None, watch: Callable[[State], None] | None = None,
) -> Ends:  # fmt: skip
    """Optimise B pictures the way ``row`` says. ``make_loss(copies)``: the loss of the B pictures, each so many times
    in a row; ``start(k)``: the k-th set of B initial pictures, equal for all rows. ``climbable``: the reward whose
    gradient at the present picture the row may use, if it is another one. ``watch`` sees every iteration."""
    began = time.perf_counter()
    steps = replace(steps, n=round(steps.n * row.times_steps))
    first = start(0)
    size, copies = len(first), row.restarts
    x = torch.stack([start(k) for k in range(copies)], 1).flatten(0, 1).detach().requires_grad_()
    owner = torch.arange(size, device=x.device).repeat_interleave(copies)
    asked: Reward = lambda z, rows: reward(z, owner[rows])  # noqa: E731

    def climb(z: Tensor) -> Tensor:
        z = z.clone().requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad((climbable or reward)(z, owner).sum(), z)
        return row.ascent * g

    loss = make_loss(copies)
    for state in optimise(
        loss, [x], lambda: x, steps, row.how, asked, seed=seed, n_plain=row.n_plain,
        ascent=climb if row.ascent else None,
    ):  # fmt: skip
        if watch is not None:
            watch(state)
    x = x.detach()
    total = len(loss.alphas_cumprod)
    spent = copies * calls(steps, row.how, total, guided=False, n_plain=row.n_plain)
    if copies > 1:
        best = reward(x, owner).view(size, copies).argmax(1)
        x = x.view(size, copies, *x.shape[1:])[torch.arange(size), best]
    return Ends(x, spent, (time.perf_counter() - began) / size)


def dial_rows(strengths: Sequence[float], restarts: int) -> dict[str, Row]:
    """The reward's own gradient at each of ``strengths``, the best of ``restarts`` by the reward: as many evaluations
    of the prior as the method needs."""
    return {f"reward gradient, {c:g}, best of restarts": Row(ascent=c, restarts=restarts) for c in strengths}


def scheme_rows(how: Weighing) -> dict[str, Row]:
    """The other five schemes of the paper's Table 5."""
    return {scheme: Row(replace(how, scheme=scheme)) for scheme in SCHEMES if scheme != how.scheme}


def pair_rows(how: Weighing, base: str = "SDS") -> dict[str, Row]:
    """A base loss, its Reward form, and the same weights on random candidates."""
    return {base: Row(), f"Reward{base}": Row(how), "random weights": Row(replace(how, ranking="coin"))}


def size_rows(how: Weighing, n_steps: int, ns: Sequence[int], ks: Sequence[float], ss: Sequence[int]) -> dict[str, Row]:
    """One sweep each over N, K (a share of ``n_steps`` iterations) and S, the others as in ``how``; and the
    paper's small setting: N = 2, a tenth of the iterations with a reward, S = 1, by reward and by coin. Fewer than four
    candidates have no two best and two worst: they get the best and the worst."""
    rows = {f"N = {n}": Row(replace(how, n=n, scheme=how.scheme if n > 3 else "best and worst")) for n in ns}
    rows |= {f"K = {k:g} of all": Row(replace(how, n_reward_steps=max(1, round(k * n_steps)))) for k in ks}
    rows |= {f"S = {s}": Row(replace(how, n_denoise=s)) for s in ss}
    small = replace(how, n=2, scheme="best and worst", n_reward_steps=max(1, n_steps // 10), n_denoise=1)
    return rows | {"small setting": Row(small), "small, random weights": Row(replace(small, ranking="coin"))}


def part_rows(how: Weighing) -> dict[str, Row]:
    """Which term of the difference the ranking must weigh to climb, and the released start of the denoising."""
    return {
        "noise term alone": Row(replace(how, parts="noise")),
        "network term alone": Row(replace(how, parts="network")),
        "released start": Row(replace(how, start="released")),
    }


# ------------------------------------------------------------------------------------------------- the exact mixture


def mixture_ends(
    rows: Mapping[str, Row], n_pictures: int, n_coordinates: int, steps: Steps, seed: int,
    watch: Callable[[State], None] | None = None,
) -> dict[str, Ends]:  # fmt: skip
    """Rows on pictures of ``n_coordinates`` numbers with two equally likely modes each, -2 and 2; the reward is the
    mean coordinate, so 2 where every coordinate sits in its right mode."""
    prior = two_modes()

    def make_loss(copies: int) -> Loss:
        return sds(prior, torch.zeros(n_pictures * copies, dtype=torch.long), 1.0, 1.0)

    def start(k: int) -> Tensor:
        return picture((n_pictures, n_coordinates), seed * 1009 + k).detach()

    def reward(x: Tensor, _: Tensor) -> Tensor:
        return x.mean(1)

    return {name: run_row(row, make_loss, start, steps, reward, seed=seed, watch=watch) for name, row in rows.items()}


def mixture_scores(x: Tensor) -> dict[str, np.ndarray]:
    """For each picture: reward, nats per coordinate, and the share of coordinates inside the rewarded mode (within
    three deviations of it, where 99.7 % of its mass lie)."""
    prior = two_modes()
    inside = ((x - 2).abs() < 3 * prior.sd).float().mean(1)
    log_prob = prior.log_prob(x, torch.zeros(len(x), dtype=torch.long))
    return {"reward": x.mean(1).numpy(), "nats": log_prob.numpy(), "in the mode": inside.numpy()}


def mixture_table(ends: Mapping[str, Ends]) -> pd.DataFrame:
    """One row a way of optimising: means over pictures."""
    rows = []
    for name, end in ends.items():
        scores = {what: float(values.mean()) for what, values in mixture_scores(end.x).items()}
        size = {"mean |x|": float(end.x.abs().mean())}
        rows.append({"method": name, **scores, **size, "calls": end.calls, "ms a picture": 1000 * end.seconds})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------------------- real digits


class Lab(NamedTuple):
    """What a seed's digits are made with: prior and reward model of one half, judge of the other."""

    prior: DigitPrior
    net: RewardNet
    half: Digits  # that prior and reward model have seen
    scale: Scale  # of its attributes
    judge: Judge
    curves: pd.DataFrame  # training losses: network, step, loss


class Tasks(NamedTuple):
    """Pictures to be made: class (B,) and the attribute that is rewarded (B,), an index of ``ATTRIBUTES``."""

    classes: Tensor
    attributes: Tensor

    @property
    def names(self) -> list[str]:
        """What each asks for, such as ``3, slant``."""
        return [f"{k}, {ATTRIBUTES[j]}" for k, j in zip(self.classes.tolist(), self.attributes.tolist(), strict=True)]


def open_lab(
    folder: str | Path, seed: int, *, fit: Callable[..., Any], width: int, prior_steps: int, reward_steps: int
) -> Lab:
    """Read the digits, train prior and reward model on a random half, fit the judge to the other half. All of it stays
    on the processor, where networks of this size are quickest."""
    half, other = halves(read_digits(folder), seed)
    torch.manual_seed(seed)
    prior, net = ResidualPrior(width), RewardNet()
    curves = {"prior": _fit_prior(fit, "prior", prior, half, seed, prior_steps, 256)}
    curves["reward model"] = fit(
        "reward model", net, reward_batches(half, net, 128, seed), reward_loss, num_steps=reward_steps, lr=2e-3,
        schedule="cosine", device="cpu",
    )  # fmt: skip
    return Lab(prior, net.requires_grad_(False), half, class_scale(half), Judge(other), logged(curves))


def logged(histories: Mapping[str, History], n_points: int = 40) -> pd.DataFrame:
    """Training losses, means over about ``n_points`` stretches of each run: columns network, step, loss."""
    parts = []
    for name, history in histories.items():
        frame = pd.DataFrame(history.rows)
        width = max(1, -(-int(frame["step"].max()) // n_points))
        mean = frame.groupby(frame["step"] // width * width)["loss"].mean()
        parts.append(mean.rename_axis("step").reset_index().assign(network=name))
    return pd.concat(parts, ignore_index=True)[["network", "step", "loss"]]


def _fit_prior(
    fit: Callable[..., Any], name: str, prior: DigitPrior, half: Digits, seed: int, n_steps: int, batch_size: int
) -> History:
    history = fit(
        name, prior, prior_batches(half, batch_size, seed), prior_loss, num_steps=n_steps, lr=1e-3, schedule="cosine",
        warmup_steps=min(50, n_steps), ema_decay=0.995 if n_steps > 500 else 0.98, device="cpu",
    )  # fmt: skip
    prior.requires_grad_(False)
    return history


def with_unet(lab: Lab, seed: int, *, fit: Callable[..., Any], channels: Sequence[int], n_steps: int) -> Lab:
    """The same lab with a small U-Net as its prior."""
    torch.manual_seed(seed)
    prior = UNetPrior(channels)
    _fit_prior(fit, "U-Net", prior, lab.half, seed, n_steps, 64)
    return lab._replace(prior=prior)


def tasks(attributes: Sequence[str] = ATTRIBUTES[:2]) -> Tasks:
    """Slant and thickness of all classes, 20 tasks; ``openness`` has a task for each class with loops."""
    pairs = [(k, ATTRIBUTES.index(j)) for j in attributes for k in range(N_CLASSES) if j != "openness" or k in LOOPED]
    return Tasks(*torch.tensor(pairs).T)


def attribute_reward(lab: Lab, asked: Tasks) -> Reward:
    """The reward model's estimate of the asked attribute, in deviations of real digits of the asked class."""

    def reward(x: Tensor, rows: Tensor) -> Tensor:
        found = lab.net(x.clamp(-1, 1))[1] * lab.net.sd + lab.net.mean
        standard = lab.scale.standard(found, asked.classes[rows])
        return standard.gather(1, asked.attributes[rows, None])[:, 0]

    return reward


@dataclass(frozen=True)
class Settings:
    """Guidance of the loss and of the candidates' denoising, learning rate of VSD's companion, and the iterations."""

    guidance: float = 3.0
    exploring: float = 3.0
    companion_lr: float = 3e-4
    steps: Steps = Steps(n=200, lr=0.03)  # noqa: RUF009


def digit_ends(
    lab: Lab, asked: Tasks, rows: Mapping[str, Row], settings: Settings, seed: int, base: str = "SDS",
    watch: Callable[[str, State], None] | None = None,
) -> dict[str, Ends]:  # fmt: skip
    """The rows on the tasks, with SDS, VSD or SDS-Bridge as the base loss; all rows start from the same noise."""
    reward = attribute_reward(lab, asked)

    def start(k: int) -> Tensor:
        return picture((len(asked.classes), SIDE**2), seed * 1009 + k).detach()

    found = {}
    for name, row in rows.items():

        def make_loss(copies: int, row: Row = row) -> Loss:
            y = asked.classes.repeat_interleave(copies)
            said = prompt(y)
            strengths = (settings.guidance, settings.exploring)
            if base == "SDS":
                return sds(lab.prior, said, *strengths)
            if base == "VSD" and isinstance(lab.prior, ResidualPrior):
                companion = Companion(lab.prior, said, lr=settings.companion_lr, seed=seed)
                return vsd(lab.prior, said, companion, companion.learn, *strengths)
            if base == "SDS-Bridge":
                change = round(settings.steps.n * row.times_steps) // 2
                return bridge(lab.prior, said, prompt(y, 1), prompt(y, 2), change, *strengths)
            raise ReprobookError(f"base is {base!r}; it must be SDS, VSD (of the residual prior) or SDS-Bridge")

        see = None if watch is None else functools.partial(watch, name)
        found[name] = run_row(row, make_loss, start, settings.steps, reward, seed=seed, watch=see)
    return found


def digit_scores(lab: Lab, asked: Tasks, x: Tensor) -> dict[str, np.ndarray]:
    """For each picture: the reward it was made with; the asked attribute as the judge sees it, as its ten nearest
    digits have it and as its pixels measure (all in deviations of real digits of the class); the judge's margin of the
    class; the distance to the nearest real digit of the held-out half as a multiple of what real digits have."""
    x = x.clamp(-1, 1)
    rows = torch.arange(len(x))
    verdict = lab.judge(x, asked.classes)
    measured = lab.judge.scale.standard(measure(x), asked.classes)
    return {
        "reward": attribute_reward(lab, asked)(x, rows).numpy(),
        "judged": verdict.attributes[rows, asked.attributes].numpy(),
        "neighbours": verdict.neighbours[rows, asked.attributes].numpy(),
        "measured": measured[rows, asked.attributes].numpy(),
        "margin": verdict.margin(asked.classes).numpy(),
        "distance": (verdict.distance / usual_distance(lab)[asked.classes]).numpy(),
    }


def usual_distance(lab: Lab) -> Tensor:
    """Mean distance of the seen half's digits to the nearest of the same class in the held-out half, by class (10,)."""
    return _usual_distance(lab.half.x, lab.half.y, lab.judge)


@functools.lru_cache(maxsize=2)  # the same for every score of a lab
def _usual_distance(x: Tensor, y: Tensor, judge: Judge) -> Tensor:
    distance = nearest(x[::5], y[::5], judge.digits)
    return torch.stack([distance[y[::5] == k].mean() for k in range(N_CLASSES)])


def sampled(lab: Lab, y: Tensor, guidance: float, n_steps: int, seed: int) -> Tensor:
    """Pictures (M, 784) that the prior samples for classes y (M,) in ``n_steps`` steps of DDIM."""
    x = picture((len(y), 1, SIDE**2), seed).detach()
    t = torch.full((len(y),), len(lab.prior.alphas_cumprod) - 1)
    loss = sds(lab.prior, prompt(y), 1.0, guidance)
    return denoise(loss.denoiser(0), lab.prior.alphas_cumprod, x, t, n_steps)[:, 0].clamp(-1, 1)


def best_of_samples(lab: Lab, asked: Tasks, n_calls: float, seed: int, n_steps: int = 30) -> Ends:
    """The laziest way: the prior samples, nothing is optimised, and the reward picks one of as many samples as
    ``n_calls`` evaluations pay for (guidance 2, ``n_steps`` steps)."""
    began, n = time.perf_counter(), max(1, int(n_calls // n_steps))
    owner = torch.arange(len(asked.classes)).repeat_interleave(n)
    x = sampled(lab, asked.classes[owner], 2.0, n_steps, seed)
    best = attribute_reward(lab, asked)(x, owner).view(-1, n).argmax(1)
    chosen = x.view(-1, n, x.shape[1])[torch.arange(len(best)), best]
    return Ends(chosen, n * n_steps, (time.perf_counter() - began) / len(best))


def tuned_sds(lab: Lab, asked: Tasks, guidances: Sequence[float], settings: Settings, seed: int) -> tuple[float, Ends]:
    """SDS under the guidance whose pictures the *judge* likes best on average, more than a baseline could ask for: that
    guidance, and its pictures with the calls of all."""
    tried = {c: digit_ends(lab, asked, {"SDS": Row()}, replace(settings, guidance=c), seed)["SDS"] for c in guidances}
    best = max(tried, key=lambda c: float(digit_scores(lab, asked, tried[c].x)["judged"].mean()))
    calls, seconds = (sum(getattr(each, what) for each in tried.values()) for what in ("calls", "seconds"))
    return best, tried[best]._replace(calls=calls, seconds=seconds)


def at_equal_distance(
    lab: Lab, asked: Tasks, pictures: Sequence[Tensor], distance: np.ndarray, between: int = 20
) -> dict[str, np.ndarray]:
    """Scores of a baseline with a dial, turned as far as its pictures stay within ``distance`` (B,) of real digits.

    ``pictures``: those of the dial's positions, (B, 784) each, the weakest first. ``between`` two positions scores and
    distances are taken as straight lines. A task whose pictures are all further away is read where they are nearest,
    most often the weakest position; ``reached`` says which tasks have one that is near enough."""
    found = [digit_scores(lab, asked, x) for x in pictures]
    places = np.linspace(0, len(found) - 1, (len(found) - 1) * between + 1)

    def along(what: str) -> np.ndarray:
        scores = np.stack([each[what] for each in found])
        return np.stack([np.interp(places, np.arange(len(found)), one) for one in scores.T])

    way = along("distance")
    within = way <= distance[:, None] + 1e-6
    last = way.shape[1] - 1 - within[:, ::-1].argmax(1)
    chosen = np.where(within.any(1), last, way.argmin(1))
    scores = {what: along(what)[np.arange(len(way)), chosen] for what in ("judged", "neighbours")}
    return scores | {"reached": within.any(1).astype(float)}


# ------------------------------------------------------------------------------------------------------------- editing


class Edits(NamedTuple):
    """Real digits to be edited: pictures (B, 784), their classes, and the classes and attributes asked for."""

    x: Tensor
    source: Tensor
    asked: Tasks


def edits(lab: Lab, seed: int) -> Edits:
    """Held-out digits to be turned into a neighbouring class (k to k + 1 and back, mod 10), for slant and for
    thickness: 40 edits."""
    classes = torch.arange(N_CLASSES)
    source = torch.cat([classes, classes]).repeat(2)
    target = torch.cat([(classes + 1) % N_CLASSES, (classes - 1) % N_CLASSES]).repeat(2)
    generator = torch.Generator().manual_seed(seed)
    digits = lab.judge.digits
    rows = [(digits.y == k).nonzero()[:, 0] for k in source.tolist()]
    chosen = torch.stack([each[torch.randint(len(each), (1,), generator=generator)[0]] for each in rows])
    return Edits(digits.x[chosen], source, Tasks(target, torch.arange(2).repeat_interleave(2 * N_CLASSES)))


def edit_tracks(
    lab: Lab, todo: Edits, rows: Mapping[str, Row], settings: Settings, seed: int, every: int = 10
) -> dict[str, Tensor]:
    """Pictures (n, B, 784) of every ``every``-th iteration of DDS and RewardDDS, the start included. All runs start
    from the digit itself, so restarts differ in their noise alone; the reward picks one for each edit."""
    reward = attribute_reward(lab, todo.asked)

    def make_loss(_: int) -> Loss:
        target, source = prompt(todo.asked.classes), prompt(todo.source)
        return dds(lab.prior, target, source, todo.x, settings.guidance, settings.exploring)

    def one(row: Row, noise: int) -> Tensor:
        seen: list[Tensor] = []

        def watch(state: State) -> None:
            if (state.step - 1) % every == 0:
                seen.append(state.x)

        alone = replace(row, restarts=1)
        ends = run_row(alone, make_loss, lambda _: todo.x, settings.steps, reward, seed=noise, watch=watch)
        return torch.stack([*seen, ends.x])

    tracks, own = {}, torch.arange(len(todo.x))
    for name, row in rows.items():
        tried = torch.stack([one(row, seed + 1_000_003 * k) for k in range(row.restarts)])
        best = torch.stack([reward(each[-1], own) for each in tried]).argmax(0)
        tracks[name] = tried[best, :, own].transpose(0, 1)
    return tracks


def edit_curves(lab: Lab, todo: Edits, tracks: Mapping[str, Tensor]) -> pd.DataFrame:
    """Means over edits along each track: how far pictures have moved from their source, the asked attribute as the
    judge sees it, and its margin of the new class."""
    rows = []
    for name, x in tracks.items():
        for step, each in enumerate(x):
            scores = digit_scores(lab, todo.asked, each)
            moved = float((each - todo.x).square().sum(1).sqrt().mean())
            means = {what: float(scores[what].mean()) for what in ("judged", "neighbours", "margin", "distance")}
            rows.append({"method": name, "point": step, "moved": moved, **means})
    return pd.DataFrame(rows)


def at_equal_change(lab: Lab, todo: Edits, tracks: Mapping[str, Tensor]) -> dict[str, dict[str, np.ndarray]]:
    """Scores (B,) of each track where it has moved away from its source as far as the least moved one has
    at its end, and is read between the iterations beside that point: methods are compared at equal preservation."""
    moved = {name: (x - todo.x).square().sum(2).sqrt().cummax(0).values for name, x in tracks.items()}
    common = torch.stack([each[-1] for each in moved.values()]).min(0).values.numpy()
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, x in tracks.items():
        scores, way = [digit_scores(lab, todo.asked, each) for each in x], moved[name].numpy()
        found[name] = {}
        for what in scores[0]:
            values = np.stack([each[what] for each in scores]).T
            found[name][what] = np.array([np.interp(*each) for each in zip(common, way.T, values, strict=True)])
    return found


# ----------------------------------------------------------------------------------------------------- over iterations


def mixture_tracks(
    rows: Mapping[str, Row], n_pictures: int, steps: Steps, seed: int, every: int, n_coordinates: int = 2
) -> dict[str, Tensor]:
    """Pictures (points, B, d) of the exact mixture at every ``every``-th iteration of each row, for drawing."""
    watch = Watcher(every)
    for name, row in rows.items():
        mixture_ends({name: row}, n_pictures, n_coordinates, steps, seed, functools.partial(watch, name))
    return watch.tracks()


class Watcher:
    """Keeps every ``every``-th iterate of the rows it is shown, for :func:`digit_ends`."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.seen: dict[str, list[tuple[int, Tensor]]] = {}

    def __call__(self, name: str, state: State) -> None:
        """Note the pictures of an iteration of the row ``name``."""
        if (state.step - 1) % self.every == 0:
            self.seen.setdefault(name, []).append((state.step - 1, state.x))

    def tracks(self) -> dict[str, Tensor]:
        """Pictures (steps, B, 784) of each row."""
        return {name: torch.stack([x for _, x in seen]) for name, seen in self.seen.items()}

    def scored(self, lab: Lab, asked: Tasks, names: Sequence[str]) -> pd.DataFrame:
        """Means over tasks at each kept iteration: columns method, step and the scores."""
        rows = []
        for name in names:
            for step, x in self.seen[name]:
                scores = digit_scores(lab, asked, x)
                rows.append({"method": name, "step": step, **{what: v.mean() for what, v in scores.items()}})
        return pd.DataFrame(rows)


def digit_table(lab: Lab, asked: Tasks, ends: Mapping[str, Ends]) -> pd.DataFrame:
    """One row a method: means over tasks, evaluations of the prior and seconds for a picture."""
    rows = []
    for name, end in ends.items():
        scores = {what: float(v.mean()) for what, v in digit_scores(lab, asked, end.x).items()}
        rows.append({"method": name, **scores, "calls": end.calls, "seconds": end.seconds})
    return pd.DataFrame(rows)


def blind_ends(lab: Lab, asked: Tasks, seed: int) -> dict[str, Ends]:
    """Rows that nobody steers or optimises: a real digit of the seen half for each task; the one of its class that the
    reward likes best; the mean picture of the ten that it likes best; a sample of the prior."""
    generator = torch.Generator().manual_seed(seed)
    rows = [(lab.half.y == k).nonzero()[:, 0] for k in asked.classes.tolist()]
    drawn = torch.stack([each[torch.randint(len(each), (1,), generator=generator)[0]] for each in rows])
    reward = attribute_reward(lab, asked)
    ranks = [reward(lab.half.x[each], torch.full_like(each, b)).topk(10).indices for b, each in enumerate(rows)]
    liked = lab.half.x[torch.stack([each[rank] for each, rank in zip(rows, ranks, strict=True)])]  # (B, 10, 784)
    pictures = {
        "a real digit": lab.half.x[drawn], "the real digit with most reward": liked[:, 0],
        "the mean of ten real digits": liked.mean(1),
    }  # fmt: skip
    found = {name: Ends(x, 0.0, 0.0) for name, x in pictures.items()}
    return found | {"a sample of the prior": Ends(sampled(lab, asked.classes, 2.0, 30, seed), 30.0, 0.0)}


def recognised(lab: Lab, n: int, seed: int, guidance: float = 1.0) -> dict[str, np.ndarray]:
    """Controls of the prior on ``n`` samples of all classes: whether the judge sees the class, and the distance to the
    nearest held-out digit as a multiple of what real digits have."""
    y = torch.arange(n) % N_CLASSES
    verdict = lab.judge(sampled(lab, y, guidance, 30, seed), y)
    return {"right": verdict.right(y).numpy(), "distance": (verdict.distance / usual_distance(lab)[y]).numpy()}


def sharpness(lab: Lab, asked: Tasks) -> dict[str, np.ndarray]:
    """Whether the judges can tell: for each task, what each sees in the tenth of the seen half's digits with most of
    the asked attribute, minus what it sees in the tenth with least."""
    found: dict[str, list[float]] = {"judged": [], "neighbours": []}
    for k, j in zip(asked.classes.tolist(), asked.attributes.tolist(), strict=True):
        part = lab.half.rows((lab.half.y == k).nonzero()[:, 0])
        order = part.attributes[:, j].argsort()
        tenth = max(1, len(order) // 10)
        verdict = lab.judge(part.x[torch.cat([order[:tenth], order[-tenth:]])], part.y[: 2 * tenth])
        for name, values in (("judged", verdict.attributes), ("neighbours", verdict.neighbours)):
            found[name].append(float(values[tenth:, j].mean() - values[:tenth, j].mean()))
    return {name: np.array(values) for name, values in found.items()}


# ---------------------------------------------------------------------------------------------------- three dimensions


def sculpt(
    lab: Lab, classes: Sequence[int], degrees: Sequence[float], row: Row, settings: Settings, seed: int,
    attribute: int = 0,
) -> Scene:  # fmt: skip
    """A scene that shows ``classes[k]`` from ``degrees[k]``: all views are optimised together, with one t and one set
    of weights an iteration, a candidate's reward being the mean over views of the asked attribute."""
    if len(classes) != len(degrees):
        raise ReprobookError(f"{len(classes)} classes for {len(degrees)} views; every view needs one")
    scene, angles = Scene(seed=seed), view_angles(degrees)
    y = torch.tensor(list(classes))
    reward = attribute_reward(lab, Tasks(y, torch.full_like(y, attribute)))
    loss = sds(lab.prior, prompt(y), settings.guidance, settings.exploring)
    for _ in optimise(
        loss, list(scene.parameters()), lambda: scene(angles), settings.steps, row.how, reward, seed=seed,
        views=len(angles),
    ):  # fmt: skip
        pass
    return scene

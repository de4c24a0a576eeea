"""The training loop against hand-written loops, and a campaign of kills that must not change a bit."""

from __future__ import annotations

import logging
import math
import os
import pty
import random
import re
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.hardware import bf16_is_fast
from reprobook.train import TrainingError, fit, shuffled
from reprobook.train.checkpoint import CheckpointError
from torch import nn

if TYPE_CHECKING:
    from reprobook.train import History
    from torch import Tensor

X = torch.linspace(-3, 3, 48 * 3).cos().reshape(48, 3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))


def batches(i: int) -> Tensor:
    return X[(i % 6) * 8 : (i % 6) * 8 + 8]


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return ((model(x) - x) ** 2).mean()


def train(model: nn.Module, folder: Path, **options: Any) -> History:
    options = {"num_steps": 10, "lr": 0.01, "precision": "fp32"} | options
    loss_fn = options.pop("loss", loss)
    return fit(model, options.pop("batches", batches), loss_fn, folder=folder, **options)


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


# --- the numbers


def test_equals_a_hand_written_loop_bit_for_bit(tmp_path: Path) -> None:
    ours = make_model(dropout=0.3)
    history = train(ours, tmp_path, num_steps=20, weight_decay=0.05, grad_clip=0.05, seed=9, log_every=1)

    theirs = make_model(dropout=0.3).train()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.05, fused=True)
    torch.manual_seed(9)
    losses, norms = [], []
    for i in range(20):
        value = loss(theirs, batches(i))
        value.backward()
        norms.append(nn.utils.clip_grad_norm_(theirs.parameters(), 0.05).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    assert all(map(torch.equal, weights(ours), weights(theirs)))
    frame = history.frame()
    assert frame["loss"].tolist() == losses and frame["grad_norm"].tolist() == norms
    assert max(norms) > 0.05, "the clip was active"
    assert frame["step"].tolist() == list(range(1, 21)) and set(frame["lr"]) == {0.01}
    assert history.steps == 20 and history.seconds > 0 and history.steps_per_s > 0 and history.resumed_from is None


class Tied(nn.Module):
    """An embedding that is the output as well, a matrix and a bias between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table, self.inner = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(self.table(x)))


def guess_next(model: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x[:-1]), x[1:])


def words(i: int) -> Tensor:
    return (torch.arange(9) * (i % 3 + 1) + i) % 7


def test_muon_trains_the_inner_matrices_and_adamw_the_rest(tmp_path: Path) -> None:
    ours = Tied()
    train(ours, tmp_path, loss=guess_next, batches=words, num_steps=8, schedule="linear", muon_lr=0.1, weight_decay=0.1)

    theirs = Tied().train()
    rest = [theirs.table.weight, theirs.inner.bias]
    adamw = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.1, fused=True)
    muon = torch.optim.Muon([theirs.inner.weight], lr=0.1, weight_decay=0.1)
    for i in range(8):
        adamw.param_groups[0]["lr"], muon.param_groups[0]["lr"] = 0.01 * (1 - i / 8), 0.1 * (1 - i / 8)
        guess_next(theirs, words(i)).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for optimizer in (adamw, muon):
            optimizer.step()
            optimizer.zero_grad()
    assert all(map(torch.equal, weights(ours), weights(theirs)))


def test_muon_needs_matrices(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="muon_lr needs a model with matrices"):
        train(nn.BatchNorm1d(3), tmp_path, muon_lr=0.1)
    with pytest.raises(TrainingError, match="muon_lr is -1"):
        train(make_model(), tmp_path, muon_lr=-1)


def test_accumulation_equals_one_big_batch(tmp_path: Path) -> None:
    ours, theirs = make_model(), make_model()
    split = train(ours, tmp_path / "a", accumulation=3, num_steps=6, log_every=2)
    whole = train(
        theirs,
        tmp_path / "b",
        batches=lambda i: torch.cat([batches(3 * i + k) for k in range(3)]),
        num_steps=6,
        log_every=2,
    )
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert split.frame()["loss"].tolist() == pytest.approx(whole.frame()["loss"].tolist(), rel=1e-5)


def test_rows_are_means_since_the_row_before(tmp_path: Path) -> None:
    def with_extras(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return loss(model, x), {"size": x.abs().sum(), "one": torch.tensor(1)}

    every = train(make_model(), tmp_path / "a", loss=with_extras, log_every=1).frame()
    thirds = train(make_model(), tmp_path / "b", loss=with_extras, log_every=4).frame()
    assert list(thirds.columns) == ["step", "loss", "lr", "grad_norm", "size", "one"]
    assert thirds["step"].tolist() == [4, 8, 10]
    for name in ("loss", "grad_norm", "size"):
        means = [every[name][a:b].mean() for a, b in ((0, 4), (4, 8), (8, 10))]
        assert thirds[name].tolist() == pytest.approx(means, rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ("linear", [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.25, 0.5, 0.75, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
    ],
)
def test_schedules_by_hand(tmp_path: Path, schedule: str, expected: list[float]) -> None:
    history = train(make_model(), tmp_path, num_steps=8, lr=2.0, warmup_steps=4, schedule=schedule, log_every=1)
    assert history.frame()["lr"].tolist() == pytest.approx([2 * x for x in expected])


def test_wsd_by_hand(tmp_path: Path) -> None:
    """Warm-up over the first tenth, stable, over the last fifth half a cosine down to a tenth of the peak."""
    history = train(make_model(), tmp_path, num_steps=20, lr=2.0, warmup_steps=2, schedule="wsd", log_every=1)
    half = math.sqrt(0.5)
    expected = [0.5, *[1.0] * 15, *(0.1 + 0.45 * (1 + c) for c in (half, 0.0, -half, -1.0))]
    assert history.frame()["lr"].tolist() == pytest.approx([2 * x for x in expected])


def test_the_schedule_reaches_the_optimiser(tmp_path: Path) -> None:
    # AdamW's first step moves every weight by lr (the gradient's sign), whatever the gradient's size
    model = make_model()
    before = weights(model)
    train(model, tmp_path, num_steps=1, lr=0.5, warmup_steps=1, grad_clip=None)
    assert (model[0].weight.detach() - before[0]).abs().max().item() == pytest.approx(0.5, rel=1e-3)


def test_ema_by_hand_and_evaluation_under_it(tmp_path: Path) -> None:
    trained: list[list[Tensor]] = []
    train(
        make_model(),
        tmp_path / "a",
        num_steps=5,
        evaluate=lambda m, s: trained.append(weights(m)) or {},
        evaluate_every=1,
    )

    seen: dict[int, list[Tensor]] = {}

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        seen[step] = weights(model)
        return {"step_squared": step**2}

    model = make_model()
    average = weights(model)
    history = train(model, tmp_path / "b", num_steps=5, ema_decay=0.7, evaluate=evaluate, evaluate_every=2)
    for step, now in enumerate(trained, start=1):
        average = [0.7 * a + 0.3 * p for a, p in zip(average, now, strict=True)]
        if step in seen:
            for a, b in zip(seen[step], average, strict=True):
                torch.testing.assert_close(a, b)
    assert all(map(torch.equal, weights(model), seen[5])), "the model is left with the average"
    assert history.evals.to_dict("list") == {"step": [2, 4, 5], "step_squared": [4.0, 16.0, 25.0]}
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_evaluation_disturbs_nothing_and_sees_the_same_noise(tmp_path: Path) -> None:
    draws = []

    def greedy(model: nn.Module, step: int) -> dict[str, float]:
        draws.append((torch.rand(1).item(), random.random(), np.random.rand()))
        model.train()  # an evaluation with bad manners
        return {}

    a, b = make_model(0.5), make_model(0.5)
    train(a, tmp_path / "a", ema_decay=0.9)
    train(b, tmp_path / "b", ema_decay=0.9, evaluate=greedy, evaluate_every=3)
    assert all(map(torch.equal, weights(a), weights(b)))
    assert len(draws) == 4 and len(set(draws)) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_of_the_forward_pass(tmp_path: Path, precision: str) -> None:
    seen = []

    def look(model: nn.Module, x: Tensor) -> Tensor:
        hook = model[0].register_forward_hook(lambda m, i, out: seen.append(out.dtype))
        out = model(x)
        hook.remove()
        assert out.dtype == torch.float32, "losses are computed in fp32"
        return ((out - x) ** 2).mean()

    model = make_model()
    train(model, tmp_path, loss=look, precision=precision)
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert model(X).dtype == torch.float32 and model[0].weight.dtype == torch.float32


def test_many_fits_in_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    first = make_model()
    train(first, tmp_path / "0")
    for i, precision in enumerate(("bf16", "auto", "fp32")):
        model = make_model()
        train(model, tmp_path / f"{i + 1}", precision=precision, accumulation=i + 1, device="cpu")
        assert "forward" not in model.__dict__ and "_original_forward" not in model.__dict__
    again = make_model()
    train(again, tmp_path / "last")
    assert all(map(torch.equal, weights(first), weights(again)))


def test_auto_precision_follows_the_processor(tmp_path: Path) -> None:
    seen = []

    def look(model: nn.Module, x: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu") or model[0](x).dtype == torch.bfloat16)
        hook = model[0].register_forward_hook(lambda m, i, out: seen.append(out.dtype == torch.bfloat16))
        value = loss(model, x)
        hook.remove()
        return value

    train(make_model(), tmp_path, loss=look, precision="auto", device="cpu", num_steps=1)
    assert seen[1] == bf16_is_fast(torch.device("cpu"))


def test_frozen_parameters_stay_and_stay_out_of_checkpoints(tmp_path: Path) -> None:
    model = make_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    train(model, tmp_path)
    assert torch.equal(before, model[0].weight)
    saved = torch.load(tmp_path / "finished.pt", weights_only=True)
    assert sorted(saved["model"]) == ["3.bias", "3.weight"]


def test_the_random_states_are_left_alone(tmp_path: Path) -> None:
    def state() -> tuple:
        return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()

    before = state()
    train(make_model(0.5), tmp_path, checkpoint_every=4)
    model = make_model(0.5)
    before = state()
    train(model, tmp_path)  # loaded, not repeated
    assert state() == before
    train(make_model(0.5), tmp_path / "b", seed=1)
    torch.set_rng_state(torch.from_numpy(np.frombuffer(before[2], dtype=np.uint8).copy()))
    with pytest.raises(ZeroDivisionError):
        train(model, tmp_path / "c", loss=lambda m, x: torch.rand(1) / 0 if random.random() > 2 else 1 / 0)
    assert state() == before


def test_a_finished_fit_is_loaded_not_repeated(tmp_path: Path) -> None:
    model = make_model()
    history = train(model, tmp_path, ema_decay=0.5, evaluate=lambda m, s: {"one": 1.0})

    def never(*_: object) -> Any:
        raise AssertionError("trained again")

    again = make_model()
    loaded = train(again, tmp_path, ema_decay=0.5, evaluate=never, loss=never, batches=never)
    assert all(map(torch.equal, weights(model), weights(again))) and not again.training
    assert (loaded.rows, loaded.eval_rows, loaded.seconds) == (history.rows, history.eval_rows, history.seconds)
    assert loaded.resumed_from == 10
    assert [path.name for path in tmp_path.iterdir()] == ["finished.pt"]


# --- what goes wrong


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_loss_that_is_not_finite_names_the_step_and_saves_nothing_broken(tmp_path: Path, clip: float | None) -> None:
    def breaks(model: nn.Module, x: Tensor) -> Tensor:
        calls.append(1)
        return loss(model, x) * (math.nan if len(calls) == 8 else 1.0)

    calls: list[int] = []
    with pytest.raises(TrainingError, match=r"loss is nan at update 8 of 20 .* Lower lr \(0.01\)"):
        train(
            make_model(), tmp_path, loss=breaks, num_steps=20, log_every=100, checkpoint_every=3, keep=9, grad_clip=clip
        )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000003.pt", "step-00000006.pt"]
    calls = [1] * 100
    model = make_model()
    assert train(model, tmp_path, loss=breaks, num_steps=20, log_every=100, grad_clip=clip).resumed_from == 6
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_gradient_that_is_not_finite_is_found_too(tmp_path: Path) -> None:
    def edge(model: nn.Module, x: Tensor) -> Tensor:
        return loss(model, x) + (model[3].bias * 0).abs().sqrt().sum()  # 0 in value, not finite in slope

    with pytest.raises(TrainingError, match="gradient norm is nan at update 1 of 10"):
        train(make_model(), tmp_path, loss=edge, checkpoint_every=1)
    assert list(tmp_path.glob("*.pt")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0; it must be at least 1"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": -1.0}, "lr is -1.0; it must be a positive number"),
        ({"schedule": "cosin"}, "schedule is 'cosin'; it must be one of constant, linear, cosine, wsd"),
        ({"warmup_steps": 11}, r"warmup_steps is 11; it must be from 0 to num_steps \(10\)"),
        ({"precision": "float16"}, "precision is 'float16'; it must be one of auto, fp32, bf16, fp16"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"grad_clip": 0.0}, "grad_clip is 0.0"),
        ({"accumulation": 0}, "accumulation is 0"),
        ({"betas": (0.9, 1.0)}, "betas is"),
        ({"log_every": 0}, "log_every is 0"),
        ({"keep": 0}, "keep is 0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"evaluate_every": 5}, "evaluate_every needs evaluate"),
        ({"precision": "fp16", "device": "cpu"}, "'fp16' needs a GPU"),
        ({"loss": lambda m, x: (m(x) - x) ** 2}, r"loss has shape \[8, 3\]; it must be a scalar"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ReprobookError, match=message):
        train(make_model(), tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_trainable_parameters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no trainable parameters"):
        train(make_model().requires_grad_(False), tmp_path)


def test_extras_must_keep_their_names(tmp_path: Path) -> None:
    names = iter("aab")
    with pytest.raises(TrainingError, match=r"logged \['b'\] after \['a'\]"):
        train(make_model(), tmp_path, loss=lambda m, x: (loss(m, x), {next(names): torch.zeros(())}))


def test_a_checkpoint_of_another_fit_is_refused_by_name(tmp_path: Path) -> None:
    train(make_model(), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"lr was 0.01, is 0.02; betas was \[0.9, 0.999\], is \[0.9, 0.99\]\. Restore"
    ):
        train(make_model(), tmp_path, lr=0.02, betas=(0.9, 0.99))
    wider = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Dropout(), nn.Linear(9, 3))
    with pytest.raises(CheckpointError, match=r"parameter 0.weight was float32\[8, 3\], is float32\[9, 3\]"):
        train(wider, tmp_path)
    frozen = make_model()
    frozen[0].requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"0.weight was float32\[8, 3\], is float32\[8, 3\] frozen"):
        train(frozen, tmp_path)
    train(frozen, tmp_path / "frozen")
    frozen[0].weight.data[0, 0] += 1
    with pytest.raises(CheckpointError, match="frozen weights have other values"):
        train(frozen, tmp_path / "frozen")
    assert train(make_model(), tmp_path, keep=3, checkpoint_every=2, checkpoint_s=1.0).resumed_from == 10


def stopped_fit(folder: Path, **options: Any) -> None:
    """Leave checkpoints of steps 3 and 6 behind."""

    def interrupted(i: int) -> Tensor:
        if i == 7:
            raise RuntimeError("stop")
        return batches(i)

    with pytest.raises(RuntimeError, match="stop"):
        train(make_model(0.5), folder, batches=interrupted, checkpoint_every=3, **options)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_damaged_checkpoint_is_never_read_as_whole(
    tmp_path: Path, part: float, caplog: pytest.LogCaptureFixture
) -> None:
    expected = make_model(0.5)
    train(expected, tmp_path / "whole")
    stopped_fit(tmp_path / "two", keep=2)
    stopped_fit(tmp_path / "one", keep=1)
    for folder in ("one", "two"):
        path = tmp_path / folder / "step-00000006.pt"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / "one" / "step-00000006.pt")) + ".*delete it"):
        train(make_model(0.5), tmp_path / "one")
    model = make_model(0.5)
    with caplog.at_level(logging.WARNING, logger="reprobook.train"):
        assert train(model, tmp_path / "two").resumed_from == 3
    assert "step-00000006.pt cannot be read" in caplog.text
    assert all(map(torch.equal, weights(expected), weights(model)))


def test_a_checkpoint_that_holds_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"format": 1, "fingerprint": Bomb()}, tmp_path / "finished.pt")
    with pytest.raises(CheckpointError, match=r"finished.pt cannot be read \(UnpicklingError\)"):
        train(make_model(), tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_checkpoints_by_time_and_how_many_are_kept(tmp_path: Path) -> None:
    stopped_fit(tmp_path / "steps", keep=2, num_steps=20)
    assert sorted(p.name for p in (tmp_path / "steps").iterdir()) == ["step-00000003.pt", "step-00000006.pt"]

    def interrupted(i: int) -> Tensor:
        if i == 7:
            raise RuntimeError("stop")
        return batches(i)

    with pytest.raises(RuntimeError):
        train(make_model(), tmp_path / "time", batches=interrupted, checkpoint_s=0.0, keep=3)
    assert sorted(p.name for p in (tmp_path / "time").iterdir()) == [f"step-{k:08d}.pt" for k in (5, 6, 7)]


# --- the order of the data


@pytest.mark.parametrize(("length", "size"), [(10, 3), (7, 7), (8, 4), (5, 1)])
def test_shuffled_goes_through_epochs_without_replacement(length: int, size: int) -> None:
    order = shuffled(length, size, seed=1)
    stream = torch.cat([order(i) for i in range(3 * length)])
    assert all(len(order(i)) == size for i in range(20))
    epochs = stream[: length * 3 * size // 1].reshape(-1, length)
    assert all(sorted(epoch.tolist()) == list(range(length)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) > 1 or length < 3


def test_shuffled_is_a_pure_function_of_the_index() -> None:
    order = shuffled(50, 8, seed=3)
    forward = [order(i) for i in range(40)]
    fresh = shuffled(50, 8, seed=3)
    before = torch.get_rng_state()
    for i in random.Random(0).sample(range(40), 40):
        assert torch.equal(fresh(i), forward[i])
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(shuffled(50, 8, seed=4)(0), forward[0])
    forward[0].zero_()  # a caller may write into its batch
    assert torch.equal(order(0), fresh(0))


def test_shuffled_shares_the_batches_among_ranks() -> None:
    whole = shuffled(30, 4, seed=0)
    ranks = [shuffled(30, 4, seed=0, num_processes=3, rank=r) for r in range(3)]
    assert all(torch.equal(whole(i), ranks[i % 3](i // 3)) for i in range(30))


def test_shuffled_refuses_nonsense() -> None:
    with pytest.raises(TrainingError, match=r"batch_size is 9; it must be from 1 to the data set's length \(8\)"):
        shuffled(8, 9, seed=0)
    with pytest.raises(TrainingError, match="rank is 2"):
        shuffled(8, 2, seed=0, num_processes=2, rank=2)


# --- who watches


def test_a_fit_prints_nothing_to_those_who_do_not_watch(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    train(make_model(), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_sees_a_bar_and_can_switch_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen_on_terminal(folder: Path) -> str:
        master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (25, 80))
        with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patch:
            patch.setattr("sys.stderr", terminal)
            train(make_model(), folder, num_steps=30)
            os.write(slave, b"end")
            text = os.read(master, 100_000).decode()
        os.close(master)
        return text

    assert re.search("mdlm: .*/30", seen_on_terminal(tmp_path / "mdlm"))
    monkeypatch.setenv("REPROBOOK_PROGRESS", "0")
    assert seen_on_terminal(tmp_path / "quiet") == "end"


def test_executed_notebooks_store_no_progress(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    code = """
    from pathlib import Path
    from torch import nn
    import torch
    from reprobook.train import fit
    model = nn.Linear(2, 2)
    x = torch.ones(4, 2)
    history = fit(model, lambda i: x, lambda m, x: m(x).square().mean(), num_steps=30, lr=0.1, folder=Path("m"))
    """
    cell = nbformat.v4.new_code_cell("\n".join(line.strip() for line in code.splitlines()))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(
        notebook, kernel_name="python3", timeout=60, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert (tmp_path / "m" / "finished.pt").exists()
    assert notebook.cells[0].outputs == []


def test_a_heartbeat_is_logged_now_and_then(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reprobook.train.progress.HEARTBEAT_S", 0.0)
    with caplog.at_level(logging.INFO, logger="reprobook.train"):
        train(make_model(), tmp_path / "mdlm", num_steps=20)
    assert re.search(r"mdlm: step 10 of 20, loss [\d.]+, [\d.e+]+ steps/s, \d+ s left", caplog.text)


def test_a_fit_works_off_the_main_thread(tmp_path: Path) -> None:
    model, histories = make_model(), []
    thread = threading.Thread(target=lambda: histories.append(train(model, tmp_path)))
    thread.start()
    thread.join()
    assert histories[0].steps == 10

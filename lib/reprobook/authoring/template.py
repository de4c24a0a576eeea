"""Texts of a new chapter. They make a small working chapter (a polynomial fitted to noisy points) that its author
replaces part by part; ``SLUG`` stands for the chapter's name, ``ARXIV`` for the number that says "not filled in"."""

from __future__ import annotations

FACTS = """\
title: "Title of the paper"
arxiv: {id: "ARXIV", version: 1}
authors: [First Author, Second Author]
year: 2025
licences: {text: "as the paper states", code: "as the repository states"}
citation: SLUG
one_line: "What the paper does, in our own words."

claims:
  C1:
    says: "What the paper claims, in our own words."
    paper: {baseline: 2.0, method: 1.0}
    where: "Table 1"
    testable_at: [laptop, paper]
    how: "The error of the method is below that of the baseline, with a paired interval over test points."

tables:
  table1:
    caption: "Caption of the paper's table"
    where: "Table 1"
    columns: [model, error]
    rows:
      - [baseline, 2.0]
      - [method, 1.0]

coverage:
  - {part: "the method", scales: [smoke, laptop, paper]}
"""

BIBLIOGRAPHY = """
@misc{SLUG,
  title = {Title of the paper},
  author = {Author, First and Author, Second},
  year = {2025},
  eprint = {ARXIV},
  archiveprefix = {arXiv}
}
"""

MANIFEST = """\
# Every data set and model that the chapter touches, at every scale; `data_manifests/schema.json` gives the fields.
artefacts: []
"""

LAPTOP = """\
scale: laptop  # two cores, minutes
num_steps: 400  # enough for the errors to settle
n_test: 512  # narrow intervals
"""

PAPER = """\
scale: paper  # not run; rehearsed on miniatures
degree: 9  # not stated; ours because the example is invented
n_train: 1000  # not stated; ours because the example is invented
n_test: 1000  # not stated; ours because the example is invented
batch_size: 100  # not stated; ours because the example is invented
num_steps: 10000  # not stated; ours because the example is invented
lr: 1.0e-3  # not stated; ours because the example is invented
"""

REHEARSAL = """\
num_steps: 3  # step counts and sizes only: the same code path
n_train: 100  # one batch
"""

METHOD = '''\
"""Title of the paper: the method as pure functions and modules, in the paper's notation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reprobook.errors import ReprobookError


def features(x: Tensor, degree: int) -> Tensor:
    """Powers of x: phi_k(x) = x^k for k = 0..degree (equation 1). x: (n,) -> (n, degree + 1)."""
    if degree < 0:
        raise ReprobookError(f"degree is {degree}; it must be 0 or more")
    return torch.stack([x**k for k in range(degree + 1)], dim=-1)


class Polynomial(nn.Module):
    """f(x) = sum_k w_k phi_k(x) (equation 2)."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree
        self.weights = nn.Parameter(torch.zeros(degree + 1))

    def forward(self, x: Tensor) -> Tensor:
        """x: (n,) -> (n,)."""
        return features(x, self.degree) @ self.weights


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean of (f(x) - y)^2 over the batch (equation 3)."""
    x, y = batch
    return (model(x) - y).square().mean()


def points(n: int, seed: int, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """n points of y = x^3 - x / 2 + noise, x uniform in [-1, 1]; each (n,)."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(n, generator=generator) - 1
    return x, x**3 - x / 2 + noise * torch.randn(n, generator=generator)
'''

TESTS = '''\
"""Invariants of the method, and one oracle: least squares in closed form."""

from __future__ import annotations

import pytest
import torch

from reprobook.errors import ReprobookError
from reprobook.papers import SLUG as method


def test_features_are_powers() -> None:
    x = torch.tensor([0.0, 2.0])
    assert method.features(x, 2).tolist() == [[1.0, 0.0, 0.0], [1.0, 2.0, 4.0]]


def test_the_gradient_vanishes_at_the_least_squares_solution() -> None:
    x, y = method.points(50, seed=1)
    model = method.Polynomial(3)
    exact = torch.linalg.lstsq(method.features(x, 3), y[:, None]).solution[:, 0]
    model.weights.data.copy_(exact)
    (gradient,) = torch.autograd.grad(method.squared_error(model, (x, y)), model.parameters())
    assert gradient.abs().max() < 1e-5


def test_a_negative_degree_is_refused() -> None:
    with pytest.raises(ReprobookError, match="degree is -1"):
        method.features(torch.zeros(1), -1)
'''

# Cells: a line "%% markdown", "%% code" or "%% <tag of a code cell>", then the source.
NOTEBOOK = r"""
%% markdown
# Title of the paper

## The paper in one page

The problem in three sentences, then the idea {cite}`SLUG`, for a reader who knows the field but not the paper.

%% markdown
The claims, the paper's figures for them, and what this chapter tests, stand in a table below the parameters.

%% markdown
## Parameters

The defaults below are the smoke scale. Evidence comes from the laptop scale (`notebooks/params/SLUG.laptop.yaml`).

%% parameters
scale = "smoke"  # smoke | laptop | paper
seed = 0  # seed of weights, batches and points
device = "auto"  # auto | cpu | cuda:0
out_dir = ""  # folder of record and checkpoints; empty: a fresh one
degree = 3  # degree of the method's polynomial; paper: 9
n_train = 64  # points to train on; paper: 1000
n_test = 64  # points to test on; paper: 1000
batch_size = 16  # points in an update; paper: 100
num_steps = 60  # updates; paper: 10,000
lr = 3.0e-2  # step size of AdamW; paper: 1e-3

%% code
import matplotlib.pyplot as plt
import pandas as pd
import torch

import reprobook
from reprobook import show
from reprobook.metrics.statistics import paired_bootstrap
from reprobook.papers import SLUG as method
from reprobook.train import shuffled

ch = reprobook.open_chapter(
    "SLUG", scale=scale, seed=seed, device=device, out_dir=out_dir, params=globals()
)
ch.facts_table()

%% code
ch.claims_in_paper()
ch.provenance()

%% markdown
## Data

What the data is, where it comes from, and why it can test the claims.

%% code
ch.data_table()
train = method.points(n_train, seed=seed)
test = method.points(n_test, seed=seed + 1000)

%% markdown
One look at the data before any model sees it.

%% display
fig, ax = plt.subplots(figsize=(5.0, 3.2))
ax.scatter(*train, s=9)
ax.set(xlabel="x", ylabel="y", title="training points")
ch.figure(fig, "The training points: a cubic and noise.")

%% markdown
## Method

The equations in the paper's notation, then the code that is the idea.

$$f(x)=\sum_{k=0}^{K} w_k x^k,\qquad \mathcal L=\frac1n\sum_i (f(x_i)-y_i)^2$$

%% code
ch.source(method.features, method.Polynomial, method.squared_error)

%% markdown
A picture that explains the method. In JupyterLab the slider moves it.

%% display
def draw_features(degree=3):
    x = torch.linspace(-1, 1, 101)
    fig, ax = plt.subplots(figsize=(5.0, 3.2))
    for k, column in enumerate(method.features(x, degree).T):
        ax.plot(x, column, label=f"k = {k}")
    ax.set(xlabel="x", ylabel="feature", title="powers of x")
    ax.legend()
    return fig

ch.explore(draw_features, "The features of the model.", start={"degree": 3}, degree=(0, 6, 1))

%% markdown
## Training

The same data, updates and seeds for the baseline and the method.

%% code
order = shuffled(n_train, batch_size, seed=seed)

def batch(step):
    rows = order(step)
    return train[0][rows].to(ch.device), train[1][rows].to(ch.device)

models, curves = {}, []
for name, k in {"baseline": 1, "method": degree}.items():
    models[name] = method.Polynomial(k)
    history = ch.fit(name, models[name], batch, method.squared_error, num_steps=num_steps, lr=lr)
    curves.append(history.frame().assign(model=name))

%% markdown
The training loss tells whether the updates were enough.

%% code
ch.table("curves", pd.concat(curves)[["model", "step", "loss"]], caption="Training loss", display=False)

%% display
logged = ch.evidence("curves")
fig = show.curves(logged, "step", "loss", hue="model", xlabel="update", ylabel="squared error")
ch.figure(fig, f"Training losses ({ch.evidence_label()}).")

%% markdown
## Evaluation

How the error is measured, on which data, and how its uncertainty is found.

%% code
x, y = (part.to(ch.device) for part in test)
with torch.no_grad():
    errors = {name: (model(x) - y).square().cpu() for name, model in models.items()}
for name, error in errors.items():
    ch.metric(f"error {name}", error.mean().item())
ours = pd.DataFrame([{"model": n, "error": e.mean().item()} for n, e in errors.items()])
ch.table("errors", ours, paper_table="table1", caption="Mean squared error on test points")

%% markdown
The difference is judged by a paired bootstrap over the test points.

%% code
gain = paired_bootstrap(errors["baseline"].numpy(), errors["method"].numpy())
ch.claim("C1", value={"gain": gain.mean}, holds=gain.low > 0)

%% display
fig, ax = plt.subplots(figsize=(5.0, 3.2))
error_rows = ch.evidence("errors")
ax.plot(error_rows["model"], error_rows["error"], "o")
ax.set(xlabel="model", ylabel="squared error", title="test error")
ch.figure(fig, f"Test error of each seed ({ch.evidence_label()}).")

%% markdown
## Claims

The verdict on each claim, from the committed records.

%% display
ch.claims_table()
ch.coverage()

%% markdown
Why a claim reproduced or did not, and what was tried.

%% markdown
## At paper scale

**Not run.** What changes, and what it needs: GPUs, memory, hours, licences.

%% markdown
## Deviations

- **Each deviation** from the paper, with its reason.

%% markdown
## References

```{bibliography}
:filter: docname in docnames
```

%% NBVAL_CHECK_OUTPUT
ch.finish()
"""

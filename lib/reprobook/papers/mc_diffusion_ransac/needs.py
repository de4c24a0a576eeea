"""What the paper-scale training needs, from the real architectures on the meta device."""

from __future__ import annotations

import torch

from reprobook.nn.needs import traced
from reprobook.papers.mc_diffusion_ransac.network import CNNet, n_parameters


def paper_needs(blocks: int, channels: int, batch_size: int, n_matches: int) -> dict[str, float]:
    """Weights of CNNet, activations that a step keeps (MB, fp32), and operations of a training step (GFLOP)."""
    with torch.device("meta"):
        model = CNNet(blocks, channels)
        x = torch.empty(batch_size, n_matches, 5)
    found = traced(lambda: model.train()(x).sum().backward())
    return {
        "weights (thousand)": n_parameters(model) / 1e3,
        "activations a step keeps (MB)": found.kept / 1e6,
        "operations of a step (GFLOP)": found.flops / 1e9,
    }

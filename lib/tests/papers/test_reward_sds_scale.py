"""The paper scale on tiny networks of the real classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds.diffusion import linear_alphas
from reprobook.papers.reward_sds.loop import Steps, Weighing, optimise, picture
from reprobook.papers.reward_sds.losses import sds, vsd
from reprobook.papers.reward_sds.released import LatentPrior, LoraCompanion


@pytest.fixture(scope="module")
def unet() -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1, cross_attention_dim=16,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip


def latent_prior(unet: Any, prediction: str = "epsilon") -> LatentPrior:
    embeddings = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
    return LatentPrior(unet, embeddings, linear_alphas(), prediction)


def test_noise_from_v(unet: Any) -> None:
    x, t, y = torch.randn(2, 4, 8, 8), torch.tensor([100, 800]), torch.tensor([0, 1])
    with torch.no_grad():
        v, eps = latent_prior(unet).noise(x, t, y), latent_prior(unet, "v_prediction").noise(x, t, y)
    abar = linear_alphas()[t].view(2, 1, 1, 1)
    clean = abar.sqrt() * x - (1 - abar).sqrt() * v  # the definition of v, solved for the clean latent
    assert (abar.sqrt() * clean + (1 - abar).sqrt() * eps).allclose(x, atol=1e-5)
    assert latent_prior(unet).empty(y).tolist() == [2, 2]
    with pytest.raises(ReprobookError, match="prediction is 'sample'"):
        latent_prior(unet, "sample")


def test_rewarded_distillation_of_latents(unet: Any) -> None:
    x, y = picture((2, 4, 8, 8), 0), torch.tensor([0, 1])
    how = Weighing(n=4, n_reward_steps=2, n_denoise=2)
    states = list(
        optimise(sds(latent_prior(unet), y, 100.0), [x], lambda: x, Steps(n=3), how, lambda z, _: z.mean((1, 2, 3)))
    )
    assert states[0].rewards is not None
    assert states[0].rewards.shape == (2, 4)
    assert not states[2].x.equal(states[0].x)


def test_a_lora_companion_learns_beside_the_latents(unet: Any) -> None:
    import copy

    prior, y = latent_prior(unet), torch.tensor([0])
    companion = LoraCompanion(latent_prior(copy.deepcopy(unet)), y)
    before = [p.clone() for p in companion.prior.unet.parameters() if p.requires_grad]
    x = picture((1, 4, 8, 8), 0)
    for _ in optimise(vsd(prior, y, companion, companion.learn), [x], lambda: x, Steps(n=2)):
        pass
    after = [p for p in companion.prior.unet.parameters() if p.requires_grad]
    assert any(not a.equal(b) for a, b in zip(before, after, strict=True))
    assert all(p.equal(q) for p, q in zip(unet.parameters(), prior.unet.parameters(), strict=True))

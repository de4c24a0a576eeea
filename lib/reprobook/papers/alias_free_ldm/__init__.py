"""Alias-free latent diffusion (arXiv 2503.09419): latent spaces and denoisers that follow fractional shifts.

operators: ideal resampling, shifts, masks, SPSNR. surgery: diffusers' networks made alias-free. attention: cross-frame
attention. objectives: losses. models, sampling: small networks, DDIM. data: pictures, textures, frame pairs.
evaluation: SPSNR of decoders and samplers, proxy distance, warp test. pictures: sheets, animation. released, editing,
needs: the paper's scale. bench: what the modules cost and how exact they are.
"""

from reprobook.papers.alias_free_ldm import data, editing, evaluation, pictures, released
from reprobook.papers.alias_free_ldm.attention import CrossFrameAttention, Memory, cross_frame
from reprobook.papers.alias_free_ldm.models import Latents, alphas_cumprod, small_vae, unet
from reprobook.papers.alias_free_ldm.needs import paper_needs
from reprobook.papers.alias_free_ldm.objectives import AutoencoderObjective, DenoiserObjective, draw_offset
from reprobook.papers.alias_free_ldm.operators import (
    circular_shift,
    cropped_shift,
    filtered,
    ideal_downsample,
    ideal_upsample,
    mask_mse,
    spsnr,
    valid_mask,
)
from reprobook.papers.alias_free_ldm.sampling import between, denoise
from reprobook.papers.alias_free_ldm.surgery import FilteredActivation, IdealDownsample, IdealUpsample, make_alias_free

__all__ = [
    "AutoencoderObjective",
    "CrossFrameAttention",
    "DenoiserObjective",
    "FilteredActivation",
    "IdealDownsample",
    "IdealUpsample",
    "Latents",
    "Memory",
    "alphas_cumprod",
    "between",
    "circular_shift",
    "cropped_shift",
    "cross_frame",
    "data",
    "denoise",
    "draw_offset",
    "editing",
    "evaluation",
    "filtered",
    "ideal_downsample",
    "ideal_upsample",
    "make_alias_free",
    "mask_mse",
    "paper_needs",
    "pictures",
    "released",
    "small_vae",
    "spsnr",
    "unet",
    "valid_mask",
]

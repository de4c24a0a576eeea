"""Surgery, equivariant attention, objectives, sampling, evaluation and data of the alias-free chapter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.metrics.frechet import frechet
from reprobook.papers.alias_free_ldm import attention, data, evaluation, models, objectives
from reprobook.papers.alias_free_ldm import operators as op
from reprobook.papers.alias_free_ldm.sampling import between, denoise
from reprobook.papers.alias_free_ldm.surgery import FilteredActivation, IdealDownsample, IdealUpsample, make_alias_free
from reprobook.train import fit
from torch import nn


def tiny_vae(seed=0):
    torch.manual_seed(seed)
    return models.small_vae((4, 8, 8), groups=4)


def tiny_unet(seed=0):
    torch.manual_seed(seed)
    return models.unet((8, 16), 8, head_dim=4, groups=4)


def circular(network):
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = [p for p in reversed(module.padding) for _ in range(2)]
    return network


# -------------------------------------------------------------------------------------------------------------- surgery


def kinds(network, kind):
    return [name for name, module in network.named_modules() if isinstance(module, kind)]


def test_surgery_places_modules_as_released_and_keeps_the_names_of_the_weights():
    vae, plain = make_alias_free(tiny_vae()), tiny_vae()
    assert vae.state_dict().keys() == plain.state_dict().keys()
    assert len(kinds(vae, IdealDownsample)) == len(kinds(vae, IdealUpsample)) == 2
    filtered = {name.rpartition(".resnets")[0] for name in kinds(vae, FilteredActivation)}
    assert filtered == {"encoder.down_blocks.1", "encoder.down_blocks.2", "encoder.mid_block", "decoder.mid_block",
                        "decoder.up_blocks.0", "decoder.up_blocks.1"}  # fmt: skip
    unet = make_alias_free(tiny_unet())
    assert unet.state_dict().keys() == tiny_unet().state_dict().keys()
    resnets = [m for m in unet.modules() if type(m).__name__ == "ResnetBlock2D"]
    assert resnets and all(isinstance(r.nonlinearity, FilteredActivation) for r in resnets)
    once = [str(m) for m in unet.modules()]
    assert [str(m) for m in make_alias_free(unet).modules()] == once
    half = make_alias_free(tiny_unet(), activations=False)
    assert not kinds(half, FilteredActivation) and kinds(half, IdealUpsample)


def test_the_same_surgery_fits_stable_diffusion():
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2)  # fmt: skip
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        names = set(unet.state_dict()), set(vae.state_dict())
        make_alias_free(unet), make_alias_free(vae)
        memory = attention.cross_frame(unet)
        assert (set(unet.state_dict()), set(vae.state_dict())) == names
        assert len(kinds(vae, IdealDownsample)) == len(kinds(unet, IdealUpsample)) == 3
        with memory.store(3):
            out = unet(torch.empty(1, 4, 64, 64), torch.tensor(3), torch.empty(1, 77, 768)).sample
        assert out.shape == (1, 4, 64, 64)
        assert len(memory.maps) == 16 and all(layer.endswith(".attn1") for layer, _, _ in memory.maps)
        assert vae.encode(torch.empty(1, 3, 64, 64)).latent_dist.mode().shape == (1, 4, 8, 8)


def test_activations_of_vectors_stay_plain_and_sizes_are_checked():
    act = FilteredActivation(nn.SiLU())
    v = torch.randn(3, 16)
    assert torch.equal(act(v), nn.functional.silu(v))
    unet = make_alias_free(tiny_unet())
    with pytest.raises(ReprobookError, match="width 9"):
        unet(torch.randn(1, 4, 8, 9), torch.zeros(1))
    with pytest.raises(ReprobookError, match="doubles"):
        unet.up_blocks[0].upsamplers[0](torch.randn(1, 16, 4, 4), (8, 7))
    assert unet(torch.randn(1, 4, 6, 10), torch.zeros(1)).sample.shape == (1, 4, 6, 10)  # odd halves are fine
    with pytest.raises(ReprobookError, match="Linear cannot be made alias-free"):
        make_alias_free(nn.Linear(2, 2))
    with pytest.raises(ReprobookError, match="not a strided convolution"):
        IdealDownsample(nn.AvgPool2d(2))


def test_alias_free_modules_make_a_random_network_equivariant():
    """With circular padding and band-limited input only the modules are left to break equivariance."""
    x = data.textures(2, (32, 32), 0.15, seed=3)
    found = {}
    for name, change in {"plain": None, "sampling": {"activations": False}, "both": {}}.items():
        vae = tiny_vae(1).eval()
        if change is not None:
            make_alias_free(vae, **change)
        circular(vae)
        with torch.no_grad():
            z = vae.encode(x((0, 0))).latent_dist.mode()
            moved = vae.encode(x((2, 2))).latent_dist.mode()  # half a latent sample
        found[name] = float(op.spsnr(moved, op.circular_shift(z, (0.5, 0.5)), torch.ones(1, 1, 8, 8)).mean())
    assert found["both"] > found["sampling"] + 5 > found["plain"] + 5


# ------------------------------------------------------------------------------------------------------------ attention


def layer(seed=0, norm=True):
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(seed)
    return Attention(8, heads=2, dim_head=4, norm_num_groups=4 if norm else None, residual_connection=norm, bias=True)


def with_memory(attn):
    memory = attention.Memory()
    attn.set_processor(attention.CrossFrameAttention(memory, "layer", attn.processor))
    return memory


def test_attending_to_oneself_is_self_attention():
    attn, x = layer(), torch.randn(2, 8, 4, 4)
    plain = attn(x)
    memory = with_memory(attn)
    with memory.store(7):
        assert torch.equal(attn(x), plain)
    with memory.load(7):
        assert torch.allclose(attn(x), plain, atol=1e-6)
    assert torch.equal(attn(x), plain)


def test_equivariant_attention_against_its_equation():
    """One row of softmax(x_s W_Q (x_r W_K)^T / sqrt(d)) x_r W_V, head by head, written out."""
    attn = layer(norm=False)
    memory, x_r, x_s = with_memory(attn), torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    with memory.store():
        attn(x_r)
    with memory.load():
        ours = attn(x_s)
    q, k, v = attn.to_q(x_s)[0], attn.to_k(x_r)[0], attn.to_v(x_r)[0]
    heads = [torch.softmax(q[:, h] @ k[:, h].T / 2, -1) @ v[:, h] for h in (slice(0, 4), slice(4, 8))]
    assert torch.allclose(ours[0], attn.to_out[0](torch.cat(heads, 1)), atol=1e-6)


def test_a_whole_crop_is_moved_exactly_by_equivariant_attention_but_not_by_self_attention():
    attn, x = layer(norm=False), torch.randn(1, 25, 8)
    grid = lambda t: t.transpose(1, 2).reshape(1, 8, 5, 5)  # noqa: E731
    memory, shift = with_memory(attn), (1, -2)
    moved = op.cropped_shift(grid(x), shift).flatten(2).transpose(1, 2)
    with memory.store():
        reference = op.cropped_shift(grid(attn(x)), shift)
    inside = op.valid_mask((5, 5), shift).expand(1, 8, 5, 5).bool()
    with memory.load():
        assert torch.allclose(grid(attn(moved))[inside], reference[inside], atol=1e-6)
    assert not torch.allclose(grid(attn(moved))[inside], reference[inside], atol=1e-2)


def test_two_references_are_mixed_and_one_serves_many():
    attn = layer()
    memory, x0, x1, x = with_memory(attn), *(torch.randn(1, 8, 4, 4) for _ in range(2)), torch.randn(3, 8, 4, 4)
    outs = []
    for slot, each in enumerate((x0, x1)):
        with memory.store(5, slot):
            attn(each)
    for mix in (0.0, 1.0, 0.25):
        with memory.load(5, mix):
            outs.append(attn(x))
    assert torch.allclose(outs[2], 0.75 * outs[0] + 0.25 * outs[1], atol=1e-6)
    for i, each in enumerate((x0, x1)):  # the ends of the mix are the two references alone
        memory.clear()
        with memory.store(5):
            attn(each)
        with memory.load(5):
            assert torch.allclose(attn(x), outs[i], atol=1e-6)
    assert not memory.maps[("layer", 5, 0)].requires_grad


def test_memory_refuses_what_would_degrade_silently():
    attn = layer()
    memory, x = with_memory(attn), torch.randn(2, 8, 4, 4)
    with pytest.raises(ReprobookError, match="no reference of slot 0 at time step 9"), memory.load(9):
        attn(x)
    with pytest.raises(ReprobookError, match="already in mode 'store'"), memory.store(), memory.load():
        pass
    assert memory.mode == "plain"
    with memory.store():
        attn(x)
    with pytest.raises(ReprobookError, match="3 frames cannot share 2"), memory.load():
        attn(torch.randn(3, 8, 4, 4))
    with pytest.raises(ReprobookError, match="mix"):
        memory.load(0, 1.5)
    with pytest.raises(ReprobookError, match="no self-attention layer"):
        attention.cross_frame(nn.Linear(1, 1))


# ----------------------------------------------------------------------------------------------------------- objectives


def test_equivariance_losses_vanish_without_a_shift():
    unet = make_alias_free(tiny_unet())
    memory, z, t = attention.cross_frame(unet), torch.randn(2, 4, 8, 8), torch.tensor([3, 500])
    for kept in (None, memory):
        objective = objectives.DenoiserObjective(unet, models.alphas_cumprod(), True, kept)
        assert objective.equivariance_term(z, t, (0, 0)) < 1e-10
        assert objective.equivariance_term(z, t, (2, 1)) > 1e-6
    assert not memory.maps  # forgotten after each batch
    vae = make_alias_free(tiny_vae())
    nn.init.constant_(vae.quant_conv.weight[4:], 0.0), nn.init.constant_(vae.quant_conv.bias[4:], -60.0)
    x = torch.rand(2, 3, 16, 16) * 2 - 1  # a log variance of -30: samples are means
    objective = objectives.AutoencoderObjective(vae, True)
    z = vae.encode(x).latent_dist.sample().detach()
    enc, dec = objective.equivariance_terms(x, z, vae.decode(z).sample.detach(), (0, 0))
    assert enc < 1e-9 and dec < 1e-9


def test_the_equivariance_terms_are_the_papers():
    vae = tiny_vae()
    objective = objectives.AutoencoderObjective(vae, True)
    x, D = torch.rand(2, 3, 16, 24) * 2 - 1, (3, -2)
    z = vae.encode(x).latent_dist.mode().detach()
    y = vae.decode(z).sample.detach()
    enc, dec = objective.equivariance_terms(x, z, y, D)
    small = (0.75, -0.5)
    ours = vae.decode(op.cropped_shift(z, small)).sample
    mask = op.valid_mask((16, 24), D)
    squared = (ours.detach() - op.cropped_shift(y, D)) ** 2 * mask
    assert dec.item() == pytest.approx(float(squared.sum() / (3 * mask.sum() * 2)), rel=1e-5)
    assert enc.requires_grad and dec.requires_grad
    enc.backward()
    assert vae.decoder.conv_in.weight.grad is None  # the encoder's term trains the encoder alone
    unet = tiny_unet()
    term = objectives.DenoiserObjective(unet, models.alphas_cumprod(), True)
    z_t, t = torch.randn(1, 4, 8, 8), torch.tensor([10])
    a = unet(op.circular_shift(z_t, (0.75, -0.5)), t).sample.detach()
    b = op.circular_shift(unet(z_t, t).sample.detach(), (0.75, -0.5))
    mask = op.valid_mask((8, 8), (0.75, -0.5))
    assert term.equivariance_term(z_t, t, D).item() == pytest.approx(
        float(((a - b) ** 2 * mask).sum() / (4 * mask.sum())), rel=1e-5
    )


def test_offsets_cover_their_range():
    torch.manual_seed(0)
    drawn = [objectives.draw_offset((8, 32)) for _ in range(2000)]
    assert {a for a, _ in drawn} == set(range(-3, 4)) and {b for _, b in drawn} == set(range(-12, 13))
    with pytest.raises(ReprobookError, match="max_shift"):
        objectives.draw_offset((8, 8), 1.5)


def test_the_perceptual_term_sees_structure():
    x = data.textures(2, (16, 16), 0.3)((0, 0))
    assert objectives.perceptual(x, x).abs() < 1e-6
    assert objectives.perceptual(x, torch.zeros_like(x)) > 0.5


class _Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["vae", "unet"])
def test_training_resumes_bit_equal(tmp_path, kind):
    def make():
        if kind == "vae":
            return objectives.AutoencoderObjective(make_alias_free(tiny_vae()), True)
        unet = make_alias_free(tiny_unet())
        return objectives.DenoiserObjective(unet, models.alphas_cumprod(), True, attention.cross_frame(unet))

    def batches(i):
        shape = (2, 3, 16, 16) if kind == "vae" else (2, 4, 8, 8)
        return torch.rand(shape, generator=torch.Generator().manual_seed(i)) * 2 - 1

    def killed(i):
        if i == 3:
            raise _Killed
        return batches(i)

    options = {"num_steps": 5, "lr": 1e-3, "checkpoint_every": 2, "precision": "fp32", "device": "cpu"}
    whole, parted = make(), make()
    history = fit(whole, batches, lambda m, b: m(b), folder=tmp_path / "whole", **options)
    with pytest.raises(_Killed):
        fit(parted, killed, lambda m, b: m(b), folder=tmp_path / "parted", **options)
    again = make()
    assert fit(again, batches, lambda m, b: m(b), folder=tmp_path / "parted", **options).resumed_from == 2
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert {"mse", "L_enc" if kind == "vae" else "L_unet"} <= set(history.rows[-1])


# ----------------------------------------------------------------------------------------------------------- evaluation


def test_ddim_inversion_leads_back():
    unet = tiny_unet().eval()
    with torch.no_grad():
        for p in unet.conv_out.parameters():
            p.zero_()  # the noise is always 0: the path is known
    z = torch.randn(2, 4, 8, 8)
    inverted = denoise(unet, z, 20, invert=True)
    assert torch.allclose(denoise(unet, inverted, 20), z, rtol=0.1, atol=0.05)
    alphas = models.alphas_cumprod()
    top = int(models.schedulers(20)[0].timesteps[0])
    assert torch.allclose(denoise(unet, z, 20), z * float((alphas[0] / alphas[top]).sqrt()), rtol=1e-4)


def test_the_way_between_two_samples_starts_and_ends_with_them():
    unet, ends = tiny_unet().eval(), torch.randn(2, 4, 8, 8)
    memory = attention.cross_frame(unet)
    alone = denoise(unet, ends, 3)
    for shared in (None, memory):
        frames = between(unet, ends, 4, 3, shared)
        assert frames.shape == (4, 4, 8, 8)
        assert torch.allclose(frames[[0, 3]], alone, atol=1e-4)
    assert not torch.allclose(frames[1:3], between(unet, ends, 4, 3)[1:3], atol=1e-3)  # attention to the ends matters
    assert not memory.maps and memory.mode == "plain"
    with pytest.raises(ReprobookError, match="two noises and two frames"):
        between(unet, ends[:1], 4, 3)


def test_a_blurred_decoder_loses_detail_down_to_the_asked_psnr():
    latents = models.Latents(tiny_vae(), scale=1.0)
    images = data.textures(4, (16, 16), 0.3, seed=3)()
    z, whole = latents.encode(images), torch.ones(1, 1, 16, 16)
    sharp = evaluation.Blurred(latents, 0.0)
    assert torch.equal(sharp.decode(z), latents.decode(z))
    flat = evaluation.Blurred(latents, 3.0)
    assert flat.decode(z).std() < latents.decode(z).std()
    constant = evaluation.Blurred(latents, 2.0)
    constant.latents = type("Flat", (), {"decode": lambda self, z: torch.full((len(z), 3, 16, 16), 0.25)})()
    assert torch.allclose(constant.decode(z), torch.tensor(0.25))  # a blur keeps constants
    own = op.spsnr(latents.decode(z), images, whole).mean().item()
    assert evaluation.blurred_to(latents, images, own + 50).sigma == 0.0  # out of reach: no blur
    weakest = evaluation.blurred_to(latents, images, -50.0)
    assert weakest.sigma == 6.0
    found = evaluation.blurred_to(latents, images, own - 0.1)
    assert op.spsnr(found.decode(z), images, whole).mean() >= own - 0.1


def test_judges_take_what_a_decoder_gives_inside_autocast():
    images = data.textures(20, (16, 16), 0.3, seed=3)().clamp(-1, 1).bfloat16()
    latents = models.Latents(tiny_vae(), scale=1.0)
    z = latents.encode(images.float())
    features = evaluation.Features(images)
    with torch.autocast("cpu", torch.bfloat16):
        half, found = evaluation.Blurred(latents, 1.0).decode(z), features(images)
        flow = evaluation.flow_between(images[:2], images[2:4])
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, evaluation.Blurred(latents, 1.0).decode(z), rtol=0.05, atol=0.05)
    torch.testing.assert_close(found, evaluation.Features(images.float())(images.float()))
    assert torch.equal(flow, evaluation.flow_between(images[:2].float(), images[2:4].float()))


def test_a_shift_of_nothing_scores_without_bound_and_a_plain_decoder_scores_low():
    latents = models.Latents(tiny_vae(), torch.rand(4, 3, 16, 16))
    assert float(latents.encode(torch.rand(64, 3, 16, 16)).std()) == pytest.approx(1, abs=0.4)
    z = torch.randn(2, 4, 4, 4)
    assert evaluation.decoder_spsnr(latents, z, (0, 0), 4).isinf().all()
    assert evaluation.decoder_spsnr(latents, z, (0.5, 0.25), 4).max() < 60
    assert evaluation.encoder_spsnr(latents, torch.rand(2, 3, 16, 16), (0.5, 0), 4).max() < 60
    unet = tiny_unet().eval()
    memory = attention.cross_frame(unet)
    for m in (None, memory):
        found = evaluation.sampler_spsnr(unet, latents, torch.randn(2, 4, 4, 4), [(0.0, 0.0), (0.5, 1.0)], 2, 4, m)
        assert found.latent.shape == found.image.shape == (2, 2)
        assert (found.latent[0] > 80).all() and (found.latent[1] < 80).all()  # equal up to rounding
    assert not memory.maps


def test_offsets_are_fractional_and_within_range():
    drawn = evaluation.offsets(50, 32, 4, seed=1)
    assert all(max(map(abs, d)) <= 3 and (d[0] % 1 or d[1] % 1) for d in drawn)
    assert all((4 * a).is_integer() for d in drawn for a in d)


def test_features_see_blur():
    crops = data.textures(64, (16, 16), 0.4, n_waves=40, seed=2)((0, 0))
    features = evaluation.Features(crops)
    blurred = nn.functional.avg_pool2d(nn.functional.pad(crops, (1, 1, 1, 1), "circular"), 3, 1)
    assert features(crops).shape == (64, 24)
    assert frechet(features(blurred), features(crops)) > 1
    with pytest.raises(ReprobookError, match="more than 16"):
        evaluation.Features(crops[:8])


def test_warping_by_a_known_flow_finds_the_shifted_picture():
    sample = data.textures(2, (32, 32), 0.1, seed=4)
    first, second = sample((0, 0)), sample((1.5, -2.25))  # content moves down 1.5 and left 2.25
    flow = torch.tensor([2.25, -1.5]).view(1, 2, 1, 1).expand(2, 2, 32, 32)  # backward, (right, down)
    assert (evaluation.warp_psnr(first, second, flow) > 35).all()
    assert (evaluation.warp_psnr(first, second, -flow) < 25).all()
    _, inside = evaluation.warp(first, flow)
    assert inside[0, 0].sum() == (32 - 3) * (32 - 2)  # whole columns and rows that stay within the picture
    small, _ = evaluation.warp(nn.functional.avg_pool2d(first, 4), flow)  # scaled to the smaller grid
    assert small.shape == (2, 3, 8, 8)
    with pytest.raises(ReprobookError, match="does not fit"):
        evaluation.warp(first[:1], flow)
    big = data.textures(1, (96, 96), 0.08, seed=5)
    both = torch.cat([big((0, 0)), big((0, 2))]).permute(0, 2, 3, 1).numpy()
    pictures = ((both + 1) * 127.5).round().astype(np.uint8)
    found = evaluation.optical_flow(*pictures)[20:-20, 20:-20]
    assert np.abs(np.median(found, (0, 1)) - [-2, 0]).max() < 0.3


# ----------------------------------------------------------------------------------------------------------------- data


def test_crops_are_a_pure_function_of_the_step():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (20, 24, 3), dtype=np.uint8), np.zeros((40, 40, 3), np.uint8)]
    crops = data.Crops(pictures, 16, 6, seed=1)
    assert torch.equal(crops(3), crops(3)) and not torch.equal(crops(3), crops(4))
    assert crops(0).shape == (6, 3, 16, 16)
    assert crops(0).flatten(1).std(1).min() > 0.05  # the black picture has no texture
    windows = {pictures[0][y : y + 16, x : x + 16].tobytes() for y in range(5) for x in range(9)}
    back = ((crops(0).permute(0, 2, 3, 1) + 1) * 127.5).round().byte().numpy()
    assert all(c.tobytes() in windows or c[:, ::-1].tobytes() in windows for c in back)
    with pytest.raises(ReprobookError, match="larger pictures"):
        data.Crops(pictures, 30, 2, seed=0)
    assert math.isclose(float(data.to_tensor([np.full((2, 2, 3), 255, np.uint8)]).max()), 1)

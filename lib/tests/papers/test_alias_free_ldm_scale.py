"""Files, released models, editing, pictures, needs and benchmark of the alias-free chapter."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from reprobook.errors import ReprobookError
from reprobook.papers.alias_free_ldm import (
    attention,
    bench,
    data,
    editing,
    evaluation,
    models,
    needs,
    pictures,
    released,
)
from reprobook.papers.alias_free_ldm import operators as op
from reprobook.papers.alias_free_ldm.surgery import IdealUpsample


def noise_picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def write_video(path, frames):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10, options={"qscale": "1"})
        stream.height, stream.width, stream.pix_fmt = frames[0].shape[0], frames[0].shape[1], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def moving(tmp_path):
    """A film of a smooth texture that moves right by one pixel a frame."""
    sample = data.textures(1, (64, 96), 0.08, n_waves=6, seed=1)
    frames = [((sample((0, d))[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8) for d in range(12)]
    write_video(tmp_path / "film.mp4", frames)
    return tmp_path / "film.mp4"


def test_photographs_are_split_by_picture(tmp_path, moving):
    for i, name in enumerate(["chelsea.png", "coffee.png", "china.png"]):
        Image.fromarray(noise_picture(40, 60, i)).save(tmp_path / name)
    train, test = data.photographs([tmp_path], moving, height=32)
    assert [t.shape for t in test] == [(32, 48, 3)]
    assert len(train) == 2 + 1  # two pictures and every 30th of twelve frames
    (tmp_path / "chelsea.png").unlink()
    with pytest.raises(ReprobookError, match="0 test pictures"):
        data.photographs([tmp_path], moving, height=32)


def test_frame_pairs_hold_the_flow_that_warps_one_onto_the_other(moving):
    first, second, flow = data.frame_pairs([moving], height=64, size=32, n=3, seed=0, gap=2)
    assert first.shape == second.shape == (3, 3, 32, 32) and flow.shape == (3, 2, 32, 32)
    assert (flow.mean((2, 3)) - torch.tensor([-2.0, 0.0])).abs().max() < 0.5  # content moved right by two pixels
    still = evaluation.warp_psnr(first, second, torch.zeros_like(flow))
    assert (evaluation.warp_psnr(first, second, flow) > still + 3).all()
    again = data.frame_pairs([moving], height=64, size=32, n=3, seed=0, gap=2)
    assert all(torch.equal(a, b) for a, b in zip((first, second, flow), again, strict=True))


def test_a_film_at_rest_gives_no_pairs(tmp_path):
    write_video(tmp_path / "still.mp4", [noise_picture(32, 48)] * 6)
    with pytest.raises(ReprobookError, match="only 0 of 1"):
        data.frame_pairs([tmp_path / "still.mp4"], height=32, size=16, n=1, seed=0)


def conditional_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, cross_attention_dim=8, sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
    ).eval()  # fmt: skip


def test_editing_without_noise_returns_the_frames_and_the_memory_makes_equal_frames_equal():
    net, vae = conditional_unet(), models.small_vae((4, 8, 8), groups=4)
    latents, frames = models.Latents(vae, scale=1.0), torch.rand(2, 3, 32, 32) * 2 - 1
    embed = lambda texts: torch.ones(len(texts), 3, 8) * torch.tensor([len(t) for t in texts]).view(-1, 1, 1)  # noqa: E731
    frames[1] = frames[0]
    memory = attention.cross_frame(net)
    options = {"n_steps": 4, "strength": 0.5, "guidance": 3.0}
    edited = editing.edit_frames(net, latents, embed, frames, "a red cat", memory=memory, **options)
    assert torch.allclose(edited[0], edited[1], atol=1e-4) and not memory.maps
    other = editing.edit_frames(net, latents, embed, frames, "", memory=memory, **options)
    assert not torch.allclose(edited, other, atol=1e-5)  # the prompt counts
    for p in net.conv_out.parameters():
        p.data.zero_()
    same = editing.edit_frames(net, latents, embed, frames, "a red cat", **options)
    assert torch.allclose(same, latents.decode(latents.encode(frames)), atol=0.1)
    with pytest.raises(ReprobookError, match="strength"):
        editing.edit_frames(net, latents, embed, frames, "", strength=0)


def test_released_folders_load_with_and_without_modules(tmp_path):
    net, vae = models.unet((8, 16), 8, head_dim=4, groups=4), models.small_vae((4, 8, 8), groups=4)
    net.save_pretrained(tmp_path / "unet"), vae.save_pretrained(tmp_path / "vae")
    for alias_free in (False, True):
        found = released.load_unet(tmp_path, alias_free)
        assert all(torch.equal(a, b) for a, b in zip(found.parameters(), net.parameters(), strict=True))
        assert any(isinstance(m, IdealUpsample) for m in found.modules()) == alias_free
    assert released.load_vae(tmp_path / "vae", False).config.latent_channels == 4
    config = tmp_path / "unet" / "config.json"
    config.write_text(config.read_text().replace("UNet2DModel", "UNet3DModel"))
    with pytest.raises(ReprobookError, match="UNet3DModel"):
        released.load_unet(tmp_path, False)


def test_photos_read_the_real_columns(tmp_path):
    from reprobook.rehearsal.tables import write_tables

    write_tables({"format": "parquet", "rows": 5, "files": {"data/train-0.parquet": {"image": "image"}}}, tmp_path)
    photos = released.Photos(tmp_path, 16)
    assert len(photos) == 5 and photos.batch(torch.tensor([4, 0])).shape == (2, 3, 16, 16)
    assert photos.batch(torch.arange(5)).abs().max() <= 1
    vae = models.small_vae((4, 8, 8), groups=4)
    batch = released.latent_batches(photos, vae, 0.6, lambda i: torch.tensor([i % 5]))
    assert torch.equal(batch(3), batch(3)) and not torch.equal(batch(3), batch(4))
    with pytest.raises(ReprobookError, match="no parquet"):
        released.Photos(tmp_path / "nothing", 16)


def test_pictures_survive_a_record():
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    assert (pictures.from_text(pictures.to_text(images)) - images).abs().max() <= 1 / 127.5
    page = pictures.sheet(images, 2)
    assert page.shape == (18, 18, 3) and (page[8] == 255).all() and (page[9:, 9:] == 255).all()
    found = Image.open(io.BytesIO(pictures.animation({"a": images, "b": -images}, zoom=2)))
    assert found.n_frames == 4 and found.size == (2 * (16 + 8), 16 + 22)  # there and back


def test_the_papers_networks_have_their_known_sizes():
    found = {row["network"]: row for row in needs.paper_needs()}
    assert found["AF-VAE, 256 px"]["parameters (M)"] == pytest.approx(83.65, abs=0.01)  # Stable Diffusion's VAE
    assert found["AF-SD 1.5, 512 px"]["parameters (M)"] == pytest.approx(859.52, abs=0.01)  # its U-Net
    for row in found.values():
        assert row["activations an image, alias-free (GB)"] > row["activations an image, plain (GB)"] > 0


def test_the_benchmark_agrees_with_itself():
    rows = {row["upsampling by 2"]: row["error / deviation"] for row in bench.upsamplers(16, batch=2, repeats=1)}
    assert rows["ideal, FFT"] < 1e-5 > rows["ideal, matrices"]
    assert rows["ideal, FFT"] < rows["Kaiser FIR (scipy)"] < rows["bilinear"] < rows["nearest (diffusers)"]
    x = torch.randn(1, 1, 6, 8)
    assert torch.allclose(bench.by_definition(x), op.ideal_upsample(x), atol=1e-5)

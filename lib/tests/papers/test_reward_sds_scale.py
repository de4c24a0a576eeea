"""The paper scale on tiny networks of the real classes."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds import needs, raters, released
from reprobook.papers.reward_sds.diffusion import linear_alphas
from reprobook.papers.reward_sds.loop import Steps, Weighing, optimise, picture
from reprobook.papers.reward_sds.losses import sds, vsd
from reprobook.papers.reward_sds.released import LatentPrior, LoraCompanion
from safetensors.torch import load_file, save_file
from transformers import BatchEncoding


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
    prior, y = latent_prior(unet), torch.tensor([0])
    companion = LoraCompanion(latent_prior(copy.deepcopy(unet)), y)
    before = [p.clone() for p in companion.prior.unet.parameters() if p.requires_grad]
    x = picture((1, 4, 8, 8), 0)
    for _ in optimise(vsd(prior, y, companion, companion.learn), [x], lambda: x, Steps(n=2)):
        pass
    after = [p for p in companion.prior.unet.parameters() if p.requires_grad]
    assert any(not a.equal(b) for a, b in zip(before, after, strict=True))
    assert all(p.equal(q) for p, q in zip(unet.parameters(), prior.unet.parameters(), strict=True))


# --------------------------------------------------------------------------------------------------------------- raters


def test_image_reward_reads_the_published_names(tmp_path: Path) -> None:
    """What the file holds under its own names is what the model computes with: score by hand from its parts."""
    raters.write_image_reward(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    assert {"blip.visual_encoder.blocks.0.attn.qkv.weight", "blip.text_encoder.embeddings.LayerNorm.weight",
            "blip.visual_encoder.pos_embed", "mlp.layers.7.bias"} <= set(state)  # fmt: skip
    model = raters.ImageReward.load(tmp_path / "model.safetensors").eval()
    assert (model.vision.config.image_size, model.vision.config.num_hidden_layers) == (32, 1)
    state["mlp.layers.7.bias"] += 2 * raters.SCALE
    save_file(state, tmp_path / "moved.safetensors")
    moved = raters.ImageReward.load(tmp_path / "moved.safetensors").eval()
    pixels = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    words = BatchEncoding({"input_ids": torch.tensor([[1, 2], [3, 4]]), "attention_mask": torch.ones(2, 2)})
    first, second = model(pixels, words), moved(pixels, words)
    assert first.shape == (2,)
    assert (second - first).tolist() == pytest.approx([2, 2], abs=1e-3)
    other = BatchEncoding({"input_ids": torch.tensor([[5, 6], [7, 8]]), "attention_mask": torch.ones(2, 2)})
    assert not model(pixels, other).allclose(first)
    assert not model(1 - pixels, words).allclose(first)
    del state["mlp.layers.7.bias"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(
        ReprobookError, match=r"short.safetensors lacks 1 weights of ImageReward, the first is head.4.bias"
    ):
        raters.ImageReward.load(tmp_path / "short.safetensors")


def test_names_go_both_ways() -> None:
    for name in ("blip.text_encoder.encoder.layer.3.attention.self.query.weight", "mlp.layers.6.weight",
                 "blip.visual_encoder.blocks.11.norm2.bias", "blip.visual_encoder.norm.weight"):  # fmt: skip
        assert raters.renamed_weight(raters.renamed_weight(name), back=True) == name
    assert raters.renamed_weight("mlp.layers.6.weight") == "head.3.weight"


class OneTower:
    """A stand-in for CLIP whose features are the mean colour, and for texts the one that their length names."""

    config = SimpleNamespace(
        projection_dim=3, vision_config=SimpleNamespace(image_size=8),
        text_config=SimpleNamespace(max_position_embeddings=77),
    )  # fmt: skip

    def get_image_features(self, pixel_values: Any) -> Any:
        std = torch.tensor(raters.STD)
        return SimpleNamespace(pooler_output=pixel_values.mean((2, 3)) * std + torch.tensor(raters.MEAN))

    def get_text_features(self, lengths: Any) -> Any:
        return SimpleNamespace(pooler_output=torch.nn.functional.one_hot(lengths, 3).float())


def test_clip_and_aesthetic_score_by_hand() -> None:
    def tokens(texts: list[str], **_: Any) -> BatchEncoding:
        return BatchEncoding({"lengths": torch.tensor([len(each) for each in texts])})

    rate = raters.clip_raters(OneTower(), tokens, torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0.5]))
    red = torch.zeros(1, 3, 16, 16)
    red[:, 0], red[:, 1] = 0.6, 0.8
    assert rate["CLIP"](red, [""]).item() == pytest.approx(60, abs=0.1)
    assert rate["CLIP"](red, ["a"]).item() == pytest.approx(80, abs=0.1)
    assert rate["aesthetic"](red, [""]).item() == pytest.approx(0.6 + 1.6 + 0.5, abs=1e-2)
    with pytest.raises(ReprobookError, match=r"the aesthetic head is \[1, 2\]; CLIP gives 3"):
        raters.clip_raters(OneTower(), tokens, torch.ones(1, 2), torch.zeros(1))


# ------------------------------------------------------------------------------------------------------- whole methods


def tiny_kit(unet: Any) -> released.Kit:
    """The real U-Net class; an autoencoder that passes three channels on; the reward is how red a picture is."""

    class Passing:
        dtype, config = torch.float32, SimpleNamespace(scaling_factor=1.0)

        def decode(self, z: Any) -> Any:
            return SimpleNamespace(sample=z[:, :3])

        def encode(self, x: Any) -> Any:
            return SimpleNamespace(latent_dist=SimpleNamespace(mean=torch.cat([x, x[:, :1]], 1)))

    def encode(texts: Any) -> Any:
        return torch.stack([
            torch.randn(5, 16, generator=torch.Generator().manual_seed(len(text))) for text in texts
        ])  # fmt: skip

    rate: dict[str, raters.Rater] = {
        "ImageReward": lambda pixels, _: pixels[:, 0].mean((1, 2)), "CLIP": lambda pixels, _: pixels[:, 1].mean((1, 2)),
    }  # fmt: skip
    kinds = ("epsilon", "v_prediction")
    return released.Kit(unet, copy.deepcopy(unet), Passing(), encode, linear_alphas(), kinds, rate, torch.device("cpu"))


@pytest.mark.parametrize("base", ["SDS", "VSD", "SDS-Bridge"])
def test_every_base_loss_runs_on_latents(unet: Any, base: str, tmp_path: Path) -> None:
    setting = released.Setting(Steps(n=2, lr=0.1), 100.0, 7.5, tmp_path, 8)
    how = Weighing(n=4, n_reward_steps=2, n_denoise=1)
    found = released.generate(tiny_kit(unet), ["a fox", "two foxes"], base, how, setting, 0)
    assert list(found) == [base, f"Reward{base}", "random weights"]
    assert found[base]["CLIP"].shape == (2,)
    own = {(other, measure) for other, measure, _, _ in released.pairs(found, base)}
    assert own == {(base, "ImageReward"), (base, "CLIP"), ("random weights", "ImageReward"), ("random weights", "CLIP")}
    assert list(released.means(found)["method"]) == list(found)


def test_a_run_that_was_interrupted_makes_only_what_is_missing(unet: Any, tmp_path: Path) -> None:
    setting = released.Setting(Steps(n=2, lr=0.1), 100.0, 7.5, tmp_path, 8)
    kit, how = tiny_kit(unet), Weighing(n=4, n_reward_steps=2, n_denoise=1)
    rated, calls = kit.raters["ImageReward"], []

    def dying(pixels: Any, texts: Any) -> Any:
        calls.append(len(pixels))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return rated(pixels, texts)

    with pytest.raises(KeyboardInterrupt):
        released.generate(
            kit._replace(raters=kit.raters | {"ImageReward": dying}), ["a fox", "two foxes"], "SDS", how, setting, 0
        )
    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(made) == 3  # two of SDS, one of RewardSDS; ratings of SDS took two calls, each RewardSDS takes two
    again = released.generate(kit, ["a fox", "two foxes"], "SDS", how, setting, 0)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in made} == made
    whole = released.generate(kit, ["a fox", "two foxes"], "SDS", how, setting._replace(folder=tmp_path / "other"), 0)
    for name, scores in whole.items():
        assert scores["CLIP"].tolist() == again[name]["CLIP"].tolist()


def test_edits_of_latents_start_from_the_picture(unet: Any, tmp_path: Path) -> None:
    setting = released.Setting(Steps(n=1, lr=1e-9), 7.5, 7.5, tmp_path, 8)
    how = Weighing(n=4, n_reward_steps=0, n_denoise=1)
    shown = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    found = released.edit(tiny_kit(unet), [released.Example(shown, "a fox", "a red fox")], how, setting, 0)
    expected = float((shown[0].mean() + 1) / 2)
    assert found["unchanged"]["ImageReward"].tolist() == pytest.approx([expected], abs=1e-4)
    assert found["DDS"]["ImageReward"].tolist() == pytest.approx([expected], abs=1e-4)  # steps of nothing


def test_vsd_without_a_companion_is_refused(unet: Any, tmp_path: Path) -> None:
    kit = tiny_kit(unet)._replace(companion=None)
    setting = released.Setting(Steps(n=1), 7.5, 7.5, tmp_path, 8)
    with pytest.raises(ReprobookError, match="set the parameter companion"):
        released.generate(kit, ["a fox"], "VSD", Weighing(n=4, n_reward_steps=1), setting, 0)


def test_what_the_paper_scale_needs() -> None:
    found = needs.hours().set_index("what")["hours"]
    assert found["RewardSDS, 25 prompts (Table 1)"] == pytest.approx(15.5, abs=0.1)
    table = needs.table().set_index("model")["parameters (M)"]
    assert table["U-Net of 2.1 base, one call"] == pytest.approx(866, abs=1)
    assert table["CLIP ViT-L/14, one picture"] == pytest.approx(428, abs=1)

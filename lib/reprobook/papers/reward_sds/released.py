"""The paper's own scale: latents of Stable Diffusion 2.1 base, DrawBench, COCO captions, InstructPix2Pix.

ImageReward is the reward; CLIPScore and the aesthetic score are measured and not optimised (:mod:`.raters`).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.reward_sds.diffusion import add_noise, signal_noise
from reprobook.papers.reward_sds.loop import picture
from reprobook.papers.reward_sds.losses import bridge, dds, sds, vsd
from reprobook.papers.reward_sds.networks import OWN_NOISE
from reprobook.papers.reward_sds.raters import open_raters
from reprobook.papers.reward_sds.study import pair_rows, run_row
from reprobook.project import atomic_write

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reprobook.data import ChapterData
    from reprobook.papers.reward_sds.loop import Steps, Weighing
    from reprobook.papers.reward_sds.losses import Loss, Noised
    from reprobook.papers.reward_sds.raters import Rater
    from reprobook.papers.reward_sds.study import Row

LORA_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
REWARD = "ImageReward"
# SDS-Bridge's second stage: what is appended to the prompt for its two conditions.
GOOD = ", detailed, high resolution, high quality"
BAD = ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
Scores = dict[str, "dict[str, np.ndarray]"]  # method -> measure -> a score for each prompt


class LatentPrior:
    """A U-Net of diffusers as a prior. Conditions are numbers of ``embeddings`` (P, tokens, width), of which the last
    one is the empty prompt's. ``prediction``: ``epsilon`` (2.1 base) or ``v_prediction`` (2.1)."""

    def __init__(self, unet: nn.Module, embeddings: Tensor, alphas_cumprod: Tensor, prediction: str) -> None:
        if prediction not in ("epsilon", "v_prediction"):
            raise ReprobookError(f"prediction is {prediction!r}; it must be epsilon or v_prediction")
        self.unet, self.embeddings, self.alphas_cumprod, self.prediction = unet, embeddings, alphas_cumprod, prediction

    def noise(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predicted noise in fp32; of v it is a v + s x_t."""
        known = self.embeddings[y]
        found = self.unet(x.to(known.dtype), t, encoder_hidden_states=known).sample.float()
        if self.prediction == "epsilon":
            return found
        a, s = signal_noise(self.alphas_cumprod, t, x.ndim)
        return a * found + s * x

    def empty(self, y: Tensor) -> Tensor:
        """The empty prompt."""
        return torch.full_like(y, len(self.embeddings) - 1)


class LoraCompanion:
    """VSD's companion: LoRA layers on the attention of a U-Net, trained by the ordinary denoising loss on one fresh t
    and noise a picture (released code: AdamW, rate 3e-4, no decay, guidance 1, on Stable Diffusion 2.1)."""

    def __init__(self, prior: LatentPrior, y: Tensor, rank: int = 4, lr: float = 3e-4, seed: int = 0) -> None:
        from peft import LoraConfig

        prior.unet.requires_grad_(False)
        unet: Any = prior.unet
        if getattr(unet, "_hf_peft_config_loaded", False):
            unet.delete_adapters("default")  # of the prompt before
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_LAYERS)))
        trained = [p for p in unet.parameters() if p.requires_grad]
        for p in trained:
            p.data = p.data.float()  # half precision would lose AdamW's small steps
        self.prior, self.y, self.generator = prior, y, torch.Generator().manual_seed(seed + OWN_NOISE)
        self.optimiser = torch.optim.AdamW(trained, lr, weight_decay=0)

    @torch.no_grad()
    def __call__(self, z: Noised) -> Tensor:
        """Predicted noise (B, n, ...)."""
        n = z.eps.shape[1]
        found = self._noise(z.x_t.flatten(0, 1), z.t.repeat_interleave(n), self.y.repeat_interleave(n))
        return found.view_as(z.x_t)

    def _noise(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=x.device.type == "cuda"):
            return self.prior.noise(x, t, y)

    @torch.enable_grad()
    def learn(self, x: Tensor) -> None:
        """One update on the pictures x (B, ...)."""
        t = torch.randint(len(self.prior.alphas_cumprod), (len(x),), generator=self.generator).to(x.device)
        eps = torch.randn(x.shape, generator=self.generator).to(x)
        x_t = add_noise(self.prior.alphas_cumprod, x, eps[:, None], t)[:, 0]
        self.optimiser.zero_grad()
        (self._noise(x_t, t, self.y) - eps).square().mean().backward()
        self.optimiser.step()


class Kit(NamedTuple):
    """The paper's models on one device. ``encode``: texts -> embeddings; ``raters``: by name, what scores pictures."""

    unet: nn.Module
    companion: nn.Module | None
    vae: Any
    encode: Callable[[Sequence[str]], Tensor]
    alphas_cumprod: Tensor
    predictions: tuple[str, str]  # of the prior and of the companion's base
    raters: dict[str, Rater]
    device: torch.device

    def prior(self, texts: Sequence[str], companion: bool = False) -> LatentPrior:
        """The prior, or the base of VSD's companion, whose conditions are ``texts`` and, last, the empty one."""
        embeddings = self.encode([*texts, ""])
        unet = self.companion if companion else self.unet
        if unet is None:
            raise ReprobookError("VSD needs the base of a companion: set the parameter companion to its artefact")
        return LatentPrior(unet, embeddings, self.alphas_cumprod, self.predictions[companion])


def open_kit(data: ChapterData, prior: str, companion: str, device: torch.device) -> Kit:
    """All models of the paper scale, in fp16 on a GPU. ``prior`` and ``companion`` name artefacts."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    kind = torch.float16 if device.type == "cuda" else torch.float32
    folder = Path(data.path(prior))

    def ready(model: Any) -> Any:
        return model.to(device).eval().requires_grad_(False)

    unet = ready(UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=kind))
    vae = ready(AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=kind))
    encoder = ready(CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=kind))
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    beside, predictions = None, (scheduler.config.prediction_type, "epsilon")
    if companion:
        other = Path(data.path(companion))
        beside = ready(UNet2DConditionModel.from_pretrained(other / "unet", torch_dtype=kind))
        theirs = DDIMScheduler.from_pretrained(other / "scheduler").config.prediction_type
        predictions = (predictions[0], theirs)

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Tensor:
        length = encoder.config.max_position_embeddings
        words = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return encoder(words.input_ids.to(device)).last_hidden_state

    alphas = scheduler.alphas_cumprod.to(device)
    return Kit(unet, beside, vae, encode, alphas, predictions, open_raters(data, device), device)


@torch.no_grad()
def decoded(vae: Any, latents: Tensor, batch: int = 5) -> Tensor:
    """Pictures (M, 3, H, W) in [0, 1] of latents (M, 4, h, w), ``batch`` at a time: at 512 px the decoder takes more
    memory than anything else."""
    parts = [vae.decode(z.to(vae.dtype) / vae.config.scaling_factor).sample for z in latents.split(batch)]
    return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1)


class Setting(NamedTuple):
    """Iterations, guidance of the loss and of the candidates' denoising, side of a latent, rate of VSD's companion;
    ``folder``: of finished latents, each of which is made once, so that an interrupted run goes on where it was."""

    steps: Steps
    guidance: float
    exploring: float
    folder: Path
    side: int = 64
    companion_lr: float = 3e-4


class Example(NamedTuple):
    """An edit: the picture (3, H, W) in [-1, 1], what it shows, what it shall show."""

    picture: Tensor
    source: str
    target: str


class Job(NamedTuple):
    """What one optimisation needs: its loss, the latent (1, 4, h, w) it starts from, the text that raters read, and
    what else tells it from other ones (the base loss; of an edit, the text that is edited); the seed of its noise."""

    loss: Callable[[], Loss]
    start: Tensor
    text: str
    key: str
    seed: int


def generate(kit: Kit, prompts: Sequence[str], base: str, how: Weighing, setting: Setting, seed: int) -> Scores:
    """One latent a prompt from noise: the base loss, its Reward form, and the same weights on random candidates."""
    jobs = []
    for k, text in enumerate(prompts):
        own = seed + 1_000_003 * k
        start = picture((1, 4, setting.side, setting.side), own).detach().to(kit.device)
        jobs.append(Job(partial(_loss, kit, base, text, setting, own), start, text, base, own))
    return _scored(kit, pair_rows(how, base), jobs, setting)


def _loss(kit: Kit, base: str, text: str, setting: Setting, seed: int) -> Loss:
    """Guidance of the losses other than SDS is the released one: 7.5 for VSD, 40 for SDS-Bridge."""
    prior, y = kit.prior([text, text + GOOD, text + BAD]), torch.zeros(1, dtype=torch.long, device=kit.device)
    if base == "VSD":
        learner = LoraCompanion(kit.prior([text], companion=True), y, lr=setting.companion_lr, seed=seed)
        return vsd(prior, y, learner, learner.learn, 7.5, setting.exploring)
    if base == "SDS-Bridge":
        return bridge(prior, y, y + 1, y + 2, setting.steps.n // 2, 40.0, setting.exploring)
    return sds(prior, y, setting.guidance, setting.exploring)


def edit(kit: Kit, examples: Sequence[Example], how: Weighing, setting: Setting, seed: int) -> Scores:
    """DDS, RewardDDS, random weights, and the unchanged picture, scored against the target prompt."""
    jobs = []
    for k, each in enumerate(examples):
        with torch.no_grad():
            z = kit.vae.encode(each.picture[None].to(kit.device, kit.vae.dtype)).latent_dist.mean
        latent = z.float() * kit.vae.config.scaling_factor
        make = partial(_edit_loss, kit, each, latent, setting)
        jobs.append(Job(make, latent, each.target, f"DDS, {each.source}", seed + 1_000_003 * k))
    found = _scored(kit, pair_rows(how, "DDS"), jobs, setting)
    return found | {"unchanged": _ratings(kit, [(job.start, job.text) for job in jobs])}


def _edit_loss(kit: Kit, example: Example, latent: Tensor, setting: Setting) -> Loss:
    y = torch.zeros(1, dtype=torch.long, device=kit.device)
    return dds(kit.prior([example.target, example.source]), y, y + 1, latent, setting.guidance, setting.exploring)


def _ratings(kit: Kit, ends: Sequence[tuple[Tensor, str]]) -> dict[str, np.ndarray]:
    values = [{name: float(rate(decoded(kit.vae, x), [text])) for name, rate in kit.raters.items()} for x, text in ends]
    return {name: np.array([each[name] for each in values]) for name in kit.raters}


def _scored(kit: Kit, rows: Mapping[str, Row], jobs: Sequence[Job], setting: Setting) -> Scores:
    def end(row: Row, job: Job) -> Tensor:
        def reward(latents: Tensor, _: Tensor) -> Tensor:
            return kit.raters[REWARD](decoded(kit.vae, latents), [job.text] * len(latents))

        key = repr((job.key, job.text, row, setting._replace(folder=Path()), job.seed)).encode()
        path = setting.folder / f"{hashlib.sha256(key + job.start.cpu().numpy().tobytes()).hexdigest()[:20]}.pt"
        if not path.is_file():
            loss = job.loss()
            made = io.BytesIO()
            torch.save(run_row(row, lambda _: loss, lambda _: job.start, setting.steps, reward, seed=job.seed).x, made)
            atomic_write(path, made.getvalue())
        return torch.load(path, map_location=kit.device)

    return {name: _ratings(kit, [(end(row, job), job.text) for job in jobs]) for name, row in rows.items()}


def means(found: Scores) -> pd.DataFrame:
    """One row a method: the mean of each measure."""
    return pd.DataFrame(
        [{"method": name, **{m: float(v.mean()) for m, v in each.items()}} for name, each in found.items()]
    )


def pairs(found: Scores, base: str) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """(other method, measure, scores of the Reward form, scores of the other) for every comparison."""
    own = found[f"Reward{base}"]
    others = [name for name in found if name != f"Reward{base}"]
    return [(name, what, own[what], found[name][what]) for name in others for what in own]


def prompts(data: ChapterData, n_drawbench: int, n_coco: int, seed: int) -> dict[str, list[str]]:
    """Random prompts of DrawBench and captions of COCO, each once. Which ones the paper drew is not known."""
    import pyarrow.parquet as pq

    found = {}
    wanted = (("DrawBench", "drawbench", "prompts", n_drawbench), ("COCO", "coco-captions", "caption", n_coco))
    for name, artefact, column, n in wanted:
        if n:
            files = sorted(Path(data.path(artefact)).rglob("*.parquet"))
            texts = [text for file in files for text in pq.read_table(file, columns=[column])[column].to_pylist()]
            found[name] = _some(list(dict.fromkeys(texts)), n, seed, artefact)
    return found


def examples(data: ChapterData, n: int, side: int, seed: int) -> list[Example]:
    """Random examples of InstructPix2Pix, pictures scaled to ``side`` pixels."""
    import pyarrow.parquet as pq
    from PIL import Image

    file = min(Path(data.path("instructpix2pix")).rglob("*.parquet"))
    table = pq.read_table(file, columns=["original_prompt", "original_image", "edited_prompt"])
    found = []
    for k in _some(list(range(len(table))), n, seed, "instructpix2pix"):
        row = {name: table[name][k].as_py() for name in table.column_names}
        image = Image.open(io.BytesIO(row["original_image"]["bytes"])).convert("RGB").resize((side, side))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
        found.append(Example(pixels, row["original_prompt"], row["edited_prompt"]))
    return found


def _some(values: Sequence[Any], n: int, seed: int, name: str) -> list[Any]:
    if n > len(values):
        raise ReprobookError(f"{n} of {name} are asked for; it has {len(values)}")
    return [values[k] for k in torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))[:n].tolist()]

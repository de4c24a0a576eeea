"""The paper's own scale: LLaVA-v1.6-mistral-7b with LoRA on all parts, in the same loop as the small policy.

:class:`Words` and :class:`CardPictures` take the places of the small language and the handwriting,
:class:`VisionPolicy` that of the small policy; :mod:`.learning` and the corrector are the same.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as f

from reprobook.errors import ReprobookError
from reprobook.nn.lm import add_lora, without_progress_bars
from reprobook.papers.gtr import games, homes, start
from reprobook.papers.gtr.asked import AskedCorrector, service
from reprobook.papers.gtr.learning import Learner
from reprobook.papers.gtr.policy import PAD_ID, Shape, Written, token_logp
from reprobook.papers.gtr.study import EASY, Run, World, measure, method
from reprobook.papers.gtr.words import Words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from reprobook.papers.gtr.corrector import Corrector
    from reprobook.papers.gtr.games import Game
    from reprobook.papers.gtr.learning import Method, Settings

# all linear layers of vision tower, projector and language model; not the head
LORA_LAYERS = (
    r".*(vision_tower|multi_modal_projector|language_model).*\."
    r"(q_proj|k_proj|v_proj|o_proj|out_proj|fc1|fc2|gate_proj|up_proj|down_proj|linear_1|linear_2)"
)
NAMES = ("A", *(str(k) for k in range(2, 11)), "J", "Q", "K")  # of the ranks 1 to 13
INK = ("black", "firebrick", "black", "firebrick")  # of four suits
CARD, MARGIN = 168, 12  # pixels of a card's side, and around its rank


# ----------------------------------------------------------------------------------------------------------- pictures


class CardPictures:
    """Drawn cards in rows of two, in place of the handwriting: a place is a rank and a suit."""

    def pick(self, ranks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A card for each of ``ranks`` (..., from 1 to 13): places (..., 1)."""
        return (4 * ranks + rng.integers(0, 4, ranks.shape))[..., None]

    def draw(self, places: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), uint8, of tables (B, n, 1)."""
        found = []
        for table in places[..., 0].tolist():
            cards = torch.stack([_card(place // 4, place % 4) for place in table])
            blank = torch.full((-len(cards) % 2, CARD, CARD, 3), 255, dtype=torch.uint8)
            rows = torch.cat([cards, blank]).unflatten(0, (-1, 2))  # (rows, 2, side, side, 3)
            found.append(rows.permute(4, 0, 2, 1, 3).reshape(3, CARD * len(rows), 2 * CARD))
        return torch.stack(found)


@lru_cache(maxsize=64)
def _card(rank: int, suit: int) -> Tensor:
    """One card (side, side, 3)."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (CARD, CARD), "white")
    pen = ImageDraw.Draw(picture)
    pen.rectangle((2, 2, CARD - 3, CARD - 3), outline="black", width=2)
    pen.text((MARGIN, MARGIN), NAMES[rank - 1], fill=INK[suit], font=ImageFont.load_default(96))
    return torch.from_numpy(np.array(picture))


# -------------------------------------------------------------------------------------------------------- the policy


class VisionPolicy(nn.Module):
    """A LLaVA-Next model with LoRA, and the value head of the paper (three layers, on the prompt's last state).

    It has the interface of :class:`.policy.Policy`; what it returns lies on the processor. ``rows``: responses that are
    sampled at once."""

    def __init__(self, model: Any, processor: Any, n_prompt: int, n_new: int, rows: int = 8) -> None:
        super().__init__()
        config = model.get_base_model().config
        width = config.text_config.hidden_size
        self.model, self.processor, self.rows = model, processor, rows
        self.shape = Shape(4, n_prompt, n_new, config.text_config.vocab_size, width)
        self.image_token = processor.image_token_id
        self.never = [PAD_ID, self.image_token]  # is not written
        self.value = nn.Sequential(
            nn.Linear(width, 1024), nn.ReLU(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 1)
        )
        self.value.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def _inputs(self, pictures: Tensor, prompt: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Prompts with the picture's token written as often as it has features, and pixels as the model wants them;
        where pictures have no pixels, prompts without the token, their common blanks cut off."""
        if not pictures.numel():
            if bool((prompt == self.image_token).any()):
                raise ReprobookError("a prompt holds the token of a picture, but there is none")
            return prompt[:, int((prompt != PAD_ID).any(0).int().argmax()) :].to(self.device), {}
        seen = self.processor.image_processor(images=list(pictures), return_tensors="pt")
        n = _n_features(self.processor, tuple(pictures.shape[-2:]))
        repeats = torch.where(prompt == self.image_token, n, 1)
        if not bool((repeats.sum(1) == repeats.shape[1] + n - 1).all()):
            raise ReprobookError("each prompt must hold the token of the picture once")
        ids = prompt.flatten().repeat_interleave(repeats.flatten()).view(len(prompt), -1)
        pixels = seen["pixel_values"].to(next(self.model.parameters()).dtype)
        return ids.to(self.device), {"pixel_values": pixels.to(self.device), "image_sizes": seen["image_sizes"]}

    def forward(self, pictures: Tensor, prompt: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T, vocabulary) of each token of ``response`` (B, T) given what is before it, and values (B,), in
        fp32. pictures: (B, 3, H, W) uint8; prompt: (B, n_prompt) ids."""
        ids, seen = self._inputs(pictures, prompt)
        n = ids.shape[1]
        ids = torch.cat([ids, response[:, :-1].to(self.device)], 1)
        there = ids != PAD_ID
        base = self.model.get_base_model()
        hidden = base.model(
            input_ids=ids, attention_mask=there.long(), position_ids=(there.cumsum(1) - 1).clamp(min=0),
            use_cache=False, **seen,
        ).last_hidden_state[:, n - 1 :]  # fmt: skip
        never = torch.tensor(self.never, device=hidden.device)
        logits = base.lm_head(hidden).float().index_fill(-1, never, -1e9)
        return logits.cpu(), self.value(hidden[:, 0].float()).squeeze(-1).cpu()

    @torch.no_grad()
    def write(
        self,
        pictures: Tensor,
        prompt: Tensor,
        *,
        temperature: float,
        generator: torch.Generator,
        repetition: float = 1.0,
    ) -> Written:
        """Sample a response to each table; ``temperature`` 0 takes the likeliest token. Log-probabilities are read
        again by :meth:`forward`: the very numbers that the first update finds."""
        if temperature < 0 or repetition < 1:
            raise ReprobookError(
                f"temperature is {temperature} and repetition {repetition}; they must be >= 0 and >= 1"
            )
        parts = [
            self._write(p, q, temperature, generator, repetition)
            for p, q in zip(pictures.split(self.rows), prompt.split(self.rows), strict=True)
        ]
        return Written(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def _write(
        self, pictures: Tensor, prompt: Tensor, temperature: float, generator: torch.Generator, repetition: float
    ) -> Written:
        from transformers.generation.logits_process import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

        ids, seen = self._inputs(pictures, prompt)
        n, n_new = ids.shape[1], self.shape.n_new
        how: dict[str, Any] = {"do_sample": False}
        if temperature:
            how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        penalty = RepetitionPenaltyLogitsProcessor(repetition, prompt_ignore_length=n)  # of the response alone
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            written = self.model.get_base_model().generate(
                input_ids=ids, attention_mask=(ids != PAD_ID).long(), max_new_tokens=n_new, pad_token_id=PAD_ID,
                suppress_tokens=self.never, logits_processor=LogitsProcessorList([penalty]), **seen, **how,
            )  # fmt: skip
        found = f.pad(written[:, n:].cpu(), (0, n_new - (written.shape[1] - n)), value=PAD_ID)
        logits, values = self(pictures, prompt, found)
        odds = f.log_softmax(logits / (temperature or 1.0), -1)
        there = found != PAD_ID
        entropy = -(odds.exp() * odds).sum(-1) * there
        return Written(found, there.sum(1), token_logp(logits, found, temperature or 1.0), entropy, values)


@lru_cache(maxsize=8)
def _n_features(processor: Any, size: tuple[int, int]) -> int:
    """Tokens of a picture of this size."""
    found = processor(images=torch.zeros(3, *size, dtype=torch.uint8), text="<image>", return_tensors="pt")
    return int((found["input_ids"] == processor.image_token_id).sum())


# --------------------------------------------------------------------------------------------------------- the study


class Lora(NamedTuple):
    """Adapters on all linear layers but the head. A notebook's list of numbers holds ``rank`` as a float: see
    :attr:`size`."""

    rank: float
    alpha: float
    dropout: float

    @property
    def size(self) -> int:
        """The rank as the whole number that layers are made from."""
        return int(self.rank)


def open_policy(folder: str | Path, lora: Lora, n_prompt: int, n_new: int, device: torch.device) -> VisionPolicy:
    """LLaVA-Next from a folder, in bf16 on a GPU, with new adapters in fp32."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with without_progress_bars():
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        ).to(device)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    how: dict[str, Any] = {"r": lora.size, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    return VisionPolicy(add_lora(model, target_modules=LORA_LAYERS, **how), processor, n_prompt, n_new)


def open_world(
    name: str, policy: VisionPolicy, n_demonstrations: int, noise: start.Noise, seed: int, *,
    fit: Callable[..., Any], lr: float, n_hands: int, temperature: float, repetition: float,
) -> World:  # fmt: skip
    """Points24, EZPoints or ALFWorld with the supervised start: one epoch over demonstrations, on drawn cards or on
    text."""
    rng = np.random.default_rng([seed, 11])
    tables = homes.open_game(name, n_demonstrations, rng)
    if not (tables.has_formula or name == games.ALFWORLD):
        raise ReprobookError(f"game {name!r} has no formula; the paper scale plays Points24, EZPoints and ALFWorld")
    words, cards, data = _lesson(policy, tables, noise, rng)
    rows = min(16, len(data.response))

    def batch(step: int) -> tuple[Tensor, ...]:
        part = data.rows(torch.arange(step * rows, (step + 1) * rows) % len(data.response))
        return cards.draw(part.places), part.prompt, part.response

    fit(
        f"start {name}", policy, batch, start.imitation_loss, num_steps=max(1, len(data.response) // rows), lr=lr,
        schedule="cosine", warmup_steps=max(1, round(0.03 * len(data.response) / rows)),
    )  # fmt: skip
    world = World(
        name, words, None, None, (cards, cards), policy, temperature=temperature, repetition=repetition  # type: ignore[arg-type]
    )  # fmt: skip
    return replace(world, first=measure(world.start, world, n_hands, seed))


def _lesson(policy: VisionPolicy, tables: Game, noise: start.Noise, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Words, pictures and demonstrations of a game."""
    if isinstance(tables, homes.HomeGame):
        home_words = homes.HomeWords(policy.processor.tokenizer, tables, policy.shape.n_prompt)
        return home_words, homes.NoPictures(), homes.demonstrations(tables, home_words, noise, rng)
    words, cards = Words(policy.processor.tokenizer, tables, policy.shape.n_prompt), CardPictures()
    return words, cards, start.demonstrations(tables, words, cards, noise, rng)  # type: ignore[arg-type]


def train(
    world: World, names: Sequence[str], settings: Settings, n_hands: int, seed: int, folder: Path,
    ask: Callable[[Game, Method], Corrector] | None = None,
) -> dict[tuple[str, str], Run]:  # fmt: skip
    """Each method from the same start: only adapters and value head are trained, so only these are put back.

    In ALFWorld methods, updates and rules are those of :func:`.homes.as_released` and :func:`.homes.ruled`, and the
    corrector is exact whatever ``ask`` is."""
    import pandas as pd

    if world.name == games.ALFWORLD:
        names, settings = homes.as_released(names, settings)
    policy: Any = world.start
    begin = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}
    found = {}
    for name in names:
        policy.load_state_dict(begin, strict=False)
        game = world.deal(settings.n_tables, seed)
        how = replace(method(name, 0.0), prefix=world.name not in EASY)
        corrector = ask(game, how) if ask else None
        if isinstance(game, homes.HomeGame):
            how, corrector = homes.ruled(how), homes.HomeCorrector(game, np.random.default_rng([seed, 13]))
        learner = Learner(policy, world.language, game, world.writing[0], how, settings, seed, corrector)
        learner.run(folder=folder / name)
        curve = pd.DataFrame(learner.history).assign(game=world.name, method=name)
        assert world.first is not None
        found[world.name, name] = Run(world.first, measure(policy, world, n_hands, seed), curve, policy)
    return found


def corrector_of(where: str, seed: int) -> Callable[[Game, Method], Corrector] | None:
    """What makes the corrector of a game, with the method's tool or without: None for ``exact`` (and empty), else a
    model at an address."""
    if where in ("", "exact"):
        return None
    ask, cards, rng = service(where), CardPictures(), np.random.default_rng([seed, 13])

    def draw(ranks: np.ndarray) -> Tensor:
        return cards.draw(torch.from_numpy(4 * ranks)[None, :, None])[0]

    return lambda game, how: AskedCorrector(ask, draw, game, rng, tool=how.ability.tool)

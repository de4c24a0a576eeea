"""Paper scale: the authors' checkpoints in transformers' LLaVA-NeXT classes with the Region Focus Module beside them
(no patched library file), their questions, and what the claims compare."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from reprobook.errors import ReprobookError
from reprobook.papers.rs_token_pruning import reducers
from reprobook.papers.rs_token_pruning.descent import Tokens, descend, token_cells, top_share
from reprobook.papers.rs_token_pruning.model import Built, pooled, with_newlines
from reprobook.papers.rs_token_pruning.pyramid import Level
from reprobook.papers.rs_token_pruning.reading import Pyramid, open_picture
from reprobook.papers.rs_token_pruning.scoring import read_questions, weighted

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from reprobook.data import ChapterData
    from reprobook.papers.rs_token_pruning.scoring import WordNet

TILE, PER_TILE, LEAST, PAIRS = 336, 12, 1008, (1, 5, 11, 14)
N_MAX = {"llava-largeimg-qwen2-7b": 80, "llava-largeimg-vicuna-7b": 40}
SETS = ("LRS-FAIR", "LRS-Bridge", "LRS-STAR", "MME-RealWorld-RS")
WAYS = ("descent", "all tiles", "fastv", "pyramiddrop", "keep 0.25", "keep 0.75", "keep 0.1", "no picture")
QWEN = ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
        "\n{}<|im_end|>\n<|im_start|>assistant\n")  # fmt: skip
VICUNA = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
          "detailed, and polite answers to the user's questions. USER: ", "\n{} ASSISTANT:")  # fmt: skip
NAMES = (  # of the checkpoint -> of transformers' class
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"^model\.(layers|embed_tokens|norm)\.", r"model.language_model.\1."),
)
MODULE = re.compile(r"^model\.rfm\.layers\.(\d+)\.(.+)$")  # as we read the code; another name is an error that lists it
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP


def check(models: Sequence[str], sets: Sequence[str], ways: Sequence[str]) -> None:
    """Raise :class:`ReprobookError` for a name that is not known, before anything is fetched."""
    for name, given, known in (("models", models, N_MAX), ("sets", sets, SETS), ("ways", ways, WAYS)):
        if wrong := [each for each in given if each not in known]:
            raise ReprobookError(f"{name} may hold {', '.join(known)}; got {wrong[0]!r}")


class Released:
    """A checkpoint of the authors. ``llava`` is transformers' LLaVA-NeXT, ``focus`` the module's blocks."""

    def __init__(self, folder: Path, clip: Path, device: torch.device, dtype: torch.dtype | None = None) -> None:
        from transformers import (
            AutoConfig,
            AutoTokenizer,
            CLIPVisionModel,
            LlavaNextConfig,
            LlavaNextForConditionalGeneration,
        )

        said = json.loads((folder / "config.json").read_text("utf-8"))
        kind = "qwen2" if "qwen" in str(said.get("architectures", said.get("model_type"))).lower() else "llama"
        own = AutoConfig.for_model(kind)
        text = AutoConfig.for_model(kind, **{k: v for k, v in said.items() if hasattr(own, k) and k != "model_type"})
        vision = CLIPVisionModel.from_pretrained(clip, local_files_only=True)
        config = LlavaNextConfig(vision_config=vision.config, text_config=text)
        self.llava: Any = LlavaNextForConditionalGeneration(config)
        layers = self.llava.model.language_model.layers
        first = [PAIRS[0] - 1, *PAIRS]
        self.focus = torch.nn.ModuleList(copy.deepcopy(layers[min(k, len(layers) - 1)]) for k in first)
        self.llava.model.vision_tower.load_state_dict(vision.state_dict())
        self._load(folder)
        self.dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        self.llava.eval().requires_grad_(requires_grad=False).to(device, self.dtype)
        self.focus.eval().requires_grad_(requires_grad=False).to(device, self.dtype)
        self.device, self.prompt = device, QWEN if kind == "qwen2" else VICUNA
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def _load(self, folder: Path) -> None:
        """Fill both from the safetensors files; every weight must find its place and every place its weight."""
        from safetensors.torch import load_file

        wanted, found, strange = set(self.llava.state_dict()), set(), []
        module: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            part: dict[str, Tensor] = {}
            for name, value in load_file(file).items():
                if place := MODULE.match(name):
                    module[f"{place[1]}.{place[2]}"] = value
                    continue
                new = name.replace("model.vision_tower.vision_tower.", "model.vision_tower.")
                new = new if new in wanted else new.replace("vision_tower.vision_model.", "vision_tower.")
                for pattern, replacement in NAMES:
                    new = re.sub(pattern, replacement, new)
                (part.__setitem__(new, value) if new in wanted else strange.append(name))
            self.llava.load_state_dict(part, strict=False)
            found |= set(part)
        lacking = [n for n in wanted - found if "vision_tower" not in n and n != "lm_head.weight"]
        wrong = [n for n in self.focus.state_dict() if n not in module]
        if lacking or wrong or [n for n in strange if "vision" not in n]:
            said = f"places without a weight: {sorted(lacking)[:2]}, of the module: {wrong[:2]}; unknown: {strange[:2]}"
            raise ReprobookError(f"the checkpoint has other names than expected: {said}")
        self.focus.load_state_dict(module)
        if "lm_head.weight" not in found:
            self.llava.lm_head.weight = self.llava.model.language_model.embed_tokens.weight

    # --------------------------------------------------------------------------------------- reading

    def encode(self, tiles: np.ndarray, batch_size: int = 16) -> Tensor:
        """Tiles (n, 336, 336, 3) uint8 -> (n, 24, 24, d): CLIP's layer before the last, without its class token, then
        the projector."""
        mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        parts = []
        for at in range(0, len(tiles), batch_size):
            x = torch.from_numpy(tiles[at : at + batch_size]).to(self.device).permute(0, 3, 1, 2) / 255
            hidden = self.llava.model.vision_tower(((x - mean) / std).to(self.dtype), output_hidden_states=True)
            parts.append(self.llava.model.multi_modal_projector(hidden.hidden_states[-2][:, 1:]))
        whole = torch.cat(parts)
        side = int(whole.shape[1] ** 0.5)
        return whole.unflatten(1, (side, side))

    def _words(self, text: str) -> Tensor:
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0].to(self.device)
        return self.llava.model.language_model.embed_tokens(ids)

    def sequence(self, thumbnail: Tensor | None, tokens: Tokens | None, question: str) -> Built:
        """System text, thumbnail, a colon, local tokens with newlines, question, as the code has them. Raises
        :class:`ReprobookError` for a question that does not fit into the language model's context."""
        before, after = (self._words(part.format(question)) for part in self.prompt)
        limit = self.llava.config.text_config.max_position_embeddings
        if len(before) + len(after) > limit:
            raise ReprobookError(
                f"a question of {len(before) + len(after)} tokens; the model reads {limit}: shorten it"
            )
        if thumbnail is None:
            none = torch.zeros(0, dtype=torch.long, device=self.device)
            return Built(torch.cat([before, after])[None], none, none)
        parts, at = [before, thumbnail, self._words(":")], torch.zeros(0, dtype=torch.long, device=self.device)
        start = len(before) + torch.arange(len(thumbnail), device=self.device)
        if tokens is not None and len(tokens.cells):
            cells = torch.from_numpy(tokens.cells).to(self.device)
            local, at = with_newlines(tokens.features, cells, self.llava.model.image_newline)  # type: ignore[arg-type]
            at = at + sum(map(len, parts))
            parts.append(local)
        return Built(torch.cat([*parts, after])[None], at, torch.cat([start, at]))

    def _rotary(self, x: Tensor, positions: Tensor) -> Any:
        return self.llava.model.language_model.rotary_emb(x, positions)

    def _weights(self, layer: Any, x: Tensor, rope: Any) -> Tensor:
        """(H, T) attention logits of the last token in ``layer``."""
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

        attention, h = layer.self_attn, layer.input_layernorm(x)
        heads = (1, h.shape[1], -1, attention.head_dim)
        q, k = (part(h).view(heads).transpose(1, 2) for part in (attention.q_proj, attention.k_proj))
        q, k = apply_rotary_pos_emb(q, k, *rope)
        return (q[:, :, -1:] @ repeat_kv(k, attention.num_key_value_groups).transpose(2, 3))[
            0, :, 0
        ] * attention.scaling

    def scores(self, built: Built) -> np.ndarray:
        """The module's score of each local token: attention of the last word of the prompt, softmax over local tokens,
        mean over heads, from the queries and keys of its last block."""
        x = built.x
        positions = torch.arange(x.shape[1], device=self.device)[None]
        rope = self._rotary(x, positions)
        for block in self.focus[:-1]:
            x = block(x, position_embeddings=rope, position_ids=positions)
        weights = self._weights(self.focus[-1], x, rope)[:, built.local]
        return weights.float().softmax(-1).mean(0).cpu().numpy()

    def answer(self, built: Built, max_new: int, prune: reducers.Prune | None = None) -> str:
        """Greedy text of up to ``max_new`` tokens. Layer by layer and without a cache, so that tokens can go between
        layers; a longer answer is that much dearer."""
        x, ids = built.x, list[int]()
        stop = {self.tokenizer.eos_token_id, *self.tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])}
        lm = self.llava.model.language_model
        for _ in range(max_new):
            h, positions = x, torch.arange(x.shape[1], device=self.device)[None]
            for k, layer in enumerate(lm.layers):
                if prune and k in prune:
                    weights = self._weights(layer, h, self._rotary(h, positions)).float().softmax(-1).mean(0)
                    full = weights.new_full((x.shape[1],), -1.0).index_copy(0, positions[0], weights)
                    keep = torch.isin(positions[0], prune[k](full))
                    keep |= positions[0] >= built.x.shape[1]  # what was said since
                    h, positions = h[:, keep], positions[:, keep]
                h = layer(h, position_embeddings=self._rotary(h, positions), position_ids=positions)
            token = int(self.llava.lm_head(lm.norm(h[:, -1])).argmax())
            if token in stop:
                break
            ids.append(token)
            x = torch.cat([x, lm.embed_tokens(torch.tensor([[token]], device=self.device))], 1)
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


# ------------------------------------------------------------------------------------------------- questions


def questions(name: str, data: ChapterData, image_dir: str = "", limit: int = 0) -> pd.DataFrame:
    """Rows ``question_id, image, path, category, text, ground_truth`` of one of :data:`SETS`, the first ``limit`` (0:
    all). Pictures are looked for by name in the artefact's folder and in ``image_dir``, where the archives of LRS-VQA
    have to be unpacked."""
    if name == "MME-RealWorld-RS":
        folder = data.path("mme-realworld")
        frame = mme_questions(json.loads(next(folder.rglob("MME_RealWorld_RS.json")).read_text("utf-8")))
    else:
        folder = data.path("lrs-vqa")
        lines = next(folder.rglob("LRS_VQA_merged.jsonl")).read_text("utf-8").splitlines()
        frame = read_questions(json.loads(line) for line in lines)
        frame = frame[frame["part"] == name].reset_index(drop=True)
    frame = frame.head(limit) if limit else frame
    known = {
        p.name: p for place in (folder, Path(image_dir)) if str(place) != "." for p in place.rglob("*") if p.is_file()
    }
    if lacking := [i for i in frame["image"] if Path(i).name not in known]:
        raise ReprobookError(
            f"{name}: no picture {lacking[0]}: unpack its archives (7z) and name the folder as image_dir"
        )
    return frame.assign(path=[str(known[Path(i).name]) for i in frame["image"]])


def mme_questions(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The remote-sensing part of MME-RealWorld: five choices; the closing words that announce the best answer are left
    out, as in the paper."""
    ask = "Select the best answer to the above multiple-choice question based on the image. Respond with only the letter (A, B, C, D, or E) of the correct option."  # noqa: E501
    return pd.DataFrame([
        {"question_id": row["Question_id"], "image": row["Image"], "category": row["Category"],
         "text": row["Text"] + " The choices are listed below:\n" + "\n".join(row["Answer choices"]) + "\n" + ask,
         "ground_truth": row["Ground truth"]} for row in rows
    ])  # fmt: skip


def is_right(name: str, said: str, truth: str, words: WordNet) -> bool:
    """MME: the first letter from A to E; LRS-VQA: the rule of its evaluator."""
    if name == "MME-RealWorld-RS":
        letter = re.search(r"\b([A-E])\b", said)
        return bool(letter) and letter[1] == truth  # type: ignore[index]
    return words.same(said, truth)


@torch.inference_mode()
def ask(
    model: Released, name: str, frame: pd.DataFrame, ways: Sequence[str], words: WordNet, *, n_max: int, alpha: float,
    max_tiles: int, max_new: int,
) -> pd.DataFrame:  # fmt: skip
    """One row per question and way: ``right, tokens`` (local ones read), ``tiles`` (encoded), ``seconds`` from opening
    the file to the answer. *descent*: Algorithm 1. The others read the whole picture in a grid of at most ``max_tiles``
    tiles (25 in Table 3), and keep all, or a share by FastV, PyramidDrop or the module."""
    rows = []
    for row in frame.itertuples():
        for way in ways:
            begin = time.perf_counter()
            said, tokens, tiles = _ask(model, str(row.path), str(row.text), way, n_max, alpha, max_tiles, max_new)
            rows.append({
                "question": row.question_id, "picture": row.image, "category": row.category, "way": way, "said": said,
                "right": is_right(name, said, str(row.ground_truth), words), "tokens": tokens, "tiles": tiles,
                "seconds": time.perf_counter() - begin,
            })  # fmt: skip
    return pd.DataFrame(rows)


def anyres(height: int, width: int, max_tiles: int) -> Level:
    """The whole picture in one grid of at most ``max_tiles`` tiles: of all such grids the one that LLaVA-NeXT's rule
    chooses (most pixels of the picture, then least padding), sides in proportion."""
    from transformers.image_processing_utils import select_best_resolution

    if max_tiles < 1:
        raise ReprobookError(f"max_tiles must be 1 or more, got {max_tiles}")
    grids = [(TILE * r, TILE * c) for r in range(1, max_tiles + 1) for c in range(1, max_tiles // r + 1)]
    high, wide = select_best_resolution((height, width), grids)
    scale = min(high / height, wide / width)
    return Level(max(1, round(height * scale)), max(1, round(width * scale)), high // TILE, wide // TILE)


def _ask(
    model: Released, path: str, text: str, way: str, n_max: int, alpha: float, max_tiles: int, max_new: int
) -> tuple[str, int, int]:
    if way == "no picture":
        return model.answer(model.sequence(None, None, text), max_new), 0, 0
    pyramid = Pyramid(open_picture(path), TILE, LEAST)
    thumbnail = model.encode(pyramid.thumbnail()[None]).flatten(0, 2)

    def encode(level: int, tiles: np.ndarray) -> Tokens:
        cells, real = token_cells(pyramid.levels[level], tiles, TILE, PER_TILE)
        return Tokens(pooled(model.encode(pyramid.tiles(level, tiles))).flatten(0, 2)[torch.from_numpy(real)], cells)

    def score(_: int, tokens: Tokens) -> np.ndarray:
        return model.scores(model.sequence(thumbnail, tokens, text))

    prune: Callable[[Built], reducers.Prune | None] = lambda _: None  # noqa: E731
    if way == "descent":
        tokens = descend(pyramid.levels, encode, score, tile=TILE, per_tile=PER_TILE, alpha=alpha, n_max=n_max).tokens
    else:
        pyramid.levels = [anyres(pyramid.picture.height, pyramid.picture.width, max_tiles)]
        tokens = encode(0, pyramid.levels[0].tiles())
        n, depth = len(tokens.cells), len(model.llava.model.language_model.layers)
        if way.startswith("keep"):
            tokens = tokens.kept(top_share(score(0, tokens), float(way.split()[1])))
        elif way == "fastv":
            prune = lambda b: reducers.fastv(b.x.shape[1], b.local, n // 2, layer=min(2, depth - 1))  # noqa: E731
        elif way == "pyramiddrop":
            stages = tuple(sorted({max(1, depth * k // 4) for k in (1, 2, 3)}))
            prune = lambda b: reducers.pyramid_drop(b.x.shape[1], b.local, n // 2 ** len(stages), stages)  # noqa: E731
    built = model.sequence(thumbnail, tokens, text)
    return model.answer(built, max_new, prune(built)), len(tokens.cells), pyramid.opened + 1


# ------------------------------------------------------------------------------------------------- effects


def effects(label: str, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Frames (question; ``a``, ``b``, ``picture``) of everything that the plan names for one model and set. Scores are
    weighted so that their plain mean is the mean over categories."""
    kept = frame.drop_duplicates("question").set_index("question")[["picture", "category"]]
    right = frame.pivot(index="question", columns="way", values="right").loc[kept.index].astype(float)
    weighty = right.apply(lambda column: weighted(column, list(kept["category"])))
    pairs = [("accuracy", "descent", None), ("picture minus no picture", "descent", "no picture")]
    pairs += [(f"descent minus {way}", "descent", way) for way in ("all tiles", "fastv", "pyramiddrop")]
    pairs += [(f"keep 0.25 minus {way}", "keep 0.25", way) for way in ("keep 0.75", "keep 0.1")]
    return {
        f"{label}: {what}": pd.DataFrame({"a": weighty[a], "b": weighty[b] if b else 0.0, "picture": kept["picture"]})
        for what, a, b in pairs if a in weighty and (b is None or b in weighty)
    }  # fmt: skip


def answers_table(frames: dict[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
    """Means by model, set and way."""
    rows = []
    for (model, name), frame in frames.items():
        for way, part in frame.groupby("way", sort=False):
            aa = part.groupby("category")["right"].mean().mean()
            rows.append({"model": model, "set": name, "way": way, "n": len(part), "mean over categories": aa,
                         "overall": part["right"].mean(), "tokens": part["tokens"].mean(),
                         "tiles": part["tiles"].mean()})  # fmt: skip
    return pd.DataFrame(rows)

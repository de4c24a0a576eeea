"""Paper scale: Chinese question sets, the released chunkers, the paper's models, and what its claims compare."""

from __future__ import annotations

import functools
import json
import re
import types
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.errors import ReprobookError
from reprobook.nn import chat, lm
from reprobook.nn.completion import complete
from reprobook.nn.encoder import load_encoder
from reprobook.papers.moc import chunkers, study
from reprobook.papers.moc.corpora import Document, Question, windows
from reprobook.papers.moc.learning import N_CLASSES, read_back
from reprobook.papers.moc.metrics import LMScorer
from reprobook.papers.moc.printed import spearman
from reprobook.papers.moc.recovery import parsed
from reprobook.papers.moc.retrieval import Vectors

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from reprobook.data import ChapterData
    from reprobook.papers.moc.corpora import Cuts
    from reprobook.papers.moc.retrieval import Encode

QA = ("crud single-hop", "crud two-hop", "dureader")
MARKER = "[MASK]"
WINDOW = {"single": 1024, "mixture": 512}  # characters of a piece, as in the released scripts
RETRIES = 3  # at temperature and top-p 0.5
# What the released prompts say, in our words; theirs are longer.
_ROUTE = (
    "你是文本分析专家。请判断下面文章适合的分块粒度：0：0-120个字符；1：120-150个字符；2：150-180个字符；3：大于180个字符。"
    "只输出一个类别。\n\n文章内容：{text}\n\n文章的分块粒度类别为："
)
_CHUNK = (
    "请把下面的文本分割成逻辑完整、长度适中的文本块，输出一个列表，每个元素只写文本块的开头几个字符和结尾几个字符，中间用“[MASK]”代替。"
    "\n\n文档内容：{text}\n\n分割好的文本块的列表格式输出："
)
READ = "根据下面的文档回答问题，回答应简短，只用文档中的信息。\n\n{passages}\n\n问题：{question}\n回答："


def check(qa: Sequence[str], names: Mapping[str, Sequence[str]], known: Iterable[str]) -> None:
    """Raise :class:`ReprobookError` for a question set or a model that there is not, before anything is fetched."""
    artefacts = set(known)
    wrong = [f"qa names {each!r}; sets: {', '.join(QA)}" for each in qa if each not in QA]
    for parameter, models in names.items():
        wrong += [
            f"{parameter} names {each!r}, which the manifest does not have; it has {', '.join(sorted(artefacts))}"
            for each in models if each not in artefacts
        ]  # fmt: skip
    if wrong:
        raise ReprobookError(wrong[0])


# ------------------------------------------------------------------------------------------------ questions


def _item(set_name: str, name: str, text: str, question: str, answers: Sequence[str]) -> tuple[Document, Question]:
    """A document without known boundaries and its question; several right answers stand on lines of their own."""
    document = Document(f"{set_name}/{name}", text, (), (set_name,), name, "zh")
    told = "\n".join(each.replace("\n", " ") for each in answers)
    return document, Question(document.id, question, (0, len(text)), told)


def open_qa(name: str, path: str | Path, limit: int | None) -> tuple[list[Document], list[Question]]:
    """The first ``limit`` questions of a set (None: all) with the text each is asked of. As in the paper, only texts
    that hold evidence are indexed. Records that lack a field are an error that names it."""
    path = Path(path)
    rows = _dureader(path) if name == "dureader" else _crud(path, "1doc" if "single" in name else "2docs")
    found = [_item(name, *row) for row in rows[:limit]]
    if not found:
        raise ReprobookError(f"{name}: {path.name} holds no question")
    return [d for d, _ in found], [q for _, q in found]


def _fields(row: Mapping[str, Any], *names: str) -> list[Any]:
    missing = [name for name in names if name not in row]
    if missing:
        raise ReprobookError(f"a record has no field {missing[0]!r}; it has {', '.join(row)}")
    return [row[name] for name in names]


def _dureader(path: Path) -> list[tuple[str, str, str, list[str]]]:
    with zipfile.ZipFile(path / "data.zip" if path.is_dir() else path) as archive:  # a hub set is a folder
        lines = archive.read("data/dureader.jsonl").decode("utf-8").splitlines()
    rows = [_fields(json.loads(line), "_id", "context", "input", "answers") for line in lines]
    return [(str(name), text, asked, list(answers)) for name, text, asked, answers in rows]


def _crud(path: Path, kind: str) -> list[tuple[str, str, str, list[str]]]:
    rows = json.loads(path.read_text("utf-8"))[f"questanswer_{kind}"]
    news = ["news1"] if kind == "1doc" else ["news1", "news2"]
    found = []
    for k, row in enumerate(rows):
        asked, answer, *texts = _fields(row, "questions", "answers", *news)
        found.append((f"{kind}-{k}", "\n".join(texts), str(asked), [str(answer)]))
    return found


# ------------------------------------------------------------------------------------------------ released chunkers


class Released:
    """A released chunker, whole model or one of the mixture's: greedy in place of temperature and top-p 0.1, up to
    three more tries at 0.5; what is no list then stays in one chunk (the paper asks a 7B model)."""

    def __init__(self, model: Any, tokenizer: Any, max_new_tokens: int) -> None:
        self.model, self.tokenizer, self.max_new_tokens = model, tokenizer, max_new_tokens

    def __call__(self, texts: list[str]) -> list[Cuts]:
        """Cuts of pieces."""
        prompts = [[{"role": "user", "content": _CHUNK.format(text=text)}] for text in texts]
        replies = complete(self.model, self.tokenizer, prompts, max_new_tokens=self.max_new_tokens)
        for attempt in range(RETRIES):
            broken = [k for k, reply in enumerate(replies) if parsed(reply) is None]
            if not broken:
                break
            again = complete(
                self.model, self.tokenizer, [prompts[k] for k in broken], max_new_tokens=self.max_new_tokens,
                temperature=0.5, top_p=0.5, seed=attempt,
            )  # fmt: skip
            for k, reply in zip(broken, again, strict=True):
                replies[k] = reply
        return read_back(texts, replies, MARKER, self.tokenizer).cuts


class Mixture:
    """The released router and its four experts, which the parts of the folder's names tell apart."""

    def __init__(self, folder: Path, device: Any, max_new_tokens: int) -> None:
        names = sorted(each.name for each in folder.iterdir() if (each / "config.json").is_file())
        routers = [name for name in names if "router" in name]
        experts = sorted(
            (n for n in names if n not in routers), key=lambda n: int((re.findall(r"\d+", n) or ["0"])[-1])
        )
        if len(routers) != 1 or len(experts) != N_CLASSES:
            raise ReprobookError(
                f"the mixture has the folders {', '.join(names)}; one router and four experts are needed"
            )
        over = [n for n in experts if "over" in n]
        experts = [n for n in experts if n not in over] + over
        self.router = lm.load_lm(folder / routers[0], device=device)
        self.experts = [Released(*lm.load_lm(folder / name, device=device), max_new_tokens) for name in experts]

    def __call__(self, texts: list[str]) -> list[Cuts]:
        """Cuts of pieces, each by the expert of the most probable class token."""
        import torch

        model, tokenizer = self.router
        labels = [tokenizer(str(k), add_special_tokens=False).input_ids[-1] for k in range(N_CLASSES)]
        turns = [[{"role": "user", "content": _ROUTE.format(text=text)}] for text in texts]
        found: list[Cuts] = [()] * len(texts)
        with torch.no_grad():
            last = [
                model(input_ids=torch.tensor([ids], device=model.device), logits_to_keep=1).logits[0, -1, labels]
                for ids in chat.prompt_ids(tokenizer, turns)
            ]
        classes = torch.stack(last).argmax(-1).tolist()
        for k in sorted(set(classes)):
            rows = [row for row, each in enumerate(classes) if each == k]
            for row, cuts in zip(rows, self.experts[k]([texts[row] for row in rows]), strict=True):
                found[row] = cuts
        return found


def written_by(
    documents: Sequence[Document], data: ChapterData, released: Sequence[str], llms: Sequence[str], device: Any,
    max_new_tokens: int,
) -> dict[str, list[Cuts]]:  # fmt: skip
    """Cuts at their natural length by the released chunkers (``single``, ``mixture``) and by chat models (direct, and
    the first of them as LumberChunker)."""
    texts, found = [d.text for d in documents], {}
    for name in released:
        kind = "mixture" if name == "moc" else "single"
        if kind == "mixture":
            split: Callable[[list[str]], list[Cuts]] = Mixture(data.path(name), device, max_new_tokens)
        else:
            split = Released(*lm.load_lm(data.path(name), device=device), max_new_tokens)
        found[kind] = windows(texts, WINDOW[kind], split)
        del split
    for k, name in enumerate(llms):
        model, tokenizer = lm.load_lm(data.path(name), device=device, device_map="auto" if "72b" in name else None)
        cut = functools.partial(chunkers.direct, ask=chunkers.asking(model, tokenizer, max_new_tokens))
        found[f"direct, {name}"] = windows(texts, WINDOW["single"], cut)
        if k == 0:
            found["LumberChunker"] = chunkers.lumber(documents, chunkers.asking(model, tokenizer, 16), shown=290)
        del model
    return found


class _FirstToken:
    """A BERT whose every state is the first token's, so that the mean over tokens is what bge pools."""

    def __init__(self, model: Any) -> None:
        self.model, self.config, self.device = model, model.config, model.device

    def __call__(self, **x: Any) -> Any:
        hidden = self.model(**x).last_hidden_state
        return types.SimpleNamespace(last_hidden_state=hidden[:, :1].expand_as(hidden))


def bge(folder: Path, device: Any) -> Vectors:
    """bge as an encoder of texts, which are cut at 512 tokens."""
    model, tokenizer = load_encoder(folder, device=device)
    tokenizer.model_max_length = min(512, model.config.max_position_embeddings)
    return Vectors(_FirstToken(model), tokenizer)


def words(text: str) -> list[str]:
    """Words of the paper's measures: jieba's, without blanks and marks."""
    import jieba

    jieba.setLogLevel("ERROR")
    return [word for word in jieba.lcut(text) if re.search(r"\w", word)]


# ------------------------------------------------------------------------------------------------ what is compared


MEASURE = {"dureader": "F1"}  # of answers; elsewhere ROUGE-L


def asked(
    documents: Sequence[Document], questions: Sequence[Question], cuts: study.Chunkings, vectors: Encode, k: int,
    data: ChapterData, scorers: Sequence[str], device: Any, max_new_tokens: int, seed: int, n_stick: int,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Boundary Clarity of all chunkers under the named scorers, a model in memory at a time; Chunk Stickiness of the
    first ``n_stick`` texts under the first (sequential graphs); and the answers of Qwen2-7B, sampled as in the paper
    (its top-k 5 within top-p 0.9 is left out: at temperature 0.1 it changes nothing), with information support under
    the first scorer."""
    if not scorers:
        raise ReprobookError("paper_scorers names no model: nothing can say how clear a boundary is")
    clear, sticky = study.plain_frame(documents, cuts, vectors), None
    for name in scorers:
        model, tokenizer = lm.load_lm(data.path(name), device=device)
        scorer = LMScorer(model, tokenizer)
        clear = clear.merge(study.clarity_frame(documents, cuts, {name: scorer}), on=["chunker", "document"])
        if sticky is None:
            sticky = study.stickiness_frame(documents[:n_stick], cuts, scorer, graphs=["sequential"])
        del model, scorer
    assert sticky is not None
    reader = lm.load_lm(data.path("qwen2-7b-instruct"), device=device)
    ruler = lm.load_lm(data.path(scorers[0]), device=device)
    support = {scorers[0]: (LMScorer(*ruler, max_context=8192), ruler[1])}  # a prompt is longer than a chunk
    answers = study.answers_frame(
        documents, cuts, questions, vectors, k, reader, support, max_new_tokens=max_new_tokens, template=READ,
        words=words, temperature=0.1, top_p=0.9, seed=seed,
    )  # fmt: skip
    return clear, sticky, answers


def effects(
    name: str, clear: pd.DataFrame, sticky: pd.DataFrame, answers: pd.DataFrame, scorer: str
) -> dict[str, np.ndarray]:  # fmt: skip
    """The effects of one question set, numbers by text: gains and rank correlations over chunkers of clarity (C1) and
    stickiness (C8) with the answers, differences of answers (C3, C4), of clarity (C2) and of information support (C7),
    and how that goes with the answers (C6)."""
    outcome, bc, cp = MEASURE.get(name, "ROUGE-L"), f"BC nll, {scorer}", f"CP, {scorer}"
    scored = answers[answers["chunker"] != "no passages"]
    means, rated = study.averaged(clear.assign(length=0)), study.averaged(scored.assign(length=0))
    ranked = functools.partial(study.over_chunkers, quality=rated, outcome=outcome, leave_out=study.BESIDE)
    found = {f"{name}: CP and answers, concordance": study.concordance(scored, cp, outcome).to_numpy()}
    for form, statistic in (("gain", study.gain), ("rank", spearman)):
        clarity, far = (
            ranked(means, measure=column, statistic=statistic).to_numpy() for column in (bc, "dissimilarity")
        )
        found |= {f"{name}: {form} of BC": clarity, f"{name}: {form} of BC minus dissimilarity": clarity - far}
        for convention, part in sticky.groupby("convention"):
            own = ranked(part.assign(length=0), measure="cs", statistic=statistic)
            found[f"{name}: {form} of {convention}"] = own.to_numpy()
    rules = ("fixed", "packing", "semantic")
    wanted = [*(("answers", scored, outcome, "single", each) for each in (*rules, "LumberChunker")),
              ("answers", scored, outcome, "mixture", "single"),
              ("BC", clear, bc, "packing", "semantic"),
              *(("CP", scored, cp, each, "single") for each in rules)]  # fmt: skip
    found[f"{name}: BC, semantic over fixed, less half of packing's"] = study.beyond_half(clear, bc).to_numpy()
    for what, frame, column, a, b in wanted:
        if {a, b} <= set(frame["chunker"]):
            pair = study.paired(frame, column, a, b)
            found[f"{name}: {what}, {a} minus {b}"] = (pair["a"] - pair["b"]).to_numpy()
    return found

"""More Documents, Same Length (arXiv 2503.04388): sets of fewer, longer documents at the same total length."""

from reprobook.papers.more_documents.lm_reader import (
    Reading,
    branches,
    messages,
    prompt_text,
    read_with_json,
    read_with_margin,
)
from reprobook.papers.more_documents.planted import (
    RELATIONS,
    Article,
    Names,
    Text,
    TokenizerSpans,
    articles,
    candidates,
    distractor_pool,
    invented_names,
    king_james,
    make_questions,
    name_pools,
    wikipedia,
    word_spans,
)
from reprobook.papers.more_documents.readers import bm25, facts_in, look_alikes, oracle, position_only, soft_attention
from reprobook.papers.more_documents.scoring import Answer, f1, four_scores, normalised_tokens, parse_answer
from reprobook.papers.more_documents.sets import (
    BuiltSet,
    Document,
    Instance,
    Page,
    TooShortError,
    around,
    audit,
    build_set,
    equal_extension,
    from_page_start,
    gap_extension,
    page,
    replace_distractors,
    retained,
    splice,
    supporting_only,
)

__all__ = [
    "RELATIONS", "Answer", "Article", "BuiltSet", "Document", "Instance", "Names", "Page", "Reading", "Text",
    "TokenizerSpans", "TooShortError", "around", "articles", "audit", "bm25", "branches", "build_set", "candidates",
    "distractor_pool", "equal_extension", "f1", "facts_in", "four_scores", "from_page_start", "gap_extension",
    "invented_names", "king_james", "look_alikes", "make_questions", "messages", "name_pools", "normalised_tokens",
    "oracle", "page", "parse_answer", "position_only", "prompt_text", "read_with_json", "read_with_margin",
    "replace_distractors", "retained", "soft_attention", "splice", "supporting_only", "wikipedia", "word_spans",
]  # fmt: skip

"""Cost-optimal grouped-query attention: heads and model size chosen together for a context length (arXiv 2503.09579).

costs: parameters, FLOPs, memory, the objective Z. laws: robust fits of loss curves. search: the three-step search.
printed: the paper's own figures as laws. planner: the reader's tool. models: `transformers` Llamas of any shape.
decode: time per token with a real cache. text: corpora. released: the published checkpoints. bench: what it saves.
"""

from reprobook.papers.cost_optimal_gqa.costs import (
    Cost,
    Heads,
    Objective,
    Shape,
    attention_flops,
    body_parameters,
    inference_cost,
    kv_values,
    parameters,
    time_variant_shares,
    training_cost,
    weight_flops,
)
from reprobook.papers.cost_optimal_gqa.decode import decode_seconds, filled_cache, line, slope_by_heads
from reprobook.papers.cost_optimal_gqa.laws import PowerLaw, crossing, fit_head_law, fit_power_law, fit_size_laws
from reprobook.papers.cost_optimal_gqa.models import (
    build,
    cache_values,
    count_parameters,
    llama_config,
    next_token_loss,
    shape_of,
    tile_kv_heads,
    token_nll,
)
from reprobook.papers.cost_optimal_gqa.planner import PRECISIONS, advice, plan
from reprobook.papers.cost_optimal_gqa.printed import (
    CONTEXT_FITS,
    HEAD_FITS,
    OptimaTable,
    Surface,
    crossings,
    llama3_rule,
    optima_array,
    printed_anchors,
    rebuild,
    through,
)
from reprobook.papers.cost_optimal_gqa.released import load_released
from reprobook.papers.cost_optimal_gqa.search import (
    REFERENCES,
    Family,
    at_equal_cost,
    best_heads,
    candidates,
    optima,
    pareto,
    rounded,
    saving,
    search,
)
from reprobook.papers.cost_optimal_gqa.text import open_corpus

__all__ = [
    "CONTEXT_FITS",
    "Cost",
    "Family",
    "HEAD_FITS",
    "Heads",
    "Objective",
    "OptimaTable",
    "PRECISIONS",
    "PowerLaw",
    "REFERENCES",
    "Shape",
    "Surface",
    "advice",
    "at_equal_cost",
    "attention_flops",
    "best_heads",
    "body_parameters",
    "build",
    "cache_values",
    "candidates",
    "count_parameters",
    "crossing",
    "crossings",
    "decode_seconds",
    "filled_cache",
    "fit_head_law",
    "fit_power_law",
    "fit_size_laws",
    "inference_cost",
    "kv_values",
    "line",
    "llama3_rule",
    "llama_config",
    "load_released",
    "next_token_loss",
    "open_corpus",
    "optima",
    "optima_array",
    "parameters",
    "pareto",
    "plan",
    "printed_anchors",
    "rebuild",
    "rounded",
    "saving",
    "search",
    "shape_of",
    "slope_by_heads",
    "through",
    "tile_kv_heads",
    "time_variant_shares",
    "token_nll",
    "training_cost",
    "weight_flops",
]

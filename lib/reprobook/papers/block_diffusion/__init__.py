"""Block Diffusion (BD3-LM): autoregressive over blocks of tokens, masked diffusion inside a block (arXiv 2503.09573).

noise: mask rates, times, intervals. model: DiT, three-part mask, one and two passes. objectives: losses, bounds,
search. sampling: block, ancestral, AR and SEDD samplers, stop rules. source: a text source with known likelihood.
corpus: text as rows of tokens. released: the published checkpoints. bench: what the paper makes cheap, measured.
"""

from reprobook.papers.block_diffusion.corpus import (
    ZERO_SHOT,
    gpt2_tokenizer,
    markov_corpus,
    open_corpus,
    openwebtext_validation,
    zero_shot_rows,
)
from reprobook.papers.block_diffusion.model import DiT, one_pass_logits, rotary, training_mask, two_pass_logits
from reprobook.papers.block_diffusion.noise import (
    EPS,
    SCHEDULES,
    NoiseProcess,
    candidate_intervals,
    constant_loss_variance,
    stratified_times,
)
from reprobook.papers.block_diffusion.objectives import (
    ar_nll,
    ar_terms,
    clipped_loss,
    diffusion_loss,
    diffusion_terms,
    exact_nelbo,
    interval_search,
    interval_variances,
    masked_nll,
    nelbo,
    per_token,
    score_entropy_terms,
    search_interval,
    sedd_bound,
    subs_log_probs,
    thinned_ar_loss,
)
from reprobook.papers.block_diffusion.released import (
    generative_perplexity,
    likelihood,
    load_released,
    open_judge,
    sample_released,
)
from reprobook.papers.block_diffusion.sampling import (
    first_hitting_block,
    sample_ar,
    sample_blocks,
    sample_sedd,
    sample_strided,
    stop_position,
)
from reprobook.papers.block_diffusion.source import MarkovSource

__all__ = [
    "EPS",
    "SCHEDULES",
    "ZERO_SHOT",
    "DiT",
    "MarkovSource",
    "NoiseProcess",
    "ar_nll",
    "ar_terms",
    "candidate_intervals",
    "clipped_loss",
    "constant_loss_variance",
    "diffusion_loss",
    "diffusion_terms",
    "exact_nelbo",
    "first_hitting_block",
    "generative_perplexity",
    "gpt2_tokenizer",
    "interval_search",
    "interval_variances",
    "likelihood",
    "load_released",
    "markov_corpus",
    "masked_nll",
    "nelbo",
    "one_pass_logits",
    "open_corpus",
    "open_judge",
    "openwebtext_validation",
    "per_token",
    "rotary",
    "sample_ar",
    "sample_blocks",
    "sample_released",
    "sample_sedd",
    "sample_strided",
    "score_entropy_terms",
    "search_interval",
    "sedd_bound",
    "stop_position",
    "stratified_times",
    "subs_log_probs",
    "thinned_ar_loss",
    "training_mask",
    "two_pass_logits",
    "zero_shot_rows",
]

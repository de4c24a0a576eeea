"""Monte Carlo Diffusion for generalizable learned RANSAC (arXiv 2503.09410).

diffusion: the training data. network, training: NG-RANSAC's network and two stages. geometry, problems, ransac: models,
minimal solvers, guided sampling. pairs, scenes, matching: image pairs, synthetic and real matches. evaluation, peers:
AUC, comparisons, library estimators. two_view_sets, miniature, released, needs: ScanNet, MegaDepth and their matchers
at paper scale. pictures: drawings. bench: what is fast.
"""

from reprobook.papers.mc_diffusion_ransac import (
    evaluation,
    geometry,
    matching,
    miniature,
    peers,
    pictures,
    ransac,
    released,
    scenes,
    two_view_sets,
)
from reprobook.papers.mc_diffusion_ransac.diffusion import (
    Msr,
    alpha_bar,
    beta_schedule,
    diffuse,
    diffuse_steps,
    msr_sample,
    resample_outside,
)
from reprobook.papers.mc_diffusion_ransac.evaluation import areas, evaluate, gain, probabilities, summary
from reprobook.papers.mc_diffusion_ransac.needs import paper_needs
from reprobook.papers.mc_diffusion_ransac.network import Block, CNNet, kl_target, log_probabilities, n_parameters
from reprobook.papers.mc_diffusion_ransac.problems import ESSENTIAL, FUNDAMENTAL, HOMOGRAPHY
from reprobook.papers.mc_diffusion_ransac.training import (
    batches,
    matcher_source,
    mcd_source,
    mixture_source,
    network_input,
    policy_gradient,
    stage1_loss,
    stage2_loss,
    true_correspondences,
)

__all__ = [
    "ESSENTIAL",
    "FUNDAMENTAL",
    "HOMOGRAPHY",
    "Block",
    "CNNet",
    "Msr",
    "alpha_bar",
    "areas",
    "batches",
    "beta_schedule",
    "diffuse",
    "diffuse_steps",
    "evaluate",
    "evaluation",
    "gain",
    "geometry",
    "kl_target",
    "log_probabilities",
    "matcher_source",
    "matching",
    "mcd_source",
    "miniature",
    "mixture_source",
    "msr_sample",
    "n_parameters",
    "network_input",
    "paper_needs",
    "peers",
    "pictures",
    "policy_gradient",
    "probabilities",
    "ransac",
    "released",
    "resample_outside",
    "scenes",
    "stage1_loss",
    "stage2_loss",
    "summary",
    "true_correspondences",
    "two_view_sets",
]

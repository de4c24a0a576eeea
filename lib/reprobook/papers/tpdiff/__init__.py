"""TPDiff: video diffusion through a temporal pyramid (arXiv 2503.09566).

schedule: diffusion paths. pyramid: stages, targets, alignment, renoising. sampling: through the stages. naive: the
control of C6. gaussian: video whose best denoiser is known. video: clips. network: diffusers' networks, told the stage.
training: loss, batches. judging: distances, motion, flicker. pictures: sheets, animation. costs, bench: what is saved.
openvid, released, needs: public video models at paper scale.
"""

from reprobook.metrics.frechet import frechet, frechet_gap
from reprobook.papers.tpdiff import gaussian, naive, openvid, pictures, pyramid, sampling
from reprobook.papers.tpdiff.costs import predicted_speedup, relative_cost
from reprobook.papers.tpdiff.judging import (
    ClipClassifier,
    change,
    classifier_loss,
    judder,
    pca_features,
    recognised,
    seconds_to,
    trajectory_error,
)
from reprobook.papers.tpdiff.needs import paper_needs
from reprobook.papers.tpdiff.network import StageNetwork, StridedRope, small_wan, stage_time
from reprobook.papers.tpdiff.pyramid import align_noise, diffuse, draw_times, junction, renoise, stage_ends, stages
from reprobook.papers.tpdiff.released import BASES, batches, open_base, prepare, read_batch, write_video
from reprobook.papers.tpdiff.sampling import sample, split_steps, step
from reprobook.papers.tpdiff.schedule import FlowMatching, VariancePreserving
from reprobook.papers.tpdiff.training import keep_weights, kept_weights, predictor, pyramid_loss, stage_of_step
from reprobook.papers.tpdiff.video import Clips, moving_digits, read_digits, real_clips

__all__ = [
    "BASES",
    "ClipClassifier",
    "Clips",
    "FlowMatching",
    "StageNetwork",
    "StridedRope",
    "VariancePreserving",
    "align_noise",
    "batches",
    "change",
    "classifier_loss",
    "diffuse",
    "draw_times",
    "frechet",
    "frechet_gap",
    "gaussian",
    "judder",
    "junction",
    "keep_weights",
    "kept_weights",
    "moving_digits",
    "naive",
    "open_base",
    "openvid",
    "paper_needs",
    "pca_features",
    "pictures",
    "predicted_speedup",
    "predictor",
    "prepare",
    "pyramid",
    "pyramid_loss",
    "read_batch",
    "read_digits",
    "real_clips",
    "recognised",
    "relative_cost",
    "renoise",
    "sample",
    "sampling",
    "seconds_to",
    "small_wan",
    "split_steps",
    "stage_ends",
    "stage_of_step",
    "stage_time",
    "stages",
    "step",
    "trajectory_error",
    "write_video",
]

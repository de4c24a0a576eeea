"""TPDiff: video diffusion through a temporal pyramid (arXiv 2503.09566).

schedule: diffusion paths. pyramid: stages, targets, alignment, renoising. sampling: through the stages. gaussian: video
whose best denoiser is known. costs: what the pyramid saves.
"""

"""Monte Carlo Diffusion for generalizable learned RANSAC (arXiv 2503.09410).

diffusion: the training data. network, training: NG-RANSAC's network and two stages. geometry, problems, ransac: models,
minimal solvers, guided sampling. pairs, scenes, matching: image pairs, synthetic and real matches. evaluation, peers:
AUC, comparisons, library estimators. two_view_sets, released, needs: ScanNet, MegaDepth and their matchers at paper
scale. pictures: drawings. bench: what is fast.
"""

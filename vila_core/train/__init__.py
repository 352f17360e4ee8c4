"""Training: one loop for every stage, two engines, resumable checkpoints.

Import from the modules (`vila_core.train.config`, `vila_core.train.loop`, …): `config` is light,
the others need torch.
"""

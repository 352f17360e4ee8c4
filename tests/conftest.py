"""Settings for every test: one thread, no network, nothing of the user's own store or account."""

from __future__ import annotations

import os

os.environ.update(
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="offline",
    DS_ACCELERATOR="cpu",
    COLUMNS="80",
)
os.environ.pop("VILA_STORE", None)

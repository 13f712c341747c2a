"""Smooth random maps with a darker spot in the cases: what a classifier should find."""

import numpy as np
import torch
from torch.nn import functional

from models.bank import ImageBank
from models.training import Split, TrainingData
from models.training_config import preset

N_TRAINING, N_VALIDATION = 96, 64
SIZE = 64
CONFIG = preset("demo", "oa").changed(
    max_epochs=4, patience=4, batch_size=16, precision="float32", learning_rate=2e-3
)
"""A narrow ResNet-18 that learns this in seconds."""


def planted_data(seed: int = 1, effect: float = 90.0) -> TrainingData:
    rng = np.random.default_rng(seed)
    n = N_TRAINING + N_VALIDATION
    coarse = torch.tensor(rng.normal(size=(n, 5, 6, 6)), dtype=torch.float32)
    maps = 128 + 35 * functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic")
    is_case = rng.random(n) < 0.4
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    spot = torch.exp(-((rows - 24) ** 2 + (columns - 40) ** 2) / 2 / 7**2)
    maps -= effect * torch.tensor(is_case)[:, None, None, None] * spot
    names = tuple(f"{1_000_000 + i}_RIGHT_V00" for i in range(n))
    bank = ImageBank("femur", names, maps.clamp(0, 255).to(torch.uint8))
    place = np.arange(n)
    return TrainingData(
        bank,
        "thickness",
        Split(place[:N_TRAINING], is_case[:N_TRAINING]),
        Split(place[N_TRAINING:], is_case[N_TRAINING:]),
    )

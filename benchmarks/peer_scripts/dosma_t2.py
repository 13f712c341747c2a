"""DOSMA's CurveFitter on T2 decays, three parameters; run by benchmarks.peers.

Reads signals (n_voxel, n_echo), echo_times_ms (n_echo,) and start (n_voxel, 3) of S0, T2, C; writes
found (n_voxel, 3) and cpu_seconds.
"""

import sys
import time
from pathlib import Path

import numpy as np
from dosma.core.fitting import CurveFitter
from dosma.core.med_volume import MedicalVolume


def decay(te, s0, t2, offset):
    return s0 * np.exp(-te / t2) + offset


def fit(signals, times, start):
    volumes = [MedicalVolume(echo[:, None, None], np.eye(4)) for echo in signals.T]
    first = {
        name: MedicalVolume(values[:, None, None], np.eye(4))
        for name, values in zip(("s0", "t2", "offset"), start.T, strict=True)
    }
    fitter = CurveFitter(decay, p0=first, r2_threshold=0, nan_to_num=None)
    return fitter.fit(times, volumes)[0]


folder = Path(sys.argv[1])
signals, times, start = (
    np.load(folder / f"{name}.npy") for name in ("signals", "echo_times_ms", "start")
)
fit(signals[:20], times, start[:20])
began = time.process_time()
maps = fit(signals, times, start)
np.save(folder / "cpu_seconds.npy", time.process_time() - began)
np.save(folder / "found.npy", maps.A.reshape(-1, 3))

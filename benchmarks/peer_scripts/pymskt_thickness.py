"""pymskt's cartilage thickness on the bones of one label; run by benchmarks.peers.

Reads label_path (a string) and bones (n, 4): a bone label, then cartilage labels, -1 for none.
Writes mean_mm (n,) over covered vertices, cpu_seconds and peak_bytes.
"""

import contextlib
import io
import resource
import sys
import time
from pathlib import Path

import numpy as np
from pymskt.mesh import BoneMesh

folder = Path(sys.argv[1])
label = str(np.load(folder / "label_path.npy"))
began = time.process_time()
means = []
for row in np.load(folder / "bones.npy"):
    bone = BoneMesh(
        path_seg_image=label,
        label_idx=int(row[0]),
        list_cartilage_labels=[int(value) for value in row[1:] if value >= 0],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        bone.create_mesh()
        bone.calc_cartilage_thickness()
    thickness = np.asarray(bone.get_scalar("thickness (mm)"))
    means.append(thickness[thickness > 0].mean())
np.save(folder / "mean_mm.npy", np.array(means))
np.save(folder / "cpu_seconds.npy", time.process_time() - began)
np.save(folder / "peak_bytes.npy", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

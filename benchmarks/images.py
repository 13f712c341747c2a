"""Drawing maps, storing their 8-bit planes and reading a bank: CPU seconds per knee and bone.

python -m benchmarks.images --knees 4000
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from imaging.labels import BONES, Bone
from lake.arrays import ArrayPart, Variable, read_rows, write_array_part
from models.normalization import MapRange, to_levels
from models.strategies import PLANES
from phantom.map_cohort import DrawnKnee, draw_maps
from phantom.reference_surface import reference_bone

PART = 32
N_KNEES = 4000
SEED = 3


def _planes(bone: Bone) -> tuple[np.ndarray, float, float]:
    """Planes of 32 drawn knees; CPU seconds a knee of drawing and of scaling."""
    knees = [DrawnKnee(1000001 + 37 * row, "RIGHT", "V00") for row in range(PART)]
    # Not counted: what is computed once in a process.
    draw_maps(SEED, knees[:1], bone)
    start = time.process_time()
    drawn = draw_maps(SEED, knees, bone)
    drawing = time.process_time() - start
    maps = [drawn.maps[name] for name in PLANES]
    ranges = [MapRange(float(np.nanmin(one)), float(np.nanmax(one))) for one in maps]
    start = time.process_time()
    levels = [to_levels(one, scale) for one, scale in zip(maps, ranges, strict=True)]
    scaling = time.process_time() - start
    return np.stack(levels, axis=1), drawing / PART, scaling / PART


def run(n_knees: int = N_KNEES) -> None:
    """Print the table."""
    n_part = -(-n_knees // PART)
    start = time.process_time()
    for bone in BONES:
        reference_bone(bone)
    print(f"average knee, once: {time.process_time() - start:.1f} s CPU")
    for bone in BONES:
        planes, drawing, scaling = _planes(bone)
        print(f"{bone}: drawn in {1e3 * drawing:.1f} ms, scaled in {1e3 * scaling:.1f} ms a knee")
    with tempfile.TemporaryDirectory() as folder:
        root, places = Path(folder), []
        start = time.process_time()
        for number in range(n_part):
            names = tuple(f"{1_000_000 + number * PART + row}_RIGHT_V00" for row in range(PART))
            variable = Variable(planes, ("knee", "plane", "phi", "theta"))
            part = ArrayPart("femur", names, {"planes": variable}, {}, PART)
            write_array_part(root / f"part-{number}.zarr", part)
            places += [(f"part-{number}.zarr", row) for row in range(PART)]
        writing = time.process_time() - start
        stored = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        start, wall = time.process_time(), time.perf_counter()
        bank = read_rows(root, "planes", places)
        cpu, wall = time.process_time() - start, time.perf_counter() - wall
    n, gigabytes = len(bank), bank.nbytes / 1e9
    print(f"{n} knees written: {writing:.1f} s CPU, {stored / 1e9:.2f} of {gigabytes:.2f} GB")
    print(f"{n} knees read: {cpu:.2f} s CPU, {wall:.2f} s wall, {gigabytes / cpu:.2f} GB per CPU s")

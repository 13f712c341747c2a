"""A tiny inbox: one phantom knee on a coarse grid, delivered under several names."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from imaging.label_files import write_labels
from imaging.labels import LabelVolume
from phantom.knee import knee_truth
from phantom.raster import Grid, label_volume, place_grid

COARSE = Grid((44, 150, 150), (2.4, 0.9, 0.9))


@cache
def phantom_label() -> LabelVolume:
    """Bones and cartilages of one right knee, scheme mskt."""
    truth = knee_truth(7, 1_000_001, "RIGHT", "V00")
    return label_volume(truth, place_grid(truth, COARSE), COARSE.shape)


@cache
def _label_file() -> Path:
    path = Path(mkdtemp(prefix="kneelake-test-")) / "label.nrrd"
    write_labels(phantom_label(), path)
    return path


def deliver(inbox: Path, subject_id: int, timepoint: str) -> Path:
    """A label volume as it arrives."""
    path = inbox / f"{subject_id}_RIGHT_{timepoint}.nrrd"
    inbox.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_label_file(), path)
    return path


def deliver_truncated(inbox: Path, subject_id: int, timepoint: str) -> Path:
    """A label volume whose transfer broke off."""
    path = deliver(inbox, subject_id, timepoint)
    path.write_bytes(path.read_bytes()[:5000])
    return path

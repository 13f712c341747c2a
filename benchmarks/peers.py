"""Other tools to compare with, each in a virtual environment of its own under `.venv-bench`.

They need other versions of numpy than kneelake, so they are talked to in files: arrays go in and
come out as .npy in a temporary folder.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENTS = REPOSITORY / ".venv-bench"
SCRIPTS = Path(__file__).resolve().parent / "peer_scripts"

OWN = "kneelake"
"""Not a peer: this environment, in a process of its own, so that memory is compared fairly."""

REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    # Unmaintained since 2022: these are the newest versions it still runs with.
    "dosma": (
        "dosma==0.1.2",
        "numpy==1.26.4",
        "scipy==1.13.1",
        "pandas==2.2.3",
        "matplotlib==3.8.4",
        "scikit-image==0.24.0",
        "pydicom==2.4.5",
    ),
    # nibabel is imported but not declared by it.
    "pymskt": ("mskt==0.1.22", "nibabel"),
    "nilearn": ("nilearn==0.13.1", "pyarrow"),
    "brainstat": ("brainstat==0.5.2", "pyarrow"),
    "tfce": ("tfce==0.1.0", "pyarrow"),
    # All of them and kneelake's own code run in this one environment, in one process.
    "gradcam": (
        "torch==2.13.0",
        "torchvision==0.28.0",
        "monai==1.6.1",
        "grad-cam==1.5.7",
        "captum==0.9.0",
    ),
    "glum": ("glum==3.4.1", "pyarrow"),
    "trimesh": ("trimesh==5.2.0", "scipy", "rtree"),
}


def peer_python(peer: str) -> Path:
    """The Python of a peer's environment, made on the first call (a minute or two).

    Raises:
        subprocess.CalledProcessError: the environment cannot be made, e.g. without a network.
    """
    if peer == OWN:
        return Path(sys.executable)
    environment = ENVIRONMENTS / peer
    python = environment / "bin" / "python"
    done = environment / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS[peer])
    if done.is_file() and done.read_text() == wanted:
        return python
    print(f"Making the environment of {peer} in {environment.relative_to(REPOSITORY)} ...")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", *REQUIREMENTS[peer]], check=True)
    done.write_text(wanted)
    return python


def run_peer(
    peer: str, script: str, arrays: Mapping[str, NDArray], timeout_s: float = 1800
) -> dict[str, NDArray]:
    """Run a script of `peer_scripts` in a peer's environment.

    Args:
        peer: a key of `REQUIREMENTS`.
        script: file name; it is called with the folder to read its .npy from and write to.
        arrays: what it finds, by file stem.
        timeout_s: after which it is given up.

    Returns:
        The arrays the script wrote, by file stem.
    """
    python = peer_python(peer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, array in arrays.items():
            np.save(folder / f"{stem}.npy", array)
        subprocess.run(
            [str(python), str(SCRIPTS / script), name],
            check=True,
            timeout=timeout_s,
            stdout=subprocess.DEVNULL,
        )
        return {
            file.stem: np.load(file) for file in folder.glob("*.npy") if file.stem not in arrays
        }

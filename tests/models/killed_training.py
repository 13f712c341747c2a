"""Trains and keeps its state after every epoch, to be killed by the test that starts it."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from planted_bank import CONFIG, planted_data

from models.training import train

if __name__ == "__main__":
    state = Path(sys.argv[1])

    def wait(row: object) -> None:
        # The second epoch never ends: the test kills this process in it.
        if state.is_file():
            time.sleep(600)

    train(planted_data(), CONFIG, state_file=state, on_epoch=wait)

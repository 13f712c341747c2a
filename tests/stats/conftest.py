"""Fixtures of the statistics' tests."""

import sys
from pathlib import Path

# The samples are shared between test files.
sys.path.insert(0, str(Path(__file__).parent))

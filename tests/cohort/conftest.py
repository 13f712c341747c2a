"""Make the builders importable, as the other test folders do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

"""Makes the tiny models of this folder importable by its tests and by those of other rooms."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

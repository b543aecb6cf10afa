"""Makes the small worlds of this folder importable by its tests and by those of decide."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

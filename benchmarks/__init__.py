"""How fast hrm_bench is, as ratios of things measured in turns: ``python -m benchmarks`` in the repository's root."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # for the reference implementations

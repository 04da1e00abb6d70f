"""What lies in infra/ as tests see it: the bundles' builder can be imported."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "infra" / "bundle"))
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(ROOT / "tests" / "contract"))  # what starts the stand-ins

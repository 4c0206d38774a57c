"""Where the code under test is, for tests that start processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "pipeline"
PYTHONPATH = os.pathsep.join((str(SOURCE), str(ROOT)))

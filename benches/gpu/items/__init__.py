"""One measurement a file, each a program: JSON lines on stdout, everything else on stderr."""

import sys
from pathlib import Path

# Stand-ins for what a bare machine lacks, behind everything that is installed.
sys.path.append(str(Path(__file__).parents[1] / "bare"))

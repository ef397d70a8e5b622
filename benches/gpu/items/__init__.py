"""One measurement a file, each a program: JSON lines on stdout, everything else on stderr."""

import sys

from benches.gpu.site import SITE

# What a bare machine lacks and was given: behind everything that is installed.
sys.path.append(str(SITE))

"""Host side: `python -m instar` is the command `instar`."""

import sys

from instar.vmm.cli import main

sys.exit(main())

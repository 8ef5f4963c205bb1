"""Host side: `python -m instar.vmm` is the command `instar`."""

import sys

from instar.vmm.cli import main

sys.exit(main())

"""Show the whole way of a job on this machine alone; ``scripts/demo`` starts it."""

from __future__ import annotations

import signal
import sys

# While modules load there is nothing to stop yet: Ctrl-C simply ends this, without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from play import main  # noqa: E402 - after the line above

if __name__ == "__main__":
    sys.exit(main())

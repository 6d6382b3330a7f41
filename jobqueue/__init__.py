"""Run a million calls against somebody else's API: within its limits, resumable, reversible."""

from jobqueue.version import VERSION as __version__

__all__ = ["__version__"]

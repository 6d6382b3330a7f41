"""Forward-only SQL migrations; `jobqueue.store.migrate` applies them in the order of their numbers."""

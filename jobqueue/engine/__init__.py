"""The engine: jobs are enqueued, worked on in slices, controlled, rolled back and swept."""

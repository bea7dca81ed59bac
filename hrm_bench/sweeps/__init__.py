"""Many cells, planned, run and shown."""

"""Worker processes: how they are started, run and stopped."""

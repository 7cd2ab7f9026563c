"""Training of any system: loop, checkpoints, logs, survival, sharding."""

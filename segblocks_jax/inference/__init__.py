"""Trained networks at work: the engine, exported engines, files, speed."""

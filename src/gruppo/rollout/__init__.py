"""Rollouts: the engine seam, the engines behind it, and the collecting of scored groups."""

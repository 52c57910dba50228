"""Losses of a stage's own: local heads, local losses, and how they are chosen."""

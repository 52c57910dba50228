"""Runs without rounds: each worker at its own speed, and a controller that counts."""

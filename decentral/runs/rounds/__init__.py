"""Runs of rounds: n workers in step, recorded, kept in checkpoints and resumed."""

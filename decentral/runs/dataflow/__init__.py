"""Runs of a network of nodes: a round is a pass over the training instances."""

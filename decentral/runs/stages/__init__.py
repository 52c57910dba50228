"""Runs of a network cut into stages, of one worker or of several that gossip."""

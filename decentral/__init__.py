"""A testbed and simulator for training neural networks without a centre."""

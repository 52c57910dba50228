"""Runs of a Boss and an Assistant: one trains, and one chooses what it trains on, at their own speeds."""

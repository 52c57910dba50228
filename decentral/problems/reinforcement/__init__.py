"""Reinforcement learning as an objective: environments, a replay, and the gradients of SAC and TD3 as one row."""

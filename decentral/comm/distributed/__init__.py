"""Ranks that torch.distributed joins: gloo on CPUs, NCCL on GPUs, and small values by the store that they met at.

No default process group is made, so a script may have its own beside.
"""

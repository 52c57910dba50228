"""A round in one pass over memory: what a method's step asks of torch is seen once, and compiled as one loop.

Optional: it needs ``llvmlite``, which numba (the extra ``decentral[fast]``) brings, and gives the bits of torch.
"""

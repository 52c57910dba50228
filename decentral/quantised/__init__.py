"""A trained network of few bits as one of integers alone: batch norm becomes (A x + B) >> n, and nothing changes.

Lin, Sun, Xie, Zhou, Zhang, "Optimal Quantization for Batch Normalization in Neural Network Deployments and Beyond"
(arXiv 2008.13128) have the idea, of which the arithmetic here is derived anew.
"""

from decentral.quantised.shared_shift import FixedPoint, fixed_point

__all__ = ["FixedPoint", "fixed_point"]

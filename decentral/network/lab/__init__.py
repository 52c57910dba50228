"""A cluster on one Linux machine, for real programs: nodes that are network namespaces, cards with token buckets.

Where a :class:`decentral.network.Cluster` tells a clock what links cost, a lab makes real bytes take that long.
"""

"""Speed and memory as ratios within one run: each figure beside the floor that it is measured against."""

from decentral.allocator import spin_briefly

spin_briefly()  # as `decentral run` does, before torch is there

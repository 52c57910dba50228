"""Speed and memory as ratios within one run: each figure beside the floor that it is measured against."""

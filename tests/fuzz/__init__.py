"""Broken input by the thousand: mutated files, each given to `decentral` in a process of its own, and judged."""

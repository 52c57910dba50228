"""A network cut into stages: its layers, where it is cut, and what one stage holds and computes."""

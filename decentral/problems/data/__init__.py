"""Data sets, their file formats, and how samples are dealt to workers and drawn in batches."""

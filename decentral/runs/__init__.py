"""An experiment file, its grid, each run of it, and what is left on disk; the only room that knows rank 0."""

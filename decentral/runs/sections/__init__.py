"""The tables of an experiment file as typed values; one file, one table."""

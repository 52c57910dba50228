"""What else a person can ask for on the command line: lists, checks, advice, calibration; one answer each."""

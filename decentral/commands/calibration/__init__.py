"""``decentral calibrate``: links and arithmetic of the machine at hand, measured by all ranks at once."""

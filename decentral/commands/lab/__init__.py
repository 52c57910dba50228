"""``decentral lab``: an experiment, or any command, on a cluster made on this machine for as long as it runs."""

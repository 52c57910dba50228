"""A round as the step of a torch optimizer, in a user's own script on ranks."""

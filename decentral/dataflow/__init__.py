"""Networks whose structure depends on the instance: nodes, messages between them, and workers that host them."""

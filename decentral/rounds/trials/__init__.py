"""What is told of a method by trying a round: its needs, stability, messages, fixed point and gradient step."""

"""What becomes of each message of a round on links that lose or delay it, and what is mixed then."""

"""Small pixel games, compiled."""

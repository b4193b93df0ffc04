"""Bellmark: reinforcement learning measured against Bellman."""

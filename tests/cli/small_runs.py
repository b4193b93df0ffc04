"""Flags of runs that end in a second."""

TINY = (
    "--steps=32",
    "--environments=2",
    "--rollout-length=16",
    "--hidden=8",
    "--minibatches=2",
    "--epochs=1",
    "--episodes=2",
)

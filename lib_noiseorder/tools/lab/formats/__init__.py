"""The shapes world's checkpoints in the hosts' own formats."""

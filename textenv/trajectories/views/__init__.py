"""Trajectories to look at: figures of a set, the reward-against-KL frontier, the per-token heat map."""

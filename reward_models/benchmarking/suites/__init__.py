"""What models are measured on: rated texts, label files, RewardBench files, simulated gold, a pool of samples."""

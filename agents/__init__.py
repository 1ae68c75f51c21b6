"""Policies and learners: pre-training, supervised fine-tuning, PPO."""

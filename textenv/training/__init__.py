"""What every training shares: its settings, the trainer's loop and the processes that train together."""

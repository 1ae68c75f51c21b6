"""textenv: text generation as a Gymnasium environment."""

"""Tasks of textenv in lm-eval."""

"""Short scripts and recipes, each run by the tests."""

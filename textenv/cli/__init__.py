"""The command line. It sits on top of everything, and nothing imports it."""

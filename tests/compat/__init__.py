"""Third-party clients on our environments, each in an environment of its own: ``python -m tests.compat.run``."""

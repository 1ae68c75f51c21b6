"""Over-optimisation: what happens to the true quality while a policy, or best-of-n, is pushed along a proxy."""

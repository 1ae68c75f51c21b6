"""A language model that acts: the policy, its files, and how whole sequences go through it once and exactly."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

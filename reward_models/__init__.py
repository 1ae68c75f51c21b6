"""Reward models: what they are, how they learn from human labels, and how often they agree with people."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""How good a policy is: by a reward, on tasks with answers, and on held-out prompts while it trains."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Language models under Stable-Baselines3 and sb3-contrib: stock algorithms, nothing forked.

See ``docs/bring-your-algorithm.md``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

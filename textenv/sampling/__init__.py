"""Sampling: settings, draws with exact log-probabilities, and the KV-cached slot engine.

``SamplingParams`` needs neither torch nor transformers; the rest loads on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

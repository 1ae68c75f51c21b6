"""Policies and learners: pre-training, supervised fine-tuning, PPO and the algorithms beside it.

Note that the PyPI package ``openai-agents`` installs an import package of the same name; do not install both.
"""

import lazy_loader

from textenv.sampling.params import SamplingParams

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["SamplingParams"]

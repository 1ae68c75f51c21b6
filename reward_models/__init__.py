"""Reward models: what they are, how they learn from human labels, and how often they agree with people."""

import lazy_loader

from textenv.former_places import keep_former_places

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

keep_former_places(
    {
        "reward_models.benchmarking.resampling": "textenv.statistics",
        "reward_models.labels.records": "reward_models.labels.kinds",
        "reward_models.simulation.bag": "reward_models.simulation.bag_of_words",
    }
)

"""Training reward models on human labels of every kind and mixture."""

from reward_models.training.batches import LabelBatches
from reward_models.training.config import RewardModelConfig
from reward_models.training.evaluation import evaluate, measure
from reward_models.training.fit import train

__all__ = ["LabelBatches", "RewardModelConfig", "evaluate", "measure", "train"]

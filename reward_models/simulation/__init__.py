"""Labels with a known truth: golds, raters who see them through noise, and what can be known exactly about both."""

from reward_models.simulation.ceilings import Ceilings, ceilings, choice_probabilities, rater_probabilities
from reward_models.simulation.golds import Gold, TargetLength, WordGold, gold_scores
from reward_models.simulation.people import LabellingClient, LabellingError, SimulatedPerson
from reward_models.simulation.planning import LabelPlan, plan_labels
from reward_models.simulation.raters import LikertScale, Rater, SimulatedRaters, disagreeing_raters

__all__ = [
    "Ceilings",
    "Gold",
    "LabelPlan",
    "LabellingClient",
    "LabellingError",
    "LikertScale",
    "Rater",
    "SimulatedPerson",
    "SimulatedRaters",
    "TargetLength",
    "WordGold",
    "ceilings",
    "choice_probabilities",
    "disagreeing_raters",
    "gold_scores",
    "plan_labels",
    "rater_probabilities",
]

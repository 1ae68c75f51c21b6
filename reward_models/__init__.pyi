from .base import ChatTemplate as ChatTemplate, RewardModel as RewardModel, TextTemplate as TextTemplate
from .benchmarking import BenchmarkReport as BenchmarkReport, benchmark as benchmark
from .card import write_card as write_card
from .degenerate import degenerate_ratings as degenerate_ratings
from .ensembles import (
    Clipped as Clipped,
    Ensemble as Ensemble,
    EnsembleScores as EnsembleScores,
    WeightedSum as WeightedSum,
    ZScored as ZScored,
)
from .labels import (
    BestOf as BestOf,
    Comparison as Comparison,
    LabelColumns as LabelColumns,
    Ranking as Ranking,
    Rating as Rating,
    StepLabels as StepLabels,
    comparisons_from_ratings as comparisons_from_ratings,
    ratings_from_texts as ratings_from_texts,
    read_labels as read_labels,
    split_labels as split_labels,
    to_dataset as to_dataset,
    write_labels as write_labels,
)
from .lexicon import Lexicon as Lexicon
from .loading import load_reward_model as load_reward_model, save_reward_model as save_reward_model
from .metrics import human_rater_accuracy as human_rater_accuracy, pair_accuracy as pair_accuracy
from .normalization import Normalization as Normalization
from .sequence import SequenceRewardModel as SequenceRewardModel
from .simulation import (
    LikertScale as LikertScale,
    Rater as Rater,
    SimulatedRaters as SimulatedRaters,
    WordGold as WordGold,
)
from .tfidf import TfidfRidge as TfidfRidge
from .training import RewardModelConfig as RewardModelConfig, evaluate as evaluate, train as train
from .uncertain import UncertainRewardModel as UncertainRewardModel
from .weight_averaging import average_weights as average_weights

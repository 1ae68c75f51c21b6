from .causal_policy import CausalPolicy as CausalPolicy
from .classifier import ClassifierRewardModel as ClassifierRewardModel
from .dpo import DPOReward as DPOReward
from .encoder import EncoderSimilarity as EncoderSimilarity
from .function import FunctionReward as FunctionReward
from .http import HttpReward as HttpReward
from .judge import RatingJudge as RatingJudge, TextJudge as TextJudge
from .logprobs import CausalLogprobs as CausalLogprobs
from .process import ProcessReward as ProcessReward
from .rules import (
    FormatRule as FormatRule,
    KeywordRule as KeywordRule,
    LengthRule as LengthRule,
    RegexRule as RegexRule,
)
from .scalar_head import ScalarHeadRewardModel as ScalarHeadRewardModel
from .token_process import TokenProcessRewardModel as TokenProcessRewardModel

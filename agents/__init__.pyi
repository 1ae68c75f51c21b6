import textenv.sampling.params as _params

from .algorithms.a2c import A2C as A2C, A2CConfig as A2CConfig
from .algorithms.dpo import DPO as DPO, DPOConfig as DPOConfig
from .algorithms.expert_iteration import (
    ExpertIteration as ExpertIteration,
    ExpertIterationConfig as ExpertIterationConfig,
)
from .algorithms.grpo import GRPO as GRPO, DrGRPO as DrGRPO, DrGRPOConfig as DrGRPOConfig, GRPOConfig as GRPOConfig
from .algorithms.ppo import PPO as PPO, PPOConfig as PPOConfig
from .algorithms.reinforce_pp import ReinforcePP as ReinforcePP, ReinforcePPConfig as ReinforcePPConfig
from .algorithms.rloo import RLOO as RLOO, RLOOConfig as RLOOConfig
from .policy.critic import Critic as Critic
from .evaluation.policies import Evaluation as Evaluation, evaluate_policy as evaluate_policy
from .lm.finetuning import SFTConfig as SFTConfig, sft as sft
from .policy.forward import SequenceBatch as SequenceBatch
from .lm.config import LMConfig as LMConfig
from .learning.held_out import HeldOut as HeldOut
from .learning.protocols import Agent as Agent
from .learning.recording import StoreRecorder as StoreRecorder
from .learning.trackers import Trackers as Trackers
from .policy.model import CausalLMPolicy as CausalLMPolicy
from .algorithms.preference_pairs import TokenPair as TokenPair, pairs_from_trajectories as pairs_from_trajectories
from .lm.models import ModelConfig as ModelConfig
from .lm.pretraining import PretrainConfig as PretrainConfig, pretrain as pretrain

SamplingParams = _params.SamplingParams

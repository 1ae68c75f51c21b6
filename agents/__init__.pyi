import textenv.sampling.params as _params

from .a2c import A2C as A2C, A2CConfig as A2CConfig
from .critic import Critic as Critic
from .dpo import DPO as DPO
from .dpo_objective import DPOConfig as DPOConfig
from .evaluation import Evaluation as Evaluation, evaluate_policy as evaluate_policy
from .expert_iteration import ExpertIteration as ExpertIteration, ExpertIterationConfig as ExpertIterationConfig
from .finetuning import SFTConfig as SFTConfig, sft as sft
from .forward import SequenceBatch as SequenceBatch
from .grpo import GRPO as GRPO, DrGRPO as DrGRPO, DrGRPOConfig as DrGRPOConfig, GRPOConfig as GRPOConfig
from .language_modeling import LMConfig as LMConfig
from .learning.held_out import HeldOut as HeldOut
from .learning.protocols import Agent as Agent
from .learning.recording import StoreRecorder as StoreRecorder
from .learning.trackers import Trackers as Trackers
from .policy import CausalLMPolicy as CausalLMPolicy
from .ppo import PPO as PPO, PPOConfig as PPOConfig
from .preference_pairs import TokenPair as TokenPair, pairs_from_trajectories as pairs_from_trajectories
from .pretraining import ModelConfig as ModelConfig, PretrainConfig as PretrainConfig, pretrain as pretrain
from .reinforce_pp import ReinforcePP as ReinforcePP, ReinforcePPConfig as ReinforcePPConfig
from .rloo import RLOO as RLOO, RLOOConfig as RLOOConfig

SamplingParams = _params.SamplingParams

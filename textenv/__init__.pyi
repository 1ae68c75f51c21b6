from . import (
    datasets as datasets,
    prompts as prompts,
    rewards as rewards,
    sampling as sampling,
    testing as testing,
    trajectories as trajectories,
    wrappers as wrappers,
)
from .envs.state import EnvState as EnvState
from .envs.text_generation import TextGenerationEnv as TextGenerationEnv
from .envs.vector import TextGenerationVectorEnv as TextGenerationVectorEnv
from .episode import Episode as Episode, FinishReason as FinishReason
from .errors import (
    CheckpointError as CheckpointError,
    ConfigError as ConfigError,
    DataError as DataError,
    MissingDependencyError as MissingDependencyError,
    RewardError as RewardError,
    RunCheckError as RunCheckError,
    ShapeError as ShapeError,
    TextEnvError as TextEnvError,
)
from .prompts import Prompt as Prompt, PromptList as PromptList
from .rewards import call_reward as call_reward, register_reward as register_reward

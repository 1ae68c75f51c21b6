from .options import IDLE as IDLE
from .state import EnvState as EnvState
from .task import GenerationTask as GenerationTask, TokenStep as TokenStep
from .text_generation import TextGenerationEnv as TextGenerationEnv
from .tokenizers import ToyTokenizer as ToyTokenizer
from .vector import TextGenerationVectorEnv as TextGenerationVectorEnv

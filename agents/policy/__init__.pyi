from .annotation import annotate as annotate
from .critic import Critic as Critic
from .forward import SequenceBatch as SequenceBatch
from .model import CausalLMPolicy as CausalLMPolicy, PolicyOutputs as PolicyOutputs

from .buffer import SequenceRolloutBuffer as SequenceRolloutBuffer
from .callbacks import TextLogger as TextLogger
from .kl import FrozenReference as FrozenReference, connect_kl as connect_kl
from .maskable import (
    MaskableSequenceRolloutBuffer as MaskableSequenceRolloutBuffer,
    MaskableTextPolicy as MaskableTextPolicy,
)
from .policy import TextPolicy as TextPolicy
from .vec_env import TextVecEnv as TextVecEnv, as_vec_env as as_vec_env

from .generation import generate as generate, stream as stream
from .methods import (
    BeamSearch as BeamSearch,
    BestOfN as BestOfN,
    BranchingTree as BranchingTree,
    Cost as Cost,
    MethodResult as MethodResult,
    PowerSampling as PowerSampling,
    RejectionSampling as RejectionSampling,
    SequentialMonteCarlo as SequentialMonteCarlo,
    Vine as Vine,
    prefix_returns as prefix_returns,
)
from .next_token import CachedLogprobs as CachedLogprobs
from .params import SamplingParams as SamplingParams
from .sampler import Draw as Draw, draw as draw, trajectory_uniforms as trajectory_uniforms
from .slots import SlotEngine as SlotEngine

"""Sampling methods behind one interface: ``method.sample(policy, prompts, score, seed=…, params=…)``.

Each is a frozen dataclass of its settings. Each reports what it spent (:class:`Cost`), so that methods can be compared
at equal cost, and what it knows beside its answers (``MethodResult.details``). Everything random about a prompt depends
on the seed and the prompt's number alone.
"""

from textenv.sampling.methods.base import Cost, MethodResult, SamplingMethod
from textenv.sampling.methods.beam import BeamDetail, BeamSearch
from textenv.sampling.methods.best_of_n import BestOfN, BestOfNDetail
from textenv.sampling.methods.power import PowerDetail, PowerSampling
from textenv.sampling.methods.rejection import RejectionDetail, RejectionSampling
from textenv.sampling.methods.smc import PrefixValues, SequentialMonteCarlo, SMCDetail, effective_sizes, systematic
from textenv.sampling.methods.tree import BranchingTree, TreeDetail
from textenv.sampling.methods.vine import Vine, VineDetail, prefix_returns

__all__ = [
    "BeamDetail",
    "BeamSearch",
    "BestOfN",
    "BestOfNDetail",
    "BranchingTree",
    "Cost",
    "MethodResult",
    "PowerDetail",
    "PowerSampling",
    "PrefixValues",
    "RejectionDetail",
    "RejectionSampling",
    "SMCDetail",
    "SamplingMethod",
    "SequentialMonteCarlo",
    "TreeDetail",
    "Vine",
    "VineDetail",
    "effective_sizes",
    "prefix_returns",
    "systematic",
]

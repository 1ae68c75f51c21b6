"""Policies and learners: pre-training, supervised fine-tuning, PPO and the algorithms beside it.

Note that the PyPI package ``openai-agents`` installs an import package of the same name; do not install both.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import lazy_loader

from textenv.sampling.params import SamplingParams

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["SamplingParams"]

_FORMER_PLACES = {
    "agents.critic": "agents.policy.critic",
    "agents.documents": "agents.policy.varlen_attention",
    "agents.finetuning": "agents.lm.finetuning",
    "agents.forward": "agents.policy.forward",
    "agents.language_modeling": "agents.lm.in_memory",
    "agents.learning.held_out": "agents.evaluation.held_out",
    "agents.learning.sharding": "agents.policy.sharding",
    "agents.lora": "agents.policy.lora",
    "agents.policy_files": "agents.policy.files",
    "agents.preference_pairs": "agents.algorithms.preference_pairs",
    "agents.pretraining": "agents.lm.pretraining",
    "agents.rollouts": "agents.learning.rollouts",
    "agents.scoring": "agents.policy.annotation",
    "agents.task_evaluation": "agents.evaluation.tasks",
    "agents.token_scores": "agents.policy.token_logprobs",
    "agents.trunks": "agents.policy.trunks",
}


class _FormerPlace(ModuleType):
    """A module under its former name, which goes with the next version; nothing is loaded before it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what looks through all modules wants nothing loaded
            raise AttributeError(name)
        return getattr(import_module(_FORMER_PLACES[self.__name__]), name)


for _former in _FORMER_PLACES:
    sys.modules[_former] = globals()[_former.removeprefix("agents.")] = _FormerPlace(_former)

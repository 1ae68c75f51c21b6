"""Policies and learners: pre-training, supervised fine-tuning, PPO and the algorithms beside it.

Note that the PyPI package ``openai-agents`` installs an import package of the same name; do not install both.
"""

import lazy_loader

from textenv.former_places import keep_former_places
from textenv.sampling.params import SamplingParams

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["SamplingParams"]

keep_former_places(
    {
        "agents.algorithms.advantages": "agents.formulas.advantages",
        "agents.algorithms.kl": "textenv.kl",
        "agents.algorithms.losses": "agents.formulas.losses",
        "agents.critic": "agents.policy.critic",
        "agents.documents": "agents.policy.varlen_attention",
        "agents.finetuning": "agents.lm.finetuning",
        "agents.forward": "agents.policy.forward",
        "agents.language_modeling": "agents.lm.in_memory",
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
)

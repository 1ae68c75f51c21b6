"""What every learner shares: rollout → scored experience → update → metrics → checkpoint.

An algorithm is a configuration, an advantage estimator and a loss, all plain functions: ``agents/algorithms/ppo.py``.
"""

"""A conformance kit for reinforcement-learning algorithms of one's own.

>>> from textenv.testing import check_agent
>>> report = check_agent(make_my_agent)  # doctest: +SKIP
>>> print(report)  # doctest: +SKIP
"""

from textenv.testing.conformance import check_agent
from textenv.testing.problems import CheckableAgent, Problem, policy_table
from textenv.testing.report import AgentReport, Check

__all__ = ["AgentReport", "Check", "CheckableAgent", "Problem", "check_agent", "policy_table"]

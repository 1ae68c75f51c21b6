"""The benchmark of reward models: suites, measures, over-optimisation and the report.

``reward_models.benchmark(models, suites)`` is the entry; the parts are for those who bring data of their own.
"""

from reward_models.benchmarking.data import Choice, Pairs, SuiteData
from reward_models.benchmarking.result import BenchmarkReport
from reward_models.benchmarking.run import DEFAULT_SUITES, benchmark
from reward_models.benchmarking.suites.labels import file_suite, labels_suite
from reward_models.benchmarking.suites.pool import PoolSuite, generator_pool
from reward_models.benchmarking.suites.ratings import builtin_suites, human_suites, ratings_suite
from reward_models.benchmarking.suites.rewardbench import rewardbench_suite
from reward_models.benchmarking.suites.simulated import simulated_suite

__all__ = [
    "DEFAULT_SUITES",
    "BenchmarkReport",
    "Choice",
    "Pairs",
    "PoolSuite",
    "SuiteData",
    "benchmark",
    "builtin_suites",
    "file_suite",
    "generator_pool",
    "human_suites",
    "labels_suite",
    "ratings_suite",
    "rewardbench_suite",
    "simulated_suite",
]

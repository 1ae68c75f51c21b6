"""Freed memory stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

GLIBC = platform.libc_ver()[0] == "glibc"
SCRIPT = """
import resource, sys
from textenv.memory import keep_freed_memory
print(keep_freed_memory())
for _ in range(3):
    bytearray(200_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    bytearray(200_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment):
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(not GLIBC, reason="glibc only")
def test_freed_memory_is_used_again_without_asking_the_system():
    assert faults(TEXTENV_KEEP_MEMORY="0")[0] is False
    kept, count = faults()
    assert kept
    assert count < 1000

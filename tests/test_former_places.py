"""Modules that moved are found where they were, for one version."""

import pickle
import sys

import pytest

import agents  # noqa: F401  # the tables stand in the packages' faces
import reward_models  # noqa: F401
from textenv import former_places
from textenv.trajectory import Trajectory

FORMER = {name: module for name, module in sys.modules.items() if type(module).__name__ == "_FormerPlace"}


@pytest.mark.parametrize("name", sorted(FORMER))
def test_former_name_gives_what_stands_there_now(name: str):
    __import__(FORMER[name]._place)
    now = sys.modules[FORMER[name]._place]
    public = [key for key in vars(now) if not key.startswith("_")]
    assert public
    assert all(getattr(FORMER[name], key) is getattr(now, key) for key in public)


def test_all_three_ways_of_importing_work():
    import agents.trunks  # pyright: ignore[reportMissingImports]
    from agents.trunks import decoder_layers  # pyright: ignore[reportMissingImports]

    from agents.learning import sharding  # pyright: ignore[reportAttributeAccessIssue]  # gone from there

    assert agents.trunks.decoder_layers is decoder_layers
    assert decoder_layers.__module__ == "agents.policy.trunks"
    assert sharding.wanted.__module__ == "agents.policy.sharding"


def test_a_pickle_that_names_a_former_place_is_read():
    written = pickle.dumps(Trajectory, protocol=0).replace(b"textenv.trajectory", b"textenv.trajectories.trajectory")
    assert pickle.loads(written) is Trajectory


def test_a_name_that_is_nowhere_is_missing():
    with pytest.raises(AttributeError):
        _ = former_places._FormerPlace("old", "textenv.kl").nothing

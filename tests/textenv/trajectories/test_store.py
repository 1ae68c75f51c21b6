from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.textenv.trajectories.helpers import assert_same, make, make_full
from textenv.errors import ConfigError, DataError
from textenv.trajectories import Trajectory, TrajectoryReader, TrajectoryStore, schema

ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path) -> TrajectoryStore:
    return TrajectoryStore(tmp_path / "store")


# --- round trips ------------------------------------------------------------------------------------------------------


def test_every_field_reads_back(store: TrajectoryStore):
    full, plain = make_full(), make()
    store.append([full, plain])
    assert_same(full, store[0])
    assert_same(plain, store[1])


def test_unset_fields_stay_none_and_zero_stays_zero(store: TrajectoryStore):
    store.append([make(), make(score=0.0, values=np.zeros(3, np.float32), loss_weight=0.0)])
    unknown, zero = store.load()
    for name in ("values", "score", "ref_logprobs", "action_mask", "loss_weight", "advantages", "score_parts"):
        assert getattr(unknown, name) is None
    assert (zero.score, zero.loss_weight) == (0.0, 0.0)
    np.testing.assert_array_equal(zero.values, np.zeros(3))  # pyright: ignore[reportArgumentType]


def test_empty_answers_and_prompts_read_back(store: TrajectoryStore):
    empty = make(0, response="", values=np.zeros(0, np.float32), prompt="", prompt_ids=np.zeros(0, np.int64))
    store.append([empty, make(2)])
    assert_same(empty, store[0])
    assert len(store[1]) == 2


def test_unknown_draws_read_back_as_nan(store: TrajectoryStore):
    unknown = np.full(3, np.nan, np.float32)
    store.append([make(behaviour_logprobs=unknown, logprobs=unknown, source="demonstration"), make()])
    first, second = store.load()
    assert np.isnan(first.behaviour_logprobs).all()
    assert np.isnan(first.logprobs).all()
    assert not first.knows_behaviour
    assert second.knows_behaviour


def test_equal_log_probs_are_stored_once(store: TrajectoryStore):
    store.append([make(), make(seed=1, behaviour_logprobs=np.full(3, -1, np.float32))])
    raw = pq.read_table(store.parts()[0].path, columns=["behaviour_logprobs", "behaviour_is_policy"]).to_pylist()
    assert raw[0] == {"behaviour_logprobs": None, "behaviour_is_policy": True}
    assert raw[1] == {"behaviour_logprobs": [-1.0] * 3, "behaviour_is_policy": False}
    drawn = store.columns(["behaviour_logprobs"]).ragged("behaviour_logprobs")
    np.testing.assert_array_equal(drawn[0], make().logprobs)
    np.testing.assert_array_equal(drawn[1], [-1.0] * 3)


def test_nothing_appended_commits_nothing(store: TrajectoryStore):
    assert store.append([]) == []
    assert (len(store), store.parts(), list(store), store.num_tokens()) == (0, [], [], 0)


def test_ids_are_given_where_there_are_none_and_unique(store: TrajectoryStore):
    named, unnamed = make(traj_id="a"), make()
    ids = store.append([named, unnamed]) + store.append([make(), make()])
    assert ids[0] == "a"
    assert unnamed.traj_id == ids[1]
    assert len(set(ids)) == 4
    assert [t.traj_id for t in store] == ids


# --- refused records --------------------------------------------------------------------------------------------------

_NAN = np.array([0.5, np.nan, 0.5], np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": _NAN}, "trajectory 1: `values` is nan at answer token 1; leave the field None"),
        ({"behaviour_logprobs": -_NAN}, "`behaviour_logprobs` is nan at answer token 1; it must be finite"),
        ({"behaviour_logprobs": np.full(3, -np.inf)}, "`behaviour_logprobs` is -inf at answer token 0"),
        ({"logprobs": np.full(3, 0.5)}, "log-probabilities are at most 0"),
        ({"advantages": np.zeros(2)}, r"`advantages` has shape \(2,\), expected \(3,\) as `token_ids`"),
        ({"score": float("nan")}, "`score` is nan; leave it None"),
        ({"last_value": float("inf")}, "`last_value` is inf"),
        ({"finish_reason": "bored"}, "`finish_reason` must be one of eos, stop, length, aborted, got 'bored'"),
        ({"token_ids": np.array([0.5, 1, 2])}, "`token_ids` must hold integers, got float64"),
        ({"token_ids": np.array([0, 1, -1])}, "`token_ids` must lie in 0"),
        ({"prompt_ids": np.array([2**31])}, "`prompt_ids` must lie in 0"),
        ({"score_parts": {"a": float("nan")}}, r"`score_parts\['a'\]` is nan"),
        ({"reward_parts": {"a": np.zeros(1)}}, r"`reward_parts\['a'\]` has shape \(1,\)"),
        ({"extra": {"f": object()}}, "`extra` must be JSON-able"),
        ({"extra": {"f": float("nan")}}, "`extra` must be JSON-able"),
    ],
)
def test_inconsistent_records_are_refused_and_nothing_is_written(store: TrajectoryStore, changes, message):
    with pytest.raises(DataError, match=message):
        store.append([make(), make(**changes)])
    assert store.parts() == []
    assert list(store.path.glob(".writing*")) == []


def test_impossible_reference_tokens_may_be_minus_infinity(store: TrajectoryStore):
    store.append([make(ref_logprobs=np.array([-1, -np.inf, -2], np.float32))])
    ref = store[0].ref_logprobs
    assert ref is not None
    assert ref.tolist() == [-1, -np.inf, -2]


# --- foreign and newer ------------------------------------------------------------------------------------------------


def test_missing_store_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="nowhere: there is no trajectory store; `textenv sample`"):
        TrajectoryReader(tmp_path / "nowhere")
    with pytest.raises(DataError, match="there is no trajectory store"):
        TrajectoryStore(tmp_path / "nowhere", create=False)


def test_files_and_foreign_folders_are_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("x")
    with pytest.raises(DataError, match="a trajectory store is a folder, this is a file"):
        TrajectoryStore(tmp_path / "file")
    with pytest.raises(DataError, match=r"holds other files and no store\.json; name a new or an empty folder"):
        TrajectoryStore(tmp_path / "other")
    with pytest.raises(DataError, match="not a trajectory store"):
        TrajectoryReader(tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": "textenv.trajectories", "schema_version": 99}', "schema version 99 by a newer textenv.*upgrade"),
        ('{"format": "something", "schema_version": 1}', "the folder holds `something`"),
        ('{"schema_version": 1}', "not the description of a trajectory store"),
        ("{", "not the description of a trajectory store"),
    ],
)
def test_newer_and_foreign_descriptions_are_refused_for_reading_and_writing(store, content, message):
    store.append([make()])
    (store.path / "store.json").write_text(content)
    for use in (lambda: TrajectoryReader(store.path), lambda: store.append([make()]), store.load):
        with pytest.raises(DataError, match=message):
            use()


def test_part_of_a_newer_version_is_named(store: TrajectoryStore):
    store.append([make()])
    table = schema.to_table([make()]).replace_schema_metadata({schema.VERSION_KEY: b"2"})
    pq.write_table(table, store.path / "part-00000002-ab.parquet")
    with pytest.raises(DataError, match=r"part-00000002-ab\.parquet: written with schema version 2 by a newer textenv"):
        len(store)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"x": [1]}), "no trajectory store wrote this file; move it out"),
        (
            pa.table({"x": [1]}).replace_schema_metadata({schema.VERSION_KEY: b"1"}),
            r"the column `x` \(int64\) does not",
        ),
    ],
)
def test_foreign_parquet_files_are_named(store: TrajectoryStore, table, message):
    pq.write_table(table, store.path / "foreign.parquet")
    with pytest.raises(DataError, match=message):
        store.load()


def test_damaged_files_are_named(store: TrajectoryStore):
    store.append([make(200, seed=i) for i in range(50)])
    path = store.parts()[0].path
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a file is damaged.*move it out"):
        TrajectoryReader(store.path).load()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"part-00000001-\w+\.parquet: not a readable Parquet file"):
        TrajectoryReader(store.path).load()


def test_files_of_an_older_writer_without_a_column_read_as_unknown(store: TrajectoryStore):
    table = schema.to_table([make(score=1.0)]).drop_columns(["exact_kl", "score", "provenance"])
    pq.write_table(table, store.path / "part-00000001-00.parquet")
    assert store[0].score is None
    assert store[0].exact_kl is None
    assert store[0].provenance == {}


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ten(store: TrajectoryStore) -> TrajectoryStore:
    for part in ([0, 1, 2], [3], [4, 5, 6, 7, 8, 9]):
        store.append([
            make(
                i,
                seed=i,
                score=None if i == 5 else i / 2,
                policy_version=i // 4,
                finish_reason=("eos", "length")[i % 2],
            )
            for i in part
        ])  # fmt: skip
    return store


def seeds(found) -> list[int | None]:
    return [t.seed for t in found]


def test_slices_and_indices_follow_the_order_of_commits(ten: TrajectoryStore):
    rows = list(range(10))
    assert seeds(ten) == rows
    for cut in (slice(2, 5), slice(3, None), slice(-3, None), slice(0, 0), slice(8, 3), slice(4, 99)):
        assert seeds(ten[cut]) == rows[cut]
        assert len(ten[cut]) == len(rows[cut])
    assert (ten[0].seed, ten[-1].seed, ten[3].seed, ten[2:][1:4][-1].seed) == (0, 9, 3, 5)
    with pytest.raises(IndexError, match="there is no trajectory 10; there are 10"):
        _ = ten[10]
    with pytest.raises(ConfigError, match="have no step"):
        _ = ten[::2]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"finish_reason": "eos"}, [0, 2, 4, 6, 8]),
        ({"seed": [1, 7, 99]}, [1, 7]),
        ({"score": (1.0, 3.0)}, [2, 3, 4, 6]),
        ({"score": (None, 0.5)}, [0, 1]),
        ({"score": None}, [5]),
        ({"policy_version": 1, "finish_reason": "length"}, [5, 7]),
        (pc.field("score") > 4, [9]),
    ],
)
def test_filters_select_rows(ten: TrajectoryStore, condition, expected):
    found = ten.where(condition)
    assert seeds(found) == expected
    assert len(found) == len(expected)
    assert seeds(found[1:]) == expected[1:]
    assert found.columns(["seed"]).array("seed").tolist() == expected


def test_filters_add_up(ten: TrajectoryStore):
    assert seeds(ten.where({"finish_reason": "eos"}).where({"seed": (3, 7)})) == [4, 6]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"token_ids": 3}, "cannot filter by `token_ids`: the field is per token"),
        ({"colour": "red"}, "cannot filter by `colour`: the field does not exist"),
        ({"score": (1, 2, 3)}, r"bounds of `score` must be a pair"),
        ({}, "`condition` is empty"),
    ],
)
def test_bad_filters_are_refused(ten: TrajectoryStore, condition, message):
    with pytest.raises(ConfigError, match=message):
        ten.where(condition)
    with pytest.raises(ConfigError, match="filter first, then slice"):
        ten[1:].where({"seed": 1})


def test_columns_are_arrays_with_nan_for_unknown_numbers(ten: TrajectoryStore):
    columns = ten.columns(["token_ids", "score", "seed", "prompt", "values"])
    assert columns.count == 10
    tokens = columns.ragged("token_ids")
    assert tokens.lengths.tolist() == list(range(10))
    np.testing.assert_array_equal(tokens[7], make(7, seed=7).token_ids)
    assert np.isnan(columns.array("score")[5])
    assert columns.array("seed").dtype == np.int64
    assert not columns.ragged("values").known.any()
    assert columns.ragged("values")[3] is None
    with pytest.raises(DataError, match="`logprobs` was not loaded"):
        columns.ragged("logprobs")
    with pytest.raises(DataError, match=r"per token, not|one entry per token"):
        columns.array("token_ids")
    with pytest.raises(ConfigError, match="a store has no column 'colour'"):
        ten.columns(["colour"])


def test_reading_some_columns_reads_no_others(ten: TrajectoryStore, monkeypatch: pytest.MonkeyPatch):
    asked: list[list[str]] = []
    dataset = ten._dataset

    class Spy:
        def __init__(self, inner):
            self.inner = inner

        def scanner(self, **options):
            asked.append(options["columns"])
            return self.inner.scanner(**options)

    monkeypatch.setattr(ten, "_dataset", lambda parts: Spy(dataset(parts)))
    ten.columns(["score"])
    assert ten.num_tokens() == 45
    assert asked == [["score"], ["token_ids"]]


def test_iteration_is_lazy(ten: TrajectoryStore, monkeypatch: pytest.MonkeyPatch):
    built = []
    convert = schema.to_trajectories
    monkeypatch.setattr(schema, "to_trajectories", lambda batch: built.append(batch.num_rows) or convert(batch))
    assert next(iter(ten)).seed == 0
    assert sum(built) < 10  # a file at a time


def test_readers_see_what_others_commit(ten: TrajectoryStore):
    other = TrajectoryReader(ten.path)
    assert len(other) == 10
    ten.append([make(seed=10)])
    assert len(other) == 11
    assert other[-1].seed == 10


# --- writers, kills, merging ------------------------------------------------------------------------------------------


def interrupted(store: TrajectoryStore) -> None:
    with store.writer() as writer:
        writer.add(make(seed=10))
        raise KeyboardInterrupt


def test_writer_gathers_and_commits_the_rest(store: TrajectoryStore):
    with store.writer(rows=4) as writer:
        for i in range(10):
            writer.add(make(seed=i))
        assert len(store) == 8
    assert [part.rows for part in store.parts()] == [4, 4, 2]
    with pytest.raises(KeyboardInterrupt):
        interrupted(store)
    assert seeds(store) == list(range(11))


def test_writer_refuses_a_bad_record_and_keeps_the_good(store: TrajectoryStore):
    with store.writer() as writer:
        writer.add(make())
        with pytest.raises(DataError, match="`score` is nan"):
            writer.add(make(score=float("nan")))
    assert len(store) == 1


def broken(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_writer_keeps_what_it_could_not_commit(store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch):
    writer = store.writer()
    writer.add(make())
    with monkeypatch.context() as full:
        full.setattr(store, "_commit", broken)
        with pytest.raises(OSError, match="No space left"):
            writer.flush()
    assert len(writer.pending) == 1
    writer.flush()
    assert (len(store), writer.pending) == (1, [])


def test_writer_stopped_right_after_the_commit_does_not_commit_again(
    store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
):
    commit = store._commit

    def stopped(table: pa.Table, name: str) -> None:
        commit(table, name)
        raise KeyboardInterrupt

    with store.writer() as writer:
        writer.add(make(traj_id="a"))
        writer.add(make())
        monkeypatch.setattr(store, "_commit", stopped)
        with pytest.raises(KeyboardInterrupt):
            writer.flush()
        monkeypatch.setattr(store, "_commit", commit)
    assert len(store) == 2


def test_writer_refuses_what_it_took_and_commits_all_but_what_the_store_holds(store: TrajectoryStore):
    store.append([make(traj_id="a")])
    writer = store.writer()
    new = make(traj_id="b")
    for trajectory in (new, make(traj_id="a")):
        writer.add(trajectory)
    with pytest.raises(DataError, match="trajectory 2 since the last commit: the same trajectory as number 0"):
        writer.add(new)
    with pytest.raises(DataError, match="holds `traj_id` 'a' and 0 others already; take them out of `pending`"):
        writer.flush()
    assert [t.traj_id for t in store] == ["a", "b"]
    assert [t.traj_id for t in writer.pending] == ["a"]


def test_append_of_the_same_again_is_refused(store: TrajectoryStore):
    one, other = make(), make()
    store.append([one])
    with pytest.raises(DataError, match=r"trajectory 1: the store .* holds `traj_id` '00000001-\w+-0' already"):
        store.append([other, one])
    with pytest.raises(DataError, match="trajectory 1: the same as trajectory 0"):
        store.append([other, other])
    with pytest.raises(DataError, match=r"trajectory 1: the same as trajectory 0 \(`traj_id` 'x'\)"):
        store.append([make(traj_id="x"), make(traj_id="x")])
    assert other.traj_id is None
    assert len(store) == 1


def test_append_that_fails_leaves_no_id_behind(store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch):
    trajectory = make()
    with monkeypatch.context() as full:
        full.setattr(store, "_commit", broken)
        with pytest.raises(OSError, match="No space left"):
            store.append([make(traj_id="given"), trajectory])
    assert trajectory.traj_id is None
    assert store.append([trajectory]) == [store[0].traj_id]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"response": "bad \ud800 one"}, r"`response` holds half a surrogate pair, '\\ud800', at character 4"),
        ({"extra": {"a": "\udfff"}}, "`extra` holds half a surrogate pair"),
        ({"score_parts": {"\ud800": 1.0}}, "`score_parts` holds half a surrogate pair"),
        ({"reward_parts": {"\ud800": np.zeros(3)}}, "`reward_parts` holds half a surrogate pair"),
        ({"policy": Path("runs/x")}, "`policy` must be a text, got "),
        ({"seed": 2**63}, "`seed` is 9223372036854775808, which does not fit"),
        ({"extra": {"a": object()}}, "`extra` must be JSON-able"),
    ],
)
def test_what_cannot_be_written_is_named_and_loses_nothing_else(store: TrajectoryStore, changes, message):
    with pytest.raises(DataError, match=f"trajectory 1: {message}"):
        store.append([make(), make(**changes)])
    with store.writer() as writer:
        writer.add(make())
        with pytest.raises(DataError, match=f"trajectory 1 since the last commit: {message}"):
            writer.add(make(**changes))
    assert len(store) == 1


def append_many(path: Path, writer: int, count: int) -> None:
    store = TrajectoryStore(path)
    for i in range(count):
        store.append([make(seed=1000 * writer + i), make(seed=1000 * writer + i)])


def test_writers_side_by_side_lose_nothing(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append_many, args=(tmp_path / "s", w, 8)) for w in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    store = TrajectoryStore(tmp_path / "s", create=False)
    assert sorted(t.seed for t in store if t.seed is not None) == sorted(
        [1000 * w + i for w in range(3) for i in range(8)] * 2
    )
    ids = [t.traj_id for t in store]
    assert len(set(ids)) == len(ids) == 48
    for w in range(3):  # each writer's own in its own order
        own = [t.seed for t in store if t.seed is not None and t.seed // 1000 == w]
        assert own == sorted(own)


_LOOP = """
import sys
from tests.textenv.trajectories.helpers import make
from textenv.trajectories import TrajectoryStore
store, number = TrajectoryStore(sys.argv[1]), 0
while True:
    store.append([make(400, seed=number) for _ in range(20)])
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("seconds", [0.0, 0.013, 0.029])
def test_kill_while_appending_loses_only_what_was_not_committed(tmp_path: Path, seconds: float):
    path = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", _LOOP, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    said = process.stdout.read().split()
    process.wait()
    process.stdout.close()
    committed = 3 + len([line for line in said if line.isdigit()])
    store = TrajectoryStore(path)
    found = store.columns(["seed"]).array("seed")
    assert len(found) in (20 * committed, 20 * (committed + 1))  # killed between committing and saying so
    np.testing.assert_array_equal(found, np.repeat(np.arange(len(found) // 20), 20))
    assert all(len(t) == 400 for t in store)
    store.append([make(seed=99)])
    assert list(path.glob(".writing*")) == []
    assert len(store) == len(found) + 1


def test_left_over_files_are_ignored_and_removed_but_not_those_being_written(store: TrajectoryStore):
    import fcntl

    store.append([make()])
    (store.path / ".writing-dead").write_bytes(b"half a file")
    with open(store.path / ".writing-alive", "wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        assert len(TrajectoryReader(store.path)) == 1
        assert TrajectoryStore(store.path).clean() == 1
        assert [p.name for p in store.path.glob(".writing*")] == [".writing-alive"]
    TrajectoryStore(store.path).append([make()])
    assert list(store.path.glob(".writing*")) == []


def test_compact_merges_neighbours_and_keeps_order_and_ids(ten: TrajectoryStore):
    before = [(t.traj_id, t.seed) for t in ten]
    assert ten.compact(rows=4) == 2
    assert [part.rows for part in ten.parts()] == [4, 6]
    assert ten.compact() == 2
    assert [(t.traj_id, t.seed) for t in ten] == before
    assert ten.compact() == 0
    ten.append([make(seed=10)])
    assert seeds(ten)[-2:] == [9, 10]


def test_kill_between_merging_and_removing_counts_nothing_twice(ten: TrajectoryStore):
    files = {part.path: part.path.read_bytes() for part in ten.parts()}
    ten.compact()
    for path, content in files.items():  # as if the process had died before it removed them
        path.write_bytes(content)
    fresh = TrajectoryStore(ten.path)
    assert seeds(fresh) == list(range(10))
    assert fresh.clean() == 3
    assert seeds(TrajectoryReader(ten.path)) == list(range(10))


def test_compact_after_a_killed_one_counts_nothing_twice(ten: TrajectoryStore):
    before = [t.traj_id for t in ten]
    files = {part.path: part.path.read_bytes() for part in ten.parts()}
    ten.compact(rows=4)
    for path, content in files.items():  # as if the process had died before it removed them
        path.write_bytes(content)
    TrajectoryStore(ten.path).compact()
    assert [t.traj_id for t in TrajectoryStore(ten.path)] == before


def test_compact_twice_still_replaces_the_files_of_the_first(ten: TrajectoryStore):
    before = [t.traj_id for t in ten]
    first = ten.parts()[0].path
    content = first.read_bytes()
    ten.compact(rows=4)
    ten.compact()
    first.write_bytes(content)  # from a backup, or since the removal never reached the disk
    assert [t.traj_id for t in TrajectoryStore(ten.path)] == before


def test_compact_by_two_processes_is_refused(ten: TrajectoryStore):
    import fcntl

    with open(ten.path / ".compact.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is merging files"):
            ten.compact()


def test_files_that_go_while_they_are_read_are_explained(ten: TrajectoryStore, monkeypatch: pytest.MonkeyPatch):
    stale = ten.parts()
    monkeypatch.setattr(ten, "parts", lambda: list(stale))
    os.unlink(stale[1].path)
    with pytest.raises(DataError, match="merged or removed while being read; read again"):
        ten.load()


def test_description_says_format_and_version(store: TrajectoryStore):
    described = json.loads((store.path / "store.json").read_text())
    assert described == {"format": "textenv.trajectories", "schema_version": 1}
    assert isinstance(store, TrajectoryReader)
    assert isinstance(make(), Trajectory)

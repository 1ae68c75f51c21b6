import gzip
import json

import numpy as np
import pytest

from textenv.errors import ConfigError, DataError
from textenv.prompts import Prompt, PromptList, as_prompt, load_prompts, make_dealer, read_prompts

MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("text", Prompt(text="text")),
        ([1, 2], Prompt(ids=(1, 2))),
        (np.array([1, 2]), Prompt(ids=(1, 2))),
        (Prompt(text="t"), Prompt(text="t")),
        ({"prompt": "text", "task": "t"}, Prompt(text="text", task="t")),
        ({"prompt": "text", "prompt_ids": [1]}, Prompt(text="text", ids=(1,))),
        (MESSAGES[1:], Prompt(text="Hi", messages=tuple(MESSAGES[1:]))),
        ({"messages": MESSAGES}, Prompt(text="System: Be kind.\n\nUser: Hi\n\nAssistant:", messages=tuple(MESSAGES))),
    ],
)
def test_as_prompt_takes_every_form(item, expected):
    assert as_prompt(item, "prompt 0") == expected


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (7, "prompt 3 must be a text, token ids, chat messages"),
        ({"text": "a"}, "prompt 3 has none of the fields"),
        ({"prompt": "a", "task": 5}, "'task' must be a text, got 5"),
        ([{"role": "user"}], "every chat message needs a text 'role' and a 'content'"),
        ([1, "a"], "prompt 3 must be a text"),
    ],
)
def test_as_prompt_refuses_what_is_no_prompt(item, message):
    with pytest.raises(DataError, match=message):
        as_prompt(item, "prompt 3")


def test_read_prompts_reads_jsonl(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('"one"\n\n{"prompt": "two", "task": "t"}\n[3, 4]\n', encoding="utf-8")
    assert read_prompts(path) == [Prompt(text="one"), Prompt(text="two", task="t"), Prompt(ids=(3, 4))]


def test_read_prompts_reads_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": ["one", "two"], "task": ["t", None]}), tmp_path / "p.parquet")
    assert read_prompts(tmp_path / "p.parquet") == [Prompt(text="one", task="t"), Prompt(text="two")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '"one"\n{"prompt": \n', r"p\.jsonl:2: not valid JSON"),
        ("p.jsonl", '"one"\n12\n', r"p\.jsonl:2: the prompt must be a text"),
        ("p.jsonl", "\n", r"p\.jsonl: the file holds no prompts"),
        ("p.csv", "prompt\n", r"p\.csv: the file holds no prompts"),
        ("p.csv", "text\na\n", r"p\.csv:2: the prompt has none of the fields 'prompt', .*; it has \['text'\]"),
        ("p.csv", "prompt_ids\n1 2\n", r"p\.csv:2: the prompt: 'prompt_ids' must be token ids, got str"),
        ("p.jsonl", '{"messages": "hi"}', r"p\.jsonl:1: the prompt: 'messages' must be chat messages, got str"),
        ("p.json", '[{"prompt": "a"}, 12]', r"p\.json:1: the prompt must be a text"),
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}', r"p\.jsonl:1: the key 'prompt' stands there more than once"),
        ("p.txt", "a", r"p\.txt: expected a file of \.jsonl, \.ndjson, \.json, \.csv, \.parquet, got '\.txt'"),
        ("p.parquet", "no", r"p\.parquet: not a readable Parquet file"),
    ],
)
def test_read_prompts_names_path_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_prompts(tmp_path / name)


def test_read_prompts_names_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_prompts(str(tmp_path / "none.jsonl"))


def test_dealer_deals_without_replacement_in_every_epoch():
    dealer = PromptList([str(i) for i in range(13)]).dealer()
    rng = np.random.default_rng(0)
    epochs = [[dealer.deal(rng) for _ in range(13)] for _ in range(4)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_dealer_deals_every_order_equally_often():
    rng = np.random.default_rng(0)
    dealer = PromptList(["a", "b", "c"]).dealer()
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(6000):
        order = tuple(dealer.deal(rng) for _ in range(3))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(abs(count - 1000) < 150 for count in counts.values())  # five standard deviations


def test_dealer_draws_tasks_by_weight():
    prompts = PromptList(
        [{"prompt": str(i), "task": "rare" if i < 5 else "often"} for i in range(10)], {"rare": 1, "often": 3}
    )
    dealer, rng = prompts.dealer(), np.random.default_rng(0)
    dealt = [dealer.deal(rng) for _ in range(4000)]
    assert np.mean([i >= 5 for i in dealt]) == pytest.approx(0.75, abs=0.03)
    rare = [i for i in dealt if i < 5][:25]
    assert all(sorted(rare[k : k + 5]) == [0, 1, 2, 3, 4] for k in range(0, 25, 5))


@pytest.mark.parametrize("weights", [None, {"a": 1.0, "b": 2.0}])
def test_dealer_state_survives_json_and_goes_on_identically(weights):
    prompts = PromptList([{"prompt": str(i), "task": "ab"[i % 2]} for i in range(20)], weights)
    dealer, rng = prompts.dealer(), np.random.default_rng(1)
    for _ in range(27):
        dealer.deal(rng)
    saved = json.loads(json.dumps({"dealer": dealer.get_state(), "rng": rng.bit_generator.state}))
    again, rng2 = prompts.dealer(), np.random.default_rng()
    again.set_state(saved["dealer"])
    rng2.bit_generator.state = saved["rng"]
    assert [dealer.deal(rng) for _ in range(50)] == [again.deal(rng2) for _ in range(50)]


def test_dealer_memory_grows_with_what_was_dealt_only():
    dealer = make_dealer(range(10**9))
    rng = np.random.default_rng(0)
    assert len({dealer.deal(rng) for _ in range(100)}) == 100
    assert len(dealer.get_state()["shuffles"][0]["moved"]) <= 100


def test_dealer_refuses_a_state_of_other_prompts():
    dealer = make_dealer(["a", "b"])
    with pytest.raises(ConfigError, match="belongs to another set of prompts"):
        dealer.set_state({"shuffles": [{"dealt": 3, "moved": []}]})


def test_source_with_its_own_order_is_asked():
    class Alternating:
        def __init__(self):
            self.next = 0

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return "ab"[index]

        def sample(self, rng):
            self.next += 1
            return self.next % 2

        def get_state(self):
            return {"next": self.next}

        def set_state(self, state):
            self.next = state["next"]

    dealer, rng = make_dealer(load_prompts(Alternating())), np.random.default_rng(0)
    assert [dealer.deal(rng) for _ in range(3)] == [1, 0, 1]
    saved = dealer.get_state()
    dealer.deal(rng)
    dealer.set_state(saved)
    dealer.restart()
    assert dealer.deal(rng) == 0


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: PromptList([]), DataError, "there are no prompts"),
        (lambda: PromptList(["a"], {"t": 1}), ConfigError, "lacks the task None"),
        (lambda: PromptList([{"prompt": "a", "task": "t"}], {"t": -1}), ConfigError, "finite number ≥ 0, got -1"),
        (lambda: PromptList([{"prompt": "a", "task": "t"}], {"t": 0}), ConfigError, "are all 0"),
        (lambda: PromptList([{"prompt": "a", "task": "t"}], {"t": 1, "u": 1}), ConfigError, "names the task 'u'"),
        (lambda: load_prompts(5), ConfigError, "must be a list, a dataset or a path to a file, got int"),
        (lambda: load_prompts(PromptList(["a"]), {"t": 1}), ConfigError, "which deals for itself"),
    ],
)
def test_unusable_prompts_are_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_sample_draws_uniformly():
    prompts = PromptList(["a", "b"])
    rng = np.random.default_rng(0)
    assert {prompts.sample(rng) for _ in range(20)} == {0, 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", '{"prompt": "zwölf"}\n{"prompt": "two", "task": "t"}\n'),
        ("p.json", '[{"prompt": "zwölf"},\n {"prompt": "two", "task": "t"}]'),
        ("p.csv", "prompt,task\nzwölf,\ntwo,t\n"),
        ("p.csv.gz", "prompt,task\nzwölf,\ntwo,t\n"),
        ("p.jsonl.gz", '{"prompt": "zwölf"}\n{"prompt": "two", "task": "t"}\n'),
    ],
)
def test_read_prompts_reads_what_people_have(tmp_path, name: str, content: str, encoding: str):
    raw = content.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert list(load_prompts(tmp_path / name)) == [Prompt(text="zwölf"), Prompt(text="two", task="t")]


def test_data_frames_are_prompts():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": ["a", "b"], "task": ["t", None]}, index=[7, 9])
    expected = [Prompt(text="a", task="t"), Prompt(text="b")]
    assert list(load_prompts(frame)) == expected
    assert list(load_prompts(frame["prompt"])) == [Prompt(text="a"), Prompt(text="b")]
    with pytest.raises(DataError, match="a column stands there more than once"):
        load_prompts(pandas.concat([frame, frame], axis=1))
    frame.loc[9, "prompt"] = None
    with pytest.raises(DataError, match=r"prompt 1 has none of the fields 'prompt'"):
        load_prompts(frame)


@pytest.mark.parametrize("form", [None, "torch", "numpy", "pandas"])
def test_datasets_are_prompts_in_every_format(form):
    datasets = pytest.importorskip("datasets")
    columns = {"prompt": ["a", "b"], "prompt_ids": [[1, 2], [3]], "task": ["t", "u"]}
    found = load_prompts(datasets.Dataset.from_dict(columns).with_format(form))
    assert list(found) == [Prompt(text="a", ids=(1, 2), task="t"), Prompt(text="b", ids=(3,), task="u")]


def test_tensors_and_arrays_are_token_ids():
    torch = pytest.importorskip("torch")
    assert as_prompt(torch.tensor([1, 2]), "p") == Prompt(ids=(1, 2))
    assert as_prompt({"prompt_ids": torch.tensor([1, 2])}, "p") == Prompt(ids=(1, 2))
    assert list(load_prompts(torch.tensor([[1, 2], [3, 4]]))) == [Prompt(ids=(1, 2)), Prompt(ids=(3, 4))]
    assert list(load_prompts(np.array(["a", "b"]))) == [Prompt(text="a"), Prompt(text="b")]
    with pytest.raises(DataError, match="p must be a text, token ids"):
        as_prompt(torch.tensor([1.5]), "p")


@pytest.mark.parametrize("weights", [None, {"a": 1.0, "b": 2.0}])
def test_dropped_prompts_are_never_dealt_and_the_others_keep_their_indices(weights):
    every = PromptList([{"prompt": str(i), "task": "ab"[i % 2]} for i in range(10)], weights)
    left = every.without([0, 3, 4])
    dealer, rng = left.dealer(), np.random.default_rng(0)
    assert {dealer.deal(rng) for _ in range(200)} == {1, 2, 5, 6, 7, 8, 9}
    assert {left.sample(rng) for _ in range(200)} == {1, 2, 5, 6, 7, 8, 9}
    assert (len(left), left[3].text, every.dropped) == (10, "3", frozenset())
    state = json.loads(json.dumps(dealer.get_state()))
    again, saved = left.dealer(), rng.bit_generator.state
    again.set_state(state)
    expected = [dealer.deal(rng) for _ in range(9)]
    rng.bit_generator.state = saved
    assert [again.deal(rng) for _ in range(9)] == expected
    with pytest.raises(DataError, match="all 10 prompts are dropped"):
        every.without(range(10))
    if weights:
        with pytest.raises(ConfigError, match="names the task 'a', but no prompt belongs to it"):
            every.without(range(0, 10, 2))

from __future__ import annotations

import queue
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tests.textenv.feedback.server.conftest import LIMITS, load
from textenv.errors import ConfigError, DataError
from textenv.feedback.items import MakeConfig, make_from_store, make_items
from textenv.feedback.server.batching import AnswerRequest, Chunk, Overloaded
from textenv.feedback.server.chat import encode_prompt
from textenv.feedback.server.hosting import PolicyHost, Watcher, model_folder
from textenv.feedback.store import PolicyVersion
from textenv.sampling.generation import generate
from textenv.sampling.params import SamplingParams


def poll_until_quiet(host: PolicyHost) -> bool:
    """A change is taken up at the second look, when nothing moves any more."""
    return any([host.poll(), host.poll()])


def test_host_registers_the_version_of_its_folder(host, store):
    assert [policy.version for policy in store.policies("tiny")] == [host.current.version.version]
    assert host.current.fingerprint == f"tiny@{host.current.version.version}"
    assert not host.poll()


def test_host_takes_up_a_version_that_was_registered(host, store, save_policy, tmp_path):
    before = host.current
    folder = save_policy(tmp_path / "better", seed=1)
    store.register_policy(PolicyVersion("tiny", "round-1", str(folder), round=1))

    assert host.poll()
    assert host.current.version.version == "round-1"
    assert not before.batcher.alive


def test_host_takes_up_a_folder_that_changed(policy_folder, save_policy, store, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(policy_folder, folder)
    host = PolicyHost(folder, load, store, limits=LIMITS)
    before = host.current.version.version
    save_policy(folder, seed=2)

    assert not host.poll()  # still changing, for all it knows
    assert host.poll()
    assert host.current.version.version != before
    host.close()


def test_host_takes_up_a_newer_sub_folder(save_policy, store, tmp_path):
    save_policy(tmp_path / "versions" / "v9")
    host = PolicyHost(tmp_path / "versions", load, store, name="named", limits=LIMITS)
    assert host.current.fingerprint == "named@v9"
    save_policy(tmp_path / "versions" / "v10", seed=1)

    assert poll_until_quiet(host)
    assert host.current.fingerprint == "named@v10"
    host.close()


def test_host_stays_with_its_version_where_the_new_one_is_broken(host, store, tmp_path, caplog):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    (broken / "model.safetensors").write_bytes(b"nothing")
    store.register_policy(PolicyVersion("tiny", "broken", str(broken)))

    assert not host.poll()
    assert "tiny stays at version" in caplog.text
    assert host.answers([("film", ())], SamplingParams(max_new_tokens=2))[0][0].version != "broken"


def test_host_without_a_model_is_refused(store, tmp_path):
    with pytest.raises(ConfigError, match="there is no model in"):
        PolicyHost(tmp_path, load, store)
    with pytest.raises(ConfigError, match="there is no model in"):
        model_folder(tmp_path / "nothing")


def test_watcher_polls(host, store, save_policy, tmp_path):
    store.register_policy(PolicyVersion("tiny", "next", str(save_policy(tmp_path / "next", seed=1))))
    watcher = Watcher([host], 0.01)
    for _ in range(6000):
        if host.current.version.version == "next":
            break
        watcher._ended.wait(0.01)
    watcher.close()

    assert host.current.version.version == "next"


def test_answers_say_where_they_come_from(host):
    params = SamplingParams(max_new_tokens=5, temperature=0.7)
    prompts = [f"the old film {n}" for n in range(6)]
    found = host.answers([(prompt, ()) for prompt in prompts], params, n=2, seed=7)

    assert len(found) == 6
    for number, answers in enumerate(found):
        expected = generate(host.current.policy, [prompts[number]], params, n=2, seed=7 + number)
        assert [answer.text for answer in answers] == [each.response for each in expected]
        assert {answer.source for answer in answers} == {host.current.fingerprint}
        assert answers[0].seed == 7 + number
        assert answers[0].sampling["temperature"] == 0.7


def test_chat_template_is_used_where_there_is_one(host, monkeypatch):
    policy = host.current.policy
    chat = [{"role": "user", "content": "good film"}]
    assert encode_prompt("", chat, policy) == policy.encode_prompt("good film")
    monkeypatch.setattr(policy.tokenizer, "chat_template", "{% for m in messages %}{{ m['content'] }}!{% endfor %}")
    assert encode_prompt("", chat, policy) == policy.tokenizer.encode("good film!", add_special_tokens=False)
    monkeypatch.setattr(policy.tokenizer, "chat_template", "{{ raise_exception('no') }}")
    with pytest.raises(DataError, match="chat template refuses these messages: no"):
        host.answers([("", chat)], SamplingParams(max_new_tokens=2))
    assert host.current.users == 0


def test_version_in_use_takes_requests_after_a_newer_one_came(host, store, save_policy, tmp_path):
    store.register_policy(PolicyVersion("tiny", "next", str(save_policy(tmp_path / "next", seed=1))))
    request = AnswerRequest(host.current.policy.encode_prompt("the"), SamplingParams(max_new_tokens=2))
    arrived: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
    with host.using() as before, host.using():
        assert host.poll()
        assert host.current is not before
        before.batcher.submit(request, arrived.put)

    assert arrived.get(timeout=60).finish_reason in ("stop", "length")
    assert not before.batcher.alive
    with pytest.raises(Overloaded, match="no longer served"):
        before.batcher.submit(request, arrived.put)


def test_answers_are_all_of_the_version_they_began_with(host, store, save_policy, tmp_path, monkeypatch):
    store.register_policy(PolicyVersion("tiny", "next", str(save_policy(tmp_path / "next", seed=1))))
    before = host.current
    polled = []
    monkeypatch.setattr(before.batcher, "submit", _after(before.batcher.submit, lambda: polled.append(host.poll())))
    found = host.answers([(f"the old film {n}", ()) for n in range(6)], SamplingParams(max_new_tokens=3))

    assert polled == [True, False, False, False, False, False]
    assert {answer.version for answers in found for answer in answers} == {before.version.version}
    assert host.current.version.version == "next"


def _after(function: Callable[..., Any], then: Callable[[], Any]) -> Callable[..., Any]:
    def both(*arguments: Any) -> Any:
        result = function(*arguments)
        then()
        return result

    return both


def test_make_from_store_asks_about_collected_prompts(host, store):
    for n in range(5):
        store.collect_prompt(f"the film {n} is", source="api:completions")
    config = MakeConfig("rank", answers=3, raters=2, sampling=SamplingParams(max_new_tokens=6), source="test")
    made = make_from_store(store, [host], config, batch=2)

    assert made == len(store.items(kind="rank"))
    assert made >= 4  # three answers that are all the same text give no item
    assert store.prompts(unused_only=True) == []
    item = store.items()[0]
    assert item.wanted == 2
    assert item.source == "test"
    assert {answer.policy for answer in item.answers} == {"tiny"}


def test_make_items_of_two_policies_puts_them_side_by_side(host, store, save_policy, tmp_path):
    other = PolicyHost(save_policy(tmp_path / "other", seed=3), load, store, limits=LIMITS)
    store.collect_prompt("the old film")
    config = MakeConfig("compare", sampling=SamplingParams(max_new_tokens=8))
    (item,) = make_items([host, other], store.prompts(), config)

    assert [answer.policy for answer in item.answers] == ["tiny", "other"]
    other.close()


def test_make_items_to_demonstrate_needs_no_policy(store):
    store.collect_prompt("write about the sea")
    (item,) = make_items([], store.prompts(), MakeConfig("demonstrate", chat=True))

    assert item.answers == ()
    assert item.messages == ({"role": "user", "content": "write about the sea"},)
    with pytest.raises(ConfigError, match="items to rate need a policy"):
        make_items([], store.prompts(), MakeConfig("rate"))


@pytest.mark.parametrize(
    ("fields", "message"), [({"kind": "guess"}, "`kind` must be"), ({"answers": 1}, r"`answers` must lie in \[2, 26\]")]
)
def test_make_config_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        MakeConfig(**fields)

"""One definition of an answer: whoever lets a policy answer gets the same tokens, the same text and the same end."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import reward_models
from agents import (
    DPO,
    PPO,
    RLOO,
    CausalLMPolicy,
    DPOConfig,
    HeldOut,
    PPOConfig,
    RLOOConfig,
    SamplingParams,
    evaluate_policy,
)
from agents.learning.rollouts import Collector
from agents.lm.chat import conversation_example, taught_format
from agents.lm.finetuning import prepare
from reward_models.labels import Comparison
from tests.textenv.answers.kinds import KINDS, TEMPLATE, holed, make_tokenizer
from textenv import TextGenerationVectorEnv
from textenv.answers import AnswerFormat
from textenv.envs.task import GenerationTask
from textenv.errors import ConfigError, DataError
from textenv.feedback.server.batching import AnswerRequest, Batcher, Chunk
from textenv.rewards import SumReward
from textenv.sampling.methods import BeamSearch, BestOfN
from textenv.tasks import Demonstrated
from textenv.wrappers.vector import DenyTokens, LengthPenalty, WhitenReward

PROMPTS = ["the old film", "a new", "the one is"]
RULES = [
    AnswerFormat((2, 4), max_new_tokens=12),
    AnswerFormat((2,), stop=("i", "e ", "a", "f"), max_new_tokens=12),
    AnswerFormat((2, 4), stop=("o", "a", "e", "f"), min_new_tokens=5, max_new_tokens=12),
    AnswerFormat((2, 4), chat=True, system="be kind", max_new_tokens=12),
]


def small_lm(tokenizer: Any, kind: str = "llama", rows: int = 0) -> Any:
    size = rows or len(tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if kind == "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(vocab_size=size, n_embd=32, n_layer=1, n_head=2, n_positions=96, initializer_range=0.4)
            )
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=96,
                initializer_range=0.4,
            )
        )


def make_policy(kind: str = "byte level", lm: str = "llama", answer: AnswerFormat | None = None) -> CausalLMPolicy:
    tokenizer = make_tokenizer(kind, chat_template=TEMPLATE)
    return CausalLMPolicy(small_lm(tokenizer, lm), tokenizer, answer=answer)


def served(policy: CausalLMPolicy, params: SamplingParams, n: int) -> list[list[Chunk]]:
    batcher = Batcher(policy, num_slots=4, max_length=96)
    found = []
    for number, prompt in enumerate(PROMPTS):
        chunks: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        stream = number == 1
        batcher.submit(AnswerRequest(policy.encode_prompt(prompt), params, n=n, seed=number, stream=stream), chunks.put)
        whole: list[list[Chunk]] = [[] for _ in range(n)]
        while any(not part or part[-1].finish_reason is None for part in whole):
            chunk = chunks.get(timeout=60)
            whole[chunk.number].append(chunk)
        found += whole
    batcher.close()
    return found


RULE_NAMES = ("ends", "stops", "shortest", "chat")
# Every tokenizer, model and rule in a few; all combinations among the slow tests.
COMBINATIONS = [
    pytest.param(kind, lm, rule, id=f"{kind}-{lm}-{name}", marks=() if (k + r) % 4 == 2 * m else pytest.mark.slow)
    for k, kind in enumerate(KINDS)
    for m, lm in enumerate(("llama", "gpt2"))
    for r, (rule, name) in enumerate(zip(RULES, RULE_NAMES, strict=True))
]


@pytest.mark.parametrize(("kind", "lm", "rule"), COMBINATIONS)
def test_environment_generate_evaluation_and_server_give_the_same_answers(kind, lm, rule):
    policy = make_policy(kind, lm, rule)
    n, read = 3, []

    def reward(prompts, responses):
        read.append(responses)
        return [float(len(text)) for text in responses]

    envs = TextGenerationVectorEnv(9, policy, PROMPTS, reward)
    assert envs.task.answer == rule
    rollout, *_ = Collector(policy, envs, temperature=1.0, seed=0).play(PROMPTS, n=n, seed=5)
    drawn = policy.generate(PROMPTS, SamplingParams(), n=n, seed=5)
    for episode, answer in zip(rollout.episodes, drawn, strict=True):
        assert episode.response_ids == tuple(answer.token_ids.tolist())
        assert episode.response == answer.response
        assert episode.finish_reason.name.lower() == answer.finish_reason
        assert episode.prompt_ids == tuple(answer.prompt_ids.tolist())
    assert sorted(text for part in read for text in part) == sorted(answer.response for answer in drawn)
    found = evaluate_policy(policy, PROMPTS, reward, n=n, seed=5)
    assert [t.token_ids.tolist() for t in found.trajectories] == [t.token_ids.tolist() for t in drawn]
    singly = [a for i, p in enumerate(PROMPTS) for a in policy.generate(p, n=n, seed=i)]
    for chunks, answer in zip(served(policy, SamplingParams(), n), singly, strict=True):
        if len(chunks) == 1 or "\N{REPLACEMENT CHARACTER}" not in answer.response:
            assert "".join(chunk.text for chunk in chunks) == answer.response
        assert [t.token for chunk in chunks for t in chunk.tokens] == answer.token_ids.tolist()
        assert chunks[-1].finish_reason == ("length" if answer.finish_reason == "length" else "stop")
    if rule.stop:
        assert any(answer.finish_reason == "stop" for answer in drawn)
        assert all(len(answer) >= rule.min_new_tokens for answer in drawn)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_policy_says_is_what_fine_tuning_would_teach(kind):
    """Tokens that say what they were taught to say are taught again: decoding and encoding lose nothing."""
    policy = make_policy(kind)
    read = policy.answers.encode_prompt("the old film")
    taught = policy.answers.encode_response(read, " is good the new one")
    shown = Demonstrated("the old film", policy.answers.text(read.ids, taught), "", "")
    (example,) = prepare([shown], policy.tokenizer, 96).examples["sft"]
    assert example.tokens.tolist() == [*read.ids, *taught]
    assert example.prompt_length == len(read.ids)
    pair = DPO(policy, [Comparison("the old film", " is good the new one", " is bad")], config=DPOConfig(batch_size=1))
    assert pair.pairs[0].prompt_ids == tuple(read.ids)
    assert pair.pairs[0].chosen_ids == tuple(taught)


@pytest.mark.parametrize("kind", KINDS)
def test_conversations_are_taught_as_the_policy_is_asked(kind):
    policy = make_policy(kind)
    turns = [
        {"role": "user", "content": "the old film"},
        {"role": "assistant", "content": "is good"},
        {"role": "user", "content": "the new one"},
        {"role": "assistant", "content": "is bad"},
    ]
    answer = taught_format(policy.tokenizer, policy.answer, 1, 0)
    assert answer.chat
    assert answer.eos_token_ids == (2, 4)
    example = conversation_example(turns, policy.tokenizer, answer)
    policy.answer = answer
    asked = policy.encode_prompt(turns[:1])
    assert example.tokens[: example.prompt_length].tolist() == asked
    first = example.tokens[example.prompt_length :].tolist()
    said = policy.answers.text(asked, first[: first.index(4) + 1])
    assert said.strip() == "is good"
    assert example.tokens[-1] == 4  # the template's own end


# --- where it comes from and where it goes ----------------------------------------------------------------------------


def test_trained_policy_keeps_its_format_in_its_folder(tmp_path: Path):
    policy = make_policy()
    envs = TextGenerationVectorEnv(
        4, policy, PROMPTS, lambda p, r: [0.0] * len(r), max_new_tokens=6, stop="!", chat=True, system="be kind"
    )
    agent = PPO(policy, envs, config=PPOConfig(num_minibatches=1))
    agent.learn(4)
    policy.save_pretrained(tmp_path / "policy")
    agent.save(tmp_path / "agent")
    for folder in (tmp_path / "policy", tmp_path / "agent" / "policy"):
        again = CausalLMPolicy.from_pretrained(folder)
        assert again.answer == envs.task.answer
        assert again.encode_prompt("a new") == policy.encode_prompt("a new")
        assert TextGenerationVectorEnv(1, again.tokenizer, PROMPTS, None).task.answer == envs.task.answer
        assert TextGenerationVectorEnv(1, str(folder), PROMPTS, None).task.answer == envs.task.answer
        assert again.generate("a new", seed=1)[0].response == policy.generate("a new", seed=1)[0].response
    plain: Any = AutoTokenizer.from_pretrained(tmp_path / "policy")  # transformers and vLLM say it too
    asked = plain.apply_chat_template(
        [{"role": "user", "content": "a new"}], tokenize=False, add_generation_prompt=True
    )
    assert plain.encode(asked, add_special_tokens=False) == policy.encode_prompt("a new")
    assert "be kind" not in policy.tokenizer.chat_template


def test_models_end_tokens_are_saved_for_transformers(tmp_path: Path):
    policy = make_policy(answer=AnswerFormat((2, 4)))
    policy.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == [2, 4]


def test_reward_model_of_a_chat_policy_reads_chats(tmp_path: Path):
    policy = make_policy(answer=AnswerFormat((2, 4), chat=True, system="be kind"))
    policy.save_pretrained(tmp_path / "policy")
    rm = reward_models.SequenceRewardModel.from_trunk(tmp_path / "policy")
    expected = "<s>[system] be kind<|eot|>\n[user] a new<|eot|>\n[assistant] film<|eot|>\n"
    assert rm.template.join(["a new"], ["film"]) == [expected]
    rm.save_pretrained(tmp_path / "rm")
    again = reward_models.SequenceRewardModel.from_pretrained(tmp_path / "rm")
    assert again.template.join(["a new"], ["film"]) == [expected]
    assert again.encode(["a new"], ["film"]) == [policy.tokenizer.encode(expected, add_special_tokens=False)]


def test_environment_made_with_the_bare_tokenizer_takes_over_the_models_ends():
    tokenizer = make_tokenizer("byte level")
    envs = TextGenerationVectorEnv(4, tokenizer, PROMPTS, lambda p, r: [0.0] * len(r), max_new_tokens=6)
    told = TextGenerationVectorEnv(4, tokenizer, PROMPTS, lambda p, r: [0.0] * len(r), eos_token_id=2, stop=())
    model = small_lm(tokenizer)
    model.generation_config.eos_token_id = [2, 4]
    policy = CausalLMPolicy(model, tokenizer)
    for each, expected in ((envs, (2, 4)), (told, (2,))):
        Collector(policy, each, temperature=1.0, seed=0)
        assert each.task.eos_token_ids == expected
    policy.answer = AnswerFormat((2,), chat=True)
    with pytest.raises(
        ConfigError, match=r"reads prompts with `chat` True, the environment puts them with False; make it"
    ):
        Collector(policy, envs, temperature=1.0, seed=0)


def test_settings_that_contradict_the_environment_are_refused():
    policy = make_policy()
    envs = TextGenerationVectorEnv(4, policy, PROMPTS, lambda p, r: [0.0] * len(r), max_new_tokens=6)
    collector = Collector(policy, envs, temperature=1.0, seed=0)
    with pytest.raises(ConfigError, match="its `max_new_tokens` is 6, the sampling settings say 7; leave it out"):
        collector.play(PROMPTS, params=SamplingParams(max_new_tokens=7))


@pytest.mark.parametrize("prompts", ["the old film", [7, 8], [{"role": "user", "content": "hi"}]])
def test_single_prompt_is_one_prompt(prompts):
    (answer,) = make_policy().generate(prompts, SamplingParams(max_new_tokens=3))
    assert len(answer) <= 3


def test_methods_know_all_ends():
    policy = make_policy(answer=AnswerFormat((2, 4), stop=("i",), min_new_tokens=2, max_new_tokens=8))
    beams = BeamSearch(num_beams=6, num_return=6).sample(policy, PROMPTS).trajectories
    best = BestOfN(n=8).sample(policy, PROMPTS, lambda p, r: [float(len(x)) for x in r], seed=1).trajectories
    for answer in (*beams, *best):
        ids, start = answer.token_ids.tolist(), answer.prompt_ids.tolist()
        reasons = [policy.answers.finish(ids[: i + 1], start) for i in range(len(ids))]
        assert not any(reasons[1:-1])
        assert (reasons[-1] or "length") == answer.finish_reason
        assert len(ids) >= 2
        assert "i" not in answer.response[len(policy.answers.decode_after(start, ids[:1])) :]


# --- held-out evaluation plays the training's game --------------------------------------------------------------------


class CountingTokens:
    def score_episodes(self, episodes):
        return [float(len(episode.response_ids)) for episode in episodes]


def test_held_out_evaluation_plays_wrappers_masks_and_rewards_without_learning_from_them():
    policy = make_policy()
    made = TextGenerationVectorEnv(8, policy, PROMPTS, CountingTokens(), max_new_tokens=6, min_new_tokens=2)
    whitened = WhitenReward(LengthPenalty(DenyTokens(made, [9, 10]), per_token=0.5))
    config = RLOOConfig(learning_rate=1e-9, group_size=2, eval_every=1, missing_eos_penalty=1.0)
    measured: list[dict[str, float]] = []
    held_out = HeldOut(["a film that is longer than all the others", "one"], n=3, seed=2)
    agent = RLOO(policy, whitened, config=config, held_out=held_out)
    agent.learn(16, callback=lambda a, m: measured.append(m))
    seen = whitened.hook.count
    rollouts = agent.collector.play(held_out.prompts, n=3, seed=2)
    episodes = [episode for rollout in rollouts for episode in rollout.episodes]
    assert whitened.hook.count == seen == 16
    lengths = np.array([len(episode.response_ids) for episode in episodes])
    cut = np.array([episode.finish_reason.name == "LENGTH" for episode in episodes])
    assert not any({9, 10} & set(episode.response_ids) for episode in episodes)
    assert lengths.min() >= 2
    assert measured[0]["eval/score"] == pytest.approx(lengths.mean(), abs=1e-6)
    assert measured[0]["eval/reward"] == pytest.approx((0.5 * lengths - cut).mean(), abs=1e-5)
    assert measured[0]["eval/kl"] == pytest.approx(0.0, abs=1e-4)


def test_evaluate_policy_takes_rewards_of_episodes():
    policy = make_policy()
    reward = SumReward([CountingTokens(), lambda p, r: [1.0] * len(r)], [1.0, 0.5])
    found = evaluate_policy(policy, PROMPTS, reward, sampling=SamplingParams(max_new_tokens=5))
    assert found.summary["reward_mean"] == pytest.approx(found.summary["response_tokens"] + 0.5)


def test_kl_of_masked_answers_is_that_of_the_masked_policies():
    policy, other = make_policy(), make_policy(lm="gpt2")
    sampling = SamplingParams(max_new_tokens=4, min_new_tokens=4, deny_tokens=(9,))
    found = evaluate_policy(policy, PROMPTS, lambda p, r: [0.0] * len(r), reference=policy, sampling=sampling)
    assert found.summary["kl"] == pytest.approx(0.0, abs=1e-6)
    apart = evaluate_policy(policy, ["the"], lambda p, r: [0.0], reference=other, sampling=sampling)
    (answer,), total = apart.trajectories, 0.0
    for step in range(4):
        ids = torch.tensor([[*answer.prompt_ids.tolist(), *answer.token_ids[:step].tolist()]])
        rows = []
        for model in (policy.causal_lm, other.causal_lm):
            with torch.no_grad():
                logits = model(ids).logits[0, -1].double()
            logits[[9, 2]] = -torch.inf  # denied, and the end token before the shortest length
            rows.append(logits.log_softmax(-1)[answer.token_ids[step]])
        total += float(rows[0] - rows[1])
    assert apart.summary["kl"] == pytest.approx(total, abs=1e-4)


# --- vocabularies -----------------------------------------------------------------------------------------------------


def test_ids_that_are_no_tokens_are_never_drawn_and_weigh_nothing():
    tokenizer = holed()
    policy = CausalLMPolicy(small_lm(tokenizer, rows=16), tokenizer)  # a head padded to 16, ids end at 11
    envs = TextGenerationVectorEnv(16, policy, ["a b", "c"], lambda p, r: [float(len(x)) for x in r], max_new_tokens=8)
    PPO(policy, envs, config=PPOConfig(num_minibatches=1)).learn(32)  # checks itself: ratio 1, KL 0
    answers = policy.generate(["a b"], SamplingParams(max_new_tokens=20), n=64)
    drawn = np.concatenate([answer.token_ids for answer in answers])
    assert set(drawn.tolist()) <= {0, 1, 2, 3, 4, 5, 9, 11}
    with torch.no_grad():
        logits = policy.causal_lm(torch.tensor([policy.encode_prompt("a b")])).logits[0, -1, [0, 1, 2, 3, 4, 5, 9, 11]]
    expected = dict(zip([0, 1, 2, 3, 4, 5, 9, 11], logits.log_softmax(-1).tolist(), strict=True))
    for answer in answers[:8]:
        assert answer.logprobs[0] == pytest.approx(expected[int(answer.token_ids[0])], abs=1e-4)
    scored = policy.logprobs([a.prompt_ids.tolist() for a in answers], [a.token_ids.tolist() for a in answers])
    for answer, found in zip(answers, scored, strict=True):
        np.testing.assert_allclose(found, answer.logprobs, atol=1e-4)


def test_environment_knows_gaps():
    task = GenerationTask(holed(), ["a b"], None)
    assert (task.num_tokens, task.pad_token_id) == (12, 0)
    with pytest.raises(DataError, match=r"contains the id 7, but the tokenizer has 8 \(0 … 11, 4 of them no tokens\)"):
        task.encode_prompt([4, 7])


def test_tokens_that_the_model_lacks_cannot_be_used(caplog):
    tokenizer = make_tokenizer("byte level")
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]}, replace_extra_special_tokens=False)
    policy = CausalLMPolicy(small_lm(tokenizer, rows=rows), tokenizer)
    assert f"the model has {rows} of the tokenizer's {rows + 1} ids" in caplog.text
    assert policy.vocab_size == rows
    envs = TextGenerationVectorEnv(4, policy, PROMPTS, lambda p, r: [float(len(x)) for x in r], max_new_tokens=4)
    PPO(policy, envs, config=PPOConfig(num_minibatches=1)).learn(4)
    with pytest.raises(DataError, match=f"prompt 0 contains the id {rows}; the policy has the tokens 0 … {rows - 1}"):
        policy.generate(["a<|new|>"])
    unreadable = TextGenerationVectorEnv(1, policy, ["a<|new|>"], None, max_new_tokens=4)
    with pytest.raises(DataError, match=f"contains the id {rows}; the policy's model"):
        Collector(policy, unreadable, temperature=1.0, seed=0).collect(0)


def test_another_models_tokenizer_is_refused():
    with pytest.raises(ConfigError, match="it is another model's, or the embeddings have to be resized"):
        CausalLMPolicy(small_lm(make_tokenizer("byte level"), rows=200), make_tokenizer("byte level"))


def test_conversations_are_asked_by_their_template():
    policy = make_policy()
    chat = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    envs = TextGenerationVectorEnv(1, policy, [chat], None, max_new_tokens=4)
    envs.reset(seed=0)
    assert policy.tokenizer.decode(envs.slots.tokens[0, : envs.slots.lengths[0]]) == "<s>[user] hi<|eot|>\n[assistant] "

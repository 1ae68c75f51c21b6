"""Hugging Face tokenizers of both common kinds, trained here on a few lines."""

import pytest
import tokenizers as hf
from transformers import PreTrainedTokenizerFast

from tests.textenv.envs.helpers import make_env
from textenv import FinishReason, TextGenerationEnv
from textenv.answers.stops import token_pieces

TEXTS = [
    "the cat sat on the mat. ### the end",
    "über die Straße gehen — naïve café\n\n日本語",
    "stop here, stop there",
] * 4
SPECIAL = ["<pad>", "<eos>", "<unk>"]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def wrapped(tokenizer: hf.Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", chat_template=TEMPLATE
    )


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    trainer = hf.trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return wrapped(tokenizer)


def metaspace() -> PreTrainedTokenizerFast:
    tokenizer = hf.Tokenizer(hf.models.Unigram())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.Metaspace()
    tokenizer.decoder = hf.decoders.Metaspace()
    trainer = hf.trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return wrapped(tokenizer)


@pytest.fixture(scope="module", params=[byte_level, metaspace], ids=["byte-level", "metaspace"])
def tokenizer(request) -> PreTrainedTokenizerFast:
    return request.param()


def answer(tokenizer, text: str, **changes) -> TextGenerationEnv:
    """Writes the tokens of a text until the episode ends."""
    env = make_env(tokenizer=tokenizer, prompts=["the cat"], max_new_tokens=64, **changes)
    env.reset(seed=0)
    for token in tokenizer.encode(text, add_special_tokens=False):
        if env.step(token)[2]:
            break
    return env


def test_answer_is_decoded_without_eos(tokenizer):
    env = answer(tokenizer, "sat on the mat.")
    env.step(tokenizer.eos_token_id)
    assert env.last_episode is not None
    assert env.last_episode.response.strip() == "sat on the mat."
    assert env.last_episode.response_ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("stop", ["###", "mat.", "on t", " end", "é", "ß", "\n\n", "本", "e, s"])
def test_stop_string_ends_the_answer_where_it_first_occurs(tokenizer, stop):
    text = "the cat sat on the mat. ### the end. stop here, stop there. über die Straße naïve café\n\n日本語"
    env = answer(tokenizer, text, stop=stop)
    ids = tokenizer.encode(text, add_special_tokens=False)
    written = tokenizer.decode([*tokenizer.encode("the cat"), *ids]).removeprefix("the cat")
    if stop not in written:
        pytest.skip("this tokenizer does not know the characters")
    assert env.last_episode is not None
    assert env.last_episode.finish_reason is FinishReason.STOP
    assert env.last_episode.response == written[: written.index(stop)]
    without_last = tokenizer.decode(list(env.last_episode.response_ids[:-1]))
    assert stop not in without_last


def test_pieces_add_up_to_the_text(tokenizer):
    ids = tokenizer.encode("the cat sat on the mat", add_special_tokens=False)
    pieces = token_pieces(tokenizer)
    assert "".join(pieces[i] or "" for i in ids).strip() == "the cat sat on the mat"


def test_chat_template_is_used():
    tokenizer = byte_level()
    env = make_env(tokenizer=tokenizer, prompts=["the cat"], chat=True, system="be kind", max_prompt_tokens=80)
    observation, info = env.reset(seed=0)
    shown = tokenizer.decode(observation[: info["length"]].tolist())
    assert shown == "<system>be kind\n<user>the cat\n<assistant>"


def test_tokenizer_is_loaded_from_a_folder(tmp_path):
    byte_level().save_pretrained(tmp_path)
    env = make_env(tokenizer=str(tmp_path), prompts=["the cat"])
    env.reset(seed=0)
    assert env.step(env.task.tokenizer.eos_token_id)[2]


@pytest.mark.parametrize("chat", [False, True])
def test_prompts_are_measured_together_as_they_are_encoded_alone(tokenizer, chat):
    prompts = ["ab ba", {"prompt": "abc", "task": "t"}, [3, 4, 5], [{"role": "user", "content": "a b"}], "b" * 40]
    env = TextGenerationEnv(tokenizer, prompts, lambda p, r: [0.0] * len(r), chat=chat)
    expected = [len(env.task.prompt(i).ids) for i in range(len(prompts))]
    assert list(env.task._check_prompts()) == expected
    assert env.task.max_prompt_tokens == max(expected)

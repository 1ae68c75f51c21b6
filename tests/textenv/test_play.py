import numpy as np
import pytest

from tests.textenv.envs.helpers import make_env
from textenv import ConfigError, FinishReason
from textenv.cli.play import PlayConfig, play


def prefers_b(tokens, lengths):
    probs = np.full((len(tokens), 9), 0.05)
    probs[:, 3] = 0.6
    return np.log(probs)


class Terminal:
    """Types lines and keeps what was shown."""

    def __init__(self, *lines):
        self.lines = list(lines)
        self.shown = []

    def read(self, question):
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)

    @property
    def screen(self):
        return "\n".join(self.shown)

    def play(self, **changes):
        env = make_env(prompts=["x"], **changes)
        return play(PlayConfig(), env=env, policy=prefers_b, read=self.read, write=self.shown.append)


def test_candidates_are_shown_with_their_probabilities():
    terminal = Terminal("q")
    assert terminal.play() == []
    assert "1) 'b'" in terminal.screen
    assert "p 0.600  log-prob -0.51" in terminal.screen
    assert "<pad>" not in terminal.screen


def test_numbers_text_and_enter_write_an_answer():
    terminal = Terminal("", "3", "bc", "2")  # b by enter, a and eos by number, bc as text
    (episode,) = terminal.play()
    assert (episode.response, episode.finish_reason) == ("babc", FinishReason.EOS)
    assert f"score {episode.score:.4f}, log-prob {np.log(0.6) + 3 * np.log(0.05):.2f} nats" in terminal.screen


def test_answer_is_scored_and_the_next_begins():
    terminal = Terminal("ab", "", "", "", "", "q")
    (episode,) = terminal.play()
    assert (episode.response, episode.finish_reason) == ("abbbbb", FinishReason.LENGTH)
    assert "ended by length after 5 tokens: score 6.1250" in terminal.screen
    assert terminal.shown[-1].startswith("prompt: x\nanswer: \n")


def test_back_takes_a_token_back():
    terminal = Terminal("b", "b", "", "b", "q")
    terminal.play()
    assert "nothing to take back" in terminal.screen
    assert terminal.shown[-1].splitlines()[1] == "answer: "


def test_skip_starts_another_prompt():
    terminal = Terminal("", "s", "q")
    assert terminal.play() == []
    assert terminal.shown[-1].splitlines()[1] == "answer: "


@pytest.mark.parametrize(
    ("line", "message"), [("77", "there are 8 candidates"), ("日", "cannot write that: the toy tokenizer has no piece")]
)
def test_unusable_input_is_explained(line, message):
    terminal = Terminal(line, "q")
    terminal.play()
    assert message in terminal.screen


def test_masked_token_cannot_be_chosen():
    terminal = Terminal("q")
    terminal.play(min_new_tokens=2)
    assert "<eos>" not in terminal.screen


def test_toy_problem_needs_nothing():
    terminal = Terminal("aaaa", "q")
    (episode,) = play(PlayConfig(seed=1), read=terminal.read, write=terminal.shown.append)
    assert episode.response == "aaaa"


def test_environment_without_policy_is_refused():
    with pytest.raises(ConfigError, match="play needs a policy"):
        play(PlayConfig(), env=make_env())


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"candidates": 0}, "`candidates` must be ≥ 1, got 0"), ({"prompts": []}, "`prompts` must be non-empty")],
)
def test_unusable_configuration_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        PlayConfig(**changes)


def test_language_model_proposes_its_likeliest_tokens(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.textenv.envs.test_hugging_face import byte_level

    tokenizer = byte_level()
    torch.manual_seed(0)
    small = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    model = GPT2LMHeadModel(small).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    terminal = Terminal("", "q")
    config = PlayConfig(
        model=str(tmp_path), prompts=["the cat"], reward="tests.compat.rewards:length", max_new_tokens=1, candidates=3
    )
    (episode,) = play(config, read=terminal.read, write=terminal.shown.append)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer.encode("the cat")])).logits[0, -1]
    logits[tokenizer.pad_token_id] = -float("inf")
    assert episode.response_ids == (int(logits.argmax()),)
    assert episode.score == len(episode.response)

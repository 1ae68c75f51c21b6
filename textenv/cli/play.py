"""``textenv play``: be the policy. Choose tokens in the terminal and see log-probabilities and reward.

Without a model it is the toy problem, with its reference policy. The loop itself (:func:`play`) needs no terminal: it
reads and writes through two functions, so that it can be tested and embedded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import MinLen
from numpy.typing import NDArray
from rich.console import Console

from textenv.answers import EncodedText
from textenv.envs.text_generation import TextGenerationEnv
from textenv.episode import Episode, FinishReason
from textenv.errors import ConfigError
from textenv.pretrained import is_hub_name
from textenv.settings import NonNegativeInt, PositiveInt, Settings, refuse_unused
from textenv.wrappers.base import NextTokenLogprobs

HELP = "number: choose · text: write it · enter: the likeliest · b: back · s: skip to another prompt · q: quit"


@dataclass(frozen=True)
class PlayConfig(Settings):
    """What ``textenv play`` plays.

    Attributes:
        model: Folder or hub name of a language model that proposes tokens; none plays the toy problem.
        prompts: Prompts to answer, or one path to a JSONL or Parquet file.
        reward: Folder of a reward model, the name of a registered reward, or ``package.module:attribute``; none pays 0.
        max_new_tokens: Length limit of an answer.
        candidates: How many of the likeliest tokens are shown.
        seed: Decides the order of prompts.
    """

    model: str | None = None
    prompts: Annotated[list[str], MinLen(1), "give prompts, or the path of a file with prompts"] = field(
        default_factory=lambda: ["Once upon a time"]
    )
    reward: str | None = None
    max_new_tokens: PositiveInt = 40
    candidates: PositiveInt = 9
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None:
            refuse_unused(self, "in the toy problem: give a `model` too", "prompts", "reward", "max_new_tokens")


def no_reward(prompts: list[str], responses: list[str]) -> list[float]:
    """Pays nothing."""
    return [0.0] * len(responses)


def build(config: PlayConfig) -> tuple[TextGenerationEnv, NextTokenLogprobs]:
    """The environment to play and the policy that proposes tokens.

    Raises:
        ConfigError: If prompts or reward are unusable.
        CheckpointError: If a folder holds no model.
        DataError: If a prompt file is unusable.
    """
    if config.model is None:
        from textenv.envs import toy

        env = toy.ToyEnv()
        return env, toy.TablePolicy(env.mdp, env.mdp.ref_probs)
    from agents.policy import CausalLMPolicy
    from textenv.sampling.next_token import CachedLogprobs

    policy = CausalLMPolicy.from_pretrained(config.model)
    reward: Any = no_reward if config.reward is None else config.reward
    if isinstance(reward, str) and (Path(reward).is_dir() or ("/" in reward and is_hub_name(reward))):
        from reward_models import load_reward_model

        reward = load_reward_model(reward)
    one_file = len(config.prompts) == 1 and Path(config.prompts[0]).is_file()
    env = TextGenerationEnv(
        policy,
        config.prompts[0] if one_file else config.prompts,
        reward,
        max_new_tokens=config.max_new_tokens,
    )
    proposals = CachedLogprobs(
        policy.causal_lm, num_slots=1, max_length=env.task.max_length, vocab_size=env.task.vocab_size
    )
    return env, proposals


def play(
    config: PlayConfig,
    console: Console | None = None,
    *,
    env: TextGenerationEnv | None = None,
    policy: NextTokenLogprobs | None = None,
    read: Callable[[str], str] | None = None,
    write: Callable[[str], object] = print,
) -> list[Episode]:
    """Lets a person choose tokens until they quit (``q``, or the end of the input).

    Args:
        config: What to play.
        console: Not used: a terminal's own lines are enough.
        env: The environment; None builds what the configuration says.
        policy: Proposes tokens; needed with ``env``.
        read: Asks for a line of input; None is ``input``.
        write: Shows a text.

    Returns:
        The episodes that were finished.

    Raises:
        ConfigError: If an environment is given without a policy.
    """
    if env is None:
        env, policy = build(config)
    if policy is None:
        raise ConfigError("play needs a policy to propose tokens for the environment that it was given")
    game = _Game(env, policy, config.candidates, write)
    write(HELP)
    game.start(config.seed)
    while True:
        try:
            line = (read or input)("> ")
        except EOFError:
            break
        if line.strip() == "q":
            break
        game.answer(line)
    return game.finished


class _Game:
    """One person's session: where the answer stands, and how to go back."""

    def __init__(
        self, env: TextGenerationEnv, policy: NextTokenLogprobs, candidates: int, write: Callable[[str], object]
    ) -> None:
        self.env = env
        self.policy = policy
        self.candidates = candidates
        self.write = write
        self.finished: list[Episode] = []
        self._history: list[tuple[Any, float]] = []
        self._logprob = 0.0
        self._shown: list[int] = []

    def start(self, seed: int | None = None) -> None:
        """Begins the next prompt."""
        self.env.reset(seed=seed)
        self._history, self._logprob = [], 0.0
        self.show()

    def _logprobs(self) -> NDArray[np.floating]:
        """Log-probabilities of the next token, -inf where it is masked, shape ``(V,)``."""
        slots = self.env.slots
        found = np.array(self.policy(slots.tokens, slots.lengths)[0], dtype=np.float64)
        masks = self.env.action_masks()[: len(found)]
        return np.where(masks, found, -np.inf)

    def show(self) -> None:
        """Shows the answer so far and the likeliest next tokens."""
        slots = self.env.slots
        prompt = slots.prompts[0]
        ids = slots.tokens[0, slots.prompt_lengths[0] : slots.lengths[0]].tolist()
        decode, answers = self.env.task.tokenizer.decode, self.env.task.answers
        logprobs = self._logprobs()
        self._shown = [int(i) for i in np.argsort(-logprobs, kind="stable")[: self.candidates] if logprobs[i] > -np.inf]
        lines = [
            f"prompt: {prompt.text if prompt is not None else ''}",
            f"answer: {answers.decode_after(prompt.ids if prompt else (), ids, skip_special_tokens=False)}",
            f"token {len(ids)} of {self.env.task.max_new_tokens}, log-prob so far {self._logprob:.2f} nats, "
            f"reward so far {float(slots.returns[0]):.4f}",
        ]
        for number, token in enumerate(self._shown, start=1):
            text = decode([token], skip_special_tokens=False)
            lines.append(f"  {number}) {text!r:16} p {np.exp(logprobs[token]):.3f}  log-prob {logprobs[token]:.2f}")
        self.write("\n".join(lines))

    def answer(self, line: str) -> None:
        """Does what a line of input asks."""
        command = line.strip()
        if command == "s":
            self.start()
        elif command == "b":
            self._back()
        elif not line:
            self._take([self._shown[0]])
        elif command.isdecimal():
            if 1 <= int(command) <= len(self._shown):
                self._take([self._shown[int(command) - 1]])
            else:
                self.write(f"there are {len(self._shown)} candidates; {HELP}")
        else:
            self._write_text(line)

    def _write_text(self, text: str) -> None:
        slots = self.env.slots
        try:
            context = EncodedText(slots.tokens[0, : slots.lengths[0]].tolist(), None)
            ids = self.env.task.answers.encode_response(context, text, end=False)
        except (ConfigError, ValueError) as error:
            self.write(f"cannot write that: {error}")
            return
        self._take(ids)

    def _back(self) -> None:
        if not self._history:
            self.write("nothing to take back")
            return
        state, self._logprob = self._history.pop()
        self.env.set_state(state)
        self.show()

    def _take(self, tokens: list[int]) -> None:
        """Takes tokens one by one, as far as the episode goes."""
        for token in tokens:
            logprob = float(self._logprobs()[token])
            if logprob == -np.inf:
                self.write(f"{self.env.task.tokenizer.decode([token])!r} cannot be chosen here")
                break
            self._history.append((self.env.get_state(), self._logprob))
            self._logprob += logprob
            _, _, terminated, truncated, _ = self.env.step(token)
            if terminated or truncated:
                self._finish()
                return
        self.show()

    def _finish(self) -> None:
        episode = self.env.last_episode
        assert episode is not None
        self.finished.append(episode)
        self.write(
            f"answer: {episode.response}\n"
            f"ended by {FinishReason(episode.finish_reason).name.lower()} after {episode.action_tokens} tokens: "
            f"score {episode.score:.4f}, log-prob {self._logprob:.2f} nats\n"
        )
        self.start()

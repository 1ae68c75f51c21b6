"""What an episode is: tokenizer, prompts, reward and limits, resolved and checked once and shared by all slots.

Left out on purpose: the state of episodes (``slots``) and what observations look like (``observations``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from textenv.answers import AnswerFormat, Answers, EncodedText, declare_format, format_of_model
from textenv.envs.tokenizers import ToyTokenizer
from textenv.episode import Episode
from textenv.errors import CheckpointError, ConfigError, DataError, MissingDependencyError
from textenv.prompts import Prompt, PromptList, as_prompt, load_prompts
from textenv.protocols import Tokenizer
from textenv.rewards import LazyReward

EAGERLY_CHECKED_PROMPTS = 1024
"""Up to this many prompts of a source that deals for itself are checked at construction; of lists, all are."""

_MEASURED_TOGETHER = 4096  # texts in one call of a fast tokenizer
_MOST_ENUMERATED = 1_000_000  # prompts of a source that deals for itself

_logger = logging.getLogger(__name__)

DEFAULT_NEW_TOKENS = 64
"""Length limit of answers where neither the caller nor the model says."""

Responder = Callable[[Episode], "str | Sequence[int] | None"]
"""Answers the policy's turn with a text (or token ids); None ends the conversation."""


class TokenStep(NamedTuple):
    """What a token reward sees after each step; read-only views of the environment's state.

    Attributes:
        tokens: Prompt and answer so far, the new token included, right-padded, shape ``(slots, L)``.
        lengths: Tokens in each row, shape ``(slots,)``.
        prompt_lengths: Prompt tokens in each row, shape ``(slots,)``.
        rows: Slots that took a token in this step, shape ``(k,)``.
    """

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    rows: NDArray[np.int64]


TokenReward = Callable[[TokenStep], NDArray[np.float64]]
"""Reward paid at once for each token just taken, shape ``(k,)`` for the ``k`` rows."""


class TaskOptions(TypedDict, total=False):
    """Keyword arguments of the environments; see :class:`GenerationTask` for their meaning and defaults."""

    max_new_tokens: int | None
    max_prompt_tokens: int | None
    min_new_tokens: int | None
    stop: str | Sequence[str] | None
    eos_token_id: int | Sequence[int] | None
    pad_token_id: int | None
    vocab_size: int | None
    observation: Literal["tokens", "dict", "text"]
    obs_dtype: str
    padding_side: Literal["right", "left"]
    on_length_limit: Literal["terminate", "truncate"]
    on_long_prompt: Literal["error", "drop", "truncate"]
    truncate_prompts: Literal["error", "left", "right"]
    task_weights: Mapping[str, float] | None
    chat: bool | None
    system: str | None
    add_special_tokens: bool | None
    skip_special_tokens: bool | None
    responder: Responder | None
    max_turns: int
    max_reply_tokens: int
    token_reward: TokenReward | None
    info_level: Literal["flat", "full"]
    max_episode_steps: int | None


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt ready for a slot.

    Attributes:
        index: Index in the prompt source, -1 for one given to ``reset``.
        text: What the reward function sees.
        ids: What the policy sees.
        task: Name of its task, or None.
    """

    index: int
    text: str
    ids: tuple[int, ...]
    task: str | None


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be an integer ≥ {least}, got {value!r}")


def load_tokenizer(reference: Any) -> Tokenizer:
    """The tokenizer itself: ``"toy"``, the name or folder of a Hugging Face tokenizer, or an object as it is.

    Raises:
        ConfigError: If the object lacks what a tokenizer needs, or the name cannot be loaded.
        MissingDependencyError: If a name is given and transformers is not installed.
    """
    if reference == "toy":
        return ToyTokenizer()
    if isinstance(reference, str):
        from textenv import pretrained

        try:
            place = pretrained.find_folder(reference) if Path(reference).is_dir() else reference
            tokenizer = pretrained.load_tokenizer(place)
            declare_format(tokenizer, format_of_model(place, tokenizer))
        except ImportError as error:
            raise MissingDependencyError(f"tokenizer {reference!r} needs transformers: pip install transformers") from (
                error
            )
        except CheckpointError as error:
            raise ConfigError(f"cannot load the tokenizer {reference!r}: {error}") from error
        return tokenizer
    missing = [n for n in ("encode", "decode", "__len__", "eos_token_id") if not hasattr(reference, n)]
    if missing:
        raise ConfigError(f"{type(reference).__name__} is no tokenizer: it lacks {', '.join(missing)}")
    return reference


def load_answers(reference: Any) -> Answers:
    """Tokenizer and answer format: a policy's own, or what :func:`load_tokenizer` finds and is declared for it.

    Raises:
        ConfigError: As :func:`load_tokenizer`.
        MissingDependencyError: Likewise.
    """
    of_policy = getattr(reference, "answers", None)
    return of_policy if isinstance(of_policy, Answers) else Answers(load_tokenizer(reference))


class GenerationTask:
    """Everything about a text-generation task that does not change from step to step.

    Args:
        tokenizer: A Hugging Face tokenizer, any object with ``encode``, ``decode``, ``__len__`` and ``eos_token_id``,
            the name or folder of a Hugging Face tokenizer, a policy, or ``"toy"``. What an answer is (the arguments
            that default to None below) is taken from the model that it belongs to, where that is known: from the
            policy, from ``answer.json`` or ``generation_config.json`` in the folder, or from what was loaded with it.
        prompts: A list of texts, token ids, chat messages or mappings; a dataset; a path; or a prompt source.
        reward: A function of (prompts, responses), an object with ``.score``, or the name of a registered reward,
            which is then loaded at the first score.
        max_new_tokens: Tokens that the policy may choose in an episode; reaching it ends the episode with a score. None
            takes the model's, or 64.
        max_prompt_tokens: Longest prompt; None takes the longest of ``prompts`` (and tokenises all of them).
        min_new_tokens: Before this many tokens an end-of-sequence token is an invalid action (see
            ``action_masks``) and stop strings do not end the turn.
        stop: String or strings that end the answer as soon as its text contains one; ``()`` for none.
        eos_token_id: Token or tokens that end the answer; None takes the model's, or the tokenizer's.
        pad_token_id: Fills up observations; None takes the tokenizer's. Where that is missing, or is an
            end-of-sequence token (an answer's end could not be seen then), the id ``len(tokenizer)``, which is no
            token, is reserved for it.
        vocab_size: Size of the action space; None takes one more than the tokenizer's largest id, which is the least. A
            model whose embedding is padded to more rows than the tokenizer has tokens can be given its own size here:
            ids that are no tokens stay invalid actions (see ``action_masks``).
        observation: ``"tokens"``, ``"dict"`` or ``"text"``; see ``textenv.envs.observations``.
        obs_dtype: Data type of token observations, e.g. ``"float32"`` for libraries that want floats.
        padding_side: ``"right"``, or ``"left"``: the newest token always in the last column.
        on_length_limit: ``"terminate"`` scores an answer at the limit; ``"truncate"`` cuts it off unscored.
        on_long_prompt: What to do with prompts longer than ``max_prompt_tokens``: ``"error"`` refuses them, ``"drop"``
            never deals them (the others keep their indices), ``"truncate"`` cuts tokens off. What is dropped or cut is
            counted in one logged line. All prompts are looked at when the environment is made; those of a source that
            deals for itself and has more than 1,024 when they are dealt, as such sources may be endless.
        truncate_prompts: The side that loses tokens, ``"left"`` or ``"right"``, which asks for ``on_long_prompt=
            "truncate"``; ``"error"`` leaves it to ``on_long_prompt``, and the side is the left one.
        task_weights: Sampling weight by task; prompts are then drawn by task.
        chat: True wraps text prompts as a user message in the tokenizer's chat template.
        system: System message of conversations that do not begin with one; ``""`` for none.
        add_special_tokens: Whether plain text prompts get the tokens that the tokenizer puts before a text (such as
            BOS); a second one is never put before a text that carries one.
        skip_special_tokens: Whether special tokens are left out of the answer's text.
        responder: Speaks after each of the policy's turns; None, or its answer None, ends the episode there.
        max_turns: Most turns of the policy in one episode, where there is a responder.
        max_reply_tokens: Most tokens of one reply; a longer one fills the context, and the episode is truncated.
        token_reward: Reward paid at once for each token; see :class:`TokenStep`.
        info_level: ``"full"`` puts the :class:`textenv.Episode` into the last step's info as ``"record"``.
        max_episode_steps: Cuts episodes off unscored after this many steps, as Gymnasium's TimeLimit does.

    Raises:
        ConfigError: If an argument is unusable.
        DataError: If a prompt is unusable, too long included; the message names it.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompts: Any,
        reward: Any,
        *,
        max_new_tokens: int | None = None,
        max_prompt_tokens: int | None = None,
        min_new_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
        vocab_size: int | None = None,
        observation: Literal["tokens", "dict", "text"] = "tokens",
        obs_dtype: str = "int64",
        padding_side: Literal["right", "left"] = "right",
        on_length_limit: Literal["terminate", "truncate"] = "terminate",
        on_long_prompt: Literal["error", "drop", "truncate"] = "error",
        truncate_prompts: Literal["error", "left", "right"] = "error",
        task_weights: Mapping[str, float] | None = None,
        chat: bool | None = None,
        system: str | None = None,
        add_special_tokens: bool | None = None,
        skip_special_tokens: bool | None = None,
        responder: Responder | None = None,
        max_turns: int = 8,
        max_reply_tokens: int = 64,
        token_reward: TokenReward | None = None,
        info_level: Literal["flat", "full"] = "flat",
        max_episode_steps: int | None = None,
    ) -> None:
        for name, value, least in (
            ("max_new_tokens", max_new_tokens, 1),
            ("min_new_tokens", min_new_tokens, 0),
            ("max_prompt_tokens", max_prompt_tokens, 1),
            ("max_episode_steps", max_episode_steps, 1),
        ):
            if value is not None:
                _at_least(name, value, least)
        _at_least("max_turns", max_turns, 1)
        _at_least("max_reply_tokens", max_reply_tokens, 1)
        _one_of("observation", observation, ("tokens", "dict", "text"))
        _one_of("padding_side", padding_side, ("right", "left"))
        _one_of("on_length_limit", on_length_limit, ("terminate", "truncate"))
        _one_of("truncate_prompts", truncate_prompts, ("error", "left", "right"))
        _one_of("on_long_prompt", on_long_prompt, ("error", "drop", "truncate"))
        if on_long_prompt == "drop" and truncate_prompts != "error":
            raise ConfigError(f"on_long_prompt='drop' and truncate_prompts={truncate_prompts!r} contradict each other")
        _one_of("info_level", info_level, ("flat", "full"))
        _one_of("obs_dtype", obs_dtype, ("int64", "int32", "float32", "float64"))
        known = load_answers(tokenizer)
        self.tokenizer = known.tokenizer
        settings: dict[str, Any] = {
            "eos_token_ids": None if eos_token_id is None else _as_tuple(eos_token_id),
            "stop": None if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
            "min_new_tokens": None if min_new_tokens is None else int(min_new_tokens),
            "max_new_tokens": None if max_new_tokens is None else int(max_new_tokens),
            "chat": chat,
            "system": system,
            "add_special_tokens": add_special_tokens,
            "skip_special_tokens": skip_special_tokens,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        self._left_open = settings.keys() - given.keys()
        if known.format.max_new_tokens is None:
            given.setdefault("max_new_tokens", DEFAULT_NEW_TOKENS)
        self.reward = LazyReward(reward)
        self.observation = observation
        self.obs_dtype = np.dtype(obs_dtype)
        self.padding_side = padding_side
        self.on_length_limit = on_length_limit
        self.on_long_prompt = on_long_prompt if truncate_prompts == "error" else "truncate"
        self.truncate_prompts = truncate_prompts
        self.responder = responder
        self.max_turns = max_turns
        self.max_reply_tokens = max_reply_tokens
        self.token_reward = token_reward
        self.info_level = info_level
        self.max_episode_steps = max_episode_steps

        self.vocabulary = known.vocabulary
        self.num_tokens = known.vocabulary.size
        self.vocab_size = self.num_tokens if vocab_size is None else int(vocab_size)
        if self.vocab_size < self.num_tokens:
            raise ConfigError(
                f"vocab_size is {self.vocab_size}, but the tokenizer has {self.vocabulary.tokens} tokens, the last of "
                f"them {self.num_tokens - 1}; give no fewer than {self.num_tokens}"
            )
        self._answer_by(known.replace(**given))
        self.pad_token_id = self._resolve_pad(pad_token_id)

        self.prompts = load_prompts(prompts, task_weights)
        if len(self.prompts) == 0:
            raise DataError("there are no prompts; give at least one")
        self._encoded: dict[int, EncodedPrompt] = {}
        self.longest_prompt_given = max_prompt_tokens is not None
        self.max_prompt_tokens = 2**62 if max_prompt_tokens is None else int(max_prompt_tokens)
        lengths = self._check_prompts()
        if max_prompt_tokens is None:
            self.max_prompt_tokens = max(lengths)

    # --- what an answer is --------------------------------------------------------------------------------------------

    def _answer_by(self, answers: Answers) -> None:
        """Set what an answer is."""
        self.answers = answers
        self.min_new_tokens = answers.format.min_new_tokens
        self.max_new_tokens = answers.format.max_new_tokens or DEFAULT_NEW_TOKENS
        self.stops = answers.stops
        self.is_eos = np.zeros(self.vocab_size, dtype=np.bool_)
        self.is_eos[list(answers.format.eos_token_ids)] = True

    @property
    def answer(self) -> AnswerFormat:
        """What an answer is; stored with the model that is trained on it."""
        return self.answers.format

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return self.answer.eos_token_ids

    def adopt(self, answer: AnswerFormat) -> None:
        """Take over what the model that plays says about answers, where this environment was told nothing.

        Raises:
            ConfigError: If the model's prompts are put in another way, which is too late to change.
        """
        for name in ("chat", "system", "add_special_tokens", "encoder_decoder"):
            ours, theirs = getattr(self.answer, name), getattr(answer, name)
            if name in (*self._left_open, "encoder_decoder") and (ours or None) != (theirs or None):
                raise ConfigError(
                    f"the policy reads prompts with `{name}` {theirs!r}, the environment puts them with {ours!r}; make "
                    "it with the policy in place of the tokenizer (TextGenerationVectorEnv(num_envs, policy, …))"
                )
        names = [name for name in ("eos_token_ids", "stop", "min_new_tokens") if name in self._left_open]
        changes = {name: getattr(answer, name) for name in names}
        if changes.get("min_new_tokens", 0) > self.max_new_tokens:
            del changes["min_new_tokens"]
        self._answer_by(self.answers.replace(**changes))

    def _resolve_pad(self, given: int | None) -> int:
        if given is not None:
            if given in self.eos_token_ids:
                raise ConfigError(
                    f"pad_token_id {given} is an end-of-sequence token: the end of an answer could not be seen. "
                    "Leave pad_token_id out to reserve an id for padding"
                )
            if not 0 <= given <= self.vocab_size:
                raise ConfigError(f"pad_token_id must lie in 0 … {self.vocab_size} (vocab_size), got {given}")
            return int(given)
        known = getattr(self.tokenizer, "pad_token_id", None)
        unusable = known is None or known in self.eos_token_ids or known >= self.num_tokens
        return self.num_tokens if unusable else int(known)  # type: ignore[arg-type]

    @property
    def max_length(self) -> int:
        """Most tokens that an episode can have in all, prompt and replies included."""
        replies = 0 if self.responder is None else (self.max_turns - 1) * self.max_reply_tokens
        return self.max_prompt_tokens + self.max_new_tokens + replies

    # --- prompts ------------------------------------------------------------------------------------------------------

    def _check_prompts(self) -> Sequence[int]:
        """Finds prompts that are empty or too long before the first episode; returns their lengths in tokens."""
        prompts = self.prompts
        if not isinstance(prompts, PromptList):
            if self.on_long_prompt == "drop":
                raise ConfigError(
                    f"on_long_prompt='drop' needs prompts that the environment deals; a {type(prompts).__name__} deals "
                    "for itself"
                )
            if len(prompts) > EAGERLY_CHECKED_PROMPTS and self.max_prompt_tokens < 2**62:
                return []  # looked at when they are dealt
            if len(prompts) > _MOST_ENUMERATED:
                raise ConfigError(
                    f"there are {len(prompts)} prompts, too many to look for the longest: give max_prompt_tokens"
                )
            return [len(self.prompt(i).ids) for i in range(len(prompts))]
        lengths = self.prompt_lengths(prompts)
        long = np.flatnonzero(lengths > self.max_prompt_tokens)
        refused = [*np.flatnonzero(lengths == 0), *(long if self.on_long_prompt == "error" else ())]
        if refused:
            self.prompt(int(min(refused)))  # raises
        if len(long):
            done = "never dealt" if self.on_long_prompt == "drop" else "truncated"
            _logger.warning(
                "%d of %d prompts have more than max_prompt_tokens = %d tokens and are %s; "
                "the first: prompt %d, with %d",
                len(long),
                len(prompts),
                self.max_prompt_tokens,
                done,
                long[0],
                lengths[long[0]],
            )
            if self.on_long_prompt == "drop":
                self.prompts = prompts.without(long)
        return lengths.tolist()

    def prompt_lengths(self, prompts: Sequence[Prompt], name: str = "prompt") -> NDArray[np.int64]:
        """Tokens of each prompt; the texts of many go through the tokenizer together.

        Args:
            prompts: The prompts.
            name: What they are called in errors.

        Raises:
            DataError: If the chat template refuses one, or ids are no tokens.
        """
        lengths = np.zeros(len(prompts), np.int64)
        for start in range(0, len(prompts), _MEASURED_TOGETHER):
            chunk = prompts[start : start + _MEASURED_TOGETHER]
            wheres = [f"{name} {start + i}" for i in range(len(chunk))]
            encoded = self.answers.encode_prompts([_asked(prompt) for prompt in chunk], wheres)
            for i, (prompt, read) in enumerate(zip(chunk, encoded, strict=True)):
                lengths[start + i] = len(read.ids)
                if prompt.ids and not 0 <= min(prompt.ids) <= max(prompt.ids) < self.num_tokens:
                    self.encode_prompt(prompt, where=wheres[i])  # raises
        return lengths

    def prompt(self, index: int) -> EncodedPrompt:
        """The prompt with this index, encoded once.

        Raises:
            DataError: If it is unusable or too long.
        """
        encoded = self._encoded.get(index)
        if encoded is None:
            encoded = self._encoded[index] = self.encode_prompt(self.prompts[index], index)
        return encoded

    def encode_prompt(self, item: Any, index: int = -1, where: str = "the prompt given to reset") -> EncodedPrompt:
        """A prompt in any accepted form, encoded.

        Args:
            item: The prompt.
            index: Its index in the prompt source; -1 for others.
            where: Names a prompt without an index in errors.

        Raises:
            DataError: If it is unusable or too long; the message names it.
        """
        where = f"prompt {index}" if index >= 0 else where
        prompt = as_prompt(item, where)
        ids = prompt.ids if prompt.ids is not None else tuple(self._encode(prompt, where).ids)
        wrong = [i for i in ids if not 0 <= i < self.num_tokens or i in self.vocabulary.absent]
        if wrong:
            raise DataError(f"{where} contains the id {wrong[0]}, but the tokenizer has {self.vocabulary} tokens")
        text = prompt.text if prompt.text is not None else self.tokenizer.decode(list(ids), skip_special_tokens=True)
        shown = repr(text if len(text) <= 40 else text[:39] + "…")
        if not ids:
            raise DataError(f"{where} ({shown}) has no tokens; a policy needs at least one to start from")
        if len(ids) > self.max_prompt_tokens:
            if self.on_long_prompt != "truncate":
                raise DataError(
                    f"{where} ({shown}) has {len(ids)} tokens, more than max_prompt_tokens = {self.max_prompt_tokens}; "
                    "raise it, shorten the prompt, or pass on_long_prompt='drop', or truncate_prompts='left'"
                )
            kept = self.max_prompt_tokens
            ids = ids[:kept] if self.truncate_prompts == "right" else ids[-kept:]
        return EncodedPrompt(index, text, ids, prompt.task)

    def _encode(self, prompt: Prompt, where: str) -> EncodedText:
        return self.answers.encode_prompt(_asked(prompt), where)

    def __deepcopy__(self, memo: dict[int, Any]) -> GenerationTask:
        """The task itself: it does not change, and its models and tokenizers are heavy."""
        return self


def _asked(prompt: Prompt) -> Any:
    """What of a prompt is encoded."""
    if prompt.ids is not None:
        return prompt.ids
    return prompt.messages if prompt.messages is not None else str(prompt.text)


def _as_tuple(ids: int | Sequence[int]) -> tuple[int, ...]:
    return (int(ids),) if isinstance(ids, (int, np.integer)) else tuple(int(i) for i in ids)

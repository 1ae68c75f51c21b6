"""What an episode is: tokenizer, prompts, reward and limits, resolved and checked once and shared by all slots.

Left out on purpose: the state of episodes (``slots``) and what observations look like (``observations``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from textenv.envs.stops import StopMatcher
from textenv.episode import Episode
from textenv.errors import ConfigError, DataError, MissingDependencyError
from textenv.prompts import Message, Prompt, PromptList, as_prompt, load_prompts
from textenv.protocols import Tokenizer
from textenv.rewards import LazyReward

EAGERLY_CHECKED_PROMPTS = 1024
"""Up to this many prompts of a source that deals for itself are checked at construction; of lists, all are."""

_MEASURED_TOGETHER = 4096  # texts in one call of a fast tokenizer
_MOST_ENUMERATED = 1_000_000  # prompts of a source that deals for itself

_logger = logging.getLogger(__name__)

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

    max_new_tokens: int
    max_prompt_tokens: int | None
    min_new_tokens: int
    stop: str | Sequence[str]
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
    chat: bool
    system: str | None
    add_special_tokens: bool
    skip_special_tokens: bool
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
        from textenv.envs.tokenizers import ToyTokenizer

        return ToyTokenizer()
    if isinstance(reference, str):
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise MissingDependencyError(f"tokenizer {reference!r} needs transformers: pip install transformers") from (
                error
            )
        try:
            return AutoTokenizer.from_pretrained(reference)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot load the tokenizer {reference!r}: {error}") from error
    missing = [n for n in ("encode", "decode", "__len__", "eos_token_id") if not hasattr(reference, n)]
    if missing:
        raise ConfigError(f"{type(reference).__name__} is no tokenizer: it lacks {', '.join(missing)}")
    return reference


class GenerationTask:
    """Everything about a text-generation task that does not change from step to step.

    Args:
        tokenizer: A Hugging Face tokenizer, any object with ``encode``, ``decode``, ``__len__`` and ``eos_token_id``,
            the name or folder of a Hugging Face tokenizer, or ``"toy"``.
        prompts: A list of texts, token ids, chat messages or mappings; a dataset; a path; or a prompt source.
        reward: A function of (prompts, responses), an object with ``.score``, or the name of a registered reward,
            which is then loaded at the first score.
        max_new_tokens: Tokens that the policy may choose in an episode; reaching it ends the episode with a score.
        max_prompt_tokens: Longest prompt; None takes the longest of ``prompts`` (and tokenises all of them).
        min_new_tokens: Before this many tokens an end-of-sequence token is an invalid action (see
            ``action_masks``) and stop strings do not end the turn.
        stop: String or strings that end the answer as soon as its text contains one.
        eos_token_id: Token or tokens that end the answer; None takes the tokenizer's.
        pad_token_id: Fills up observations; None takes the tokenizer's. Where that is missing, or is an
            end-of-sequence token (an answer's end could not be seen then), the id ``len(tokenizer)``, which is no
            token, is reserved for it.
        vocab_size: Size of the action space, at least ``len(tokenizer)``; None takes that. A model whose embedding
            is padded to more rows than the tokenizer has tokens can be given its own size here: ids that are no
            tokens stay invalid actions (see ``action_masks``).
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
        system: System message for the chat template.
        add_special_tokens: Whether plain text prompts get the tokenizer's special tokens (such as BOS).
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
        max_new_tokens: int = 64,
        max_prompt_tokens: int | None = None,
        min_new_tokens: int = 0,
        stop: str | Sequence[str] = (),
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
        chat: bool = False,
        system: str | None = None,
        add_special_tokens: bool = True,
        skip_special_tokens: bool = True,
        responder: Responder | None = None,
        max_turns: int = 8,
        max_reply_tokens: int = 64,
        token_reward: TokenReward | None = None,
        info_level: Literal["flat", "full"] = "flat",
        max_episode_steps: int | None = None,
    ) -> None:
        _at_least("max_new_tokens", max_new_tokens, 1)
        _at_least("min_new_tokens", min_new_tokens, 0)
        _at_least("max_turns", max_turns, 1)
        _at_least("max_reply_tokens", max_reply_tokens, 1)
        if min_new_tokens > max_new_tokens:
            raise ConfigError(f"min_new_tokens must not exceed max_new_tokens, got {min_new_tokens} > {max_new_tokens}")
        if max_prompt_tokens is not None:
            _at_least("max_prompt_tokens", max_prompt_tokens, 1)
        if max_episode_steps is not None:
            _at_least("max_episode_steps", max_episode_steps, 1)
        _one_of("observation", observation, ("tokens", "dict", "text"))
        _one_of("padding_side", padding_side, ("right", "left"))
        _one_of("on_length_limit", on_length_limit, ("terminate", "truncate"))
        _one_of("truncate_prompts", truncate_prompts, ("error", "left", "right"))
        _one_of("on_long_prompt", on_long_prompt, ("error", "drop", "truncate"))
        if on_long_prompt == "drop" and truncate_prompts != "error":
            raise ConfigError(f"on_long_prompt='drop' and truncate_prompts={truncate_prompts!r} contradict each other")
        _one_of("info_level", info_level, ("flat", "full"))
        _one_of("obs_dtype", obs_dtype, ("int64", "int32", "float32", "float64"))
        self.tokenizer = load_tokenizer(tokenizer)
        self.reward = LazyReward(reward)
        self.max_new_tokens = int(max_new_tokens)
        self.min_new_tokens = int(min_new_tokens)
        self.observation = observation
        self.obs_dtype = np.dtype(obs_dtype)
        self.padding_side = padding_side
        self.on_length_limit = on_length_limit
        self.on_long_prompt = on_long_prompt if truncate_prompts == "error" else "truncate"
        self.truncate_prompts = truncate_prompts
        self.chat = chat
        self.system = system
        self.add_special_tokens = add_special_tokens
        self.skip_special_tokens = skip_special_tokens
        self.responder = responder
        self.max_turns = max_turns
        self.max_reply_tokens = max_reply_tokens
        self.token_reward = token_reward
        self.info_level = info_level
        self.max_episode_steps = max_episode_steps

        self.num_tokens = len(self.tokenizer)
        self.vocab_size = self.num_tokens if vocab_size is None else int(vocab_size)
        if self.vocab_size < self.num_tokens:
            raise ConfigError(
                f"vocab_size is {self.vocab_size}, but the tokenizer has {self.num_tokens} tokens; give no fewer"
            )
        self.eos_token_ids = self._resolve_eos(eos_token_id)
        self.is_eos = np.zeros(self.vocab_size, dtype=np.bool_)
        self.is_eos[list(self.eos_token_ids)] = True
        self.pad_token_id = self._resolve_pad(pad_token_id)
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(isinstance(s, str) and s for s in stops):
            raise ConfigError(f"stop strings must be texts that are not empty, got {stops!r}")
        self.stops = StopMatcher(self.tokenizer, stops) if stops else None

        self.prompts = load_prompts(prompts, task_weights)
        if len(self.prompts) == 0:
            raise DataError("there are no prompts; give at least one")
        self._encoded: dict[int, EncodedPrompt] = {}
        self.max_prompt_tokens = 2**62 if max_prompt_tokens is None else int(max_prompt_tokens)
        lengths = self._check_prompts()
        if max_prompt_tokens is None:
            self.max_prompt_tokens = max(lengths)

    # --- ids ----------------------------------------------------------------------------------------------------------

    def _resolve_eos(self, given: int | Sequence[int] | None) -> tuple[int, ...]:
        if given is None:
            given = () if self.tokenizer.eos_token_id is None else self.tokenizer.eos_token_id
        ids = (int(given),) if isinstance(given, (int, np.integer)) else tuple(int(i) for i in given)
        for i in ids:
            if not 0 <= i < self.num_tokens:
                raise ConfigError(f"eos_token_id {i} is no token of the tokenizer, which has {self.num_tokens}")
        return ids

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
        own = getattr(self.tokenizer, "pad_token_id", None)
        return self.num_tokens if own is None or own in self.eos_token_ids else int(own)

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
        lengths = self._prompt_lengths(prompts)
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

    def _prompt_lengths(self, prompts: PromptList) -> NDArray[np.int64]:
        """Tokens of each prompt; the texts of many go through a fast tokenizer together."""
        lengths = np.zeros(len(prompts), np.int64)
        together: dict[bool, list[tuple[int, str]]] = {True: [], False: []}
        for index, prompt in enumerate(prompts):
            if prompt.ids is not None:
                lengths[index] = len(prompt.ids)
                if prompt.ids and not 0 <= min(prompt.ids) <= max(prompt.ids) < self.num_tokens:
                    self.prompt(index)  # raises
            else:
                text, special = self._rendered(prompt)
                together[special].append((index, text))
        for special, texts in together.items():
            for start in range(0, len(texts), _MEASURED_TOGETHER):
                chunk = texts[start : start + _MEASURED_TOGETHER]
                lengths[[i for i, _ in chunk]] = self._text_lengths([text for _, text in chunk], special)
        return lengths

    def _text_lengths(self, texts: list[str], add_special_tokens: bool) -> list[int]:
        tokenizer: Any = self.tokenizer
        if getattr(tokenizer, "is_fast", False):
            encoded = tokenizer(
                texts, add_special_tokens=add_special_tokens, return_attention_mask=False, verbose=False
            )
            return [len(ids) for ids in encoded["input_ids"]]
        return [len(tokenizer.encode(text, add_special_tokens=add_special_tokens)) for text in texts]

    def prompt(self, index: int) -> EncodedPrompt:
        """The prompt with this index, encoded once.

        Raises:
            DataError: If it is unusable or too long.
        """
        found = self._encoded.get(index)
        if found is None:
            found = self._encoded[index] = self.encode_prompt(self.prompts[index], index)
        return found

    def encode_prompt(self, item: Any, index: int = -1) -> EncodedPrompt:
        """A prompt in any accepted form, encoded.

        Raises:
            DataError: If it is unusable or too long; the message names it.
        """
        where = f"prompt {index}" if index >= 0 else "the prompt given to reset"
        prompt = as_prompt(item, where)
        ids = prompt.ids if prompt.ids is not None else tuple(self._encode_text(prompt))
        wrong = [i for i in ids if not 0 <= i < self.num_tokens]
        if wrong:
            raise DataError(f"{where} contains the id {wrong[0]}, but the tokenizer has {self.num_tokens} tokens")
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

    def _encode_text(self, prompt: Prompt) -> list[int]:
        text, special = self._rendered(prompt)
        return self.tokenizer.encode(text, add_special_tokens=special)

    def _rendered(self, prompt: Prompt) -> tuple[str, bool]:
        """The text that is encoded, and whether the tokenizer adds its special tokens."""
        if prompt.messages is not None or self.chat:
            messages: list[Message] = list(prompt.messages or ({"role": "user", "content": str(prompt.text)},))
            if self.system is not None:
                messages.insert(0, {"role": "system", "content": self.system})
            template = getattr(self.tokenizer, "apply_chat_template", None)
            if template is None:
                raise ConfigError(f"chat prompts need a chat template, which {type(self.tokenizer).__name__} lacks")
            text = template([dict(m) for m in messages], tokenize=False, add_generation_prompt=True)
            return text, False
        return str(prompt.text), self.add_special_tokens

    # --- texts --------------------------------------------------------------------------------------------------------

    def response_text(self, ids: Sequence[int], protected_tokens: int = 0) -> str:
        """Text of a turn: without the end-of-sequence token, or else cut before the stop string that ended it.

        Args:
            ids: The turn's tokens.
            protected_tokens: Stop strings complete within this many tokens did not end the turn, and stay.
        """
        if ids and self.is_eos[ids[-1]]:
            return self._decode(ids[:-1])
        text = self._decode(ids)
        if self.stops is None:
            return text
        return self.stops.cut(text, len(self._decode(ids[:protected_tokens])) if protected_tokens > 0 else 0)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=self.skip_special_tokens)

    def __deepcopy__(self, memo: dict[int, Any]) -> GenerationTask:
        """The task itself: it does not change, and its models and tokenizers are heavy."""
        return self

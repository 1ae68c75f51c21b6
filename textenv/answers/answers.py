"""An answer format bound to a tokenizer: prompts and answers to ids, ids to texts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from textenv.answers.chat import Chat, render_chat, turn_end_token
from textenv.answers.format import AnswerFormat, declared_format
from textenv.answers.stops import StopMatcher
from textenv.answers.vocabulary import CONTEXT_TOKENS, Vocabulary, vocabulary
from textenv.errors import ConfigError

_REMEMBERED = 4096  # texts of contexts
_ANCHORS = ("a", "\n", ".", ":", "0")  # texts that an answer may be encoded after without growing into them
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what incomplete UTF-8 decodes to

PromptLike = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""A text, token ids, or chat messages."""


TokenIds = Sequence[int] | NDArray[np.int64]


class EncodedText(NamedTuple):
    """A prompt as a model reads it.

    Attributes:
        ids: Token ids.
        text: The text that they are of, chat template included; None where only ids are known.
        templated: Whether a chat template made the text, which then brings its own special tokens.
    """

    ids: list[int]
    text: str | None
    templated: bool = False


class Answers:
    """Reads and writes answers of one format.

    Args:
        tokenizer: Encodes and decodes.
        answer: What an answer is; None takes what is declared for the tokenizer.
        ids: The tokens that there are; None asks the tokenizer.

    Raises:
        ConfigError: If an end token is no token of the tokenizer.
    """

    def __init__(self, tokenizer: Any, answer: AnswerFormat | None = None, *, ids: Vocabulary | None = None) -> None:
        self.tokenizer = tokenizer
        self.format = declared_format(tokenizer) if answer is None else answer
        self.vocabulary = vocabulary(tokenizer) if ids is None else ids
        self._contexts: dict[tuple[tuple[int, ...], bool], tuple[list[int], str]] = {}
        silent = getattr(tokenizer, "all_special_ids", ()) if self.format.skip_special_tokens else ()
        stop = self.format.stop
        self.stops = StopMatcher(tokenizer, stop, self.decode_after, silent) if stop else None
        size, absent = self.vocabulary
        for token in self.format.eos_token_ids:
            if not 0 <= token < size or token in absent:
                raise ConfigError(f"eos_token_id {token} is no token of the tokenizer, whose ids end at {size - 1}")

    def replace(self, **changes: Any) -> Answers:
        """The same with some fields of the format changed."""
        changed = dataclasses.replace(self.format, **changes)
        return self if changed == self.format else Answers(self.tokenizer, changed, ids=self.vocabulary)

    # --- prompts ------------------------------------------------------------------------------------------------------

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and after a text."""
        for probe in _ANCHORS:
            try:
                bare, whole = (list(self._encode(probe, special)) for special in (False, True))
            except ValueError:  # a tokenizer of few characters
                continue
            for start in range(len(whole) - len(bare) + 1 if bare else 0):
                if whole[start : start + len(bare)] == bare:
                    return whole[:start], whole[start + len(bare) :]
        return [], []

    def encode_prompt(self, prompt: PromptLike, where: str = "the prompt") -> EncodedText:
        """A prompt as the model reads it.

        Args:
            prompt: A text, token ids, or chat messages; a text is asked as a user's message where the format says so.
            where: Names it in errors.

        Raises:
            ConfigError: If a conversation needs a chat template and there is none.
            DataError: If the template refuses it.
        """
        return self.encode_prompts([prompt], [where])[0]

    def encode_prompts(self, prompts: Sequence[PromptLike], wheres: Sequence[str] | None = None) -> list[EncodedText]:
        """Many prompts, whose texts go through the tokenizer together; see :meth:`encode_prompt`.

        Args:
            prompts: Texts, token ids and conversations as they come.
            wheres: Name each of them in errors.

        Raises:
            ConfigError: If a conversation needs a chat template and there is none.
            DataError: If the template refuses one.
        """
        found: list[EncodedText] = []
        for number, prompt in enumerate(prompts):
            where = f"prompt {number}" if wheres is None else wheres[number]
            prompt = prompt.messages if isinstance(prompt, Chat) else prompt
            if isinstance(prompt, str) and not self.format.chat:
                found.append(EncodedText([], prompt))
            elif isinstance(prompt, str) or (len(prompt) and isinstance(prompt[0], Mapping)):
                found.append(EncodedText([], self._render(prompt, where), True))
            else:
                found.append(EncodedText([int(token) for token in prompt], None))  # type: ignore[arg-type]
        for templated in (False, True):
            rows = [i for i, read in enumerate(found) if read.text is not None and read.templated is templated]
            special = self.format.add_special_tokens and not templated
            encoded = self._encode_many([str(found[i].text) for i in rows], special)
            for i, ids in zip(rows, encoded, strict=True):
                found[i] = found[i]._replace(ids=self._templated(ids) if templated else self._trimmed(ids))
        return found

    def _render(self, prompt: str | Sequence[Any], where: str) -> str:
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return render_chat(self.tokenizer, turns, system=self.format.system, where=where)

    def encode_text(self, text: str) -> EncodedText:
        """A plain text as it stands, without a chat template."""
        return EncodedText(self._trimmed(list(self._encode(text, self.format.add_special_tokens))), text)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], where: str = "the conversation") -> EncodedText:
        """Chat messages up to where the assistant goes on.

        Raises:
            ConfigError: If there is no chat template.
            DataError: If it refuses them.
        """
        text = self._render(messages, where)
        return EncodedText(self._templated(list(self._encode(text, False))), text, True)

    def _encode(self, text: str, special: bool) -> Sequence[int]:
        return self.tokenizer.encode(text, add_special_tokens=special)

    def _trimmed(self, ids: list[int]) -> list[int]:
        """Without a second begin token, and without what the tokenizer puts after a text that is gone on with."""
        if not self.format.add_special_tokens:
            return ids
        before, after = self._around
        if after and not self.format.encoder_decoder and ids[-len(after) :] == after:
            ids = ids[: -len(after)]
        again = len(before) and ids[len(before) : 2 * len(before)] == before
        return ids[len(before) :] if again else ids

    def _templated(self, ids: list[int]) -> list[int]:
        """An encoder reads an end token after a template's text too."""
        after = self._around[1] if self.format.encoder_decoder else []
        return ids if not after or ids[-len(after) :] == after else ids + after

    # --- answers to ids -----------------------------------------------------------------------------------------------

    def encode_response(self, prompt: EncodedText, response: str, *, end: bool = True) -> list[int]:
        """The ids that a policy produces for this answer to this prompt; :meth:`encode_responses` for many."""
        return self.encode_responses([prompt], [response], end=end)[0]

    def encode_responses(
        self, prompts: Sequence[EncodedText], responses: Sequence[str], *, end: bool = True
    ) -> list[list[int]]:
        """The ids that a policy produces for these answers: decoded in their place they are the answers' texts.

        Args:
            prompts: What is answered.
            responses: The answers' texts, as many.
            end: Add the end token.

        Raises:
            ConfigError: If an end token is asked for and there is none.
        """
        if end and not self.format.eos_token_ids:
            raise ConfigError(
                "the tokenizer has no end-of-text token, so no answer could be taught to end; set `tokenizer.eos_token`"
            )
        apart = self._encode_many(list(responses), False)
        whole: list[list[int] | None] = [None] * len(prompts)
        if not self.format.encoder_decoder:
            for templated in (False, True):
                rows = [i for i, p in enumerate(prompts) if p.text is not None and p.templated is templated]
                texts = [f"{prompts[i].text}{responses[i]}" for i in rows]
                special = self.format.add_special_tokens and not templated
                for i, ids in zip(rows, self._encode_many(texts, special), strict=True):
                    whole[i] = ids if templated else self._trimmed(ids)
        return [
            self._fitting(prompt.ids, response, own, joint) + ([self._end_token(prompt.templated)] if end else [])
            for prompt, response, own, joint in zip(prompts, responses, apart, whole, strict=True)
        ]

    @cached_property
    def _turn_end(self) -> int | None:
        return turn_end_token(self.tokenizer)

    def _end_token(self, templated: bool) -> int:
        """What ends an answer that is taught: in a chat template the token that it writes there itself."""
        own = self._turn_end if templated else None
        return own if own in self.format.eos_token_ids and own is not None else self.format.eos_token_ids[0]

    def _fitting(self, prompt: list[int], response: str, apart: list[int], joint: list[int] | None) -> list[int]:
        """The encoding of an answer that says it after this prompt."""
        if self.format.encoder_decoder:
            return apart
        size = len(prompt)
        after = joint[size:] if joint is not None and joint[:size] == prompt else None
        if after == apart:
            return apart
        for ids in itertools.chain([after] if after is not None else [], [apart], self._anchored(response)):
            if self.decode_after(prompt, ids, skip_special_tokens=False) == response:
                return ids
        return after if after is not None else apart

    def _anchored(self, response: str) -> Iterator[list[int]]:
        """Encodings of a text that goes on from another one."""
        for anchor in _ANCHORS:
            try:
                before, whole = (list(self._encode(text, False)) for text in (anchor, anchor + response))
            except ValueError:  # a tokenizer of few characters
                continue
            if whole[: len(before)] == before:
                yield whole[len(before) :]

    def _encode_many(self, texts: list[str], special: bool) -> list[list[int]]:
        if len(texts) > 1 and callable(self.tokenizer):
            encoded: Any = self.tokenizer(texts, add_special_tokens=special, verbose=False)
            return [list(ids) for ids in encoded["input_ids"]]
        return [list(self._encode(text, special)) for text in texts]

    # --- ids to texts -------------------------------------------------------------------------------------------------

    def decode_after(self, context: TokenIds, ids: TokenIds, *, skip_special_tokens: bool | None = None) -> str:
        """What tokens say after others: decoders drop blanks at the beginning of a text, or join words.

        Args:
            context: Tokens before them.
            ids: The tokens.
            skip_special_tokens: Leave special tokens out; None does as the format says.

        Returns:
            What they add to the context's text; their own text where the context's changes with them.
        """
        if not len(ids):
            return ""
        skip = self.format.skip_special_tokens if skip_special_tokens is None else skip_special_tokens
        said = _listed(ids)
        if self.format.encoder_decoder or not len(context):
            return self.tokenizer.decode(said, skip_special_tokens=skip)
        tail, before = self._before(context, skip)
        whole = self.tokenizer.decode([*tail, *said], skip_special_tokens=skip)
        if not whole.startswith(before):  # half a character may have found its other half
            before = before.rstrip(_REPLACEMENT)
            if not whole.startswith(before):
                return self.tokenizer.decode(said, skip_special_tokens=skip)
        return whole[len(before) :]

    def _before(self, context: TokenIds, skip: bool) -> tuple[list[int], str]:
        """The context's last tokens and their text; those of prompts, which come again and again, are remembered."""
        key = (context, skip) if isinstance(context, tuple) else None
        found = self._contexts.get(key) if key is not None else None
        if found is None:
            tail = _listed(context[-CONTEXT_TOKENS:])
            before = self.tokenizer.decode(tail, skip_special_tokens=skip)
            if len(tail) < len(context) and not before.strip():
                tail = _listed(context)
                before = self.tokenizer.decode(tail, skip_special_tokens=skip)
            found = tail, before
            if key is not None:
                if len(self._contexts) >= _REMEMBERED:
                    self._contexts.clear()
                self._contexts[key] = found
        return found

    def text(self, context: TokenIds, ids: TokenIds, protected_tokens: int = 0) -> str:
        """Text of an answer: without its end token, or cut before the stop string that ended it.

        Args:
            context: The prompt's tokens, and those of earlier turns.
            ids: The answer's tokens.
            protected_tokens: Stop strings complete within this many tokens did not end it, and stay.
        """
        if len(ids) and int(ids[-1]) in self.format.eos_token_ids:
            return self.decode_after(context, ids[:-1])
        text = self.decode_after(context, ids)
        if self.stops is None:
            return text
        protected = len(self.decode_after(context, ids[:protected_tokens])) if protected_tokens > 0 else 0
        return self.stops.cut(text, protected)

    def answer_text(self, context: TokenIds, ids: TokenIds) -> str:
        """:meth:`text` of a whole answer, stop strings before ``min_new_tokens`` left in."""
        return self.text(context, ids, self.format.min_new_tokens - 1)

    # --- where answers end --------------------------------------------------------------------------------------------

    @cached_property
    def is_eos(self) -> NDArray[np.bool_]:
        """True on end tokens, shape ``(vocabulary.size,)``."""
        found = np.zeros(self.vocabulary.size, dtype=np.bool_)
        found[list(self.format.eos_token_ids)] = True
        return found

    def finish(self, ids: TokenIds, context: TokenIds = ()) -> str | None:
        """Why the tokens of a turn end it with the last of them: ``"eos"``, ``"stop"``, or None where it goes on."""
        last = int(ids[-1])
        if self.is_eos[last]:
            return "eos"
        if self.stops is None or len(ids) < self.format.min_new_tokens or not self.stops.could_end_with(last):
            return None
        return "stop" if self.stops.matches(ids, context) else None


def _listed(ids: TokenIds) -> list[int]:
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


def answers_of(policy: Any) -> Answers:
    """A policy's answers: its own ``answers``, or those that its tokenizer declares."""
    own = getattr(policy, "answers", None)
    if isinstance(own, Answers):
        return own
    ids = None if hasattr(policy.tokenizer, "__len__") else Vocabulary(policy.vocab_size, np.zeros(0, np.int64))
    return Answers(policy.tokenizer, ids=ids)

"""The definition of an answer as plain data, and how it travels: beside a model, and with a tokenizer."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textenv.answers.vocabulary import vocabulary
from textenv.checkpoints import write_atomic
from textenv.errors import CheckpointError, ConfigError
from textenv.settings import NonNegativeInt, PositiveInt, Settings

FILE = "answer.json"
_VERSION = 1
_ATTRIBUTE = "textenv_answer_format"


@dataclass(frozen=True)
class AnswerFormat(Settings):
    """What an answer is.

    Attributes:
        eos_token_ids: Tokens that end an answer; the first one is what fine-tuning teaches where no chat template
            writes another.
        stop: Strings that end an answer as soon as its text contains one; they are not part of the text.
        min_new_tokens: Before this many tokens no end token can be chosen and no stop string counts.
        max_new_tokens: Length limit in tokens, end token included; None leaves it to whoever asks.
        chat: Texts are asked as a user's message, in the tokenizer's chat template; conversations always are.
        system: System message of conversations that do not begin with one.
        add_special_tokens: Whether plain texts get the tokens that the tokenizer puts before a text (such as BOS).
        skip_special_tokens: Whether special tokens are left out of an answer's text.
        encoder_decoder: An encoder reads the prompt: it keeps the tokens that the tokenizer puts after a text, and an
            answer's text does not go on from the prompt's.

    Raises:
        ConfigError: If a value is unusable.
    """

    eos_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    min_new_tokens: NonNegativeInt = 0
    max_new_tokens: PositiveInt | None = None
    chat: bool = False
    system: str | None = None
    add_special_tokens: bool = True
    skip_special_tokens: bool = True
    encoder_decoder: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ConfigError(f"stop strings must be texts that are not empty, got {self.stop!r}")
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"min_new_tokens must not exceed max_new_tokens, got {self.min_new_tokens} > {self.max_new_tokens}"
            )

    @classmethod
    def of_tokenizer(cls, tokenizer: Any, config: Any = None, generation_config: Any = None) -> AnswerFormat:
        """What tokenizer and model say themselves.

        Args:
            tokenizer: Its end-of-text token comes first.
            config: A transformers model's configuration.
            generation_config: Its generation configuration, whose end tokens all count.
        """
        ids = [*_ids(tokenizer.eos_token_id), *_ids(getattr(generation_config, "eos_token_id", None))]
        size = vocabulary(tokenizer).size if hasattr(tokenizer, "__len__") else sys.maxsize
        return cls(
            eos_token_ids=tuple(dict.fromkeys(i for i in ids if 0 <= i < size)),
            encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        )


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(i) for i in value] if isinstance(value, Iterable) else [int(value)]


def declare_format(tokenizer: Any, answer: AnswerFormat) -> None:
    """Let those who get only a model's tokenizer, such as environments, know the model's answer format."""
    try:
        setattr(tokenizer, _ATTRIBUTE, answer)
    except AttributeError:  # an object that takes no attributes: whoever uses it has to be told
        return


def declared_format(tokenizer: Any) -> AnswerFormat:
    """The answer format of the model that a tokenizer belongs to; of an unknown one, the tokenizer's end token."""
    found = getattr(tokenizer, _ATTRIBUTE, None)
    return found if isinstance(found, AnswerFormat) else AnswerFormat.of_tokenizer(tokenizer)


def save_format(answer: AnswerFormat, folder: Path) -> None:
    """Write ``answer.json`` beside a model."""
    write_atomic(folder / FILE, json.dumps({"version": _VERSION, **dataclasses.asdict(answer)}, indent=2) + "\n")


def format_of_folder(folder: str | Path) -> AnswerFormat | None:
    """What ``answer.json`` in a model's folder says; None where there is none.

    Raises:
        CheckpointError: If the file is damaged or of a newer version.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict) or fields.pop("version", None) != _VERSION:
            raise CheckpointError(f"`{path}` is of another version; this version of textenv reads {_VERSION}")
        lists = {name: tuple(fields[name]) for name in ("eos_token_ids", "stop") if name in fields}
        return AnswerFormat(**{**fields, **lists})
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"cannot read the answer format `{path}`: {error}") from error


def format_of_model(path: str | Path, tokenizer: Any) -> AnswerFormat:
    """The answer format of the model in a folder or of a hub name: ``answer.json``, or what its configurations say.

    Of a hub name what has been fetched counts; loading the model fetches them. Needs transformers.

    Raises:
        CheckpointError: If ``answer.json`` is damaged.
    """
    from transformers import AutoConfig, GenerationConfig

    stored = format_of_folder(path)
    if stored is not None:
        return stored

    def read(kind: Any, **options: Any) -> Any:
        try:
            return kind.from_pretrained(path, local_files_only=True, **options)
        except (OSError, ValueError):  # a folder with a tokenizer alone
            return None

    return AnswerFormat.of_tokenizer(tokenizer, read(AutoConfig, trust_remote_code=False), read(GenerationConfig))

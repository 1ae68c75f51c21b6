"""A Hugging Face trunk with a scalar head as a reward model.

Any architecture that ``AutoModelForSequenceClassification`` knows works: encoders such as MiniLM and causal models
such as Llama. The folder that `SequenceRewardModel.save_pretrained` writes is one that plain transformers loads (raw
scores); ``reward_model.json`` beside the weights holds what else belongs to the model: the text template, the longest
input, the normalisation. Training is in `reward_models.training`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reward_models.base import CHAT, paired
from reward_models.normalization import Normalization
from reward_models.reading import say_reading, trunk_template
from reward_models.shapes import SIDE_FILE, read_json
from reward_models.text_model import TextModel, TruncationSide, batches_by_length
from reward_models.trunks import load_pretrained, load_trunk
from textenv.answers import declared_format, save_format
from textenv.checkpoints import write_atomic
from textenv.errors import CheckpointError, ConfigError, RewardError
from textenv.pretrained import find_folder, quiet

FORMAT_VERSION = 1

__all__ = ["SIDE_FILE", "SequenceRewardModel", "batches_by_length"]


class SequenceRewardModel(TextModel):
    """Scores the text of prompt and response with one forward pass.

    Texts longer than `max_tokens` lose their beginning, unless `truncation_side` says otherwise: the end of the
    response matters more than the start of the prompt. Scores come in float32 and do not depend on the order or
    company of the texts (up to rounding); concurrent callers are safe. While a normalisation is set, `score` applies
    it.

    Args:
        model: A transformers sequence classification model with one label; put into evaluation mode.
        tokenizer: Its tokenizer.
        template: As in `TextModel`; ``"chat"`` makes prompt and response the user's and the assistant's turn, or goes
            on with the messages that they are.
        max_tokens: As in `TextModel`.
        truncation_side: Which end of a longer text is lost.
        add_special_tokens: As in `TextModel`.
        normalization: Gain and bias, or None for raw scores.
        autocast: Score in bfloat16: 2.4 times as fast on a CPU with bfloat16 units, with errors of up to 0.02 on
            scores whose standard deviation is 1.5 (measured with MiniLM).

    Raises:
        ConfigError: If the model has another number of labels, or as in `TextModel`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        template: str | None = None,
        max_tokens: int | None = None,
        truncation_side: TruncationSide = "left",
        add_special_tokens: bool | None = None,
        normalization: Normalization | None = None,
        autocast: bool = False,
    ) -> None:
        if model.config.num_labels != 1:
            raise ConfigError(
                f"the model must have 1 label (a scalar head), got {model.config.num_labels}; several are read by "
                "`ClassifierRewardModel`, the kind `classifier`."
            )
        super().__init__(
            model,
            tokenizer,
            template=template,
            max_tokens=max_tokens,
            truncation_side=truncation_side,
            add_special_tokens=add_special_tokens,
            autocast=autocast,
        )
        self.normalization = normalization

    @classmethod
    def from_trunk(
        cls,
        trunk: str | Path | Any,
        tokenizer: Any = None,
        *,
        seed: int = 0,
        template: str | None = None,
        max_tokens: int | None = None,
    ) -> SequenceRewardModel:
        """A pre-trained trunk with a fresh head, drawn from N(0, 1/sqrt(d + 1)) for width d.

        Args:
            trunk: A folder with safetensors weights (an encoder or a causal model), or a loaded transformers model,
                whose weights are copied.
            tokenizer: The trunk's tokenizer; needed for a loaded model, read from the folder otherwise.
            seed: Decides the head.
            template: How prompt and response are joined; None: as the trunk's own answers are (``"chat"`` where it was
                fine-tuned on conversations), or one after the other.
            max_tokens: Longest input; what trunk and tokenizer are made for, for None.

        Raises:
            ConfigError: If a loaded model comes without a tokenizer, or as in the class.
            CheckpointError: If the folder cannot be read.

        Source: Stiennon et al. 2020, arXiv:2009.01325, appendix on the reward model's initialisation.
        """
        model, tokenizer = load_trunk(trunk, tokenizer, seed=seed)
        made = cls(model, tokenizer, template=template or trunk_template(tokenizer), max_tokens=max_tokens)
        say_reading("reward model on a fresh head", made, known=True)
        return made

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        autocast: bool = False,
        template: str | None = None,
        max_tokens: int | None = None,
        truncation_side: TruncationSide | None = None,
        add_special_tokens: bool | None = None,
    ) -> SequenceRewardModel:
        """Load a folder: one that `save_pretrained` wrote, or any sequence classifier with one label.

        Only safetensors and JSON are read. Of a folder without our ``reward_model.json`` template and longest input are
        found out and said; mean and deviation that its ``config.json`` holds (OpenRLHF's) become the normalisation.

        Args:
            path: The folder, the folder of a run with one reward model, or a hub name.
            device: Where the model goes.
            autocast: As in the class.
            template: In place of the folder's own.
            max_tokens: In place of the folder's own.
            truncation_side: In place of the folder's own.
            add_special_tokens: In place of the folder's own.

        Raises:
            CheckpointError: If a file is missing or damaged, or of a newer format.
        """
        folder = find_folder(path, kind="reward")
        side = _read_side_file(folder / SIDE_FILE)
        model, tokenizer = load_pretrained(folder, device=device)
        if add_special_tokens is None and side and template is None:
            # Earlier versions put them around chats too, and a model reads on as it was trained.
            add_special_tokens = side.get("add_special_tokens", True)
        own = side.get("normalization")
        where = f"`{folder / SIDE_FILE}`: normalization"
        normalization = Normalization.from_json(own, where=where) if own else Normalization.of_config(model.config)
        made = cls(
            model,
            tokenizer,
            template=template or side.get("template"),
            max_tokens=max_tokens or side.get("max_tokens"),
            truncation_side=truncation_side or side.get("truncation_side", "left"),
            add_special_tokens=add_special_tokens,
            normalization=normalization if own or not side else None,
            autocast=autocast,
        )
        say_reading(folder, made, known=bool(side))
        return made

    def save_pretrained(self, path: str | Path) -> None:
        """Write weights, configuration, tokenizer and `reward_model.json` into a folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            self.model.save_pretrained(folder)
        with self._tokenizer_lock:
            self.tokenizer.save_pretrained(folder)
        side = {
            "format_version": FORMAT_VERSION,
            "template": self.template.template,
            "max_tokens": self.max_tokens,
            "truncation_side": self.truncation_side,
            "add_special_tokens": self.add_special_tokens,
            "normalization": self.normalization and self.normalization.to_json(),
        }
        if self.template.template == CHAT:
            save_format(declared_format(self.tokenizer), folder)
        write_atomic(folder / SIDE_FILE, json.dumps(side, indent=2) + "\n")

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Scores, normalised if a normalisation is set, shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a score is not finite; names the first such text.
        """
        raw = self.score_raw(prompts, responses)
        if self.normalization is None:
            return raw
        return (self.normalization.gain * raw + self.normalization.bias).astype(np.float32)

    def score_raw(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """The head's output, shape ``(n,)``; raises as `score`."""
        scores = np.ascontiguousarray(self.logits(prompts, responses)[:, 0])
        if not np.isfinite(scores).all():
            bad = int(np.argmin(np.isfinite(scores)))
            prompt, response = paired(prompts, responses)[bad]
            raise RewardError(
                f"the reward model gave {scores[bad]} for prompt {prompt[:80]!r} and response {response[:80]!r}; its "
                "weights are probably damaged or it runs in too low a precision."
            )
        return scores

    def normalize(self, prompts: Sequence[Any], responses: Sequence[Any], *, policy: str) -> Normalization:
        """Set the normalisation so that these samples score mean 0 and standard deviation 1; returns it.

        Args:
            prompts: Prompts of the samples.
            responses: What the policy answered.
            policy: Its name, for the record.

        Raises:
            DataError: If the scores cannot be normalised, see `Normalization.fit`.
        """
        self.normalization = Normalization.fit(self.score_raw(prompts, responses), policy=policy)
        return self.normalization


def _read_side_file(path: Path) -> dict[str, Any]:
    """The JSON beside the weights; empty if there is none."""
    if not path.exists():
        return {}
    side = read_json(path)
    if side.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"`{path}` has format version {side.get('format_version')!r}; this version of textenv reads 1."
        )
    return side

"""A token classifier that judges the steps of an answer (a process reward model), as TRL's PRMTrainer saves it.

Each step is followed by a separator, and the classifier's output at the separator's last token is what it says of the
step. Nothing else is read, so a model that marks steps otherwise needs its own separator here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from reward_models.adapters.classifier import class_index, log_odds, wanted_class
from reward_models.adapters.common import shown
from reward_models.base import PAIR, ChatTemplate, TextTemplate, paired
from reward_models.reading import JOINED, say_reading
from reward_models.shapes import refuse_own_code
from reward_models.text_model import Row, TextModel
from reward_models.trunks import read_tokenizer
from textenv.answers import Chat, as_messages, message_text
from textenv.errors import ConfigError, RewardError
from textenv.pretrained import find_folder, load_model
from textenv.sampling.models import agrees, trial

Aggregate = Literal["min", "product", "mean", "last"]


class TokenProcessRewardModel(TextModel):
    """Scores each step of an answer, and the answer by what it says of its steps.

    Args:
        model: A transformers token classifier with one output (its logit) or two classes (log-odds of the right one).
        tokenizer: Its tokenizer.
        separator: Stands after each step: in the response, and where the model reads it. A response that does not end
            with it gets one more.
        aggregate: What the score of an answer is: the smallest probability that a step is right, their product, their
            mean, or the last one.
        positive: Name or number of the class of right steps; None takes the one that is called so.
        template: As in `TextModel`.
        max_tokens: As in `TextModel`; an answer whose steps do not all fit is refused.

    Raises:
        ConfigError: If the model has more than two outputs, a setting is unusable, or as in `TextModel`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        separator: str = "\n",
        aggregate: Aggregate = "min",
        positive: str | int | None = None,
        template: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        if aggregate not in ("min", "product", "mean", "last"):
            raise ConfigError(f"`aggregate` must be min, product, mean or last, got {aggregate!r}.")
        outputs = int(model.config.num_labels)
        if outputs > 2:
            raise ConfigError(f"a model of steps has one output or two classes, this one {outputs}.")
        self._separator_ids = list(tokenizer(separator, add_special_tokens=False)["input_ids"]) if separator else []
        if not self._separator_ids:
            raise ConfigError(f"`separator` must be a text that the tokenizer knows, got {separator!r}.")
        self.separator: str = separator
        self.aggregate: Aggregate = aggregate
        self.positive: int | None = None
        if outputs == 2:
            self.positive = wanted_class(model.config) if positive is None else class_index(positive, model.config)
            if self.positive is None:
                names = ", ".join(str(name) for name in model.config.id2label.values())
                raise ConfigError(f"which of the classes {names} is that of right steps? Give it as `positive`.")
        template = JOINED if template is None and not getattr(tokenizer, "chat_template", None) else template
        if template == PAIR or (template or "").partition("{response}")[2]:
            raise ConfigError(f"a model of steps reads one text that ends with the response, not {template!r}.")
        super().__init__(model, tokenizer, template=template, max_tokens=max_tokens)
        self.reading += f"; a step ends with {separator!r}, an answer scores the {aggregate} of its steps"

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        separator: str = "\n",
        aggregate: Aggregate = "min",
        positive: str | int | None = None,
        template: str | None = None,
        max_tokens: int | None = None,
        device: str | torch.device = "cpu",
    ) -> TokenProcessRewardModel:
        """Load a token classifier's folder; only safetensors and JSON are read. Arguments as in the class.

        Raises:
            CheckpointError: If a file is missing or damaged, or the model has code of its own.
            ConfigError: As in the class.
        """
        folder = find_folder(path, kind="reward")
        refuse_own_code(folder)
        made = cls(
            load_model(folder, "token_classifier", device=device).model,
            read_tokenizer(folder),
            separator=separator,
            aggregate=aggregate,
            positive=positive,
            template=template,
            max_tokens=max_tokens,
        )
        say_reading(folder, made, known=False)
        return made

    def step_scores(self, prompts: Sequence[Any], responses: Sequence[Any]) -> list[NDArray[np.float64]]:
        """What the model says of each step of each response: its logit, or the log-odds that the step is right.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: If a number is not finite, or the steps of an answer do not fit into `max_tokens`.
        """
        rows, ends = self._rows(prompts, responses)
        found: list[NDArray[np.float64]] = [np.zeros(0)] * len(rows)
        with torch.inference_mode():
            for chosen in self.batches(rows):
                logits = self.model(**self.inputs([rows[index] for index in chosen])).logits
                for place, index in enumerate(chosen):
                    own = logits[place, ends[index]].double().cpu().numpy()  # (steps, K)
                    found[index] = own[:, 0] if self.positive is None else log_odds(own, [self.positive])
                    if not np.isfinite(found[index]).all():
                        raise RewardError(f"the model of steps gave {found[index]} for {shown(str(responses[index]))}.")
        return found

    def score(self, prompts: Sequence[Any], responses: Sequence[Any]) -> NDArray[np.float32]:
        """Probabilities that the steps are right, brought together as `aggregate` says, shape ``(n,)``.

        Raises:
            ShapeError: If there are not as many prompts as responses.
            RewardError: As `step_scores`.
        """
        steps = [expit(scores) for scores in self.step_scores(prompts, responses)]
        together = {"min": np.min, "product": np.prod, "mean": np.mean, "last": lambda row: row[-1]}[self.aggregate]
        return np.array([together(row) for row in steps], dtype=np.float32)

    @torch.no_grad()
    def _try_out(self) -> None:
        prompts, responses = ["a", "a b c"], ["b", f"d{self.separator}a e"]
        with trial(self.model, "cannot score steps"):
            together = np.concatenate(self.step_scores(prompts, responses))
            alone = [self.step_scores([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
        dtype = next(self.model.parameters()).dtype
        if agrees(torch.from_numpy(together), torch.from_numpy(np.concatenate(alone)), dtype) is False:
            raise ConfigError(f"{type(self.model).__name__} scores a step otherwise where a longer text is beside it.")

    def _rows(self, prompts: Sequence[Any], responses: Sequence[Any]) -> tuple[list[Row], list[list[int]]]:
        """Token ids of each text, and where its steps end in them.

        Raises:
            RewardError: If the end of a step is cut off.
        """
        rows, places = [], []
        for prompt, response in paired(prompts, responses):
            read = self._chat if isinstance(self.template, ChatTemplate) else self._text
            with self._tokenizer_lock:
                ids, ends = read(prompt, response)
            cut = max(0, len(ids) - (self.max_tokens or len(ids)))
            if ends[0] < cut:
                raise RewardError(
                    f"an answer of {len(ends)} steps needs {len(ids)} tokens, the model reads {self.max_tokens}: "
                    f"{shown(response)}"
                )
            row = Row(ids[cut:])
            row.length = len(ids)
            rows.append(row)
            places.append([end - cut for end in ends])
        self.truncation.add([row.length for row in rows], self.max_tokens, "left")
        return rows, places

    def _steps(self, text: str) -> list[str]:
        steps = [step for step in text.split(self.separator) if step.strip()]
        return steps or [text.replace(self.separator, "")]

    def _text(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """As TRL's PRMTrainer puts it: prompt, steps and separators each in their own tokens, one behind the other."""
        assert isinstance(self.template, TextTemplate)  # pairs are refused when the model is made
        begin = self.tokenizer.bos_token_id
        ids = [] if begin is None else [begin]
        ids += self.tokenizer(self.template(prompt, ""), add_special_tokens=False)["input_ids"]
        ends = []
        for step in self._steps(response):
            ids += [*self.tokenizer(step, add_special_tokens=False)["input_ids"], *self._separator_ids]
            ends.append(len(ids) - 1)
        return ids, ends

    def _chat(self, prompt: str, response: str) -> tuple[list[int], list[int]]:
        """The conversation in the chat template; a step ends with the token that holds its separator's last character.

        Raises:
            RewardError: If the template changes the answer.
        """
        assert isinstance(self.template, ChatTemplate)
        turns = as_messages(response, "assistant")
        steps = self._steps(message_text(turns[-1].get("content")))
        said = "".join(step + self.separator for step in steps)
        text = self.template(prompt, Chat([*turns[:-1], {**turns[-1], "content": said}]))
        start = text.rfind(said)
        if start < 0:
            raise RewardError(
                f"the chat template changes the answer {shown(said)}: choose a `separator` that it keeps, or a text "
                "as `template`"
            )
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        last, ends = start, []
        for step in steps:
            last += len(step) + len(self.separator)
            ends.append(next(i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < last <= b))
        return list(encoded["input_ids"]), ends

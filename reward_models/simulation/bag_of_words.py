"""A linear reward model of word counts: trained in a second, so losses and labels can be compared by the dozen.

It is exactly the form of `WordGold` without penalties, so what keeps it from the truth is the labels alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from reward_models.sequence import SequenceRewardModel
from reward_models.text_model import TextModel

_PAD, _UNKNOWN = "[PAD]", "[UNK]"


class BagOfWords(nn.Module):
    """Adds up a learned number per token; called and answering as a transformers classifier does.

    Args:
        vocabulary: Number of tokens.
        outputs: Numbers per token; 2 for a score and the logarithm of its spread.
    """

    def __init__(self, vocabulary: int, *, outputs: int = 1) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_labels=outputs, max_position_embeddings=None)
        self.words = nn.Embedding(vocabulary, outputs)
        nn.init.zeros_(self.words.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """The sums over the tokens of each row, as ``.logits`` of shape ``(B, outputs)``."""
        return SimpleNamespace(logits=(self.words(input_ids) * attention_mask[:, :, None]).sum(dim=1))

    def get_input_embeddings(self) -> nn.Embedding:
        """The only weights there are; train with ``freeze_embeddings=False``."""
        return self.words


def bag_of_words(texts: Iterable[str]) -> SequenceRewardModel:
    """An untrained linear reward model that knows the words of these texts and reads the response alone.

    It cannot be saved; learning rates around 0.05 and ``freeze_embeddings=False`` suit it.
    """
    tokenizer = _tokenizer(texts)
    return SequenceRewardModel(BagOfWords(len(tokenizer)), tokenizer, template="{prompt} {response}")


def bag_of_words_with_spread(texts: Iterable[str]) -> TextModel:
    """The same with two outputs, score and log spread, for ``ratings_loss="gaussian"``."""
    tokenizer = _tokenizer(texts)
    return TextModel(BagOfWords(len(tokenizer), outputs=2), tokenizer, template="{prompt} {response}")


def _tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: number for number, word in enumerate([_PAD, _UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=_PAD, unk_token=_UNKNOWN)

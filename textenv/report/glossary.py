"""The words of a report: every figure that the page shows, with its unit and its meaning."""

from typing import NamedTuple


class Term(NamedTuple):
    """A figure's name on the page, its name in the run's files (or an empty string) and what it says."""

    title: str
    key: str
    meaning: str


GLOSSARY: tuple[Term, ...] = (
    Term(
        "Loss, nats per token",
        "train/loss, eval/loss",
        "Mean negative natural logarithm of the probability that the model gave to the token that came. In "
        "fine-tuning only the answer's tokens count. Lower is better.",
    ),
    Term(
        "Perplexity",
        "eval/perplexity/<task>",
        "exp(loss): between how many equally likely tokens the model hesitates on average. Comparable only between "
        "models with the same tokenizer.",
    ),
    Term(
        "Score, reward",
        "objective/score",
        "What the reward model says about an answer, normalised so that answers of the SFT model have mean 0 and "
        "standard deviation 1. On this page, 'reward' without further words is this score.",
    ),
    Term(
        "Learner's reward",
        "objective/rlhf_reward",
        "What PPO maximises: the score minus the KL coefficient times the KL of the answer.",
    ),
    Term(
        "KL, nats per answer",
        "objective/kl, eval/kl",
        "How far the policy moved away from the SFT model: the mean over answers of log π(answer) − log π_SFT(answer), "
        "estimated on the policy's own answers. 0 at the start.",
    ),
    Term("KL coefficient", "objective/kl_coef", "The price of one nat of KL, in units of reward (β)."),
    Term(
        "Gain in SFT standard deviations",
        "policy.*.reward_mean, policy.sft.reward_std",
        "(mean reward of PPO − mean reward of SFT) / standard deviation of the SFT rewards, all on the same held-out "
        "prompts.",
    ),
    Term(
        "VADER-positive",
        "policy.*.vader_positive",
        "Share of answers that the VADER lexicon rates above +0.05: a judge that the policy was not trained on. If "
        "the reward rises and this does not, the policy fools its reward model.",
    ),
    Term(
        "Distinct-2",
        "policy.*.distinct_2",
        "Different pairs of neighbouring words divided by all such pairs, over all answers together. A sharp fall "
        "means that the policy repeats itself.",
    ),
    Term("Ends by itself", "policy.*.eos_fraction", "Share of answers that end with the end-of-text token."),
    Term(
        "Accuracy on pairs",
        "reward_model.accuracy",
        "Share of held-out pairs of texts for which the judge prefers the text that the human raters, on average, "
        "rated higher; also only for pairs whose mean ratings differ by more than 0.5, 1 and 2 points.",
    ),
    Term(
        "Human rater",
        "human_rater.accuracy",
        "A single rater's verdict on the same pairs against the mean of the other raters: roughly what can be reached.",
    ),
    Term("Lexicon", "lexicon.accuracy", "The same pairs judged by the VADER lexicon, without any training."),
    Term("TF-IDF", "tfidf.accuracy", "The same pairs judged by word counts and ridge regression."),
    Term(
        "95% interval",
        "*_interval, *.intervals",
        "Where the figure would lie on other test prompts or pairs of the same kind (docs/statistics.md). It does not "
        "hold the variation between training seeds.",
    ),
    Term(
        "Entropy",
        "objective/entropy",
        "Mean entropy of the next-token distribution, in nats: the policy's remaining freedom.",
    ),
    Term(
        "Clip fraction",
        "policy/clip_fraction",
        "Share of tokens whose probability ratio between new and old policy was clipped by PPO.",
    ),
    Term(
        "Approximate KL",
        "policy/approx_kl",
        "KL between the policy before and after an update, nats per token; a jump means too large a step.",
    ),
    Term(
        "Explained variance",
        "val/explained_variance",
        "1 − Var(return − value) / Var(return): 1 for a perfect critic, 0 for one that predicts a constant.",
    ),
    Term("Response length", "rollout/response_tokens", "Mean number of tokens of an answer."),
    Term(
        "Cut at the limit",
        "rollout/truncated_fraction",
        "Share of answers that the length limit or something outside the task ended.",
    ),
    Term("Tokens per second", "time/tokens_per_second", "Generated tokens per second of a whole PPO iteration."),
)
"""Every figure of the report, in the order in which the page shows them."""

from .policies import (
    Evaluation as Evaluation,
    SequenceEvaluator as SequenceEvaluator,
    TokenMasks as TokenMasks,
    answer_logprobs as answer_logprobs,
    evaluate_policy as evaluate_policy,
    sequence_logprobs as sequence_logprobs,
)
from .tasks import (
    EvaluationConfig as EvaluationConfig,
    answer_tasks as answer_tasks,
    held_out as held_out,
    summarize_answers as summarize_answers,
)

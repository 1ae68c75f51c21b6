"""Rows as the field's data sets have them, with sentences made up, and what each says."""

from __future__ import annotations

from typing import Any

from reward_models.labels import Comparison, Label, Rating, StepLabels
from textenv.answers import Chat


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    """A message."""
    return {"role": role, "content": content, **more}


FRUIT, APPLE, STONE = said("user", "Name a fruit."), said("assistant", "An apple."), said("assistant", "A stone.")
FRENCH = said("system", "Answer in French.")
EGG = [said("user", "How do I boil an egg?"), said("assistant", "Do you have a pot?"), said("user", "Yes.")]
NUMBER = [FRENCH, said("user", "Pick a number."), said("assistant", "7"), said("user", "Double it.")]
CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"for": "Jo"}'}}
TOOLS = [said("assistant", None, tool_calls=[CALL]), said("tool", "Jo is 7.", tool_call_id="1"), said("assistant", "7")]


def aspects(instruction_following: str, honesty: str) -> dict[str, Any]:
    given = {"instruction_following": instruction_following, "honesty": honesty}
    return {name: {"Rating": rating, "Rationale": "so"} for name, rating in given.items()}


def completion(response: str, overall: float, annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "annotations": annotations,
        "custom_system_prompt": f"Be {overall}",
        "model": "m",
        "response": response,
        "critique": "hm",
        "overall_score": overall,
        "fine-grained_score": overall / 2,
    }


ULTRA = {
    "source": "evol",
    "instruction": "Name a fruit.",
    "models": ["m", "m"],
    "completions": [
        completion("An apple.", 8.5, aspects("5", "N/A")),
        completion("A stone.", 2.0, aspects("1", "2")),
    ],
    "correct_answers": ["None"],
}
ARENA = {"question_id": "q", "model_a": "m", "model_b": "n", "judge": "j", "turn": 1, "language": "English"}
ARENA |= {"conversation_a": [FRUIT, APPLE], "conversation_b": [FRUIT, STONE]}
HELPSTEER = {"prompt": "c#", "response": "A language.", "helpfulness": 3, "correctness": 4, "coherence": 4}
HELPSTEER |= {"complexity": 2, "verbosity": 1}
PRM = {
    "labeler": "u",
    "generation": None,
    "question": {"problem": "1+1?", "ground_truth_answer": "2"},
    "label": {
        "steps": [
            {
                "completions": [
                    {"text": "Add.", "rating": 1, "flagged": None},
                    {"text": "Subtract.", "rating": -1, "flagged": None},
                    {"text": "Hm.", "rating": 0, "flagged": None},
                ],
                "human_completion": None,
                "chosen_completion": 0,
            },
            {
                "completions": [{"text": "3", "rating": None, "flagged": None}],
                "human_completion": None,
                "chosen_completion": None,
            },
        ],
        "total_time": 1,
        "finish_reason": "found_error",
    },
}
SUMMARY = {
    "info": {"id": "t3", "post": "I lost my dog.", "title": "Dog", "subreddit": "pets"},
    "summaries": [{"text": " Lost dog.", "policy": "a"}, {"text": " Cats.", "policy": "b"}],
    "choice": 1,
    "worker": "w",
    "batch": "b0",
    "extra": {"confidence": 8},
}
POST = "SUBREDDIT: r/pets\n\nTITLE: Dog\n\nPOST: I lost my dog.\n\nTL;DR:"
SHP = {"post_id": "1", "domain": "cooking", "history": "How?", "score_A": 10, "score_B": 3, "score_ratio": 3.3}
SHP |= {"human_ref_A": "Water.", "human_ref_B": "Fire.", "labels": 1}
HUMAN = "\n\nHuman: How do I boil an egg?\n\nAssistant: Do you have a pot?\n\nHuman: Yes.\n\nAssistant:"

SAMPLES: dict[str, tuple[str, list[dict[str, Any]], list[Label]]] = {
    "hh_rlhf": (
        "hh_rlhf",
        [{"chosen": f"{HUMAN} Boil it\n\nfor 9 minutes.", "rejected": f"{HUMAN} No idea."}],
        [Comparison(Chat(EGG), "Boil it\n\nfor 9 minutes.", "No idea.")],
    ),
    "hh_rlhf, prompt apart": (
        "columns",
        [{"prompt": HUMAN, "chosen": " Boil it.", "rejected": " No idea."}],
        [Comparison(Chat(EGG), "Boil it.", "No idea.")],
    ),
    "trl_hh_rlhf": (
        "columns",
        [{"prompt": EGG, "chosen": [said("assistant", "Boil it.")], "rejected": [said("assistant", "No.")]}],
        [Comparison(Chat(EGG), "Boil it.", "No.")],
    ),
    "ultrafeedback": (
        "ultrafeedback",
        [ULTRA],
        [
            Rating("Name a fruit.", "An apple.", 5.0, source="evol"),
            Rating("Name a fruit.", "A stone.", 1.5, source="evol"),
        ],
    ),
    "ultrafeedback_binarized": (
        "ultrafeedback_binarized",
        [
            {
                "prompt": "Name a fruit.",
                "prompt_id": "1",
                "messages": [FRUIT, APPLE],
                "chosen": [FRUIT, APPLE],
                "rejected": [FRUIT, STONE],
                "score_chosen": score,
                "score_rejected": 8.5,
            }
            for score in (8.5, 9.0)
        ],
        [Comparison("Name a fruit.", "An apple.", "A stone.", tie=tie) for tie in (True, False)],
    ),
    "whole_chats": (
        "columns",
        [
            {
                "prompt": "Pick a number.",
                "chosen": [*NUMBER, said("assistant", "14")],
                "rejected": [*NUMBER, said("assistant", "15")],
            }
        ],
        [Comparison(Chat(NUMBER), "14", "15")],
    ),
    "skywork_preference": (
        "columns",
        [{"source": "magpie", "chosen": [FRUIT, APPLE], "rejected": [FRUIT, STONE]}],
        [Comparison("Name a fruit.", "An apple.", "A stone.", source="magpie")],
    ),
    "orca_dpo_pairs": (
        "orca_dpo_pairs",
        [
            {"system": "Answer in French.", "question": "Name a fruit.", "chosen": "Pomme", "rejected": "Apple"},
            {"system": "", "question": "Name a fruit.", "chosen": "Apple", "rejected": "Pomme"},
        ],
        [Comparison(Chat([FRENCH, FRUIT]), "Pomme", "Apple"), Comparison("Name a fruit.", "Apple", "Pomme")],
    ),
    "helpsteer2": ("helpsteer2", [HELPSTEER], [Rating("c#", "A language.", 3.0, scale=(0, 4))]),
    "helpsteer2, several turns": (
        "helpsteer2",
        [HELPSTEER | {"prompt": "Name a fruit.\n<extra_id_1>Assistant\nAn apple.\n<extra_id_1>User\nWhy?\n"}],
        [Rating(Chat([FRUIT, APPLE, said("user", "Why?")]), "A language.", 3.0, scale=(0, 4))],
    ),
    "helpsteer2_preference": (
        "helpsteer2_preference",
        [
            {"split": "train", "prompt": "c#", "response_1": "a", "response_2": "b", "preference_strength": strength}
            for strength in (-2, 3, 0)
        ],
        [Comparison("c#", "a", "b"), Comparison("c#", "b", "a"), Comparison("c#", "a", "b", tie=True)],
    ),
    "summarize_comparisons": (
        "summarize_comparisons",
        [SUMMARY, SUMMARY | {"choice": 0}],
        [
            Comparison(POST, " Cats.", " Lost dog.", rater="w", item="t3"),
            Comparison(POST, " Lost dog.", " Cats.", rater="w", item="t3"),
        ],
    ),
    "shp": (
        "shp",
        [SHP, SHP | {"labels": 0}],
        [
            Comparison("How?", "Water.", "Fire.", source="cooking"),
            Comparison("How?", "Fire.", "Water.", source="cooking"),
        ],
    ),
    "arena_33k": (
        "arena_33k",
        [ARENA | {"winner": winner} for winner in ("model_a", "model_b", "tie", "tie (bothbad)")],
        [
            Comparison("Name a fruit.", "An apple.", "A stone.", rater="j", item="q"),
            Comparison("Name a fruit.", "A stone.", "An apple.", rater="j", item="q"),
            Comparison("Name a fruit.", "An apple.", "A stone.", rater="j", item="q", tie=True),
            Comparison("Name a fruit.", "An apple.", "A stone.", rater="j", item="q", tie=True),
        ],
    ),
    "arena_55k": (
        "arena_55k",
        [
            {
                "id": 1,
                "model_a": "m",
                "model_b": "n",
                "prompt": '["Hi","More"]',
                "response_a": '["A","A2"]',
                "response_b": '["B","B2"]',
                "winner_model_a": 0,
                "winner_model_b": 1,
                "winner_tie": 0,
            }
        ],
        [
            Comparison(
                "Hi",
                Chat([said("assistant", "B"), said("user", "More"), said("assistant", "B2")]),
                Chat([said("assistant", "A"), said("user", "More"), said("assistant", "A2")]),
                item="1",
            )
        ],
    ),
    "prm800k": (
        "prm800k",
        [PRM],
        [
            StepLabels("1+1?", ("Subtract.",), (0.0,), rater="u"),
            StepLabels("1+1?", ("Hm.",), (0.5,), rater="u"),
            StepLabels("1+1?", ("Add.\n", "3"), (1.0, None), rater="u"),
        ],
    ),
    "trl_steps": (
        "trl_steps",
        [{"prompt": "1+1?", "completions": ["Step 1: We add.", "Step 2: It is 3."], "labels": [True, False]}],
        [StepLabels("1+1?", ("Step 1: We add.\n", "Step 2: It is 3."), (1.0, 0.0))],
    ),
    "kto": (
        "kto",
        [
            {"prompt": [FRUIT], "completion": [APPLE], "label": True},
            {"prompt": [FRUIT], "completion": [STONE], "label": False},
        ],
        [
            Rating("Name a fruit.", "An apple.", 1.0, scale=(0, 1)),
            Rating("Name a fruit.", "A stone.", 0.0, scale=(0, 1)),
        ],
    ),
    "chat_with_tools": (
        "columns",
        [{"chosen": [FRENCH, FRUIT, *TOOLS], "rejected": [FRENCH, FRUIT, said("assistant", "no")]}],
        [Comparison(Chat([FRENCH, FRUIT]), Chat(TOOLS), "no")],
    ),
    "empty tool calls": (
        "columns",
        [{"chosen": [FRUIT, said("assistant", None, tool_calls=[]), APPLE], "rejected": [FRUIT, STONE]}],
        [Comparison("Name a fruit.", Chat([said("assistant", None, tool_calls=[]), APPLE]), "A stone.")],
    ),
    "ShareGPT's words": (
        "columns",
        [
            {
                "chosen": [{"from": "human", "value": "Name a fruit."}, {"from": "gpt", "value": "An apple."}],
                "rejected": [{"from": "human", "value": "Name a fruit."}, {"from": "gpt", "value": "A stone."}],
            }
        ],
        [Comparison("Name a fruit.", "An apple.", "A stone.")],
    ),
    "rating_strings": (
        "columns",
        [{"prompt": "Hi", "response": "Hello", "rating": "5"}, {"prompt": "Hi", "response": "Go", "rating": "N/A"}],
        [Rating("Hi", "Hello", 5.0)],
    ),
    "identical_pair": (
        "columns",
        [{"prompt": "a", "chosen": "same", "rejected": "same"}, {"prompt": "b", "chosen": "x", "rejected": "y"}],
        [Comparison("b", "x", "y")],
    ),
}
"""By name: the form that is recognised, rows, and their labels."""

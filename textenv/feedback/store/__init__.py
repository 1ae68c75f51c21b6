"""The store of what people are asked and what they say."""

from textenv.feedback.store.contents import (
    KINDS,
    Answer,
    Assignment,
    CollectedPrompt,
    Entry,
    Item,
    ItemKind,
    Label,
    LabelledItem,
    PolicyVersion,
    Progress,
    Rater,
    Round,
    Said,
    Scale,
    check_payload,
)
from textenv.feedback.store.database import Database
from textenv.feedback.store.intake import Brought
from textenv.feedback.store.labelling import LabelConflict
from textenv.feedback.store.store import FeedbackStore, Saved, Selector, Standing

__all__ = [
    "KINDS",
    "Answer",
    "Assignment",
    "Brought",
    "CollectedPrompt",
    "Database",
    "Entry",
    "FeedbackStore",
    "Item",
    "ItemKind",
    "Label",
    "LabelConflict",
    "LabelledItem",
    "PolicyVersion",
    "Progress",
    "Rater",
    "Round",
    "Said",
    "Saved",
    "Scale",
    "Selector",
    "Standing",
    "check_payload",
]

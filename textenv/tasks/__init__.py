"""Tasks: questions with answers that serve pre-training, demonstrations, verifiable rewards and evaluation alike.

A task is declared in a few lines and needs no download::

    from textenv.tasks import Item, Task, same_number

    task = Task("double", [Item(f"What is twice {n}?", (str(2 * n),)) for n in range(500)], verifier=same_number)
    task.documents("train"), task.demonstrations("train"), task.prompts("train"), task.reward
"""

from textenv.tasks.files import Fields, read_task, task_from_rows
from textenv.tasks.items import LABELERS, USERS, Conversation, Demonstrated, Format, Item, Verdict
from textenv.tasks.loading import TaskSource, load_task, load_tasks, named_reward, reward_name
from textenv.tasks.procedural import PROCEDURAL, procedural_task
from textenv.tasks.task import Task, TaskReward
from textenv.tasks.verifiers import VERIFIERS, Verifier, same_choice, same_number, same_text

__all__ = [
    "LABELERS",
    "PROCEDURAL",
    "USERS",
    "VERIFIERS",
    "Conversation",
    "Demonstrated",
    "Fields",
    "Format",
    "Item",
    "Task",
    "TaskReward",
    "TaskSource",
    "Verdict",
    "Verifier",
    "load_task",
    "load_tasks",
    "named_reward",
    "procedural_task",
    "read_task",
    "reward_name",
    "same_choice",
    "same_number",
    "same_text",
    "task_from_rows",
]

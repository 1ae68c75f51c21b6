"""Collected prompts, rounds of training and policy versions, in the database."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from textenv.errors import DataError
from textenv.feedback.store.contents import CollectedPrompt, PolicyVersion, Round
from textenv.feedback.store.rows import dumps, policy_record, prompt_record, round_record
from textenv.feedback.store.schema import labels, policies, prompts, rounds


def keep_prompt(
    connection: sa.Connection, text: str, messages: Sequence[Mapping[str, str]], source: str, now: float
) -> CollectedPrompt:
    """Keep a prompt, or count it once more."""
    chat = dumps([dict(message) for message in messages])
    key = hashlib.sha256(f"{chat}\x1f{text}".encode()).hexdigest()[:32]
    same = prompts.c.id == key
    if connection.execute(prompts.update().where(same).values(count=prompts.c["count"] + 1)).rowcount == 0:
        row = {"id": key, "text": text, "messages": chat, "source": source, "count": 1, "created": now}
        connection.execute(prompts.insert().values(row))
    return prompt_record(connection.execute(sa.select(prompts).where(same)).one())


def kept_prompts(connection: sa.Connection, unused_only: bool, limit: int | None) -> list[CollectedPrompt]:
    """Prompts, the oldest first."""
    query = sa.select(prompts).order_by(prompts.c.number).limit(limit)
    if unused_only:
        query = query.where(prompts.c.used.is_(None))
    return [prompt_record(row) for row in connection.execute(query)]


def begin(connection: sa.Connection, now: float) -> Round:
    """The round that is under way, or a new one of all labels since the last."""
    last = connection.execute(sa.select(rounds).order_by(rounds.c.number.desc()).limit(1)).first()
    if last is not None and last.finished is None:
        return round_record(last)
    newest = connection.execute(sa.select(sa.func.coalesce(sa.func.max(labels.c.number), 0))).scalar_one()
    number, after = (1, 0) if last is None else (last.number + 1, last.upto)
    row = {"number": number, "after": after, "upto": newest, "started": now, "figures": "{}"}
    connection.execute(rounds.insert().values(row))
    return Round(number, after, newest, now)


def extend(connection: sa.Connection, number: int, upto: int) -> Round:
    """Let a round that is under way take labels up to this number.

    Raises:
        DataError: If there is no such round, or it has ended.
    """
    this = rounds.c.number == number
    change = rounds.update().where(this, rounds.c.finished.is_(None), rounds.c.upto <= upto).values(upto=upto)
    if connection.execute(change).rowcount == 0:
        raise DataError(f"there is no round {number} under way that could take labels up to {upto}")
    return round_record(connection.execute(sa.select(rounds).where(this)).one())


def finish(connection: sa.Connection, number: int, figures: Mapping[str, Any], now: float) -> Round:
    """End a round.

    Raises:
        DataError: If there is no such round, or it has ended.
    """
    this = rounds.c.number == number
    change = rounds.update().where(this, rounds.c.finished.is_(None)).values(finished=now, figures=dumps(dict(figures)))
    if connection.execute(change).rowcount == 0:
        raise DataError(f"there is no round {number} under way; `begin_round` begins one")
    return round_record(connection.execute(sa.select(rounds).where(this)).one())


def add_policy(connection: sa.Connection, policy: PolicyVersion, now: float) -> None:
    """Register a policy version.

    Raises:
        DataError: If that version of that policy is registered with another folder.
    """
    same = (policies.c.name == policy.name) & (policies.c.version == policy.version)
    known = connection.execute(sa.select(policies.c.path).where(same)).scalar_one_or_none()
    if known == policy.path:
        return
    if known is not None:
        raise DataError(f"version {policy.version} of policy {policy.name} is registered already, with `{known}`")
    row = {
        "name": policy.name,
        "version": policy.version,
        "path": policy.path,
        "created": policy.created or now,
        "round": policy.round,
        "figures": dumps(dict(policy.figures)),
    }
    connection.execute(policies.insert().values(row))


def policy_versions(connection: sa.Connection, name: str | None) -> list[PolicyVersion]:
    """Versions in the order of their registration."""
    query = sa.select(policies).order_by(policies.c.number)
    if name is not None:
        query = query.where(policies.c.name == name)
    return [policy_record(row) for row in connection.execute(query)]

"""Sentiment ratings by people: 23,703 short texts with every single rating, of Hutto & Gilbert (ICWSM 2014).

Movie reviews, Amazon reviews, tweets and New York Times editorials, each rated by 15 to 99 people from -4 to +4.
They stand in an archive inside the sdist ``vaderSentiment==0.5`` (MIT), read from there without installing it.

Source: Hutto, C.J. & Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social
Media Text. Eighth International Conference on Weblogs and Social Media, section 3.
"""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from functools import lru_cache
from pathlib import Path

from textenv.datasets.fetch import fetch_package
from textenv.datasets.rated_texts import RATING_LIMIT, Domain, RatedText, check_domains, check_split, split_of
from textenv.errors import DataError

EXPECTED_COUNTS: dict[Domain, int] = {"movies": 10_605, "amazon": 3_708, "tweets": 4_200, "nyt": 5_190}

_SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
_INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_FOLDER = "hutto_ICWSM_2014"
_STEMS: dict[Domain, str] = {
    "movies": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "tweets": "tweets",
    "nyt": "nytEditorialSnippets",
}
_MAX_FILE_BYTES = 16 * 2**20
_RATINGS = re.compile(r"\[-?\d+(?:, ?-?\d+)*\]")


def human_ratings(domains: list[str] | tuple[str, ...] | None = None, split: str | None = None) -> list[RatedText]:
    """The human ratings, fetched on first use (2.4 MB) and cached.

    `RatedText.mean` is the mean of the listed ratings; for 199 tweets the published mean differs by up to 1.13 from
    the ratings that are published beside it.

    Args:
        domains: Some of ``movies``, ``amazon``, ``tweets``, ``nyt``; all for None.
        split: ``train``, ``validation`` or ``test``; all for None. See `textenv.datasets.rated_texts.split_of`.

    Returns:
        The texts in the order of the files, domain after domain.

    Raises:
        ConfigError: If a domain or the split is unknown.
        DataError: If the data cannot be fetched or a file is malformed (names file and line).
        MissingDependencyError: If neither pip nor uv is there to fetch it with.
    """
    wanted, part = check_domains(None if domains is None else tuple(domains)), check_split(split)
    archive = fetch_package("vaderSentiment", "0.5", "vaderSentiment-0.5.zip", _SHA256, kind="sdist")
    texts = (item for domain in wanted for item in _read_domain(archive, domain))
    return [item for item in texts if part is None or item.split == part]


def parse_ratings(domain: Domain, texts: str, ratings: str, *, texts_name: str, ratings_name: str) -> list[RatedText]:
    """Parse the two files of a domain.

    Args:
        domain: Domain of the records.
        texts: Contents of the ``GroundTruth`` file: id, mean, text, tab-separated.
        ratings: Contents of the ``anonDataRatings`` file: id, mean, standard deviation, list of ratings.
        texts_name: Name of the first file in messages.
        ratings_name: Name of the second.

    Raises:
        DataError: If a line has the wrong fields, an id is doubled or has no ratings, or a rating is outside -4..4.
    """
    by_id = _parse_rating_lines(ratings, ratings_name)
    parsed: dict[str, RatedText] = {}
    for number, line in enumerate(_lines(texts), start=1):
        where = f"{texts_name}:{number}"
        fields = line.split("\t")
        if len(fields) != 3 or not fields[2].strip():
            raise DataError(f"{where}: expected id, mean and text separated by tabs, got {len(fields)} field(s).")
        key, text = fields[0], " ".join(fields[2].split())
        if key in parsed:
            raise DataError(f"{where}: id {key!r} appears twice.")
        if key not in by_id:
            raise DataError(f"{where}: id {key!r} has no ratings in {ratings_name}.")
        values = by_id[key]
        parsed[key] = RatedText(text, domain, sum(values) / len(values), values, split_of(text), f"{domain}/{key}")
    return list(parsed.values())


def _parse_rating_lines(content: str, name: str) -> dict[str, tuple[int, ...]]:
    by_id: dict[str, tuple[int, ...]] = {}
    for number, line in enumerate(_lines(content), start=1):
        fields = line.split("\t")
        if len(fields) != 4 or not _RATINGS.fullmatch(fields[3]):
            raise DataError(f"{name}:{number}: expected id, mean, deviation and a list like [2, -1, 0], got {line!r}.")
        values = tuple(int(value) for value in fields[3][1:-1].split(","))
        if max(map(abs, values)) > RATING_LIMIT:
            raise DataError(f"{name}:{number}: ratings must lie between -4 and 4, got {fields[3]}.")
        if fields[0] in by_id:
            raise DataError(f"{name}:{number}: id {fields[0]!r} appears twice.")
        by_id[fields[0]] = values
    return by_id


def _lines(content: str) -> list[str]:
    """Lines that end in a line feed, with or without a carriage return; `str.splitlines` would split at more."""
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


@lru_cache(maxsize=8)
def _read_domain(archive: Path, domain: Domain) -> tuple[RatedText, ...]:
    stem = _STEMS[domain]
    texts_name, ratings_name = f"{stem}_GroundTruth.txt", f"{stem}_anonDataRatings.txt"
    contents = _read_members(archive, (texts_name, ratings_name))
    parsed = parse_ratings(
        domain, contents[texts_name], contents[ratings_name], texts_name=texts_name, ratings_name=ratings_name
    )
    if len(parsed) != EXPECTED_COUNTS[domain]:
        raise DataError(f"{archive}: {texts_name} has {len(parsed)} texts, expected {EXPECTED_COUNTS[domain]}.")
    return tuple(parsed)


def _read_members(archive: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Read some text files of the inner archive into memory; nothing is written to disk."""
    contents: dict[str, str] = {}
    try:
        with zipfile.ZipFile(archive) as outer:
            inner = io.BytesIO(outer.read(_INNER))
        with tarfile.open(fileobj=inner, mode="r:gz") as opened:
            for name in names:
                member = opened.getmember(f"{_FOLDER}/{name}")
                stream = opened.extractfile(member) if member.size <= _MAX_FILE_BYTES else None
                if stream is None:
                    raise DataError(f"{archive}: {name} is not a plain file of at most {_MAX_FILE_BYTES} bytes.")
                # One file starts with a byte-order mark.
                contents[name] = stream.read().decode("utf-8-sig")
    except (KeyError, zipfile.BadZipFile, tarfile.TarError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{archive} does not hold the ratings as expected ({error}); delete it and retry.") from error
    return contents

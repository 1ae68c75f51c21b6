"""The record, the split, the parser of the human ratings, the generator and the demonstrations."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from textenv.datasets import (
    DOMAINS,
    INSTRUCTIONS,
    RatedText,
    builtin_ratings,
    demonstration,
    demonstrations,
    human_ratings,
    minilm_path,
    prompt_and_response,
    split_of,
)
from textenv.datasets import fetch as fetch_module
from textenv.datasets.demonstrations import prompt_words
from textenv.datasets.human_ratings import EXPECTED_COUNTS, _read_domain, parse_ratings
from textenv.errors import ConfigError, DataError

TEXTS = "1_1\t0.5\tA  fine\u2028film.\r\n1_2\t-2.0\tNot\x85 so.\r\n"
RATINGS = "1_1\t0.5\t0.5\t[0, 1]\r\n1_2\t-2.0\t1\t[-3, -2, -1]\r\n"


def parse(texts: str = TEXTS, ratings: str = RATINGS) -> list[RatedText]:
    return parse_ratings("movies", texts, ratings, texts_name="texts.txt", ratings_name="ratings.txt")


def test_parse_ratings_reads_both_files_and_collapses_white_space() -> None:
    first, second = parse()
    assert first == RatedText("A fine film.", "movies", 0.5, (0, 1), split_of("A fine film."), "movies/1_1")
    assert (second.text, second.mean, second.ratings) == ("Not so.", -2.0, (-3, -2, -1))


@pytest.mark.parametrize(
    ("texts", "ratings", "message"),
    [
        pytest.param("1_1\t0.5\n", RATINGS, r"texts\.txt:1: expected id, mean and text", id="field missing"),
        pytest.param("1_1\t0.5\t  \n", RATINGS, r"texts\.txt:1: expected id, mean and text", id="empty text"),
        pytest.param(TEXTS + "1_1\t0\tx\n", RATINGS, r"texts\.txt:3: id '1_1' appears twice", id="doubled text"),
        pytest.param(TEXTS + "9\t0\tx\n", RATINGS, r"texts\.txt:3: id '9' has no ratings in", id="no ratings"),
        pytest.param(TEXTS, RATINGS + "2\t0\t0\t[1, x]\n", r"ratings\.txt:3: expected id, mean", id="not numbers"),
        pytest.param(TEXTS, RATINGS + "2\t0\t0\t[]\n", r"ratings\.txt:3: expected id, mean", id="no numbers"),
        pytest.param(TEXTS, RATINGS + "2\t0\t0\t[5]\n", r"ratings\.txt:3: ratings must lie", id="out of range"),
        pytest.param(TEXTS, RATINGS + "1_1\t0\t0\t[1]\n", r"ratings\.txt:3: id '1_1' appears twice", id="doubled"),
    ],
)
def test_parse_ratings_malformed_line_names_file_and_line(texts: str, ratings: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(texts, ratings)


def make_archive(path: Path, files: dict[str, bytes]) -> Path:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as opened:
        for name, content in files.items():
            info = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}")
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    return path


def test_read_domain_skips_the_byte_order_mark_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bom = "\ufeff".encode()
    files = {"tweets_GroundTruth.txt": bom + TEXTS.encode(), "tweets_anonDataRatings.txt": bom + RATINGS.encode()}
    archive = make_archive(tmp_path / "a.zip", files)
    with pytest.raises(DataError, match="has 2 texts, expected 4200"):
        _read_domain(archive, "tweets")
    monkeypatch.setitem(EXPECTED_COUNTS, "tweets", 2)
    assert [item.id for item in _read_domain(archive, "tweets")] == ["tweets/1_1", "tweets/1_2"]


def test_read_domain_missing_member_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not hold the ratings as expected"):
        _read_domain(make_archive(tmp_path / "a.zip", {}), "tweets")


def test_read_domain_cut_off_archive_is_a_data_error(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.zip", {"tweets_GroundTruth.txt": TEXTS.encode() * 500})
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(DataError, match="does not hold the ratings as expected"):
        _read_domain(archive, "tweets")


@pytest.mark.network
def test_human_ratings_have_the_published_counts_and_a_clean_split() -> None:
    ratings = human_ratings()
    assert Counter(item.domain for item in ratings) == EXPECTED_COUNTS
    assert all(15 <= len(item.ratings) <= 99 and -4 <= item.mean <= 4 for item in ratings)
    words: dict[str, set[str]] = {}
    for item in ratings:
        words.setdefault(item.text.casefold(), set()).add(item.split)
    assert max(map(len, words.values())) == 1
    assert len(human_ratings(["movies"], "test")) == 1092


@pytest.mark.network
def test_minilm_path_holds_a_model_that_the_cache_repairs() -> None:
    assert (minilm_path() / "model.safetensors").stat().st_size == 90_868_376
    assert fetch_module.cache_dir() in minilm_path().parents


def test_split_of_ignores_case_punctuation_and_white_space() -> None:
    assert split_of("A fine, fine film!") == split_of("a  FINE fine... film")


def test_split_of_shares_are_80_10_10() -> None:
    counts = Counter(split_of(f"text number {number}") for number in range(5000))
    assert counts["train"] / 5000 == pytest.approx(0.8, abs=0.02)
    assert counts["test"] / 5000 == pytest.approx(0.1, abs=0.015)


def test_split_of_stays_as_published() -> None:
    # Literal values: a change of the rule would silently move training texts into the test split.
    texts = ["The film is superb.", "Dull.", ":-)", "what a day", "I love it", "never again"]
    assert [split_of(text) for text in texts] == ["train", "train", "test", "train", "train", "train"]


@pytest.mark.parametrize(("domains", "split"), [(["books"], None), ([], None), (None, "dev")])
def test_builtin_ratings_unknown_name_is_a_config_error(domains: list[str] | None, split: str | None) -> None:
    with pytest.raises(ConfigError, match=r"must (name some|be one) of"):
        builtin_ratings(8, domains=domains, split=split)


def test_builtin_ratings_without_texts_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"`n` must lie between 1 and 1,000,000, got 0"):
        builtin_ratings(0)


def test_builtin_ratings_same_seed_same_texts_other_seed_other_texts() -> None:
    assert builtin_ratings(60, 3) == builtin_ratings(60, 3)
    assert builtin_ratings(60, 3) != builtin_ratings(60, 4)


def test_builtin_ratings_fill_every_domain_and_split_without_duplicates() -> None:
    ratings = builtin_ratings(403)
    assert Counter(item.domain for item in ratings) == {"movies": 101, "amazon": 101, "tweets": 101, "nyt": 100}
    assert len({item.id for item in ratings}) == 403
    assert [item for item in ratings if item.split == "test"] == builtin_ratings(403, split="test")
    assert all(item.mean == pytest.approx(np.mean(item.ratings)) for item in ratings)


def test_builtin_ratings_agree_with_the_vader_lexicon() -> None:
    ratings = builtin_ratings(200, 1)
    analyzer = SentimentIntensityAnalyzer()
    compound = [analyzer.polarity_scores(item.text)["compound"] for item in ratings]
    assert np.corrcoef(compound, [item.mean for item in ratings])[0, 1] > 0.9


def test_demonstration_reproduces_the_text_exactly() -> None:
    for rated in builtin_ratings(80):
        made = demonstration(rated)
        assert made is not None
        assert made.prompt + made.response == INSTRUCTIONS[rated.domain] + rated.text
        kept = made.prompt.removeprefix(INSTRUCTIONS[rated.domain])
        assert len(kept.split()) == prompt_words(rated.text)
        assert made.response.startswith(" ")


def test_prompt_words_takes_every_value_from_two_to_four() -> None:
    assert {prompt_words(f"text {number}") for number in range(40)} == {2, 3, 4}


def rated(text: str) -> RatedText:
    return RatedText(text, "movies", 0.0, (0,), split_of(text), "movies/0")


def test_demonstration_short_text_is_skipped() -> None:
    words = prompt_words("a b c d")
    longer = next(text for text in ("a b c d e", "a b c d f", "a b c d g h i") if prompt_words(text) < 3)
    assert demonstration(rated("a b c")) is None
    assert (demonstration(rated("a b c d")) is None) == (words + 3 > 4)
    assert len(demonstrations([rated("a b"), rated(longer)])) == 1


@pytest.mark.parametrize(
    ("text", "prompt", "response"),
    [
        ("Superb.", "Continue this movie review:", " Superb."),
        ("Not bad", "Continue this movie review: Not", " bad"),
    ],
)
def test_prompt_and_response_short_text_keeps_a_response(text: str, prompt: str, response: str) -> None:
    made = prompt_and_response(rated(text))
    assert (made.prompt, made.response) == (prompt, response)


def test_domains_are_the_four_tasks() -> None:
    assert tuple(INSTRUCTIONS) == DOMAINS

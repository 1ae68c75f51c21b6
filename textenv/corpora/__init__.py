"""Corpora: token files that memory does not have to hold, documents packed into blocks, mixtures of tasks."""

from textenv.corpora.mixture import Mixture, MixtureConfig, MixturePoint
from textenv.corpora.packing import pack, pieces_of
from textenv.corpora.permutation import Permutation
from textenv.corpora.token_files import PackedTokens, TokenFile, encode_documents, write_token_file

__all__ = [
    "Mixture",
    "MixtureConfig",
    "MixturePoint",
    "PackedTokens",
    "Permutation",
    "TokenFile",
    "encode_documents",
    "pack",
    "pieces_of",
    "write_token_file",
]

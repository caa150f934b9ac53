"""BERT's tokenizer (uncased): text into words and punctuation, words into the longest pieces of the vocabulary."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["WordPiece"]

LONGEST_WORD = 100


class WordPiece:
    """`WordPiece(vocabulary)(sentences)`: ids and mask, i64[N, T], padded to the longest sentence."""

    def __init__(self, vocabulary: Sequence[str], limit: int = 256) -> None:
        self.ids = {piece: i for i, piece in enumerate(vocabulary)}
        self.limit = limit

    def __call__(self, sentences: Sequence[str]) -> dict[str, Any]:
        rows = [self.encode(s) for s in sentences]
        ids = np.full((len(rows), max(map(len, rows))), self.ids["[PAD]"], np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": mask}

    def encode(self, sentence: str) -> list[int]:
        pieces = [piece for word in split_words(sentence) for piece in self.pieces(word)]
        return [self.ids["[CLS]"], *pieces[: self.limit - 2], self.ids["[SEP]"]]

    def pieces(self, word: str) -> list[int]:
        """Longest match first; a word that does not come out even is unknown as a whole."""
        found, start = [], 0
        while start < len(word) <= LONGEST_WORD:
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if prefix + word[start:e] in self.ids), 0)
            if not end:
                break
            found.append(self.ids[prefix + word[start:end]])
            start = end
        return found if start == len(word) else [self.ids["[UNK]"]]


def split_words(sentence: str) -> list[str]:
    """Lower case, without accents; every punctuation mark and CJK character is a word."""
    text = unicodedata.normalize("NFD", sentence.lower())
    spaced = []
    for c in text:
        kind = unicodedata.category(c)
        if kind == "Mn" or (kind.startswith("C") and c not in "\t\n\r"):
            continue
        alone = kind.startswith("P") or (c.isascii() and not c.isalnum() and not c.isspace()) or "一" <= c <= "鿿"
        spaced.append(f" {c} " if alone else c)
    return "".join(spaced).split()

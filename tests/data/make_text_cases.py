"""Writes cases of the operators on strings below `tests/data/text`, with ONNX Runtime's results.

    python make_text_cases.py [folder]

Needs what make_ml_cases.py needs. StringNormalizer is not among them: ONNX Runtime changes case only where the machine has
the locale.
"""

import os
import shutil
import sys

import make_ml_cases
import numpy as np
from make_ml_cases import case, written


def strings(*values):
    return np.array(values, object)


def regexes():
    texts = strings("abc", "a1", "", "foo@bar.org", "x y", "über", "A", "aab", "2024-05-06", "a\nb", "[x]")
    patterns = {
        "letters": "[a-z]+",
        "mail": r"\w+@[\w.]+\.(com|org)",
        "empty": "",
        "any_case": "(?i)[a-c]+",
        "alternatives": "a|ab|aab|A*|",
        "date": r"(?P<year>\d{4})-\d\d-\d{1,2}",
        "posix": "[[:alpha:]][[:digit:]]?",
        "dot": ".*",
        "dot_newline": "(?s).*",
        "anchors": r"^\Aa\b.*\z$",
        "lazy": "a+?b??",
        "escapes": r"[\[\x78\]]+|\Qx y\E",
        "not": r"[^\s\d]{2,}",
        "lines": "(?m)a$\n^b",
    }
    for name, pattern in patterns.items():
        case(f"regex_{name}", "RegexFullMatch", {"X": texts}, ["Y"], domain="", pattern=pattern)


def tokens():
    texts = np.array([["Hello World, again", " über-all  tokens "], ["", "a,b;;c"]], object)
    contrib = dict(domain="com.microsoft", version=1)
    for mark in (0, 1):
        for name, attributes in {
            "characters": dict(separators=[""], mincharnum=1),
            "spaces": dict(separators=[" "], mincharnum=1),
            "two_separators": dict(separators=["[ ]+", "[,;-]"], mincharnum=2),
            "longest": dict(separators=["l|ll|llo"], mincharnum=1),
            "expression": dict(tokenexp="[a-zA-Z]+", mincharnum=1),
            "longest_expression": dict(tokenexp="a|al|all|[H-o]", mincharnum=1),
            "dot": dict(tokenexp=".", mincharnum=1),
            "long": dict(tokenexp=r"\w+", mincharnum=3),
        }.items():
            case(f"tokenizer_{name}_{mark}", "Tokenizer", {"X": texts}, ["Y"], **contrib, mark=mark, pad_value="#", **attributes)
    case("tokenizer_list", "Tokenizer", {"X": texts[0]}, ["Y"], **contrib, mark=0, pad_value="", separators=["o"], mincharnum=1)


def splits():
    texts = np.array([["a b", "  c  d e "], ["", "x,,y"]], object)
    for name, attributes in {
        "spaces": {},
        "spaces_once": dict(maxsplit=1),
        "commas": dict(delimiter=","),
        "commas_once": dict(delimiter=",", maxsplit=1),
        "words": dict(delimiter="d e"),
        "never": dict(maxsplit=0),
    }.items():
        case(f"split_{name}", "StringSplit", {"X": texts}, ["Y", "Z"], domain="", **attributes)
    case("concat", "StringConcat", {"X": texts, "Y": strings("!", "?")}, ["Z"], domain="")


def grams():
    words = np.array([["a", "b", "a", "c", "b"], ["c", "a", "a", "b", "z"]], object)
    numbers = np.array([[1, 2, 1, 3, 2], [3, 1, 1, 2, 9]])
    pool = ["a", "b", "a", "b", "b", "a", "a", "a", "b", "c", "a", "b"]
    for mode in ("TF", "IDF", "TFIDF"):
        for skip in (0, 2):
            for lengths in ((1, 1), (2, 2), (1, 3), (2, 3)):
                attributes = dict(
                    domain="",
                    mode=mode,
                    max_skip_count=skip,
                    min_gram_length=lengths[0],
                    max_gram_length=lengths[1],
                    ngram_counts=[0, 2, 6],
                    ngram_indexes=[0, 1, 2, 3, 4, 5],
                    weights=[0.5, 2.0, 3.0, 4.0, 0.25, 1.5],
                )
                name = f"grams_{mode.lower()}_{lengths[0]}_{lengths[1]}_skip_{skip}"
                if (mode, skip) != ("IDF", 0):
                    case(name, "TfIdfVectorizer", {"X": words}, ["Y"], pool_strings=pool, **attributes)
                else:
                    ints = [ord(word) - 96 for word in pool]
                    case(name, "TfIdfVectorizer", {"X": numbers}, ["Y"], pool_int64s=ints, **attributes)
    case(
        "grams_list_int32",
        "TfIdfVectorizer",
        {"X": numbers[0].astype(np.int32)},
        ["Y"],
        domain="",
        mode="TF",
        max_skip_count=1,
        min_gram_length=2,
        max_gram_length=2,
        ngram_counts=[0, 0],
        ngram_indexes=[1, 0],
        pool_int64s=[1, 2, 3, 2],
    )


if __name__ == "__main__":
    own = os.path.join(os.path.dirname(os.path.abspath(__file__)), "text")
    make_ml_cases.FOLDER = sys.argv[1] if len(sys.argv) > 1 else own
    shutil.rmtree(make_ml_cases.FOLDER, ignore_errors=True)
    regexes()
    tokens()
    splits()
    grams()
    print(f"{len(written)} cases")

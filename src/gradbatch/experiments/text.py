"""Data sets of texts: sentences to classify, and characters to foretell."""

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from gradbatch.errors import InvalidInputError, MissingDataError
from gradbatch.experiments.data import Dataset, Split, data_root

__all__ = ["RELATION_CLASSES", "load_semeval", "load_shakespeare", "tokenise"]

_RELATIONS = (
    "Cause-Effect",
    "Instrument-Agency",
    "Product-Producer",
    "Content-Container",
    "Entity-Origin",
    "Entity-Destination",
    "Component-Whole",
    "Member-Collection",
    "Message-Topic",
)
"""In the order of the organisers' read-me."""

RELATION_CLASSES = ("Other", *(f"{name}({order})" for name in _RELATIONS for order in ("e1,e2", "e2,e1")))
"""The 19 classes of `semeval`, each at its number: Other is 0, relation r has 2r+1 and 2r+2, as macro-F1 wants it."""

_PADDING, _UNKNOWN = 0, 1
_NUM_SPECIAL = 2
_MIN_COUNT = 2
"""Times a word is in the training file to be known: one seen once has a vector that nothing else could teach."""

_SENTENCE_LENGTH = 100
"""Tokens. One training sentence is longer, with 103; what is cut off lies behind its second entity."""

_NUMBER = "0"
_TOKEN = re.compile(r"</?e[12]>|[^\W\d_]+|\d+|[^\w\s]|_")
_SAMPLE = re.compile(r'^\d+\t"(.*)"[ \t]*\n(\S+)[ \t]*\nComment:', re.MULTILINE)

_WINDOW = 64
"""Characters a sample."""

_NUM_CHARACTERS = 65
_TRAIN_SHARE = (9, 10)


class _Sentence(NamedTuple):
    """Tokens as they are written, and the number of the class."""

    tokens: list[str]
    label: int


def load_semeval(root: Path | None) -> Dataset:
    """SemEval-2010 task 8: which of nine relations, in which direction, holds between two marked words of a sentence.

    Tokens are words in lower case, marks and numbers, all numbers the same token; the four position markers around the
    two entities stay as tokens of their own (Zhang and Wang 2015, arXiv:1508.01006, "position indicators"). Known are
    the tokens that are at least twice in the training file, numbered in alphabetical order from 2; 0 is padding at the
    end, 1 any other token.

    Args:
        root: The folder of the data sets, with the original ``TRAIN_FILE.TXT`` and ``TEST_FILE_FULL.TXT`` in
            ``semeval2010-task8``.

    Returns:
        8000 sentences to train and 2717 to test, [N, 100]; targets are places in `RELATION_CLASSES`.
    """
    needs = "TRAIN_FILE.TXT and TEST_FILE_FULL.TXT of SemEval-2010 task 8 into semeval2010-task8"
    return _read_semeval(data_root(root, task="semeval", needs=needs) / "semeval2010-task8")


# As the images, texts are read once a process.
@lru_cache(maxsize=1)
def _read_semeval(folder: Path) -> Dataset:
    train = _sentences(folder / "TRAIN_FILE.TXT", num_samples=8000)
    test = _sentences(folder / "TEST_FILE_FULL.TXT", num_samples=2717)
    counts = Counter(token for sentence in train for token in sentence.tokens)
    known = sorted(token for token, count in counts.items() if count >= _MIN_COUNT)
    numbers = {token: number for number, token in enumerate(known, start=_NUM_SPECIAL)}
    return Dataset(train=_encoded(train, numbers), test=_encoded(test, numbers), num_tokens=_NUM_SPECIAL + len(numbers))


def tokenise(sentence: str) -> list[str]:
    """The tokens of a sentence.

    Args:
        sentence: With or without position markers.

    Returns:
        Words in lower case, marks, ``0`` for every number, and the markers.

    Example:
        >>> tokenise("The <e1>child</e1>'s 25 toys.")
        ['the', '<e1>', 'child', '</e1>', "'", 's', '0', 'toys', '.']
    """
    return [_NUMBER if token.isdigit() else token for token in _TOKEN.findall(sentence.lower())]


def _sentences(path: Path, *, num_samples: int) -> list[_Sentence]:
    """The sentences of a file, checked to be all of them."""
    numbers = {name: number for number, name in enumerate(RELATION_CLASSES)}
    text = _content(path).decode("latin-1").replace("\r\n", "\n")
    samples = [(tokenise(sentence), label) for sentence, label in _SAMPLE.findall(text)]
    if len(samples) != num_samples:
        raise InvalidInputError(
            f"{path} holds {len(samples)} sentences, expected {num_samples}: replace it by the original file"
        )
    unknown = [label for _, label in samples if label not in numbers]
    if unknown:
        raise InvalidInputError(f'{path} holds the label "{unknown[0]}": replace it by the original file')
    return [_Sentence(tokens, numbers[label]) for tokens, label in samples]


def _encoded(sentences: list[_Sentence], numbers: dict[str, int]) -> Split:
    inputs = torch.full((len(sentences), _SENTENCE_LENGTH), _PADDING)
    for row, sentence in zip(inputs, sentences, strict=True):
        codes = [numbers.get(token, _UNKNOWN) for token in sentence.tokens[:_SENTENCE_LENGTH]]
        row[: len(codes)] = torch.tensor(codes)
    return Split(inputs, torch.tensor([sentence.label for sentence in sentences]))


def load_shakespeare(root: Path | None) -> Dataset:
    """Tiny Shakespeare: from the characters so far, the next one.

    The text is cut into windows of 64 characters that do not overlap; targets are the inputs one character on. The
    characters are numbered in the order of their codes. Of the text the first nine tenths train, the last test.

    Args:
        root: The folder of the data sets, with ``input.txt`` in ``tinyshakespeare``.

    Returns:
        Inputs and targets, both [N, 64].
    """
    needs = "input.txt of tiny Shakespeare into tinyshakespeare"
    return _read_shakespeare(data_root(root, task="shakespeare", needs=needs) / "tinyshakespeare")


@lru_cache(maxsize=1)
def _read_shakespeare(folder: Path) -> Dataset:
    path = folder / "input.txt"
    content = _content(path)
    characters = sorted(set(content))
    if len(characters) != _NUM_CHARACTERS:
        raise InvalidInputError(
            f"{path} holds {len(characters)} different characters, expected {_NUM_CHARACTERS}: replace it by the "
            "original file"
        )
    number_of = torch.zeros(256, dtype=torch.long)
    number_of[characters] = torch.arange(_NUM_CHARACTERS)
    text = number_of[list(content)]
    num_train = len(text) * _TRAIN_SHARE[0] // _TRAIN_SHARE[1]
    return Dataset(train=_windows(text[:num_train]), test=_windows(text[num_train:]), num_tokens=_NUM_CHARACTERS)


def _windows(text: torch.Tensor) -> Split:
    """All whole windows, each with the character behind it."""
    windows = text.unfold(0, _WINDOW + 1, _WINDOW)
    return Split(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())


def _content(path: Path) -> bytes:
    """The bytes of a file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingDataError(f"{path} is not there: put the original file there") from None
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read ({error.strerror}): make it readable") from error

import pytest
import torch

from gradbatch.errors import InvalidInputError, MissingDataError
from gradbatch.experiments.text import RELATION_CLASSES, load_semeval, load_shakespeare, tokenise

SAMPLE = '1\t"A <e1>cup</e1> of <e2>tea</e2>."\r\nContent-Container(e2,e1)\r\nComment: none\r\n\r\n'


def test_tokens_are_words_marks_numbers_and_markers():
    sentence = "In 1,999 <e1>Café-owners</e1> (of <e2>U.S.</e2>) didn't."
    assert tokenise(sentence) == [
        *("in", "0", ",", "0", "<e1>", "café", "-", "owners", "</e1>", "(", "of"),
        *("<e2>", "u", ".", "s", ".", "</e2>", ")", "didn", "'", "t", "."),
    ]


def test_classes_are_other_and_nine_relations_in_two_directions():
    assert len(set(RELATION_CLASSES)) == 19
    assert RELATION_CLASSES[0] == "Other"
    for first, second in zip(RELATION_CLASSES[1::2], RELATION_CLASSES[2::2], strict=True):
        assert first.replace("(e1,e2)", "(e2,e1)") == second != first


@pytest.mark.data
def test_sentences_keep_both_entities(load_task):
    data = load_task("semeval")
    assert data.train.inputs.shape == (8000, 100)
    assert data.test.inputs.shape == (2717, 100)
    # Published: 1410 and 454 sentences of Other; one training sentence of Entity-Destination(e2,e1).
    counts = torch.bincount(data.train.targets)
    assert counts[0] == 1410
    assert counts[RELATION_CLASSES.index("Entity-Destination(e2,e1)")] == 1
    assert torch.bincount(data.test.targets)[0] == 454
    assert data.train.inputs.max() == data.num_tokens - 1
    # Letters come after marks, and "<" before them: the four markers are found as the tokens all sentences have.
    in_all = [
        token
        for token in data.train.inputs[0].unique().tolist()
        if token > 1 and bool((data.train.inputs == token).any(dim=1).all())
    ]
    assert len(in_all) == 4
    for split in (data.train, data.test):
        assert all(bool((split.inputs == token).any(dim=1).all()) for token in in_all)
        is_padding = split.inputs == 0
        assert not bool((is_padding[:, :-1] & ~is_padding[:, 1:]).any())  # padding is at the end alone
        assert not bool(is_padding[:, 0].any())


@pytest.mark.data
def test_known_words_are_at_least_twice_in_the_training_file(load_task):
    data = load_task("semeval")
    counts = torch.bincount(data.train.inputs.flatten(), minlength=data.num_tokens)
    # A word whose second place lies behind the cut may be left with one.
    assert (counts[2:] >= 2).double().mean() > 0.999
    assert counts[1] > 0
    assert (data.test.inputs == 1).sum() > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SAMPLE, "holds 1 sentences, expected 8000"),
        (SAMPLE.replace("Content-Container(e2,e1)", "Container") * 8000, 'holds the label "Container"'),
    ],
)
def test_a_damaged_file_of_sentences_is_named(tmp_path, content, message):
    folder = tmp_path / "semeval2010-task8"
    folder.mkdir()
    with pytest.raises(MissingDataError, match=r"TRAIN_FILE\.TXT is not there"):
        load_semeval(tmp_path)
    (folder / "TRAIN_FILE.TXT").write_text(content, newline="")
    with pytest.raises(InvalidInputError, match=rf"TRAIN_FILE\.TXT {message}"):
        load_semeval(tmp_path)


@pytest.fixture
def text(tmp_path):
    """65 characters in the order of their codes, over and over: 6500 of them, of which 5850 train."""
    characters = "".join(map(chr, range(40, 105)))
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_text(characters * 100)
    return tmp_path


def test_windows_follow_each_other_and_targets_are_one_on(text):
    data = load_shakespeare(text)
    assert (data.num_tokens, data.input_spec.shape) == (65, (64,))
    assert data.train.inputs.shape == data.train.targets.shape == (91, 64)  # 5849 characters have one behind them
    assert data.test.inputs.shape == data.test.targets.shape == (10, 64)
    assert data.train.inputs.flatten().tolist() == [place % 65 for place in range(91 * 64)]
    assert torch.equal(data.train.targets, (data.train.inputs + 1) % 65)
    assert data.test.inputs.flatten().tolist() == [place % 65 for place in range(5850, 5850 + 640)]


def test_another_text_is_refused(text):
    (text / "tinyshakespeare" / "input.txt").write_text("abc" * 1000)
    with pytest.raises(InvalidInputError, match="holds 3 different characters, expected 65"):
        load_shakespeare(text)


@pytest.mark.data
def test_the_text_is_shakespeare_s(load_task):
    data = load_task("shakespeare")
    assert data.train.inputs.shape == (15_685, 64)
    assert data.test.inputs.shape == (1_742, 64)
    # "First Citizen": capitals come after newline, blank, and 11 marks and digits, small letters after these.
    letters = {
        letter: 13 + number for number, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    }
    letters[" "] = 1
    assert data.train.inputs[0, :13].tolist() == [letters[letter] for letter in "First Citizen"]
    assert torch.equal(data.train.targets[:-1, -1], data.train.inputs[1:, 0])

import math

import pytest
import torch

from gradbatch.experiments.metrics import ACCURACY, BITS_PER_CHARACTER, MACRO_F1, Outcome
from gradbatch.experiments.text import RELATION_CLASSES


def outcome(predictions, targets, loss=0.0):
    return Outcome(loss=loss, predictions=torch.tensor(predictions), targets=torch.tensor(targets))


def slow_macro_f1(predictions, targets):
    """As the organisers' scorer goes about it: the names of the labels, and counts of each relation in loops."""
    total = 0.0
    for relation in {label.split("(")[0] for label in RELATION_CLASSES} - {"Other"}:
        right = wrong_direction = found = wanted = 0
        for prediction, target in zip(predictions, targets, strict=True):
            proposed, key = RELATION_CLASSES[prediction], RELATION_CLASSES[target]
            is_key = key.startswith(relation)
            wanted += is_key
            if proposed.startswith(relation):
                if is_key and proposed != key:
                    wrong_direction += 1
                else:
                    found += 1
                    right += proposed == key
        precision = right / (found + wrong_direction) if found + wrong_direction else 0.0
        recall = right / wanted if wanted else 0.0
        total += 2 * precision * recall / (precision + recall) if right else 0.0
    return total / 9


def test_accuracy_counts_every_target():
    assert ACCURACY.of(outcome([1, 2, 3, 4], [1, 2, 0, 4])) == 0.75
    assert ACCURACY.of(outcome([[1, 2], [3, 4]], [[1, 0], [0, 0]])) == 0.25


def test_bits_are_nats_by_ln_2():
    assert BITS_PER_CHARACTER.of(outcome([0], [0], loss=math.log(65))) == pytest.approx(math.log2(65))


def test_macro_f1_by_hand():
    # Cause-Effect is class 1 and 2. Three are wanted; found are one right, one in the wrong direction, and one that
    # was Other; the third was taken for Message-Topic (17), which nobody wanted.
    # Precision 1/3, recall 1/3, so F1 = 1/3; the other eight relations have none.
    assert MACRO_F1.of(outcome([1, 2, 17, 1], [1, 1, 2, 0])) == pytest.approx(1 / 27)
    # All found of Cause-Effect and Message-Topic, and Other right, which does not count.
    assert MACRO_F1.of(outcome([1, 18, 0, 0], [1, 18, 0, 0])) == pytest.approx(2 / 9)
    assert MACRO_F1.of(outcome([0, 0], [0, 5])) == 0


def test_all_right_is_one():
    everything = list(range(19))
    assert MACRO_F1.of(outcome(everything, everything)) == 1


@pytest.mark.parametrize("num_classes", [4, 19])
def test_macro_f1_is_the_twin_s(num_classes):
    for share_right in (0.0, 0.5, 0.9):
        targets = torch.randint(num_classes, (200,))
        guesses = torch.randint(num_classes, (200,))
        predictions = torch.where(torch.rand(200) < share_right, targets, guesses)
        found = MACRO_F1.of(outcome(predictions.tolist(), targets.tolist()))
        assert found == pytest.approx(slow_macro_f1(predictions.tolist(), targets.tolist()), abs=1e-12)


def test_shares_are_written_in_percent():
    assert ACCURACY.write(0.98765) == "98.77%"
    assert MACRO_F1.write(0.5) == "50.00%"
    assert BITS_PER_CHARACTER.write(2.34567) == "2.346"


def test_fewer_bits_are_better():
    assert ACCURACY.is_higher_better
    assert MACRO_F1.is_higher_better
    assert not BITS_PER_CHARACTER.is_higher_better

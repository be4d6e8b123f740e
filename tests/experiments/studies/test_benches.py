import math

import pytest

from gradbatch.experiments.studies.benches import BENCHES


def test_what_can_be_told_apart_are_two_standard_errors():
    assert BENCHES["mnist"].resolution(0.9) == pytest.approx(200 * math.sqrt(2 * 0.09 / 10_000))
    assert BENCHES["shakespeare"].resolution(2.0) == 1.0

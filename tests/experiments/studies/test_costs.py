import math

import pytest

from experiments.studies.fields import field
from gradbatch.experiments.studies.costs import CONSTANT, COSINE, costs, target_of


def test_costs_are_to_half_a_point_below_the_best_constant_batch():
    own = field()
    found = costs(own)
    assert target_of(own) == pytest.approx(0.965)
    assert (found[CONSTANT].samples, found[CONSTANT].updates, found[CONSTANT].seconds) == (100, 100, 2.0)
    assert found[COSINE].standing.test == pytest.approx(0.98)
    assert (found["cabs"].num_reached, len(found["cabs"].standing.outcomes)) == (0, 3)
    assert math.isnan(found["cabs"].samples)


def test_a_rule_that_is_not_in_has_no_costs():
    assert "cabs" not in costs(field(lambda place: place.get("rule") == "cabs" and place["seed"] == 1))
    assert costs(field(lambda place: place.get("size") == 8 and place["seed"] == 1)) == {}

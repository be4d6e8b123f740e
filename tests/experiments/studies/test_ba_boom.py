import math

import pytest

from experiments.reproduce.outcomes import results
from experiments.studies.rates import at, run
from gradbatch.experiments.reproduce.cells import NONE
from gradbatch.experiments.studies.ba_boom import EXPERIMENTS, boom, plateau

FIGURE5 = EXPERIMENTS[0]
EARLIER, TOGETHER = (claim.judge for claim in FIGURE5.claims)
NAN = math.nan


@pytest.mark.parametrize(
    ("sizes", "samples"),
    [([32, 32, 50, 60], 300), ([32, 50, 32, 60], 400), ([50, 50, 50, 50], 100), ([32, 60, 60, 40], NAN)],
)
def test_a_boom_lasts_to_the_end(sizes, samples):
    assert boom(run([1.0] * 4, sizes)) == pytest.approx(samples, nan_ok=True)


@pytest.mark.parametrize(
    ("losses", "samples"),
    # From 1 to 1e-4, nine tenths are 10^-3.6.
    [([1, 1e-2, 2e-4, 1e-4], 300), ([1, 1e-2, 3e-4, 1e-4], 400), ([1, None, 1e-4, 1e-3], 300), ([None], NAN)],
)
def test_a_plateau_is_the_last_tenth_of_the_way(losses, samples):
    assert plateau(run(losses)) == pytest.approx(samples, nan_ok=True)


@pytest.mark.parametrize(("plateau_at", "answer"), [(89, "holds"), (91, "does not hold")])
def test_a_boom_and_a_plateau_are_together_within_a_tenth_of_the_800_epochs(plateau_at, answer):
    own = run([1, 1, 1e-4], [32, 60, 60], samples_seen=[0, 10_000, 1000 * plateau_at])  # the boom is at epoch 10
    assert TOGETHER(results(*(entry for lr in (0.005, 0.01, 0.02) for entry in at(lr, own)))).answer == answer


def test_booms_are_ordered_by_the_rate():
    early, late = run([1, 1e-4, 1e-4], [32, 60, 60]), run([1, 0.5, 1e-4], [32, 32, 60])
    none = run([1, 1, 1e-4])
    ordered = results(*at(0.005, none), *at(0.01, late), *at(0.02, early))
    assert EARLIER(ordered).answer == "holds"
    assert "none, 0, 0" in EARLIER(ordered).evidence  # epochs of 1,000 samples
    assert TOGETHER(ordered).answer == "in part"
    tied = results(*at(0.005, none), *at(0.01, early), *at(0.02, early))
    assert EARLIER(tied).answer == "does not hold"


@pytest.mark.parametrize(("loss", "answer"), [(5e-6, "does not hold"), (1e-5, "undecided")])
def test_no_boom_is_a_finding_where_training_went_as_far_as_the_paper_s(loss, answer):
    none = run([1, 1, loss])
    flat = results(*at(0.005, none), *at(0.01, none), *at(0.02, none))
    assert (EARLIER(flat).answer, TOGETHER(flat).answer) == (answer, answer)
    assert ("nothing can be said" in EARLIER(flat).evidence) == (answer == "undecided")


def test_a_cell_is_empty_unless_all_seeds_came_so_far():
    grown, flat = run([1, 1e-4], [32, 60]), run([1, 1e-4], diverged="not finite")
    both = results(*at(0.02, grown), *at(0.02, flat))
    assert FIGURE5.blocks(both)[2].rows[0][2:4] == [NONE, NONE]
    table = FIGURE5.blocks(results(*at(0.02, grown), *at(0.02, grown)))[2]
    assert [row[0] for row in table.rows] == ["0.02"]
    assert table.rows[0][2] == "0 ± 0"

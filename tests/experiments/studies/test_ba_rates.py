import math

import pytest

from experiments.reproduce.outcomes import outcome, results
from gradbatch.experiments.reproduce.cells import NONE
from gradbatch.experiments.studies.ba_rates import EXPERIMENTS, boom, plateau, rate_trials

FIGURE4, FIGURE5 = EXPERIMENTS
WELL, FASTER, FAILING = (claim.judge for claim in FIGURE4.claims)  # the last from the runs at 0.05 alone
EARLIER, TOGETHER = (claim.judge for claim in FIGURE5.claims)
VARIANTS = ("Mini-32", "BA, code's stop", "BA, paper's stop")
NAN = math.nan


def run(losses, sizes=None, **totals):
    sizes = [32] * len(losses) if sizes is None else sizes
    return outcome(train_loss=list(losses), batch_size=list(sizes), test_score=[0.5] * len(losses), **totals)


def at(lr, own, variants=VARIANTS):
    return [({"images": "600 images", "variant": variant, "lr": lr}, own) for variant in variants]


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


def test_rates_are_judged_by_the_last_training_loss():
    good = [*at(0.005, run([0.1])), *at(0.01, run([0.05])), *at(0.02, run([0.01]))]
    assert (WELL(results(*good)).answer, FASTER(results(*good)).answer) == ("holds", "holds")
    mixed = [*at(0.005, run([0.1])), *at(0.01, run([2.3])), *at(0.02, run([0.01]))]
    assert (WELL(results(*mixed)).answer, FASTER(results(*mixed)).answer) == ("in part", "does not hold")
    one_stop = [*good[:7], *at(0.02, run([0.2]), VARIANTS[1:2]), *at(0.02, run([0.01]), VARIANTS[2:])]
    assert FASTER(results(*one_stop)).answer == "in part"


def test_a_run_that_diverged_has_failed():
    assert FAILING(results(*at(0.05, run([0.1], diverged="not finite")))).answer == "holds"
    assert FAILING(results(*at(0.05, run([0.1])))).answer == "does not hold"


@pytest.mark.parametrize(("plateau_at", "answer"), [(89, "holds"), (91, "does not hold")])
def test_a_boom_and_a_plateau_are_together_within_a_tenth_of_the_800_epochs(plateau_at, answer):
    own = run([1, 1, 1e-4], [32, 60, 60], samples_seen=[0, 10_000, 1000 * plateau_at])  # the boom is at epoch 10
    assert TOGETHER(results(*(entry for lr in (0.005, 0.01, 0.02) for entry in at(lr, own)))).answer == answer


def test_a_cell_is_empty_unless_all_seeds_came_so_far():
    grown, flat = run([1, 1e-4], [32, 60]), run([1, 1e-4], diverged="not finite")
    both = results(*at(0.02, grown), *at(0.02, flat))
    assert FIGURE5.blocks(both)[2].rows[0][2:4] == [NONE, NONE]
    assert FIGURE5.blocks(results(*at(0.02, grown), *at(0.02, grown)))[2].rows[0][2] == "0 ± 0"
    assert FIGURE4.blocks(both)[2].rows[2][2] == f"{NONE} / 50.00 ± 0.00"


def test_booms_are_ordered_by_the_rate():
    early, late = run([1, 1e-4, 1e-4], [32, 60, 60]), run([1, 0.5, 1e-4], [32, 32, 60])
    none = run([1, 1, 1e-4])
    ordered = results(*at(0.005, none), *at(0.01, late), *at(0.02, early))
    assert EARLIER(ordered).answer == "holds"
    assert "none, 0, 0" in EARLIER(ordered).evidence  # epochs of 1,000 samples
    assert TOGETHER(ordered).answer == "in part"
    tied = results(*at(0.005, none), *at(0.01, early), *at(0.02, early))
    assert EARLIER(tied).answer == "does not hold"


@pytest.mark.parametrize(("loss", "answer"), [(1e-4, "does not hold"), (1e-2, "open")])
def test_no_boom_is_a_finding_where_the_training_set_is_fitted(loss, answer):
    none = run([1, 1, loss])
    flat = results(*at(0.005, none), *at(0.01, none), *at(0.02, none))
    assert (EARLIER(flat).answer, TOGETHER(flat).answer) == (answer, answer)
    assert ("nothing can be said" in EARLIER(flat).evidence) == (answer == "open")


def test_pages_are_made_of_what_there_is():
    found = results(*at(0.02, run([1, 1e-4], [32, 60])))
    heading, plot, table = FIGURE4.blocks(found)
    assert heading == "### 600 images"
    assert [len(panel.curves) for panel in plot.panels] == [1, 1, 1]
    assert table.rows[0][2] == "– / –"
    assert table.rows[2][2] == "0.0001 / 50.00"
    _, plot, table = FIGURE5.blocks(found)
    assert [row[0] for row in table.rows] == ["0.02"]


def test_all_rates_have_all_variants():
    places = [(item.place["lr"], item.place["variant"]) for item in rate_trials("full")]
    assert len(set(places)) == 12
    assert len(places) == 24
    assert places[0] == (0.02, "Mini-32")
    assert {item.settings.epochs * item.settings.per_class * 10 for item in rate_trials("full")} == {480_000}

from experiments.reproduce.outcomes import results
from experiments.studies.rates import VARIANTS, at, run
from gradbatch.experiments.reproduce.cells import NONE
from gradbatch.experiments.studies.ba_rates import EXPERIMENTS, rate_trials

FIGURE4 = EXPERIMENTS[0]
WELL, FASTER, FAILING = (claim.judge for claim in FIGURE4.claims)  # the last from the runs at 0.05 alone
DREW = [32, 64]


def test_rates_are_judged_by_the_last_training_loss():
    good = [*at(0.005, run([1, 0.1], DREW)), *at(0.01, run([1, 0.05], DREW)), *at(0.02, run([1, 0.01], DREW))]
    assert (WELL(results(*good)).answer, FASTER(results(*good)).answer) == ("holds", "holds")
    mixed = [*good[:3], *at(0.01, run([1, 2.3], DREW)), *good[6:]]
    assert (WELL(results(*mixed)).answer, FASTER(results(*mixed)).answer) == ("in part", "does not hold")
    one_stop = [*good[:7], *at(0.02, run([0.2], [64]), VARIANTS[1:2]), *at(0.02, run([0.01], [64]), VARIANTS[2:])]
    assert FASTER(results(*one_stop)).answer == "in part"


def test_nothing_is_said_of_rates_at_which_ba_never_drew():
    idle = [*at(0.005, run([1, 0.1])), *at(0.01, run([1, 0.05], DREW)), *at(0.02, run([1, 0.01], DREW))]
    for judge in (WELL, FASTER):
        verdict = judge(results(*idle))
        assert verdict.answer == "undecided"
        assert verdict.evidence.startswith("at 0.005 BA-Momentum hardly draws")
        assert "at 0.01 BA" not in verdict.evidence


def test_a_run_that_diverged_has_failed():
    assert FAILING(results(*at(0.05, run([0.1], diverged="not finite")))).answer == "holds"
    assert FAILING(results(*at(0.05, run([0.1])))).answer == "does not hold"


def test_a_cell_is_empty_unless_all_seeds_came_so_far():
    grown, flat = run([1, 1e-4], [32, 60]), run([1, 1e-4], diverged="not finite")
    both = results(*at(0.02, grown), *at(0.02, flat))
    assert FIGURE4.blocks(both)[2].rows[2][2] == f"{NONE} / 50.00 ± 0.00"


def test_pages_are_made_of_what_there_is():
    found = results(*at(0.02, run([1, 1e-4], [32, 60])))
    heading, plot, table = FIGURE4.blocks(found)
    assert heading == "### 600 images"
    assert [len(panel.curves) for panel in plot.panels] == [1, 1, 1]
    assert table.rows[0][2] == "– / –"
    assert table.rows[2][2] == "0.0001 / 50.00"


def test_all_rates_have_all_variants():
    places = [(item.place["lr"], item.place["variant"]) for item in rate_trials("full")]
    assert len(set(places)) == 12
    assert len(places) == 24
    assert places[0] == (0.02, "Mini-32")
    assert {item.settings.epochs * item.settings.per_class * 10 for item in rate_trials("full")} == {480_000}

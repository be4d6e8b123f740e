import pytest

from experiments.reproduce.outcomes import outcome, results
from gradbatch.experiments.reproduce.experiment import Plot, Table
from gradbatch.experiments.studies.ba import EXPERIMENTS, early_and_late, whole_trials

TABLE1, FIGURE1, FIGURE3 = EXPERIMENTS
CODE, PAPER, ACCEPTS = "BA, code's stop", "BA, paper's stop", "BA, accepts overshoots"


def run(*scores, losses=(0.5,), sizes=(32, 32, 32, 64), diverged=None):
    length = len(scores)
    losses = [*losses][:length] or [0.5]
    own = outcome(test_score=list(scores), validation_score=list(scores), train_loss=losses, diverged=diverged)
    places = [250 * (n + 1) for n in range(len(sizes))]
    own.values["course"].update(samples=places, updates=places, mean=list(sizes), largest=list(sizes))
    return own


def at(optimizer, network="small network", **runs):
    names = {"code": CODE, "paper": PAPER, "accepts": ACCEPTS} | {f"mini{n}": f"Mini-{n}" for n in (32, 64, 128, 256)}
    return [({"network": network, "optimizer": optimizer, "variant": names[name]}, own) for name, own in runs.items()]


def test_early_and_late_are_quarters_of_the_samples():
    assert early_and_late(run(0.5, sizes=(32, 40, 100, 70))) == (32, 85)  # the last quarter begins at the third place


@pytest.mark.parametrize(
    ("code", "paper", "answer"),
    [(0.898, 0.95, "holds"), (0.898, 0.8, "in part"), (0.8, 0.8, "does not hold")],
)
def test_level_is_within_three_tenths_of_a_point_of_the_best_fixed_batch(code, paper, answer):
    fixed = {"mini32": run(0.9), "mini256": run(0.7)}
    verdict = TABLE1.claims[0].judge(results(*at("Momentum", code=run(code), paper=run(paper), **fixed)))
    assert verdict.answer == answer
    assert "Mini-32 90.00" in verdict.evidence


def test_nothing_is_level_with_fixed_batches_of_which_one_is_to_be_run():
    judge = TABLE1.claims[0].judge
    runs = {"mini32": run(0.9), "code": run(0.9), "paper": run(0.9)}
    assert judge(results(*at("Momentum", **runs))).answer == "holds"  # where there are no others
    for name in ("mini256", "paper"):
        verdict = judge(results(*at("Momentum", **runs | {name: None})))
        assert verdict.answer == "open"
        assert verdict.evidence.startswith("not run: ")
    elsewhere = at("Momentum", mini256=None, network="authors' network"), at("SGD", mini256=None)
    assert judge(results(*at("Momentum", **runs), *elsewhere[0], *elsewhere[1])).answer == "holds"


def test_larger_batches_are_less_accurate_one_after_the_other():
    judge = TABLE1.claims[2].judge
    falling = {"mini32": run(0.9), "mini64": run(0.8), "mini128": run(0.7), "mini256": run(0.6)}
    assert judge(results(*at("SGD", **falling))).answer == "holds"
    assert judge(results(*at("SGD", **falling | {"mini64": run(0.95)}))).answer == "in part"
    assert judge(results(*at("SGD", mini32=run(0.9)))).answer == "open"


def test_ranks_are_among_the_others():
    losses = {f"mini{n}": run(0.9, losses=[loss]) for n, loss in ((32, 0.1), (64, 0.3), (128, 0.4), (256, 0.5))}
    losses["code"] = run(0.9, losses=[0.2])
    first, second = (claim.judge for claim in FIGURE1.claims)
    assert first(results(*at("Momentum", **losses))).answer == "does not hold"
    assert second(results(*at("SGD", **losses))).answer == "holds"  # the lowest or the second lowest
    lower = losses | {"paper": run(0.9, losses=[0.05])}
    assert first(results(*at("Momentum", **lower))).answer == "in part"
    for name in ("mini256", "paper"):
        assert second(results(*at("SGD", **losses | {name: None}))).answer == "open"


def test_the_second_of_two_has_no_rank():
    two = {"mini32": run(0.9, losses=[0.1]), "code": run(0.9, losses=[0.2])}
    assert FIGURE1.claims[1].judge(results(*at("SGD", **two))).answer == "open"
    assert FIGURE1.claims[0].judge(results(*at("Momentum", **two))).answer == "does not hold"


def test_a_run_that_diverged_has_none_of_the_lowest_losses():
    judge = FIGURE1.claims[0].judge
    lost = run(0.9, losses=[0.01], diverged="not finite")
    assert judge(results(*at("Momentum", mini32=run(0.9), code=lost))).answer == "does not hold"
    assert judge(results(*at("Momentum", mini32=lost, code=run(0.9)))).answer == "holds"
    assert judge(results(*at("Momentum", mini32=lost, code=lost))).answer == "does not hold"


def test_growth_is_late_and_larger_without_momentum():
    rise_momentum, rise_sgd, growth, cause = (claim.judge for claim in FIGURE3.claims)
    flat, grown = run(0.5, sizes=(32, 32, 32, 32)), run(0.5, sizes=(32, 32, 80, 80))
    found = results(*at("Momentum", code=flat, paper=flat), *at("SGD", code=grown, paper=grown, accepts=flat))
    assert rise_momentum(found).answer == "does not hold"  # near 32 early, but no growth
    assert rise_momentum(results(*at("Momentum", code=grown, paper=flat))).answer == "in part"
    early = run(0.5, sizes=(64, 64, 200, 200))
    assert rise_momentum(results(*at("Momentum", code=early))).answer == "does not hold"
    assert [judge(found).answer for judge in (rise_sgd, growth, cause)] == ["holds"] * 3
    assert cause(results(*at("SGD", paper=grown, accepts=grown))).answer == "does not hold"
    assert cause(results(*at("SGD", paper=flat, accepts=flat))).answer == "open"  # nothing grew
    assert all(judge(results()).answer == "open" for judge in (rise_momentum, rise_sgd, growth, cause))


@pytest.mark.parametrize("optimizer", ["Momentum", "SGD"])
def test_growth_is_judged_when_all_of_ba_was_run(optimizer):
    rise_momentum, _, growth, _ = (claim.judge for claim in FIGURE3.claims)
    grown = run(0.5, sizes=(32, 32, 80, 80))
    runs = [*at("Momentum", code=grown), *at("SGD", code=grown)]
    assert growth(results(*runs)).answer == "does not hold"
    found = results(*runs, *at(optimizer, paper=None))
    assert growth(found).answer == "open"
    assert rise_momentum(found).answer == ("open" if optimizer == "Momentum" else "holds")


def test_pages_show_what_was_run():
    found = results(
        *at("Momentum", code=run(0.9), mini32=run(0.8)), *at("SGD", network="authors' network", code=run(0.7))
    )
    heading, table, *rest = TABLE1.blocks(found)
    assert heading == "### The small network"
    assert [row[0] for row in table.rows] == ["Mini-32", CODE]
    assert table.rows[1][1].startswith("91.33 / **90.00** / 90.00")
    assert len(rest) == 2
    assert [len(plot.panels[0].curves) for plot in FIGURE1.blocks(found)] == [2, 0]
    blocks = FIGURE3.blocks(found)
    assert [type(block) for block in blocks] == [Plot, Table, Plot, Table]
    assert blocks[1].rows[0][:3] == ["BA-Momentum, code's stop", "32", "48"]


def test_trials_are_shared_and_the_most_telling_come_first():
    full = whole_trials("full")
    assert [item.place["variant"] for item in full[:3]] == [CODE, "Mini-32", PAPER]
    assert len({item.key for item in full}) == len(full) == 19
    assert {item.key for item in full} < {item.key for item in FIGURE3.trials("full")}
    for item in full:
        settings = item.settings
        assert settings.lr == {0.9: 0.02, 0.0: 0.2}[settings.momentum]
        if settings.rule == "ba":
            assert f"momentum={settings.momentum:g}" in settings.set
    manual = next(item for item in full if item.place["variant"] == "Manual")
    assert manual.settings.set == ("table=0:32 5:64 10:128 15:256",)

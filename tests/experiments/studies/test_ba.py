import pytest

from experiments.reproduce.outcomes import outcome, results
from experiments.studies.sizes import plain, sized
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
    return sized(own, *sizes)


def at(optimizer, network="small network", **runs):
    names = {"code": CODE, "paper": PAPER, "accepts": ACCEPTS, "manual": "Manual"} | {
        f"mini{n}": f"Mini-{n}" for n in (32, 64, 128, 256)
    }
    named = ((names[name], own) for name, own in runs.items())
    return [({"network": network, "optimizer": optimizer, "variant": v}, plain(v, own)) for v, own in named]


def judged(experiment, words, found):
    """The verdict on a claim, from the runs that it rests on."""
    (claim,) = (own for own in experiment.claims if words in own.text)
    return claim.judge(found.at(**claim.place))


def whole(optimizer, **runs):
    """All variants of an optimizer, those that are not named alike."""
    names = ("mini32", "mini64", "mini128", "mini256", "manual", "code", "paper")
    return at(optimizer, **{name: run(0.7) for name in names} | runs)


def test_early_and_late_are_medians_of_quarters_of_the_updates():
    sizes = (32, 5000, 33, 40, 40, 40, 40, 40, 40, 70, 50, 9000)
    assert early_and_late(run(0.5, sizes=sizes)) == (33, 70)
    assert early_and_late(run(0.5, sizes=(32, 64))) == (32, 64)


@pytest.mark.parametrize(
    ("code", "paper", "answer"),
    [(0.892, 0.95, "holds"), (0.892, 0.8, "in part"), (0.891, 0.8, "does not hold")],
)
def test_level_is_within_two_standard_errors_of_the_best_fixed_batch(code, paper, answer):
    found = results(*whole("Momentum", mini32=run(0.9), code=run(code), paper=run(paper)))
    verdict = judged(TABLE1, "BA-Momentum's best accuracy", found)
    assert verdict.answer == answer
    assert "Mini-32 90.00" in verdict.evidence
    assert "0.85 points" in verdict.evidence  # 2 sqrt(2 0.9 0.1 / 10,000)


def test_nothing_is_said_of_ba_where_it_never_drew():
    idle = run(0.9, sizes=(32, 32))
    found = results(*whole("Momentum", code=idle, paper=idle))
    claims = ((TABLE1, "BA-Momentum's best"), (FIGURE1, "BA-Momentum ends"), (FIGURE3, "BA-Momentum's batches stay"))
    for experiment, words in claims:
        verdict = judged(experiment, words, found)
        assert verdict.answer == "undecided"
        assert "BA-Momentum hardly draws (samples an update: Mini-32 32.00, BA" in verdict.evidence
    hardly, once = run(0.9, sizes=(*[32] * 199, 64)), run(0.9, sizes=(32, 64))
    found = results(*whole("Momentum", code=once, paper=hardly))  # one stop is not enough
    assert "BA, code's stop 48.00, BA, paper's stop 32.16" in judged(*claims[0], found).evidence
    found = results(*whole("Momentum", code=once, paper=once))
    assert all(judged(experiment, words, found).answer != "undecided" for experiment, words in claims)


def test_larger_batches_are_less_accurate_one_after_the_other():
    falling = {"mini32": run(0.9), "mini64": run(0.8), "mini128": run(0.7), "mini256": run(0.6)}
    assert judged(TABLE1, "less accurate", results(*at("SGD", **falling))).answer == "holds"
    mixed = falling | {"mini64": run(0.95)}
    assert judged(TABLE1, "less accurate", results(*at("SGD", **mixed))).answer == "does not hold"


def test_ranks_are_among_the_others():
    losses = {"mini32": 0.1, "mini64": 0.3, "mini128": 0.4, "mini256": 0.5, "manual": 0.6, "code": 0.2, "paper": 0.2}
    runs = {name: run(0.9, losses=[loss]) for name, loss in losses.items()}
    assert judged(FIGURE1, "BA-Momentum", results(*at("Momentum", **runs))).answer == "does not hold"
    assert judged(FIGURE1, "BA-SGD", results(*at("SGD", **runs))).answer == "holds"  # the second lowest will do
    lower = runs | {"paper": run(0.9, losses=[0.05])}
    assert judged(FIGURE1, "BA-Momentum", results(*at("Momentum", **lower))).answer == "in part"


def test_a_run_that_diverged_has_none_of_the_lowest_losses():
    lost = run(0.9, losses=[0.01], diverged="not finite")
    assert judged(FIGURE1, "BA-Momentum", results(*whole("Momentum", code=lost, paper=lost))).answer == "does not hold"
    others = dict.fromkeys(("mini32", "mini64", "mini128", "mini256", "manual"), lost)
    assert judged(FIGURE1, "BA-Momentum", results(*whole("Momentum", **others))).answer == "holds"
    assert judged(FIGURE1, "BA-Momentum", results(*whole("Momentum", code=lost, paper=lost, **others))).answer == (
        "does not hold"
    )


def test_growth_is_late_and_larger_without_momentum():
    once, grown = run(0.5, sizes=(32, 64, 32, 32)), run(0.5, sizes=(32, 32, 80, 80))
    momentum, plain_sgd = {"mini32": once, "code": once, "paper": once}, {"mini32": once, "code": grown, "paper": grown}
    found = results(*at("Momentum", **momentum), *at("SGD", **plain_sgd, accepts=once))
    assert judged(FIGURE3, "BA-Momentum's batches stay", found).answer == "does not hold"  # 32 early, but no growth
    assert judged(FIGURE3, "BA-SGD's batches stay", found).answer == "holds"
    assert judged(FIGURE3, "grow larger", found).answer == "holds"
    assert judged(FIGURE3, "overshooting", found).answer == "holds"
    momentum, plain_sgd = momentum | {"code": grown}, plain_sgd | {"code": once}
    mixed = results(*at("Momentum", **momentum), *at("SGD", **plain_sgd, accepts=grown))
    assert judged(FIGURE3, "BA-Momentum's batches stay", mixed).answer == "in part"
    assert judged(FIGURE3, "grow larger", mixed).answer == "in part"
    assert judged(FIGURE3, "overshooting", mixed).answer == "does not hold"
    early = run(0.5, sizes=(64, 64, 200, 200))
    large = results(*at("Momentum", mini32=once, code=early, paper=early))
    assert judged(FIGURE3, "BA-Momentum's batches stay", large).answer == "does not hold"
    flat = results(*at("SGD", mini32=once, paper=once, accepts=once))
    assert judged(FIGURE3, "overshooting", flat).answer == "undecided"  # nothing grew


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
    assert blocks[1].rows[0][:3] == ["BA-Momentum, code's stop", "32", "64"]


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

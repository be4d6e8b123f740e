from experiments.reproduce.outcomes import outcome, results
from experiments.studies.sizes import plain, sized
from gradbatch.experiments.reproduce.experiment import Plot, Table
from gradbatch.experiments.studies.ba_relation import EXPERIMENTS

RELATION, FIGURE2 = EXPERIMENTS
CODE = "BA, code's stop"


def run(score, loss=0.5):
    return sized(outcome(test_score=[score], validation_score=[score], train_loss=[loss]), 32, 64)


def at(optimizer, **runs):
    names = {"code": CODE, "paper": "BA, paper's stop", "manual": "Manual"} | {
        f"mini{n}": f"Mini-{n}" for n in (32, 64, 128, 256)
    }
    named = ((names[name], own) for name, own in runs.items())
    return [({"optimizer": optimizer, "variant": variant}, plain(variant, own)) for variant, own in named]


def test_claims_are_judged_for_each_optimizer():
    fixed = {f"mini{n}": run(0.8 - n / 1000, loss=n / 100) for n in (32, 64, 128, 256)} | {"manual": run(0.1, loss=9)}
    high, low = run(0.76, loss=0.1), run(0.7, loss=0.5)
    found = results(*at("Momentum", code=high, paper=high, **fixed), *at("SGD", code=low, paper=low, **fixed))
    claims = (*RELATION.claims, *FIGURE2.claims)
    answers = [claim.judge(found.at(**claim.place)).answer for claim in claims]
    # The course of a hand-made outcome ends with batches of 64.
    assert answers == ["holds", "does not hold", "holds", "holds", "does not hold", "holds", "does not hold"]


def test_the_pages_have_scores_sizes_and_losses():
    found = results(*at("Momentum", code=run(0.76), mini32=run(0.7)))
    blocks = RELATION.blocks(found)
    assert [type(block) for block in blocks] == [Table, Plot, Table]
    assert [type(block) for block in FIGURE2.blocks(found)] == [Plot]
    assert blocks[0].rows[0][1] == "89.02 / **70.00** / 70.00"
    assert blocks[0].rows[0][2] == "75.13 / **–** / –"


def test_every_variant_has_both_optimizers():
    places = [(item.place["optimizer"], item.place["variant"]) for item in RELATION.trials("full")]
    assert len(set(places)) == 14
    assert places[0] == ("Momentum", CODE)

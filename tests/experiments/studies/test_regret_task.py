from experiments.studies.fields import field
from gradbatch.experiments.studies.regret_task import task_blocks


def test_the_table_names_the_batch_whose_scores_it_shows():
    table = task_blocks("digits", field().results)[1]
    rows = {row[0]: row for row in table.rows}
    assert rows["constant batch of 64, best over the rates"][1:5] == ["90.00%", "92.00%", "94.00%", "96.00%"]
    assert rows["best constant batch at each rate"][3] == "97.00% (4)"
    assert rows["constant 64"][1:5] == rows["constant batch of 64, best over the rates"][1:5]
    edge = "4 samples being the last of the grid"
    assert f"Of the grid validation chooses 4 samples at rate 0.03: 97.00%, {edge}." in table.caption
    assert "Two standard errors of a difference, for 360 test samples, are 2.09 points." in table.caption


def test_of_an_unfinished_grid_nothing_is_called_the_best():
    lacking = field(lambda place: place.get("size") == 8 and place["kind"] == "none" and place["seed"] == 2)
    table = task_blocks("digits", lacking.results)[1]
    names = {row[0] for row in table.rows}
    assert "best cosine decay at each rate" in names
    assert not any("best" in name and "constant" in name for name in names)
    assert "188 of 192 runs of constant batches are in" in table.caption
    assert "Of the grid validation chooses" not in table.caption
    assert not any("cost to a validation score" in str(block) for block in task_blocks("digits", lacking.results))

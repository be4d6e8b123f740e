from experiments.studies.fields import field
from gradbatch.experiments.studies.ranking import ranking


def test_rules_and_constant_batches_stand_in_one_order():
    rows = {row[0]: row[1:] for row in ranking(field().results).rows}
    # 2 points of the 88 between the best of the grid and a guess; constant 16 loses 5.75.
    assert rows["cabs"][:2] == ["+2.27", "–"]
    assert rows["*constant 16*"][0] == "+6.53"
    names = list(rows)
    assert names.index("cabs") < names.index("*constant 16*") < names.index("*constant 4*")
    assert rows["cabs"][-1] == "800–800"


def test_without_a_whole_task_there_are_no_rows():
    assert ranking(field(lambda place: place.get("rule") == "cabs").results).rows == []

from experiments.studies.fields import field
from gradbatch.experiments.studies.advice import advice


def test_the_summary_says_what_a_search_would_have_gained():
    _, text, tasks, table = advice(field().results)
    # All rules do as `cabs` does in the tests above; the first is named. With 360 test images 2.09 points can be told.
    assert (
        "(64 runs here): against what it finds, the best rule of each task, in hindsight, is worse on digits." in text
    )
    assert "in hindsight, is level, as far as the test set can tell, on digits. Where" in text
    assert "Over all tasks `noise-floor` loses least." in text
    assert tasks.head == ["`noise-floor`", "digits"]
    assert [row[1] for row in tasks.rows] == ["+2.00", "+5.50", "0.25"]
    assert {tuple(row[1:]) for row in table.rows} == {("+2.27", "–", "+6.25", "–", "0.25", "–", "0.30")}
    assert "1 of 7 tasks are in: digits." in table.caption
    # Lost is a share of the 88 points between the best of the grid and a guess.
    begun = field(lambda place: place.get("rule") == "cabs")
    assert advice(begun.results) == []

from experiments.studies.fields import field
from gradbatch.experiments.studies.advice import advice


def test_the_summary_says_what_a_search_would_have_gained():
    _, text, table = advice(field().results)
    # All rules do as `cabs` does in the tests above; the first is named. With 360 test images 2.09 points can be told.
    assert "(64 runs here): even the best rule of each task, in hindsight, is worse" in text
    assert "on digits (`adabatch`, -5.50)." in text
    assert "`noise-floor` loses least" in text
    assert "was developed on: digits -2.00." in text
    assert "0.25 times as much" in text
    assert {tuple(row[1:]) for row in table.rows} == {("+2.27", "–", "+6.25", "–", "0.25", "0.30", "2.50")}
    # Lost is a share of the 88 points between the best of the grid and a guess.
    begun = field(lambda place: place.get("rule") == "cabs")
    assert advice(begun.results) == []

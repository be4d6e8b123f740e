import pytest

from gradbatch.errors import InvalidInputError
from gradbatch.experiments.contenders import read_contenders


def test_keys_of_the_rule_are_the_rules_and_others_the_runs():
    cabs, fixed, ba = read_contenders("cabs, fixed:batch-size=64 : lr = 0.1,ba:momentum=0.9:weight_decay=0.01")
    assert (cabs.label, cabs.rule, cabs.assignments, cabs.changes) == ("cabs", "cabs", (), {})
    assert fixed.label == "fixed:batch_size=64:lr=0.1"
    assert (fixed.rule, fixed.assignments, fixed.changes) == ("fixed", (), {"batch_size": 64, "lr": 0.1})
    # BA has a momentum of its own.
    assert (ba.assignments, ba.changes) == (("momentum=0.9",), {"weight_decay": 0.01})


def test_colons_within_a_value_stay_in_it():
    (schedule,) = read_contenders("schedule:table=0:8 10:16:unit=samples:batch_size=8")
    assert schedule.assignments == ("table=0:8 10:16", "unit=samples")
    assert schedule.changes == {"batch_size": 8}
    assert schedule.folder_name == "schedule-table=0-8-10-16-unit=samples-batch_size=8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--rules has an empty name: write rules with commas"),
        ("fixed,,cabs", "--rules has an empty name"),
        ("fixd", 'there is no rule "fixd", did you mean "fixed"'),
        ("fixed,cabs,fixed", '--rules names "fixed" more than once'),
        ("fixed:lr=1,fixed:lr= 1", "more than once"),
        ("fixed:64", '"64" in --rules does not set anything: write rule:key=value'),
        ("fixed:batch_size=many", '`batch_size` must be a whole number, got "many"'),
        (
            "fixed:bach_size=6",
            'there is no setting "bach_size" of "fixed", did you mean "batch_size"[?] Known: batch_size',
        ),
        ("cabs:deca=0.5", 'there is no setting "deca" of "cabs", did you mean "decay"'),
        ("cabs:decay=2", "`decay` must be at least 0 and below 1"),
        ("cabs:decay=0.5:decay=0.6", "`decay` more than once"),
        ("fixed:lr=1:lr=2", "`lr` more than once"),
        ("fixed:samples=100", "`samples` is the same for all runs of a comparison"),
        ("fixed:seed=1", "`seed` is the same for all runs"),
        ("fixed:out=x", "`out` is the same for all runs"),
    ],
)
def test_nonsense_is_a_sentence(text, message):
    with pytest.raises(InvalidInputError, match=message):
        read_contenders(text)

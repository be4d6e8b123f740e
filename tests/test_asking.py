"""When a rule is asked and when not, what it may answer, and what rules are called in the log."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

import gradbatch as gb
from cases import moments, progress
from gradbatch._types import QUANTITIES
from gradbatch.asking import MAX_BATCH_SIZE, ask, kind_of, lacking, named
from gradbatch.errors import InvalidInputError

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Says(gb.Rule[int]):
    """Answers with what it is given, and counts how often it was asked."""

    in_step: ClassVar[bool] = True
    size: Any = 48
    step: bool = True

    def requires(self, progress: gb.Progress) -> frozenset[str]:
        return frozenset()

    def init(self) -> int:
        return 0

    def update(self, statistics: gb.Statistics, progress: gb.Progress, state: int) -> tuple[gb.Decision, int]:
        return gb.Decision(batch_size=self.size, step=self.step, lr_scale=2.0, reason="said"), state + 1


def test_a_rule_is_obeyed() -> None:
    decision, state = ask(Says(), moments(), progress(), 3, NOTHING)
    assert decision == gb.Decision(batch_size=48, lr_scale=2.0, reason="said")
    assert state == 4
    # Within a step the size is how many more to draw.
    decision, _ = ask(Says(size=1, step=False), moments(), progress(), 3, NOTHING)
    assert (decision.batch_size, decision.step) == (1, False)


@pytest.mark.parametrize("name", ["loss", "grad_sqnorm", "sample_sqnorm", "grad_variance"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_asked_where_something_is_not_finite(name: str, value: float) -> None:
    decision, state = ask(Says(), replace(moments(), **{name: value}), progress(batch_size=77), 3, NOTHING)
    assert decision == gb.Decision(batch_size=77, reason="held: loss or gradient is not finite")
    assert state == 3


def test_not_asked_where_something_is_absent() -> None:
    absent = frozenset({"sample_sqnorm", "grad_variance"})
    decision, state = ask(Says(), moments(), progress(batch_size=77), 3, absent)
    assert decision == gb.Decision(batch_size=77, reason="held: this batch cannot give grad_variance, sample_sqnorm")
    assert state == 3


@pytest.mark.parametrize("size", [32.0, 31.5, None, "32", True])
def test_an_answer_that_is_no_batch_size(size: Any) -> None:
    with pytest.raises(InvalidInputError, match=rf"Says answered with batch_size={size!r}: .* whole number"):
        ask(Says(size=size), moments(), progress(), 0, NOTHING)


def test_lacking() -> None:
    assert lacking(moments(), frozenset(QUANTITIES)) == NOTHING
    blank = gb.Statistics(num_samples=1, loss=1.0, grad_sqnorm=1.0)
    assert lacking(blank, NOTHING) == NOTHING
    assert lacking(blank, frozenset({"grad_sqnorm", "sample_sqnorm"})) == {"sample_sqnorm"}
    assert lacking(blank, frozenset(QUANTITIES)) == set(QUANTITIES) - {"grad_sqnorm"}
    # With a variance, a noise scale of None is an answer: the corrected squared norm was not positive.
    noisy = replace(moments(), noise_scale=None)
    assert lacking(noisy, frozenset({"noise_scale"})) == NOTHING


def test_lacking_zero_is_not_lacking() -> None:
    zeros = gb.Statistics(num_samples=4, loss=0.0, grad_sqnorm=0.0, sample_sqnorm=0.0)
    assert lacking(zeros, frozenset({"grad_sqnorm", "sample_sqnorm"})) == NOTHING


@pytest.mark.parametrize("parts", ["layers", "groups"])
def test_lacking_parts(parts: str) -> None:
    assert lacking(moments(), frozenset({"grad_sqnorm", parts})) == {parts}
    part = gb.LayerStatistics(num_samples=32, grad_sqnorm=1.0)
    given = replace(moments(), layers={"fc": part}, groups=(part,))
    assert lacking(given, frozenset({"grad_sqnorm", parts})) == NOTHING


def test_names() -> None:
    assert named([]) == {}
    first, fixed, second, third = gb.CABS(), gb.Fixed(), gb.CABS(decay=0.5), gb.CABS()
    names = named([first, fixed, second, third])
    assert list(names) == ["CABS", "Fixed", "CABS-2", "CABS-3"]
    assert all(a is b for a, b in zip(names.values(), (first, fixed, second, third), strict=True))


def test_no_rule_is_lost_where_two_classes_share_a_name() -> None:
    namesake = type("CABS", (Says,), {})()
    names = named([gb.CABS(), namesake])
    assert len(names) == 2
    assert set(names.values()) == {gb.CABS(), namesake}


@dataclass(frozen=True, kw_only=True)
class Answers(gb.Rule[None]):
    """Answers with anything at all."""

    answer: Any

    def requires(self, progress: gb.Progress) -> frozenset[str]:
        return frozenset()

    def init(self) -> None:
        return None

    def update(self, statistics: gb.Statistics, progress: gb.Progress, state: None) -> Any:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, r"`update` must return \(Decision"),
        ((5, None), r"`update` must return \(Decision"),
        ((gb.Decision(batch_size=3, step=False), None), "says `in_step = True`"),
        ((gb.Decision(batch_size=3, numbers={"loss": math.nan}), None), "they must be finite"),
        ((gb.Decision(batch_size=3.5), None), "answered with batch_size=3.5"),
        ((gb.Decision(batch_size="3"), None), "answered with batch_size='3'"),
        ((gb.Decision(batch_size=True), None), "answered with batch_size=True"),
        ((gb.Decision(batch_size=3, lr_scale="2"), None), "answered with lr_scale='2'"),
    ],
)
def test_an_answer_that_is_none_is_refused(answer: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        ask(Answers(answer=answer), moments(), progress(), None, NOTHING)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": math.nan}, "batch_size=nan"),
        ({"batch_size": math.inf}, "batch_size=inf"),
        ({"batch_size": -math.inf}, "batch_size=-inf"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": -5}, "batch_size=-5"),
        ({"batch_size": MAX_BATCH_SIZE + 1}, "batch_size=1000000001"),
        ({"lr_scale": math.nan}, "lr_scale=nan"),
        ({"lr_scale": math.inf}, "lr_scale=inf"),
        ({"lr_scale": -1.0}, "lr_scale=-1.0"),
    ],
)
def test_an_absurd_answer_is_held_with_its_reason(change: dict[str, Any], words: str) -> None:
    answer = gb.Decision(**{"batch_size": 3, "lr_scale": 2.0, "reason": "mine: 3"} | change)
    here = progress(batch_size=77)
    decision, state = ask(Answers(answer=(answer, {"seen": 1})), moments(), here, None, NOTHING)
    assert (decision.batch_size, decision.step, decision.lr_scale, decision.weights) == (77, True, 1.0, None)
    assert decision.reason == f"held: Answers answered with {words} (mine: 3)"
    assert decision.numbers == {"held": 1.0}
    assert state == {"seen": 1}


def test_what_is_held_keeps_the_last_learning_rate_scale() -> None:
    broken, empty = moments(loss=math.nan), gb.Statistics(num_samples=32, loss=1.0)
    absurd = Answers(answer=(gb.Decision(batch_size=0), None))
    for decision, _ in (
        ask(gb.CABS(), broken, progress(), gb.CABS().init(), NOTHING, 0.5),
        ask(gb.CABS(), empty, progress(), gb.CABS().init(), frozenset({"grad_sqnorm"}), 0.5),
        ask(absurd, moments(), progress(), None, NOTHING, 0.5),
    ):
        assert decision.reason.startswith("held: ")
        assert decision.lr_scale == 0.5


@pytest.mark.parametrize("change", [{"batch_size": 1}, {"batch_size": MAX_BATCH_SIZE}, {"lr_scale": 0.0}])
def test_an_answer_at_the_edge_is_followed(change: dict[str, Any]) -> None:
    answer = gb.Decision(**{"batch_size": 3, **change})
    assert ask(Answers(answer=(answer, None)), moments(), progress(), None, NOTHING)[0] == answer


def test_the_kind_of_a_rule_tells_what_a_wrapper_holds() -> None:
    assert kind_of(gb.Clip(rule=gb.Every(rule=gb.CABS(), steps=2))) == "Clip(Every(CABS))"

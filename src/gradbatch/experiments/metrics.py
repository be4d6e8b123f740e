"""What the answers of a model are judged by."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["ACCURACY", "BITS_PER_CHARACTER", "MACRO_F1", "Metric", "Outcome"]

_NUM_RELATIONS = 9


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a model answered on a split.

    Attributes:
        loss: Mean cross-entropy, in nats.
        predictions: The class with the largest output, [N] or [N, T].
        targets: The right class, of the same shape.
    """

    loss: float
    predictions: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number that says how good an outcome is.

    Attributes:
        name: What a table calls it.
        is_higher_better: Whether a larger number is the better one.
        is_share: Whether it lies in [0, 1] and is written in percent.
        of: The number of an outcome.
    """

    name: str
    is_higher_better: bool
    is_share: bool
    of: Callable[[Outcome], float]

    def write(self, value: float) -> str:
        """The number as a table has it: percent with two digits, or plain with three.

        Args:
            value: From ``of``.

        Returns:
            Such as ``"97.15%"`` or ``"2.310"``.

        Example:
            >>> ACCURACY.write(0.9715)
            '97.15%'
        """
        return f"{value:.2%}" if self.is_share else f"{value:.3f}"

    def best(self, scores: Iterable[float]) -> float | None:
        """The best score.

        Args:
            scores: Any number of them.

        Returns:
            The best; ``None`` of nothing.
        """
        return max(scores, default=None) if self.is_higher_better else min(scores, default=None)

    def worst(self, scores: Iterable[float]) -> float | None:
        """The worst score.

        Args:
            scores: Any number of them.

        Returns:
            The worst; ``None`` of nothing.
        """
        return min(scores, default=None) if self.is_higher_better else max(scores, default=None)

    def reaches(self, score: float, target: float) -> bool:
        """Whether a score is as good as a target.

        Args:
            score: What was reached.
            target: What is wanted.

        Returns:
            Whether it is at least as good.
        """
        return score >= target if self.is_higher_better else score <= target


def _accuracy(outcome: Outcome) -> float:
    """Share of targets that were hit."""
    return int((outcome.predictions == outcome.targets).sum()) / outcome.targets.numel()


def _bits_per_character(outcome: Outcome) -> float:
    """The loss in bits; one character is one target."""
    return outcome.loss / math.log(2)


def _macro_f1(outcome: Outcome) -> float:
    r"""The official score of SemEval-2010 task 8: "(9+1)-way, with directionality taken into account".

    Class 0 is Other; relation $r = 0 \ldots 8$ has the classes $2r+1$ and $2r+2$, its two directions. Let $n_r$ of the
    predictions and $m_r$ of the targets be of relation $r$ in either direction, and $k_r$ of them agree in relation and
    direction. Then the precision is $k_r/n_r$, the recall $k_r/m_r$, and with $F_r = 2k_r/(n_r+m_r)$, their harmonic
    mean (0 where there is neither), the score is

    $$ \frac19\sum_{r=0}^{8} F_r. $$

    A relation found in the wrong direction so counts against both precision and recall. Other has no F, but a sample of
    it that is taken for a relation counts against that one's precision. Not the mean over the 18 directed
    classes, which the read-me of the training data announced and the organisers' scorer did not make its official one.

    Source: Hendrickx et al. 2010, section 4, and semeval2010_task8_scorer-v1.2.pl.

    Args:
        outcome: Of the task `semeval`.

    Returns:
        The score, in [0, 1].
    """
    predicted, wanted = outcome.predictions, outcome.targets
    # Class 0 becomes relation -1, which the loop leaves out.
    predicted_relation, wanted_relation = (predicted + 1) // 2 - 1, (wanted + 1) // 2 - 1
    total = 0.0
    for relation in range(_NUM_RELATIONS):
        is_wanted = wanted_relation == relation
        num_either = int((predicted_relation == relation).sum()) + int(is_wanted.sum())
        num_right = int(((predicted == wanted) & is_wanted).sum())
        total += 2 * num_right / num_either if num_either else 0.0
    return total / _NUM_RELATIONS


ACCURACY = Metric(name="accuracy", is_higher_better=True, is_share=True, of=_accuracy)
"""Share of right answers."""

MACRO_F1 = Metric(name="macro-F1", is_higher_better=True, is_share=True, of=_macro_f1)
"""Mean over the nine relations of SemEval-2010 task 8 of F1, in which the direction counts."""

BITS_PER_CHARACTER = Metric(name="bits per character", is_higher_better=False, is_share=False, of=_bits_per_character)
"""Mean cross-entropy to the base 2."""

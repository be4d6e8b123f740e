"""The probe: gradient statistics out of the backward pass that training makes anyway."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from gradbatch._types import Statistics
from gradbatch.errors import InvalidInputError, MeasurementError, UnsupportedLayerError
from gradbatch.probe.check import disagreement
from gradbatch.probe.coverage import parameter_table, why_not_by_samples
from gradbatch.probe.heard import Heard, Plan
from gradbatch.probe.hooks import Listener
from gradbatch.probe.measurement import Measurement
from gradbatch.probe.operations import ONE_BY_ONE
from gradbatch.probe.quantities import ELEMENTWISE, checked, stride_of
from gradbatch.probe.summary import summarise
from gradbatch.probe.sums import Sums

__all__ = ["Estimator", "Probe"]

Estimator = Literal["auto", "layers", "chunks"]

Norms = Literal["auto", "gram", "instantiate"]

_BY_GRAM: dict[str, bool | None] = {"auto": None, "gram": True, "instantiate": False}

MIN_CHUNKS = 4
"""Pieces that `chunks` wants of a batch: the relative error of a variance between k pieces falls with k."""

_logger = logging.getLogger("gradbatch")


class Probe:
    r"""Gradient statistics of a model, measured out of the user's own backward passes.

    Two estimators of the second moment $\frac1B\sum_i\|g_i\|^2$:

    - ``"layers"``: exact, from what autograd's graph holds of each operation in which a parameter meets the samples,
      mostly without building the per-sample gradients.
    - ``"chunks"``: from the mean gradients $\bar g_j$ of the $J\ge2$ pieces, of $n_j$ samples each, in which the
      batch went through backward: $\operatorname{tr}\hat\Sigma = \frac{1}{J-1}\big(\sum_j n_j\|\bar g_j\|^2
      - B\|\bar g\|^2\big)$, unbiased for any model whose pieces are independent. It is noisy: its relative
      standard deviation is about $\sqrt{2/(J-1)}$ divided by the root of the gradient's effective dimension.

    ``"auto"`` takes ``layers`` wherever samples can be told apart, else ``chunks``, and logs why once. How the samples
    lie in each operation is found out by an extra backward pass of half of them, at measurements 1, 2, 4, 8, ...: one
    that mixes samples does not pass silently, nor does a batch on the second axis. At the same measurements the forms'
    $\sum_i g_i$ is compared with autograd's own gradient; and a batch whose $\|\bar g\|^2$ exceeds
    $\frac1B\sum_i\|g_i\|^2$, which no mean can, has no second moment and is checked anew.

    What no check can see is a loss that mixes the samples of the model's output (a contrastive one): use ``chunks``.

    Besides what training holds, at most 4 MiB of per-sample gradients exist at a time (in single precision; always
    one sample's). ``projection_variance`` needs the mean gradient before the samples', so that what the operations
    hold is kept to the end of the batch, as it is for the strides of a batch in one pass. One number is kept for each
    parameter by ``diagonal_projection_variance``, one for each parameter and stride by the strides of a batch in
    several passes, and two by ``stride_moments``.

    Args:
        model: The model, which is called as a whole; its output, or a part of it, has the samples along its leading
            axis. Nothing is left on it after a measurement.
        quantities: Names of the quantities to measure, as in `Statistics`; ``layers`` and ``groups`` for the same in
            parts; ``stride_gram:<size>`` and ``stride_moments:<size>`` for sums over strides, see `Strides`.
        estimator: ``"auto"``, ``"layers"`` or ``"chunks"``.
        groups: Parameters to observe, in the groups to report; by default all trainable ones in one group.
        norms: How the norms of gradients that are sums over positions (of a sequence, an image) are computed:
            ``"gram"``, from products between positions, or ``"instantiate"``, from the gradients, a few samples at a
            time; ``"auto"`` takes for each parameter what needs fewer multiplications. The first measurement logs it.
        sample_fraction: Part of each pass's samples to look at, its first ones, for ``layers``. The estimates stay
            unbiased for batches in random order, and their spread grows.

    Attributes:
        estimator: The one in use, ``"layers"`` or ``"chunks"``. By chunks a variance takes several passes before each
            `read`, of `min_pieces` pieces of the batch at best; of one pass it is ``None``.

    Raises:
        InvalidInputError: If a quantity or estimator is unknown, or nothing is trainable.
        UnsupportedLayerError: If ``estimator="layers"`` and the model mixes samples by design.

    Example:
        >>> import torch
        >>> model = nn.Linear(3, 1)
        >>> probe = Probe(model, {"grad_variance"})
        >>> with probe.measure(num_samples=8):
        ...     model(torch.randn(8, 3)).square().mean().backward()
        >>> probe.read().num_samples
        8
    """

    def __init__(
        self,
        model: nn.Module,
        quantities: Iterable[str],
        *,
        estimator: Estimator = "auto",
        groups: Sequence[Sequence[nn.Parameter]] | None = None,
        norms: Norms = "auto",
        sample_fraction: float = 1.0,
    ) -> None:
        if estimator not in get_args(Estimator):
            raise InvalidInputError(f'`estimator` must be "auto", "layers" or "chunks", got {estimator!r}')
        if norms not in _BY_GRAM:
            raise InvalidInputError(f'`norms` must be "auto", "gram" or "instantiate", got {norms!r}')
        if not 0 < sample_fraction <= 1:
            raise InvalidInputError(f"`sample_fraction` must be above 0 and at most 1, got {sample_fraction}")
        self._fraction = sample_fraction
        self.set_quantities(quantities)
        self._table = parameter_table(model, groups)
        self._is_free = estimator == "auto"
        self._num_measured = 0
        self._next_check = 1  # at measurements 1, 2, 4, 8, ...: soon, and for ever at no cost
        self._by_gram = _BY_GRAM[norms]
        self.estimator: Literal["layers", "chunks"] = "chunks" if estimator == "chunks" else "layers"
        if self.estimator == "layers" and (reason := why_not_by_samples(model)):
            self._fall_back(reason)
        self._listener = Listener(model, self._table)
        self._open: Measurement | None = None

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters under observation, in the model's order."""
        return self._table.parameters

    @property
    def min_pieces(self) -> int:
        """Pieces in which a batch should go through backward for the estimator to say something."""
        return MIN_CHUNKS if self.estimator == "chunks" else 1

    def set_quantities(self, quantities: Iterable[str]) -> None:
        """Measure other quantities from now on, and forget what was measured since the last `read`.

        Args:
            quantities: Their names, as in the constructor.

        Raises:
            InvalidInputError: If one is unknown, or cannot be had from a part of the samples.
        """
        names = checked(quantities)
        stride = stride_of(names)
        if stride and self._fraction < 1:
            raise InvalidInputError(
                f"`sample_fraction` is {self._fraction}, and strides are of the whole batch: leave it at 1"
            )
        self._quantities, self._stride = names, stride
        self.reset()  # passes of which other things were heard do not add up

    def measure(
        self,
        *,
        num_samples: int,
        loss_scale: float = 1.0,
        weight: float | None = None,
        keep_gradient: bool = True,
        is_part: bool = False,
    ) -> Measurement:
        """Listen to one forward and backward pass.

        Args:
            num_samples: Samples that go through it, along the leading axis of what the layers are given.
            loss_scale: Factor on the mean loss of these samples that was applied before backward, as n/B when
                gradients are accumulated.
            weight: What the loss is a mean over, where that is not the samples: the number of tokens, say. Passes
                count by it in the mean over the batch.
            keep_gradient: Keep a sum of the gradient for `read`. Without it `read` must be given the gradient.
            is_part: Whether more passes of the same batch follow. Strides are then summed at once, and what the layers
                were given need not be kept until they come.

        Returns:
            A context for the pass. Several before one `read` accumulate.

        Raises:
            InvalidInputError: If ``num_samples`` is not a positive whole number, or ``weight`` or ``loss_scale`` is not
                positive.
            MeasurementError: If another measurement of this probe is still open.
        """
        if not isinstance(num_samples, int) or num_samples < 1:
            raise InvalidInputError(
                f"`num_samples` must be the number of samples in this pass, at least 1, got {num_samples!r}"
            )
        if weight is not None and not 0 < weight < math.inf:
            raise InvalidInputError(f"`weight` must be positive and finite, got {weight}: leave out an empty pass")
        if not 0 < loss_scale < math.inf:
            raise InvalidInputError(f"`loss_scale` must be positive and finite, got {loss_scale}")
        if self._open is not None:
            raise MeasurementError("a measurement is still open: leave its `with` block before the next one")
        return Measurement(
            self._listen,
            self._close,
            num_samples=num_samples,
            loss_scale=loss_scale,
            weight=num_samples if weight is None else weight,
            keep_gradient=keep_gradient,
            is_part=is_part,
        )

    def read(
        self,
        *,
        loss: Tensor | float = math.nan,
        gradient: Sequence[Tensor | None] | None = None,
        momenta: Sequence[Tensor | None] = (),
        preconditioners: Sequence[Tensor | None] = (),
        reset: bool = True,
    ) -> Statistics:
        r"""The statistics of all measurements since the last `read`.

        Args:
            loss: Mean loss over the samples, if the statistics shall carry it.
            gradient: The mean gradient over all the samples, one tensor for each of `parameters`, where the
                caller accumulated it; by default the probe's own sum.
            momenta: What momentum carries over to the coming update, one tensor for each of `parameters`, for
                ``momentum_projection``.
            preconditioners: The factor on each number of the gradient, $p$, one tensor for each of `parameters`, for
                ``preconditioned_variance``, ``descent_variance`` and their squared norms.
            reset: Start anew after this. Without it, the next measurements join these.

        Returns:
            The statistics. Quantities that this batch cannot give (a variance from one sample or one piece) are
            ``None``.

        Raises:
            MeasurementError: If no backward pass was heard since the last `read`.
        """
        sums = self._sums
        if reset:
            self.reset()
        if sums.num_passes == 0:
            raise MeasurementError(
                "nothing was measured since the last `read`: call backward on the loss inside "
                "`with probe.measure(num_samples=...)`"
            )
        if gradient is None:
            gradient = sums.mean_gradient(len(self.parameters))
        statistics = summarise(sums, gradient, loss, self._table, self._quantities, momenta, preconditioners)
        if sums.is_contradicted:
            _logger.warning(
                "this batch's mean gradient is longer than its samples' gradients can make it, so something else was "
                "added to it: the batch has no second moment"
            )
            self._next_check = 0
        return statistics

    def select(self, weights: Mapping[str, Sequence[float]]) -> dict[nn.Parameter, Tensor]:
        r"""The gradients of some of the batch's samples, since the last `read` with ``reset=False``.

        Of each parameter, the mean $\sum_j w_jS_j/\sum_j w_jn_j$ with $S_j$ the sum of the gradients of stride $j$ of
        $n_j$ samples; with strides of one sample, any weighted mean of per-sample gradients. It costs no backward pass.

        Args:
            weights: $w_j$ for each stride, by the name of a parameter or of the layer that owns it.

        Returns:
            The mean gradient of every parameter that has weights and was used.

        Raises:
            InvalidInputError: If a name is unknown, or the weights are not one for each stride, finite and at least 0.
            MeasurementError: If no strides were measured.
        """
        sums, table = self._sums, self._table
        if sums.strides is None or not sums.is_complete:
            raise MeasurementError(
                'strides were not measured: ask for "stride_gram:<size>" or "stride_moments:<size>", and read with '
                "`reset=False` before `select`"
            )
        if unknown := [name for name in weights if name not in table.names and name not in table.layers]:
            raise InvalidInputError(f'`weights` names "{unknown[0]}", which is no layer and no parameter observed')
        sums.strides.pad(sums.num_samples)
        selected: dict[nn.Parameter, Tensor] = {}
        for place in sums.strides.places:
            own = weights.get(table.names[place], weights.get(table.layers[place]))
            if own is not None:
                mean = sums.strides.mean(place, own, sums.num_samples, sums.per_sample)
                selected[table.parameters[place]] = mean
        return selected

    def reset(self) -> None:
        """Forget what was measured since the last `read`."""
        self._sums = Sums()

    def _listen(self, measurement: Measurement, is_announced: bool) -> Listener:
        """Begin to hear what this measurement needs."""
        by_layers = self.estimator == "layers"
        if self._stride and not by_layers:
            raise UnsupportedLayerError(
                'strides of samples cannot be measured by chunks: use estimator="layers", and a model that allows it'
            )
        samples = measurement.num_samples
        learn = by_layers and samples > 1 and self._num_measured + 1 >= self._next_check
        has_moments = f"stride_moments:{self._stride}" in self._quantities
        sum_strides = self._stride > 0 and (has_moments or measurement.is_part or self._sums.num_passes > 0)
        self._listener.begin(
            Plan(
                num_samples=samples,
                count=samples if learn else max(1, math.ceil(self._fraction * samples)),
                by_layers=by_layers,
                learn=learn,
                keep_grads=learn or measurement.keep_gradient,
                sum_grads=measurement.keep_gradient,
                second_moments=not self._quantities.isdisjoint(ELEMENTWISE),
                position_sqnorms="position_sqnorm" in self._quantities,
                keep_for_projections="projection_variance" in self._quantities,
                keep_for_strides=self._stride > 0 and not sum_strides,
                by_gram=self._by_gram,
                stride=self._stride,
                sum_strides=sum_strides,
                stride_sqnorms=f"stride_sqnorms:{self._stride}" in self._quantities,
                stride_squares=has_moments,
                lead=self._sums.num_samples % self._stride if self._stride else 0,
                is_announced=is_announced,
            )
        )
        self._open = measurement
        return self._listener

    def _close(self, measurement: Measurement, heard: Heard | None, plan: Plan | None) -> None:
        """End a measurement, and add what its pass said to the sums, if it came."""
        self._open = None
        if heard is None or plan is None:
            return
        known = self._is_known(heard, plan)
        try:
            self._sums.take_in(heard, plan, measurement.weight, measurement.loss_scale, is_known=known)
        except MeasurementError:
            self.reset()  # half of a pass cannot be taken back
            raise

    def _is_known(self, heard: Heard, plan: Plan) -> bool:
        """Whether a pass said all that was to be heard of its samples; if not, go over to `chunks` or learn anew."""
        problem = heard.problem
        if plan.learn:
            found = disagreement(heard, self._table, plan.num_samples)
            if found is not None:  # else something was not finite, and the next measurement is checked instead
                self._next_check = 2 * (self._num_measured + 1)
            problem = problem or found or ""
        if self._num_measured == 0 and not problem:
            for place, how in heard.methods.items():
                level = logging.WARNING if ONE_BY_ONE in how else logging.INFO
                _logger.log(level, "per-sample gradients of %s: %s", self._table.names[place], how)
        self._num_measured += 1
        if plan.by_layers and not problem and not heard.sqnorm_sums and not heard.unsettled:
            problem = "no parameter was seen in a backward pass; is it the model given here that was called?"
        if problem:
            self._fall_back(problem)
        elif heard.unsettled:
            self._next_check = 0
        return not problem and not heard.unsettled

    def _fall_back(self, reason: str) -> None:
        """Go over to `chunks` for good, and say why; or refuse, where that would not do."""
        if self._stride:
            raise UnsupportedLayerError(f"{reason}: strides of samples, among which a rule selects, cannot be measured")
        if not self._is_free:
            raise UnsupportedLayerError(
                f'{reason}: estimator="layers" cannot measure this model, use estimator="auto" or "chunks"'
            )
        self.estimator = "chunks"
        _logger.warning(
            "gradient statistics by chunks, not by layers (a variance takes several passes for each batch): %s", reason
        )

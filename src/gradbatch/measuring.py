"""Measure: the probe as the controller uses it, made when a rule first asks for something."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from gradbatch._types import Statistics
from gradbatch.errors import MeasurementError, UnsupportedLayerError
from gradbatch.probe import BY_LAYERS, PRECONDITIONED, Estimator, Measurement, Probe
from gradbatch.updating import momenta_of, parameters_of, preconditioners_of

__all__ = ["Meter"]


class Meter:
    """Statistics of batches that go through backward in one or several passes.

    Args:
        model: The model.
        optimizer: Its parameters are observed, by parameter group; they may be frozen, thawed or added to.
        estimator: See `Probe`.
        sample_fraction: See `Probe`.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, estimator: Estimator, sample_fraction: float = 1.0
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._wish: Estimator = estimator
        self._sample_fraction = sample_fraction
        self._trainable: list[list[nn.Parameter]] = []
        self._probe: Probe | None = None
        self._is_asked = False
        self._needs_momenta = self._needs_preconditioners = False
        self._measurement: Measurement | None = None

    @property
    def estimator(self) -> str:
        """How statistics are measured; ``"none"`` while nothing was asked for."""
        return "none" if self._probe is None else self._probe.estimator

    @property
    def min_pieces(self) -> int:
        """Passes in which the batch should go through backward."""
        return self._probe.min_pieces if self._probe is not None and self._is_asked else 1

    def begin_batch(self, quantities: frozenset[str], needed: frozenset[str]) -> None:
        """Forget the last batch; measure these quantities of the next, if any.

        Args:
            quantities: Their names.
            needed: Those of them without which training makes no sense.

        Raises:
            UnsupportedLayerError: If the estimator cannot measure the model, or not what is needed.
        """
        if "noise_scale" in quantities:
            quantities |= {"grad_variance"}  # without which a missing noise scale could mean two things
        self._is_asked = bool(quantities)
        self._needs_momenta = "momentum_projection" in quantities
        self._needs_preconditioners = not quantities.isdisjoint(PRECONDITIONED)
        if not self._is_asked:
            return
        trainable = [[p for p in group if p.requires_grad] for group in parameters_of(self._optimizer)]
        if self._probe is None or not _same(trainable, self._trainable):
            self._probe = Probe(
                self._model,
                quantities,
                estimator=self._wish,
                groups=trainable,
                sample_fraction=self._sample_fraction,
            )
            self._trainable = trainable
        if self._probe.estimator == "chunks" and (lost := sorted(needed & BY_LAYERS)):
            raise UnsupportedLayerError(
                f"the rule needs {' and '.join(lost)}, and of this model only pieces of a batch can be measured (the "
                "log says why): take a rule that works with them, such as CABS or NoiseScale, or change the model"
            )
        self._probe.set_quantities(quantities)
        self._probe.reset()

    def begin_pass(self, num_samples: int, *, is_part: bool) -> None:
        """Listen to a pass of that many samples, after which others of the batch may follow."""
        if self._probe is not None and self._is_asked:
            self._measurement = self._probe.measure(num_samples=num_samples, keep_gradient=False, is_part=is_part)
            self._measurement.begin()

    def backward(self, loss: Tensor, *, loss_scale: float, weight: float) -> None:
        """Send the pass's loss backward, and take in what was heard; see `Probe.measure` for the arguments."""
        if self._measurement is None:
            loss.backward()
            return
        self._measurement.backward(loss, loss_scale=loss_scale, weight=weight)
        measurement, self._measurement = self._measurement, None
        measurement.close()

    def read(self, loss: Tensor | float, num_samples: int) -> Statistics:
        """The statistics of the batch so far; with the loss, one copy from device to host.

        Args:
            loss: Its mean loss.
            num_samples: Its samples.

        Returns:
            The statistics; only the loss where nothing was asked for.

        Raises:
            MeasurementError: If the loss does not depend on the model.
        """
        if self._probe is None or not self._is_asked:
            return Statistics(num_samples=num_samples, loss=float(loss))
        gradient = [parameter.grad for parameter in self._probe.parameters]
        if all(grad is None for grad in gradient):
            raise MeasurementError(
                "no gradient reached a parameter that `optimizer` holds: compute `loss` from the output of `model`"
            )
        momenta = momenta_of(self._optimizer, self._probe.parameters) if self._needs_momenta else ()
        factors = preconditioners_of(self._optimizer, self._probe.parameters) if self._needs_preconditioners else ()
        return self._probe.read(loss=loss, gradient=gradient, momenta=momenta, preconditioners=factors, reset=False)

    def select(self, weights: Mapping[str, Sequence[float]]) -> None:
        """Put the mean over some of the batch's samples in place of the gradient; see `Probe.select`.

        Where all the samples count alike the gradient stays as autograd made it, to the bit.
        """
        assert self._probe is not None
        uneven = {name: own for name, own in weights.items() if len(set(own)) > 1 or not any(own)}
        for parameter, mean in self._probe.select(uneven).items():
            if parameter.grad is not None:
                parameter.grad = mean.to(parameter.grad.dtype)

    def abandon_pass(self) -> None:
        """Stop listening to a pass that will not come."""
        measurement, self._measurement = self._measurement, None
        if measurement is not None:
            measurement.close(failed=True)

    def detach(self) -> None:
        """Take all hooks off."""
        self.abandon_pass()


def _same(first: Sequence[Sequence[nn.Parameter]], second: Sequence[Sequence[nn.Parameter]]) -> bool:
    """Whether two lists of groups hold the same objects; tensors do not compare to a truth value."""
    return [[id(p) for p in group] for group in first] == [[id(p) for p in group] for group in second]

"""The controller: measure, decide, apply. The only stateful shell."""

import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradbatch._arguments import (
    check_budget,
    check_fraction,
    check_loss,
    check_parts,
    check_rules,
    check_single_rank,
    check_sinks,
    check_size,
    check_weight,
)
from gradbatch._types import Decision, Progress, Record, Rule, Statistics
from gradbatch.asking import ask, kind_of, lacking, named
from gradbatch.errors import InvalidInputError, MeasurementError, NonFiniteError
from gradbatch.measuring import Meter
from gradbatch.probe import Estimator
from gradbatch.sinks import Sink
from gradbatch.stream import SampleStream
from gradbatch.underway import Batch, cut
from gradbatch.updating import Updater, description_of, learning_rates, momentum_of

__all__ = ["MAX_SKIPPED_IN_A_ROW", "Controller"]

MAX_SKIPPED_IN_A_ROW = 10
"""Updates skipped for a loss or gradient that is not finite, one after another, before training is stopped."""

_logger = logging.getLogger("gradbatch")


class Controller:
    """Train in the user's own loop with batch sizes that a rule chooses from the gradients.

    Forward, backward, step: gradient accumulation beyond memory, statistics, decisions, the learning-rate scale
    and the log live behind `backward` and `step`, so that the loop is the same for every rule. The controller
    zeroes the gradients when a batch begins; they can be looked at after `step`.

    Args:
        rule: What decides the batch size.
        model: The model. Batches are moved to the device of its parameters.
        optimizer: Its optimizer. The parameters it holds are the ones observed, in its groups.
        stream: Where the samples come from.
        batch_size: Size of the first batch, in samples.
        micro_batch_size: Most samples in one forward pass; by default the whole batch. A batch in one piece is
            the plain loop's own arithmetic.
        even_ends: Halve what is left of an epoch, or of a budget of samples, where it is more than was asked for and
            less than twice that. By default the last batch is what the others leave, as a ``DataLoader``'s is; with
            sizes that a rule chooses that may be a sample or two, and a full step on so few can undo much training.
            Such a batch is then rare, but not ruled out: a budget may end just behind an epoch. The halves need not be
            multiples of anything, whatever the rule's sizes are. Rules that leave out an epoch's short last batch, as
            `DBA` does when it counts what it selected, leave out both halves.
        estimator: How statistics are measured, see `Probe`: ``"auto"``, ``"layers"`` or ``"chunks"``. ``chunks``
            cuts a batch into at least four pieces where training would use fewer.
        sample_fraction: Measure this part of each batch only, see `Probe`.
        clip_grad_norm: Clip the gradient's norm to this, after the statistics and before the update.
        scaler: A ``torch.amp.GradScaler``; statistics are those of the unscaled gradients.
        sinks: Where the records go.
        shadows: Rules that are only asked, never obeyed; their answers are in the records.

    Raises:
        InvalidInputError: If an argument cannot be used; the message names it.

    Example:
        >>> import gradbatch as gb
        >>> data = (torch.randn(60, 3), torch.randn(60, 1))
        >>> model = nn.Linear(3, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> controller = gb.Controller(gb.Fixed(), model, optimizer, gb.SampleStream(data), batch_size=20)
        >>> for inputs, targets in controller.run(epochs=2):
        ...     loss = nn.functional.mse_loss(model(inputs), targets)
        ...     controller.backward(loss)
        ...     record = controller.step()
        >>> record.step, record.samples_seen, record.next_batch_size
        (5, 120, 20)
    """

    def __init__(
        self,
        rule: Rule[Any],
        model: nn.Module,
        optimizer: Optimizer,
        stream: SampleStream,
        *,
        batch_size: int,
        micro_batch_size: int | None = None,
        even_ends: bool = False,
        estimator: Estimator = "auto",
        sample_fraction: float = 1.0,
        clip_grad_norm: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
        sinks: Sequence[Sink] = (),
        shadows: Sequence[Rule[Any]] = (),
    ) -> None:
        check_rules(rule, shadows)
        check_sinks(sinks)
        check_parts(model, optimizer, stream)
        check_single_rank()
        check_size("batch_size", batch_size, stream.dataset_size)
        if micro_batch_size is not None:
            check_size("micro_batch_size", micro_batch_size, stream.dataset_size)
        check_fraction(sample_fraction)
        if clip_grad_norm is not None and not clip_grad_norm > 0:
            raise InvalidInputError(f"`clip_grad_norm` must be positive, got {clip_grad_norm}")
        if scaler is not None and rule.in_step:
            raise InvalidInputError(
                f"`scaler` cannot go with {type(rule).__name__}, which draws more samples after gradients were "
                "unscaled: train in bfloat16, which needs no scaler"
            )
        self._rule = rule
        self._optimizer = optimizer
        self._meter = Meter(model, optimizer, estimator, sample_fraction)
        self._updater = Updater(optimizer, clip_grad_norm, scaler)
        self._stream = stream
        self._micro_batch_size = micro_batch_size
        self._even_ends = even_ends
        self._sinks = tuple(sinks)
        self._shadows = named(shadows)
        self._device = next(p.device for p in model.parameters() if p.requires_grad)

        self._next_size = batch_size
        self._lr_scale = 1.0
        self._step = 0
        self._samples_seen = 0
        self._seconds = 0.0
        self._skipped_in_a_row = 0
        self._num_held = 0
        self._record: Record | None = None
        self._state = rule.init()
        self._shadow_states = {name: shadow.init() for name, shadow in self._shadows.items()}

        self._batch: Batch | None = None
        self._run = 0  # the latest call of `run`
        self._handed_out = 0  # samples of the micro-batch whose backward has not been called yet
        self._meter.begin_batch(
            *self._required(self._progress(0, batch_size))
        )  # now, so that what the estimator cannot measure is refused at once

    @property
    def batch_size(self) -> int:
        """Size of the next batch, in samples."""
        return self._next_size

    @property
    def record(self) -> Record | None:
        """The record of the last update; ``None`` before the first."""
        return self._record

    @property
    def estimator(self) -> str:
        """``"layers"`` or ``"chunks"``; ``"none"`` while no rule has asked for statistics."""
        return self._meter.estimator

    @property
    def num_held(self) -> int:
        """Answers of rules that were nan, infinite, not positive or absurd, and so were not followed."""
        return self._num_held

    def run(self, *, epochs: int | None = None, samples: int | None = None, steps: int | None = None) -> Iterator[Any]:
        """Hand out micro-batches until a budget is spent, counted from where training stands.

        A batch never crosses an epoch's end. Samples that were handed out but not updated with, because the
        loop was left or failed, are handed out again by the next run.

        Args:
            epochs: End with the end of the ``epochs``-th epoch from here, the one under way counted.
            samples: End after this many samples; the last batch is cut to fit.
            steps: End after this many updates.

        Returns:
            Micro-batches of the stream, on the model's device; one or several make a step. It raises
            `MeasurementError` if the loop did not call `backward` and `step` on what it was given.

        Raises:
            InvalidInputError: Unless exactly one budget is given, a whole number of at least 1.
        """
        unit, budget = check_budget(epochs=epochs, samples=samples, steps=steps)
        self._run += 1
        return self._batches(self._run, unit, budget)

    def _batches(self, run: int, unit: str, budget: int) -> Iterator[Any]:
        """What `run` hands out; an earlier run that ends late leaves a later one alone."""
        self._abandon()
        self._stream.rewind()
        goal = self._position(unit) + budget
        try:
            while self._position(unit) < goal:
                yield from self._hand_out(most=goal - self._samples_seen if unit == "samples" else sys.maxsize)
        finally:
            if run == self._run:
                self._abandon()

    def backward(
        self, loss: Tensor, *, reduction: Literal["mean", "sum"] = "mean", weight: float | None = None
    ) -> None:
        r"""Send the micro-batch's loss backward, under observation.

        The loss is weighted so that the micro-batches of a batch add up to the mean over its samples. With
        ``weight`` $w_k$ they add up to $\sum_k w_k L_k/\sum_k w_k$ instead: for a loss that is a mean over tokens,
        with their number, the mean over all the batch's tokens. The gradient of a sample is then its tokens' sum times
        samples per token of the batch, so that the samples' mean is still the gradient.

        Args:
            loss: The loss of the micro-batch, a scalar.
            reduction: Whether ``loss`` is the mean or the sum over the micro-batch's samples (or tokens).
            weight: What the loss is a mean or a sum over, where that is not the samples.

        Raises:
            InvalidInputError: If ``loss`` is not a scalar with a graph behind it, ``reduction`` is unknown or
                ``weight`` is not positive.
            MeasurementError: If no micro-batch is waiting for its backward, or only some of a batch have a weight.
        """
        batch, count = self._batch, self._handed_out
        if batch is None or count == 0:
            raise MeasurementError(
                "`backward` needs a micro-batch that `controller.run(...)` handed out, and takes each once: call "
                "it inside the loop, on the sum of the losses"
            )
        check_loss(loss, reduction)
        check_weight(weight)
        if batch.drawn and (weight is None) != (batch.weight is None):
            raise MeasurementError("give `weight` with every micro-batch of a batch, or with none")
        try:
            self._updater.check_gradients(may_be_edited=False)
            if weight is not None and (shrink := batch.weigh_in(weight)) != 1:
                self._updater.shrink_gradients(shrink)
            own, total = (count, batch.size) if weight is None or batch.weight is None else (weight, batch.weight)
            share = (own if reduction == "mean" else 1) / total
            weighted = loss if share == 1 else loss * share
            loss_scale = own / total * self._updater.loss_scale
            self._meter.backward(self._updater.scaled(weighted), loss_scale=loss_scale, weight=own)
        except BaseException:  # gradients of half a pass cannot be taken back: the batch begins anew
            self._abandon()
            raise
        self._updater.remember_gradients()
        batch.add(weighted, count)
        self._handed_out = 0

    def step(self) -> Record | None:
        """Decide and update, once the batch is complete.

        Returns:
            The record of the update, or ``None`` while the batch is not complete.

        Raises:
            MeasurementError: If `backward` was not called first.
            NonFiniteError: If updates were skipped `MAX_SKIPPED_IN_A_ROW` times in a row, because losses or
                gradients were not finite.
        """
        batch = self._batch
        if batch is None or self._handed_out:
            raise MeasurementError("`step` comes after `backward`: call `controller.backward(loss)` first")
        if batch.drawn < batch.size:
            return None
        try:
            return self._decide_and_update(batch)
        except BaseException:
            if self._batch is batch:  # not updated: what was decided is forgotten, and the batch begins anew
                self._updater.skip()
                self._abandon()
            raise

    def _decide_and_update(self, batch: Batch) -> Record | None:
        """The rest of `step`, for a batch that is complete."""
        self._updater.check_gradients(may_be_edited=True)
        self._updater.unscale()
        statistics = self._meter.read(batch.loss, batch.drawn)
        progress = self._progress(batch.drawn, batch.before.batch_size, since=batch.started)
        decision, batch.state = self._ask(self._rule, batch, statistics, progress, batch.state, self._lr_scale)
        if not decision.step and self._grow(batch, decision.batch_size):
            return None
        answers = {
            name: self._ask(shadow, batch, statistics, progress, self._shadow_states[name])
            for name, shadow in self._shadows.items()
        }
        if decision.weights is not None:
            self._meter.select(decision.weights)
        is_updated = self._updater.step(decision.lr_scale) if statistics.is_finite else self._updater.skip()
        self._batch = None
        return self._record_update(batch, statistics, progress, decision, answers, is_updated)

    def state_dict(self) -> dict[str, Any]:
        """What decides how training goes on, beside the model's and optimizer's own state.

        What was handed out and not updated with is not in it: a resumed run begins that batch anew.

        Returns:
            Plain numbers, strings and containers, for JSON or a checkpoint.
        """
        return {
            **self._fingerprint(),
            "rule_state": self._state,
            "shadow_states": dict(self._shadow_states),
            "batch_size": self._next_size,
            "lr_scale": self._lr_scale,
            "step": self._step,
            "samples_seen": self._samples_seen,
            "seconds": self._seconds,
            "skipped_in_a_row": self._skipped_in_a_row,
            "num_held": self._num_held,
            "stream": self._stream.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the controller that gave ``state`` stood.

        Args:
            state: What `state_dict` returned, under the same kind of rule, the same shadows and stream.

        Raises:
            InvalidInputError: If the state is of another version, rule or stream.
        """
        if not isinstance(state, dict):
            raise InvalidInputError(f"`state` must be what `state_dict` returned, got {state!r}")
        state = {"even_ends": False, **state}  # which there was not always
        for name, ours in self._fingerprint().items():
            if state.get(name) != ours:
                raise InvalidInputError(
                    f"`state` has {name}={state.get(name)!r} and this controller has {name}={ours!r}: load it "
                    "into a controller that is made as the saved one was"
                )
        if missing := self.state_dict().keys() - state.keys():
            raise InvalidInputError(f"`state` lacks {sorted(missing)}: load what `state_dict` returned")
        self._stream.load_state_dict(state["stream"])
        self._abandon()
        self._record = None
        self._state = state["rule_state"]
        self._shadow_states = dict(state["shadow_states"])
        self._next_size = state["batch_size"]
        self._lr_scale = state["lr_scale"]
        self._step = state["step"]
        self._samples_seen = state["samples_seen"]
        self._seconds = state["seconds"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        self._num_held = state["num_held"]

    def close(self) -> None:
        """Take hooks off, shut the stream's workers down, close the sinks."""
        self._abandon()
        with ExitStack() as closing:  # all of them, whichever fails
            for sink in self._sinks:
                closing.callback(sink.close)
            closing.callback(self._stream.close)

    def _fingerprint(self) -> dict[str, Any]:
        """What must be equal for a state to mean the same."""
        return {
            "version": 1,
            "rule": kind_of(self._rule),
            "shadows": list(self._shadows),
            "even_ends": self._even_ends,
        }

    def _position(self, unit: str) -> int:
        """Where training stands, in the unit of a budget."""
        return {"epochs": self._stream.epoch, "samples": self._samples_seen, "steps": self._step}[unit]

    def _progress(self, drawn: int, requested: int, *, since: float | None = None) -> Progress:
        """Where training stands with ``drawn`` samples, and the time ``since``, of the batch under way counted."""
        rates = learning_rates(self._optimizer)
        seen = self._samples_seen + drawn
        return Progress(
            step=self._step,
            samples_seen=seen,
            epoch=seen / self._stream.dataset_size,
            lr=rates[0],
            momentum=momentum_of(self._optimizer),
            batch_size=requested,
            dataset_size=self._stream.dataset_size,
            seconds=self._seconds if since is None else self._seconds + time.perf_counter() - since,
            group_lrs=rates if len(rates) > 1 else (),
            optimizer=description_of(self._optimizer),
        )

    def _required(self, progress: Progress) -> tuple[frozenset[str], frozenset[str]]:
        """What the rule and its shadows want measured, and what the rule alone does."""
        own = self._rule.requires(progress)
        if not isinstance(own, (set, frozenset)):
            raise InvalidInputError(
                f"{type(self._rule).__name__}.requires answered with {own!r}: it must return a set of names"
            )
        shadows = [shadow.requires(progress) for shadow in self._shadows.values()] if self._shadows else ()
        return frozenset(own).union(*shadows), frozenset(own)

    def _hand_out(self, most: int) -> Iterator[Any]:
        """The micro-batches of one batch of at most ``most`` samples."""
        started = time.perf_counter()
        before = self._progress(0, self._next_size)
        size = self._available(self._next_size, most)
        quantities, own = self._required(before)
        batch = self._batch = Batch(before, quantities, size, most, started, self._state)
        self._meter.begin_batch(quantities, own)
        self._updater.forget_gradients()
        pieces: list[int] = []
        while batch.drawn < batch.size:
            pieces = pieces or self._cut(batch.size - batch.drawn)
            self._handed_out = pieces.pop(0)
            micro_batch = self._stream.take(self._handed_out, self._device)
            self._meter.begin_pass(self._handed_out, is_part=bool(pieces) or self._rule.in_step)
            yield micro_batch
            if self._batch is not batch and not batch.is_recorded:  # abandoned: hand its samples out again
                self._stream.rewind()
                return
            if self._handed_out:
                raise MeasurementError(
                    "the loop asked for the next micro-batch before `backward`: call "
                    "`controller.backward(loss)`, then `controller.step()`, on each"
                )
        if self._batch is batch:
            raise MeasurementError(
                "the loop asked for the next batch before `step`: call `controller.step()` after each "
                "`controller.backward(loss)`"
            )

    def _available(self, asked: int, most: int) -> int:
        """The samples asked for, or fewer where the epoch ends, or the budget, of which ``most`` are left."""
        left = self._stream.available(min(2 * asked if self._even_ends else asked, most))
        return left if left <= asked else math.ceil(left / 2)

    def _cut(self, size: int) -> list[int]:
        """Sizes of the passes over ``size`` samples."""
        return cut(size, min_pieces=self._meter.min_pieces, micro_batch_size=self._micro_batch_size)

    def _abandon(self) -> None:
        """Forget a batch that was left half-way, and take all hooks off."""
        self._meter.detach()
        self._batch, self._handed_out = None, 0

    def _ask(
        self,
        rule: Rule[Any],
        batch: Batch,
        statistics: Statistics,
        progress: Progress,
        state: Any,
        lr_scale: float = 1.0,
    ) -> tuple[Decision, Any]:
        """The rule's decision and next state, in view of what it required of this batch."""
        absent = lacking(statistics, batch.quantities)
        absent = absent & rule.requires(batch.before) if absent else absent
        decision, state = ask(rule, statistics, progress, state, absent, lr_scale)
        if "held" in decision.numbers:
            self._num_held += 1
            if self._num_held == 1:
                _logger.warning("step %d: %s; further ones are only counted", progress.step, decision.reason)
        return decision, state

    def _grow(self, batch: Batch, more: int) -> bool:
        """Make room for ``more`` samples in the batch; false where none are left."""
        room = batch.most - batch.drawn
        more = self._available(more, room) if room > 0 else 0
        if more == 0:
            return False
        if (shrink := batch.grow(more)) != 1:
            self._updater.shrink_gradients(shrink)
        return True

    def _record_update(
        self,
        batch: Batch,
        statistics: Statistics,
        progress: Progress,
        decision: Decision,
        answers: dict[str, tuple[Decision, Any]],
        is_updated: bool,
    ) -> Record:
        """Count the update, and put it on record."""
        self._meter.detach()  # a copy of the model made between steps shall have no hooks
        batch.is_recorded = True
        self._state = batch.state
        self._shadow_states = {name: state for name, (_, state) in answers.items()}
        self._stream.commit(batch.drawn)
        self._seconds += time.perf_counter() - batch.started
        shadows = {name: answer.batch_size for name, (answer, _) in answers.items()}
        self._record = record = batch.record(statistics, progress, decision, shadows, is_updated=is_updated)
        self._next_size = record.next_batch_size  # the one feedback edge
        self._lr_scale = decision.lr_scale
        self._step += 1
        self._samples_seen = progress.samples_seen
        for sink in self._sinks:
            sink.log(record)
        self._skipped_in_a_row = 0 if is_updated else self._skipped_in_a_row + 1
        if not is_updated:
            self._complain(record)
        return record

    def _complain(self, record: Record) -> None:
        """Say that an update was skipped, and stop when skipping is all that happens."""
        what = "the gradient was not finite" if math.isfinite(record.loss) else f"the loss was {record.loss}"
        if self._skipped_in_a_row == 1:
            _logger.warning("update %d was skipped, since %s; the weights are unchanged", record.step, what)
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise NonFiniteError(
                f"{what} and the update skipped {self._skipped_in_a_row} times in a row: lower the learning rate, "
                "clip the gradient (`clip_grad_norm`) or look for bad samples; the weights are those before"
            )

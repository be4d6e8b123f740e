"""What to hear of a backward pass, and what it said."""

from dataclasses import dataclass, field

from torch import Tensor

from gradbatch.probe.forms import PerSample
from gradbatch.probe.joining import Kept, combined, settled
from gradbatch.probe.moments import method, second_moment, sqnorm_sum, weighted_sum
from gradbatch.probe.positions import position_norm_sum, position_sqnorm_sum
from gradbatch.probe.strides import stride_sqnorms, stride_square_sums, stride_sums

__all__ = ["Heard", "Plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to hear in one pass.

    Attributes:
        num_samples: Samples B in the forward pass to come.
        count: How many of them to look at.
        by_layers: Hear per-sample gradients; else the squared norms of the parameters' whole gradients.
        learn: Find out anew how the samples lie, and let the forms give the summed gradient as well.
        keep_grads: Keep the parameters' whole gradients.
        sum_grads: Add them up over the passes.
        second_moments: Compute elementwise second moments.
        position_sqnorms: Sum squared norms of what each position gives, too.
        keep_for_projections: Keep the per-sample gradients in their forms, until the mean gradient is known.
        keep_for_strides: The same until it is known whether more passes follow, which sums over strides are for.
        by_gram: How norms of sums over positions are computed, see `sqnorms`.
        stride: Samples in a stride; 0 where nothing is asked of strides.
        sum_strides: Sum the gradients over each stride.
        stride_sqnorms: Sum the gradients' squared norms over them.
        stride_squares: Sum the gradients' squares over them, too.
        lead: Samples of this pass's first stride that were in earlier passes.
        is_announced: Our own pass will be announced (`Listener.is_own`), with its loss; else it is known by where it
            goes.
    """

    num_samples: int
    count: int
    by_layers: bool
    learn: bool
    keep_grads: bool
    sum_grads: bool
    second_moments: bool
    position_sqnorms: bool
    keep_for_projections: bool
    keep_for_strides: bool
    by_gram: bool | None
    stride: int
    sum_strides: bool
    stride_sqnorms: bool
    stride_squares: bool
    lead: int
    is_announced: bool

    @property
    def keep_forms(self) -> bool:
        """Whether the per-sample gradients outlive the pass."""
        return self.keep_for_projections or self.keep_for_strides


@dataclass(eq=False, slots=True)
class Heard:
    """What one backward pass said, by the parameters' places in the table.

    Attributes:
        accumulates: Whether the pass went into ``.grad``.
        sqnorm_sums: Sums over samples of the squared norms of the gradients of what was sent backward, 0-dim.
        position_sqnorms: The same of what each position of a sample gives, where asked for.
        second_moments: Elementwise sums over samples of their squares, where asked for.
        forms: The per-sample gradients, where they are kept.
        stride_sums: Sums of the gradients over each stride, [k, *shape], where asked for.
        stride_square_sums: The same of their squares.
        stride_sqnorms: The same of their squared norms, [k].
        grads: The gradient of this pass, where it is kept.
        grad_sums: The same as the forms give it, where they are checked.
        norm_sums: Sums of the norms of what was added up in it, 0-dim, where it is checked.
        methods: How the norms were computed, where it is checked.
        rounding: Unit rounding of the coarsest type in which autograd itself computed.
        problem: Why samples cannot be told apart, or an empty string.
        unsettled: Parameters some of whose uses are not known yet.
        uses: Uses of the parameters that have more of them to come.
    """

    accumulates: bool
    sqnorm_sums: dict[int, Tensor] = field(default_factory=dict)
    position_sqnorms: dict[int, Tensor] = field(default_factory=dict)
    second_moments: dict[int, Tensor] = field(default_factory=dict)
    forms: dict[int, Kept] = field(default_factory=dict)
    stride_sums: dict[int, Tensor] = field(default_factory=dict)
    stride_square_sums: dict[int, Tensor] = field(default_factory=dict)
    stride_sqnorms: dict[int, Tensor] = field(default_factory=dict)
    grads: dict[int, Tensor] = field(default_factory=dict)
    grad_sums: dict[int, Tensor] = field(default_factory=dict)
    norm_sums: dict[int, Tensor] = field(default_factory=dict)
    methods: dict[int, str] = field(default_factory=dict)
    rounding: float = 0.0
    problem: str = ""
    unsettled: set[int] = field(default_factory=set)
    uses: dict[int, list[PerSample]] = field(default_factory=dict)

    def use(self, place: int, form: PerSample, expected: int, plan: Plan) -> None:
        """Take in one use of a parameter, and settle the parameter with the last of those expected."""
        uses = self.uses.setdefault(place, [])
        # What waits for another use must not need nodes that autograd will have run by then.
        uses.append(form if expected == 1 else settled(form))
        if len(uses) == expected:
            self.settle(place, plan)

    def settle(self, place: int, plan: Plan) -> None:
        """Compute what was asked for of one parameter."""
        form = combined(self.uses.pop(place))
        self.sqnorm_sums[place] = total = sqnorm_sum(form, plan.by_gram)
        if plan.learn and plan.count == plan.num_samples:
            self.grad_sums[place] = weighted_sum(form, total.new_ones(plan.count))
            self.norm_sums[place] = position_norm_sum(form)
            self.methods[place] = method(form, plan.by_gram)
        if plan.position_sqnorms:
            self.position_sqnorms[place] = position_sqnorm_sum(form)
        if plan.second_moments:
            self.second_moments[place] = second_moment(form)
        if plan.sum_strides:
            self.stride_sums[place] = stride_sums(form, plan.stride, plan.lead)
        if plan.stride_sqnorms:
            self.stride_sqnorms[place] = stride_sqnorms(form, plan.stride, plan.lead)
        if plan.stride_squares:
            self.stride_square_sums[place] = stride_square_sums(form, plan.stride, plan.lead)
        if plan.keep_forms:
            self.forms[place] = Kept(form)

    def joined(self, other: "Heard") -> "Heard | None":
        """This pass and another as one, if no parameter was heard in both (as in reentrant checkpointing)."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in _BY_PLACE]
        if any(own.keys() & others.keys() for own, others in pairs):
            return None
        for own, others in pairs:
            own.update(others)
        self.problem = self.problem or other.problem
        self.unsettled |= other.unsettled
        self.rounding = max(self.rounding, other.rounding)
        return self


_BY_PLACE = (
    "sqnorm_sums",
    "position_sqnorms",
    "second_moments",
    "forms",
    "stride_sums",
    "stride_square_sums",
    "stride_sqnorms",
    "grads",
    "grad_sums",
    "norm_sums",
    "methods",
)

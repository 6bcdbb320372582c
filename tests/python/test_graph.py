# SPDX-License-Identifier: MIT
"""What autograd has noted of a tensor: names of operations, parameters, and the way back."""
import pytest

torch = pytest.importorskip("torch")

from attnd.forms.graph import back, edge_of, is_weight, operation, through

WEIGHT = torch.nn.Parameter(torch.rand(4, 6))


class Permute(torch.autograd.Function):
    """Called as an operation of torch."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient


@pytest.mark.parametrize("view", [
    lambda x: x.t(), lambda x: x.view(2, 12), lambda x: x.t().reshape(2, 12), lambda x: x[None].expand(3, -1, -1), lambda x: x.repeat(2, 1),
    lambda x: x.split([1, 3])[1], lambda x: x.unbind()[2], lambda x: x.clone(), lambda x: x.double(), lambda x: x.as_strided((2, 2), (6, 1))])
def test_a_view_and_a_copy_of_a_parameter_are_one(view):
    assert is_weight(view(WEIGHT).grad_fn)


@pytest.mark.parametrize("made", [lambda x: x + 1, lambda x: torch.cat([x, x]), lambda x: x.exp(), lambda x: Permute.apply(x)])
def test_what_is_computed_of_a_parameter_is_none(made):
    assert not is_weight(made(WEIGHT).grad_fn)


def test_a_function_in_python_is_no_operation_of_torch_that_is_called_so():
    assert [operation(made.grad_fn) for made in (WEIGHT.permute(1, 0), Permute.apply(WEIGHT))] == ["Permute", "PermuteBackward"]


def test_the_way_back_is_the_nearest_first_each_once_and_bounded():
    x = WEIGHT * 2
    edge = edge_of((x.t() + x.t().neg()).exp())
    everything = through({"Exp", "Add", "Neg", "T"})
    assert [operation(node) for node, _ in back([edge], 9, everything)] == ["Exp", "Add", "T", "Neg", "Mul", "T"]
    assert [operation(node) for node, _ in back([edge], 9, through({"Exp"}))] == ["Exp", "Add"]
    assert len(list(back([edge], 3, everything))) == 3

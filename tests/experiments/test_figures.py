import re

import numpy as np
import pytest

from gradbatch.experiments.curves import Points
from gradbatch.experiments.figures import Curve, Panel, _short, draw


def ticks(svg):
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg)


@pytest.fixture
def falling():
    curve = Curve(run=0, points=Points(np.arange(1.0, 400.0), np.geomspace(3, 2e-4, 399)))
    return draw(Panel(title="loss", x_label="samples", curves=[curve], scale="log"), "figure")


def test_ticks_keep_all_their_digits(falling):
    assert {"0.001", "0.01", "0.1", "1"} <= set(ticks(falling))


def test_coordinates_do_not(falling):
    coordinates = re.findall(r"\d\.\d+", " ".join(re.findall(r' d="([^"]+)"', falling)))
    assert coordinates
    assert max(len(number) for number in coordinates) <= len("0.12")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e30, "1e30"), (9.999e29, "1e30"), (-2.5e15, "-2.5e15"), (123456789012.0, "123G"), (2e-7, "2e-7")],
)
def test_ticks_of_any_size_are_short(value, text):
    assert _short(value) == text


def test_ticks_that_people_know_stay_whole():
    assert [_short(value) for value in (0.05, 250, 20_000, 1.5e6, 131_072, 2**20)] == [
        "0.05",
        "250",
        "20k",
        "1.5M",
        "131072",
        "1048576",
    ]


def test_sizes_that_hardly_move_look_so():
    sizes = Curve(run=0, points=Points(np.arange(1.0, 5.0), np.array([32.0, 32.3, 32.1, 32.0])))
    drawn = draw(Panel(title="batch size", x_label="samples", curves=[sizes], scale="log2"), "figure")
    assert {"16", "32", "64"} <= set(ticks(drawn))

import re

import numpy as np
import pytest

from gradbatch.experiments.curves import Points
from gradbatch.experiments.figures import Curve, Panel, draw


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

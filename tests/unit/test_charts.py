import re

import pytest

from qatune.report import charts


def lengths(counts, limit, longest, width=10):
    edges = list(range(0, width * (len(counts) + 1), width))
    shown = {"edges": edges, "counts": counts, "max": longest}
    return {"unit": "tokens", "limit": limit, "tokens": shown}


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def steps(count):
    return [
        {"step": at, "loss": 3 - at / count + at % 7 / 10, "learning_rate": 2e-4}
        for at in range(count)
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2e-4, "2e-4"),
        (1.5e-4, "1.5e-4"),
        (0.00015000000000000001, "1.5e-4"),
        (0.1, "1e-1"),
    ],
)
def test_learning_rates_read_as_in_a_recipe(value, text):
    assert charts.scientific(value) == text


def test_learning_rate_axis():
    assert {"0", "1e-4", "2e-4"} <= set(texts(charts.learning_rate(steps(50))))


def test_limit_is_a_line_where_it_is_near():
    svg = charts.histogram(lengths([5, 9, 3], 40, 29))
    assert "limit 40" in texts(svg)
    assert "stroke-dasharray" in svg


def test_limit_is_words_where_it_is_far():
    svg = charts.histogram(lengths([5, 9, 3], 1024, 29))
    assert "limit 1,024: far beyond the longest row" in texts(svg)
    assert "stroke-dasharray" not in svg
    assert "1,000" not in texts(svg)


def test_a_long_run_makes_no_large_drawing():
    assert len(charts.losses(steps(20_000))) < 60_000


@pytest.mark.parametrize("count", [1, 2, 29, 30])
def test_short_runs_are_drawn(count):
    assert "held out" in texts(charts.losses([*steps(count), {"step": 0, "heldout_loss": 3.0}]))


def test_colours_come_from_the_page():
    svg = charts.losses(steps(50))
    assert "var(--accent)" in svg
    assert not re.search(r"#0[0-9a-f]{5}", svg)


def norms(*values):
    return [{"step": at, "loss": 1.0, "grad_norm": norm} for at, norm in enumerate(values)]


def test_norms_over_decades_get_a_logarithmic_axis():
    assert {"0.1", "1", "10", "100"} <= set(texts(charts.gradient_norm(norms(0.05, 3, 150))))
    assert "0.0" in texts(charts.gradient_norm(norms(0.5, 1, 2)))


def test_norm_that_gradients_are_clipped_to_is_drawn_where_one_is():
    assert "clipped to 0.3" in texts(charts.gradient_norm(norms(0.1, 0.5), 0.3))
    assert "clipped to 0.3" not in texts(charts.gradient_norm(norms(0.1, 0.2), 0.3))


def test_a_peak_between_the_drawn_steps_is_kept():
    calm = [{"step": at, "grad_norm": 0.1} for at in range(20_000)]
    calm[777]["grad_norm"] = 900.0
    assert "1000" in texts(charts.gradient_norm(calm)) or "100" in texts(charts.gradient_norm(calm))


def test_gradients_that_are_no_numbers_are_crossed_and_no_more():
    whole, broken = norms(*[0.5] * 40), norms(*[0.5] * 7, None, *[0.5] * 32)
    assert charts.broken([*broken, {"step": 40, "heldout_loss": 3.0}]) == [7]
    assert [at for at, _ in charts.points(broken, "grad_norm")] == [*range(7), *range(8, 40)]
    svg = charts.gradient_norm(broken)
    assert "nan" not in svg
    assert svg.count("<use") > charts.gradient_norm(whole).count("<use")


def test_nothing_but_gradients_that_are_no_numbers():
    assert "<svg" in charts.gradient_norm([{"step": 1, "grad_norm": None}], 0.3)

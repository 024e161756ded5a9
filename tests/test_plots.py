"""Figures show the numbers they were given, legibly, in files that are equal when the figures are."""

import itertools

import matplotlib
import matplotlib.text
import numpy as np
import pytest

from gp_response import plots
from gp_response.errors import InputError

RNG = np.random.default_rng(0)
GAPS = 10.0 ** RNG.normal(-11, 1, 200)
CLOSED = RNG.normal(size=50) * 10.0 ** RNG.normal(-3, 1, 50)
FIGURES = {
    "histogram": lambda: plots.histogram_of_gaps(GAPS),
    "two histograms": lambda: plots.histogram_of_gaps({"a": GAPS, "b": GAPS / 9}, tolerance=1e-6, width=plots.PAGE),
    "scatter": lambda: plots.closed_vs_refit(CLOSED, CLOSED * (1 + 1e-9), unit="K"),
    "gaps": lambda: plots.gap_curves(
        {
            "one noise or another": {
                f"model {i}, noise {0.1**i:g}": [(0.1, 10.0 ** (i + 2)), (1.0, 1e-11)] for i in range(6)
            },
            "one line": {"N = 400": [(0.02, 5.0), (0.5, 0.1)]},
        }
    ),
    "refits": lambda: plots.responses_against_refits(
        {name: {"refit": CLOSED, "fixed": 0.5 * CLOSED, "total": CLOSED} for name in ("one", "two", "three", "four")},
        of="loss",
    ),
    "spectra": lambda: plots.spectra({"a": ([3.0, 1.0, 0.1], 5.0), "b": ([0.2, 0.1], 0.5)}),
    "left": lambda: plots.left_after({"a": ([0.8, 0.5, 0.4], 0.7)}),
    "components": lambda: plots.coloured_components(
        {f"${k}": (CLOSED.reshape(25, 2), CLOSED[:25], (0.2, 0.1)) for k in "ab"}
    ),
    "ranks": lambda: plots.rank_correlations(
        {
            "one shift": {"a measure": {"weather": [0.9, 0.7], "flights": [-0.2]}, "another": {"weather": [0.1]}},
            "another shift of long name": {"a measure": {"weather": [-1.0, 1.0], "flights": [0.3]}},
        }
    ),
    "groups": lambda: plots.grouped_scatter(
        {
            f"set {i}: a measure of long name → a shift": {"plain": [(0.01, 1.0), (2.0, 3.0)], "deep": [(0.1, i)]}
            for i in range(4)
        },
        x="response",
        y="failure",
    ),
    "bars": lambda: plots.influential_rows([f"row {i}" for i in range(50)], CLOSED, unit="$ per $", title="$1 or $2"),
}


SIZES = {
    label: {title: {"first": [(0.01, 0.9), (0.5, 0.6)], "exact": [(0.01, 1.0), (0.5, 1.0)]} for title in ("one", "two")}
    for label in ("rank", "error")
}
FIGURES["sizes"] = lambda: plots.size_curves(SIZES, xlabel="share removed")


def test_curves_against_sizes_say_which_set_and_what_share():
    axes = plots.size_curves(SIZES, xlabel="share removed").axes
    assert [axis.get_title() for axis in axes] == ["one", "two", "", ""]
    assert [axis.get_xlabel() for axis in axes] == ["", "", "share removed", "share removed"]
    assert [axis.get_ylabel() for axis in axes] == ["rank", "", "error", ""]


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
@pytest.mark.parametrize("kind", ["pdf", "png", "svg"])
def test_equal_figures_are_equal_files(make, kind, tmp_path):
    one, two = (plots.save(make(), tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
    assert len(one) > 1000
    assert one == two


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_text_stays_inside_the_page_and_labels_do_not_touch(make, monkeypatch):
    figure, boxes = make(), {}
    draw = matplotlib.text.Text.draw

    def recorded(text, renderer):
        if text.get_visible() and text.get_text().strip():
            boxes[text] = (text.get_text(), text.get_window_extent(renderer))
        draw(text, renderer)

    monkeypatch.setattr(matplotlib.text.Text, "draw", recorded)
    figure.draw_without_rendering()
    figure.canvas.draw()
    assert len(boxes) >= 8
    page = figure.bbox.padded(1)
    for name, box in boxes.values():
        assert page.x0 <= box.x0 <= box.x1 <= page.x1, name
        assert page.y0 <= box.y0 <= box.y1 <= page.y1, name
    for (name, box), (other, near) in itertools.combinations(boxes.values(), 2):
        assert not box.shrunk(0.9, 0.9).overlaps(near.shrunk(0.9, 0.9)), (name, other)


def test_slanted_labels_of_sizes_are_clear_of_each_other():
    """Sizes from a thousand to 23 million parameters, the last two close together; parallel lines of text, a line height apart."""
    sizes = (1013, 2971, 9991, 100_013, 1_000_013, 10_000_000, 22_713_600)
    records = [{"method": "a", "n": n, "seconds": n / 1e3, "memory_bytes": 99.0 * n} for n in sizes]
    figure = plots.scaling_wall(records, names={"a": "a way of long name"}, x="parameters")
    figure.canvas.draw()
    for axes in figure.axes:
        labels = axes.get_xticklabels()
        across = [axes.transData.transform((n, 1.0))[0] for n in sizes]
        slant, line = np.sin(np.deg2rad(labels[0].get_rotation())), labels[0].get_fontsize() * figure.dpi / 72
        assert [label.get_text() for label in labels] == ["1,013", "2,971", "9,991", "0.1 M", "1 M", "10 M", "23 M"]
        assert min(np.diff(across)) * slant > line


def test_the_readers_matplotlib_settings_are_untouched(tmp_path):
    before = dict(matplotlib.rcParams)
    for make in FIGURES.values():
        plots.save(make(), tmp_path / "f.pdf")
    assert dict(matplotlib.rcParams) == before


def test_pdf_fonts_are_embedded_truetype(tmp_path):
    content = plots.save(plots.histogram_of_gaps(GAPS), tmp_path / "f.pdf").read_bytes()
    assert b"/Type3" not in content
    assert b"/FontFile2" in content


def test_a_histogram_holds_every_gap_and_counts_the_exact_ones():
    figure = plots.histogram_of_gaps(np.concatenate([GAPS, np.zeros(7)]), tolerance=1e-6)
    [axes] = figure.axes
    assert sum(patch.get_height() for patch in axes.patches) == len(GAPS)
    assert "7 exactly 0" in figure.legends[0].get_texts()[0].get_text()
    assert axes.get_xlim()[1] > 1e-6


def test_a_histogram_of_exact_agreement_alone_can_be_drawn(tmp_path):
    assert plots.save(plots.histogram_of_gaps(np.zeros(5)), tmp_path / "f.png").exists()


def test_gap_curves_hold_every_pair_in_its_panel():
    lines = {"a": [(0.1, 3.0), (1.0, 1e-12)], "b": [(0.5, 2.0)]}
    left, right = plots.gap_curves({"one": lines, "other": {"c": [(0.2, 0.3)]}}).axes
    assert [line.get_label() for line in left.lines] == ["a", "b"]
    assert [list(zip(*line.get_data(), strict=True)) for line in (*left.lines, *right.lines)] == [
        [(0.1, 3.0), (1.0, 1e-12)], [(0.5, 2.0)], [(0.2, 0.3)],
    ]  # fmt: skip


def test_the_scatter_shows_each_sign_and_counts_zeros():
    closed, refit = np.array([1.0, 2.0, -3.0, 4.0, 0.0]), np.array([1.0, 2.0, -3.0, -4.0, 1.0])
    [axes] = plots.closed_vs_refit(closed, refit).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "positive: 2", "negative: 1", "signs differ: 1", "a zero (not shown): 1",
    ]  # fmt: skip
    points = np.concatenate([np.asarray(group.get_offsets()) for group in axes.collections])
    assert sorted(points[:, 0]) == [1.0, 2.0, 3.0, 4.0]


def test_bars_are_the_largest_magnitudes_with_the_largest_on_top():
    [axes] = plots.influential_rows(list("abcd"), [0.1, -3.0, 2.0, 0.5], top=3).axes
    assert [label.get_text() for label in axes.get_yticklabels()][::-1] == ["b", "c", "d"]
    assert [bar.get_width() for bar in axes.patches][::-1] == [-3.0, 2.0, 0.5]


@pytest.mark.parametrize(("scale", "power"), [(1e-6, -6), (1.0, None), (1e7, 7)])
def test_awkward_magnitudes_take_their_power_of_ten_out_of_the_axis(scale, power):
    figure = plots.influential_rows(["a", "b"], [1.5 * scale, -1.0 * scale], unit="K")
    label = figure.get_supxlabel()
    assert (f"10^{{{power}}}" in label) if power else (label == "K")
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([-1.0, 1.5])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.histogram_of_gaps([]), "0 values"),
        (lambda: plots.histogram_of_gaps([1.0, np.nan]), "1 of them not finite"),
        (lambda: plots.closed_vs_refit([1.0], [1.0, 2.0]), "1 entries and refit 2"),
        (lambda: plots.influential_rows(["a"], [1.0, 2.0]), "1 names for 2 values"),
        (lambda: plots.gap_curves({"a": {}}), "panel without lines"),
        (lambda: plots.responses_against_refits({}, of="loss"), "no panel"),
        (lambda: plots.gap_curves({"a": {"b": [(0.1, np.inf)]}}), "a, b has 1 values, 1 of them not finite"),
    ],
)
def test_unusable_arrays_are_refused(draw, message):
    with pytest.raises(InputError, match=message):
        draw()


def test_an_unknown_format_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(InputError, match=r"no such figure format as 'bmpx'"):
        plots.save(plots.histogram_of_gaps(GAPS), tmp_path / "f.bmpx")
    assert not list(tmp_path.iterdir())


def test_steering_draws_one_mark_an_observable_and_refuses_nothing_to_draw():
    figure = plots.steering({"one": [0.9, 1.0, 1.1], "other": [1.0, 1.0, 1.0]})
    drawn = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
    assert [len(line.get_xdata()) for line in drawn] == [3, 3]
    with pytest.raises(InputError):
        plots.steering({})

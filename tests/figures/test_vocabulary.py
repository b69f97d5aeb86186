"""The vocabulary: what is drawn is what the table says, with the judge's interval."""

import numpy as np
import pandas as pd
import pytest
import torch

from fourfold import figures
from fourfold.figures import vocabulary
from fourfold.judging import records, rule

MEAN = records.Criterion(what="gain", statistic="mean", reproduced_if="> 0", resolution=0.01)


def test_tidy_has_a_row_for_every_number():
    nested = {"a": {"x": [1, 2], "y": 3.0}, "b": {"x": torch.tensor([4.0, 5.0])}}
    frame = figures.tidy(nested, "arm", "task", "accuracy")
    assert frame.values.tolist() == [
        ["a", "x", 1.0], ["a", "x", 2.0], ["a", "y", 3.0], ["b", "x", 4.0], ["b", "x", 5.0]
    ]  # fmt: skip
    assert list(frame) == ["arm", "task", "accuracy"]


def test_tidy_follows_curves():
    frame = figures.tidy({"a": [[1, 2], [3, 4]]}, "arm", "loss", along=("epoch", [10, 20]))
    assert frame.values.tolist() == [["a", 10, 1.0], ["a", 20, 2.0], ["a", 10, 3.0], ["a", 20, 4.0]]
    counted = figures.tidy({"a": [[1, 2], [3, 4]]}, "arm", "loss", along="epoch")
    assert counted["epoch"].tolist() == [1, 2, 1, 2]
    assert counted["loss"].tolist() == frame["loss"].tolist()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: figures.tidy({"a": 1}, "arm", "task", "value"), "no keys for 'task', got int"),
        (lambda: figures.tidy({"a": [1]}, "arm", "v", along=("x", [1, 2])), r"expected 2 points along 'x'"),
        (lambda: figures.tidy({"a": 1}, "arm", "v", along="x"), r"expected 0 points along 'x', got \(\)"),
        (lambda: figures.seeds(pd.DataFrame({"a": [1]}), "b", by="a"), "no column 'b'; there are a"),
        (lambda: figures.lines(pd.DataFrame({"a": []}), "a", "a"), "no rows"),
        (lambda: figures.pictures({}), "at least one picture"),
        (
            lambda: figures.points(pd.DataFrame({"a": range(8)}), "a", "a", by="a"),
            "a: at most 7 can be told apart, got 8",
        ),
        (lambda: figures.pictures({"a": np.eye(2)}, scale="all"), "'shared', 'each', 'row'"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_the_interval_is_the_judges():
    values = [0.1, 0.4, 0.2, 0.6]
    judged = rule.estimate(MEAN, values)
    assert vocabulary.interval(pd.Series(values)) == pytest.approx((judged.low, judged.high))
    assert vocabulary.interval(pd.Series(values[:2])) == pytest.approx((0.25, 0.25))


def test_every_seed_is_a_dot_in_its_row():
    frame = figures.tidy({"a": [1, 2, 3], "b": [4, 5]}, "arm", "gain")
    (axes,) = figures.seeds(frame, "gain", by="arm", at=2.5).axes
    dots = [tuple(xy) for dots in axes.collections for xy in dots.get_offsets().tolist()]
    assert sorted(dots) == [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_xlabel() == "gain"
    assert any(line.get_xdata()[0] == 2.5 for line in axes.lines)


def test_seeds_draws_nothing_of_nothing():
    frame = figures.tidy({name: [1, 2, 3] for name in "abcde"}, "arm", "gain")
    (axes,) = figures.seeds(frame, "gain", by="arm").axes
    assert len(axes.lines) == 2 * 5  # a mean and an interval


def test_a_hue_is_named_below_and_stands_apart_only_where_rows_have_several():
    both = figures.tidy({"a": {"x": [1], "y": [2]}, "b": {"x": [3], "y": [4]}}, "row", "kind", "gain")
    apart = figures.seeds(both, "gain", by="row", hue="kind")
    assert [name.get_text() for name in apart.legends[0].get_texts()] == ["x", "y"]
    alone = figures.seeds(both.iloc[[0, 3]], "gain", by="row", hue="kind")
    assert [name.get_text() for name in alone.legends[0].get_texts()] == ["x", "y"]
    places = [xy for dots in alone.axes[0].collections for xy in dots.get_offsets().tolist()]
    assert sorted(places) == [[1, 0], [4, 1]]
    assert alone.get_figheight() < apart.get_figheight()


def test_a_long_name_breaks_under_narrow_panels():
    name = "share of power above 0.25 cycles per token"
    frame = figures.tidy({panel: {"a": [1, 2, 3]} for panel in "pqrs"}, "panel", "arm", name)
    assert "\n" not in figures.seeds(frame, name, by="arm").axes[0].get_xlabel()
    for axes in figures.seeds(frame, name, by="arm", panel="panel").axes:
        assert axes.get_xlabel().replace("\n", " ") == name
        assert axes.xaxis.label.get_window_extent().width < axes.get_figure().bbox.width / 4


def test_rows_of_pictures_are_as_tall_as_their_own():
    wide, square = np.eye(2, 6), np.eye(6)
    figure = figures.pictures({"a": {"x": wide}, "b": {"x": square}})
    assert figure.axes[0].get_gridspec().get_height_ratios()[0] < 1.5


def test_panels_share_a_scale_and_have_their_own_threshold():
    frame = figures.tidy({"p": {"a": [1, 2, 3]}, "q": {"a": [4, 5, 6]}}, "task", "arm", "gain")
    left, right = figures.seeds(frame, "gain", by="arm", panel="task", at={"q": 5.0}).axes
    assert (left.get_title(), right.get_title()) == ("p", "q")
    assert not left.texts
    assert [note.get_text() for note in right.texts] == ["threshold"]


def test_a_fit_names_its_exponent():
    frame = figures.tidy({"quadratic": [1, 4, 16, 64]}, "cost", "time", along=("n", [1, 2, 4, 8]))
    (axes,) = figures.lines(frame, "n", "time", by="cost", log="xy", fit=True).axes
    assert "quadratic: slope 2.00 [2.00, 2.00]" in [line.get_label() for line in axes.lines]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_a_curve_is_the_mean_over_seeds():
    frame = figures.tidy({"a": [[1, 2], [3, 4]]}, "arm", "loss", along=("epoch", [1, 2]))
    (axes,) = figures.lines(frame, "epoch", "loss", by="arm").axes
    assert axes.lines[0].get_ydata().tolist() == [2, 3]


def test_a_shared_scale_serves_all_pictures_and_a_signed_one_is_centred():
    shown = figures.pictures({"a": np.full((2, 2), 3.0), "b": np.full((2, 2), -1.0)}, colours=figures.SIGNED)
    assert {image.get_clim() for axes in shown.axes for image in axes.images} == {(-3.0, 3.0)}
    each = figures.pictures({"row": {"a": np.eye(2), "b": 5 * np.eye(2)}}, scale="each")
    assert [axes.images[0].get_clim() for axes in each.axes] == [(0.0, 1.0), (0.0, 5.0)]


def test_a_bar_says_its_number_beyond_its_interval():
    frame = figures.tidy({"a": [1.0, 2.0, 3.0]}, "arm", "gain")
    (axes,) = figures.bars(frame, "gain", by="arm").axes
    (note,) = axes.texts
    _, high = vocabulary.interval(frame["gain"])
    assert note.get_text() == "2"
    assert note.xy[0] == pytest.approx(high)


def test_rows_of_panels_name_rows_at_the_left_and_panels_above():
    nested = {r: {p: {"a": [1, 2]} for p in "xy"} for r in ("before", "after")}
    frame = figures.tidy(nested, "state", "net", "curve", "gain", along=("layer", [1, 2]))
    grid = figures.lines(frame, "layer", "gain", by="curve", panel="net", row="state").axes
    assert [axes.get_title() for axes in grid] == ["x", "y", "", ""]
    assert [axes.get_ylabel() for axes in grid] == ["before", "", "after", ""]
    assert [axes.get_xlabel() for axes in grid] == ["", "", "layer", "layer"]
    alone = figures.lines(frame[frame["net"] == "x"], "layer", "gain", row="state")
    assert [axes.get_title() for axes in alone.axes] == ["before", "after"]
    assert alone.get_supylabel() == "gain"


def test_each_has_a_line_of_its_own():
    frame = figures.tidy({"1": [1, 2], "2": [3, 4]}, "seed", "gain", along=("step", [1, 2]))
    (axes,) = figures.lines(frame, "step", "gain", each="seed").axes
    assert sorted(line.get_ydata().tolist() for line in axes.lines) == [[1, 2], [3, 4]]


def test_dotted_lines_have_the_names_that_they_are_given():
    frame = figures.tidy(
        {"p": {"a": [1, 2]}, "q": {"a": [3, 4]}}, "panel", "arm", "gain", along=("f", [0, 1])
    )
    look = {"at": (1, 2), "at_text": "{:+.1f}", "at_x": {"Nyquist": 0.5}, "limits": {"q": (0, 5)}}
    left, right = figures.lines(frame, "f", "gain", by="arm", panel="panel", sharey=False, **look).axes
    assert [note.get_text() for note in left.texts] == ["+1.0", "+2.0", "Nyquist"]
    assert right.get_ylim() == (0, 5)
    assert left.get_ylim() != (0, 5)
    only = figures.lines(frame, "f", "gain", panel="panel", log={"q": "y"}, sharey=False).axes
    assert [axes.get_yscale() for axes in only] == ["linear", "log"]


def test_rings_are_the_first_and_around_the_others():
    frame = figures.tidy({"printed": {"a": 1}, "counted": {"a": 1.1}}, "source", "net", "size")
    (axes,) = figures.points(frame, "size", "net", by="source", rings=True).axes
    ring, dot = axes.lines
    assert (ring.get_fillstyle(), dot.get_fillstyle()) == ("none", "full")
    assert ring.get_markersize() > dot.get_markersize()


def test_a_row_or_a_title_has_its_own_scale_colours_and_bar():
    shown = figures.pictures(
        {"size": {"a": np.eye(2), "b": 3 * np.eye(2)}, "error": {"a": np.eye(2), "b": -2 * np.eye(2)}},
        scale={"b": (0, 9)},
        colours={"error": figures.SIGNED},
        unit={"error": "error, K"},
    )
    pictures = [axes.images[0] for axes in shown.axes if axes.images]
    assert [picture.get_clim() for picture in pictures] == [(0, 1), (0, 9), (-1, 1), (0, 9)]
    assert [picture.get_cmap().name for picture in pictures] == ["gray", "gray", "RdBu_r", "RdBu_r"]
    assert [axes.get_ylabel() for axes in shown.axes if not axes.images] == ["error, K"]
    assert [axes.get_title() for axes in shown.axes if axes.images] == ["a", "b", "", ""]


def test_a_long_title_is_as_wide_as_its_picture():
    shown = figures.pictures({f"a network with a long name {i}": np.eye(2) for i in range(5)})
    for axes in shown.axes:
        assert axes.title.get_window_extent().width < 1.1 * shown.bbox.width / 5


def test_tables_side_by_side_share_a_scale():
    tables = {"p": pd.DataFrame([[1.0, 2.0]]), "q": pd.DataFrame([[np.nan, 8.0]])}
    shown = figures.heatmap(tables, label="share", log=True)
    left, right, _ = shown.axes
    assert (left.get_title(), right.get_title()) == ("p", "q")
    assert left.collections[0].get_clim() == right.collections[0].get_clim() == (1, 8)


def test_names_at_the_left_lie_inside_the_picture():
    frame = figures.tidy({"a second path at minus 60 decibels": [1, 2], "b": [3, 4]}, "arm", "gain")
    figure = figures.seeds(frame, "gain", by="arm")
    figures.settle(figure)
    assert min(text.get_window_extent().x0 for text in figure.axes[0].get_yticklabels()) >= 2


def test_names_of_columns_stand_upright_where_they_would_run_into_one_another():
    def turned(names):
        axes = figures.heatmap(pd.DataFrame([range(8)], columns=list(names)), label="share").axes[0]
        return {label.get_rotation() for label in axes.get_xticklabels()}

    assert turned("abcdefgh") == {0}
    assert turned(["a long name"] * 8) == {90}

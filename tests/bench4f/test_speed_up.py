import json
import random
import re

import pytest
import quickjs
from bs4 import BeautifulSoup

from fourfold import figures
from fourfold.bench4f import light, speed_up, throughput
from fourfold.book import commands

SCRIPT = commands.ROOT / "book" / "_static" / "speed_up.js"
CONTROLS = {
    "plane": speed_up.PLANES,
    "rate": speed_up.RATES,
    "batch": speed_up.BATCHES,
    "gpu": speed_up.GPUS,
    "converters": speed_up.CONVERTERS,
    "sample": speed_up.SAMPLES,
}
FREE = ("plane", "rate", "batch", "gpu")
HELD = (*FREE, "converters")
SPENT = ("plane", "batch", "gpu", "sample")


def pick(state, names):
    return {name: state[name] for name in names}


CLAIM = pick(speed_up.CLAIM, FREE)


@pytest.fixture(scope="module")
def made():
    return speed_up.speed_up_figure()


@pytest.fixture(scope="module")
def page(made):
    plot, rest = made
    mimes = figures.show(plot, **rest, caption="c", alt="a")._repr_mimebundle_()
    assert len(mimes["text/html"]) < 60_000
    return BeautifulSoup(mimes["text/html"], "html.parser")


@pytest.fixture(scope="module")
def carried(page):
    """What the sliders read, as the page's script finds it."""
    (element,) = page.find_all("script")
    assert element["class"] == ["interactive"]
    return json.loads(element.text)


@pytest.fixture(scope="module")
def script():
    """Call a function of speed_up.js, in an engine that has no page."""
    engine = quickjs.Context()
    engine.eval(SCRIPT.read_text(encoding="utf-8"))

    def call(function, *arguments):
        written = ",".join(json.dumps(argument) for argument in arguments)
        return json.loads(engine.eval(f"JSON.stringify(fourfoldFigures['speed-up'].{function}({written}))"))

    return call


def states(count, seed=0):
    draw = random.Random(seed)
    return [{name: draw.choice(values) for name, values in CONTROLS.items()} for _ in range(count)]


@pytest.mark.parametrize(("way", "how"), [(way, how) for way, (how, _, _) in speed_up.WAYS.items()])
def test_table_is_light_passes_everywhere(made, way, how):
    data = made[1]["data"]
    assert data["passesPerProduct"] == 2
    for i, plane in enumerate(data["planes"]):
        for j, batch in enumerate(data["batches"]):
            counted = throughput.passes(speed_up.SHAPE, throughput.Bench4f(plane, 1e6), batch, **how)
            assert data["passes"][way][i][j] == sum(counted.values()), (plane, batch)


def test_grid_holds_the_paper_and_its_planes():
    assert {1080, 2160, 4320} < set(speed_up.PLANES)
    assert all(speed_up.CLAIM[name] in values for name, values in CONTROLS.items())
    full = {light.capacity(plane, 8) // 145 for plane in (256, 512, 1080, 2160, 4320)}
    assert full | {1, 2048} <= set(speed_up.BATCHES)


def test_paper_stands_where_its_factor_holds():
    assert f"{speed_up.speed_up(**CLAIM):.2f}" == "3.04"
    assert speed_up.CLAIM["batch"] == light.capacity(2160, 8) // 145
    assert round(1e6 / speed_up.CLAIM["gpu"]) == 439


def test_samples_beside_the_filter_depend_on_the_plane_alone(made):
    data = made[1]["data"]
    for plane, samples in zip(data["planes"], data["samples"], strict=True):
        for batch in speed_up.BATCHES:
            bench = throughput.Bench4f(plane, 1e6)
            counted = throughput.conversion_samples(speed_up.SHAPE, bench, batch)
            assert throughput.total_samples(counted, "display", "camera") == batch * samples


def test_factor_with_conversion_and_the_rate_from_which_it_survives():
    converted = {rate: speed_up.speed_up(**CLAIM, converters=rate) for rate in (270, 3651, 3652, 10_000)}
    assert f"{converted[270]:.3f}" == "0.225"
    assert converted[3651] < speed_up.FACTOR < converted[3652] < converted[10_000]
    assert converted[10_000] == speed_up.speed_up(**CLAIM)
    assert speed_up.CLAIM["converters"] == 3 * throughput.CONVERTER_HZ / 1e9
    assert speed_up.CLAIM["sample"] == round(1e12 * throughput.CONVERTER_J, 1)


def test_energies_of_the_paper_s_point():
    energies = speed_up.joules(**pick(speed_up.CLAIM, SPENT))
    assert {part: f"{1e3 * j:.3g} mJ" for part, j in energies.items()} == {
        "conversion": "3.9 mJ", "light": "0.00251 mJ", "gpu": "30.7 mJ"
    }  # fmt: skip


def test_without_sharing_or_tiling_it_is_slower_than_that_gpu():
    for way in ("unshared", "naive"):
        assert all(speed_up.speed_up(2160, 1e6, b, 2278, way) < 1 for b in speed_up.BATCHES), way


def test_curves_stand_at_the_start(made):
    bench = throughput.Bench4f(2160, 1e6)
    left, right, *_ = made[0].axes
    for x, y in zip(*left.lines[0].get_data(), strict=True):
        seconds = throughput.seconds_per_image(speed_up.SHAPE, bench, int(x))
        assert y == pytest.approx(1 / (2278 * seconds))
    for x, y in zip(*right.lines[0].get_data(), strict=True):
        seconds = throughput.seconds_per_image(speed_up.SHAPE, throughput.Bench4f(int(x), 1e6), 502)
        assert y == pytest.approx(1 / (2278 * seconds))


def drawn(page, part):
    """The points of a part of the drawing, in its own units."""
    element = page.find(id=f"speed-up-{part}")
    if use := element.find("use"):
        return [[float(use["x"]), float(use["y"])]]
    return points(element.find("path")["d"])


def points(path):
    return [list(map(float, pair)) for pair in re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path)]


class TestScript:
    def test_numbers_are_pythons(self, made, script):
        for state in states(60):
            bench = throughput.Bench4f(state["plane"], state["rate"])
            got = script("numbers", made[1]["data"], state)
            seconds = throughput.seconds_per_image(speed_up.SHAPE, bench, state["batch"])
            assert got["bench"] == pytest.approx(seconds, rel=1e-12)
            assert got["gpu"] == pytest.approx(1 / state["gpu"], rel=1e-12)
            held = throughput.converted_seconds_per_image(
                speed_up.SHAPE, bench, state["batch"], 1e9 * state["converters"]
            )
            assert got["converted"] == pytest.approx(held, rel=1e-12)
            here = speed_up.joules(**pick(state, SPENT))
            assert got["energy"] == pytest.approx({part: here[part] for part in ("conversion", "gpu")})
            for axis in ("batch", "plane"):
                around = [state | {axis: value} for value in CONTROLS[axis]]
                known = {
                    way: [speed_up.speed_up(**pick(one, FREE), way=way) for one in around]
                    for way in speed_up.WAYS
                }
                known["converted"] = [speed_up.speed_up(**pick(one, HELD)) for one in around]
                for part in speed_up.ENERGIES:
                    known[part] = [speed_up.joules(**pick(one, SPENT))[part] for one in around]
                assert got["curves"].keys() == known.keys()
                for name, ys in known.items():
                    assert got["curves"][name][axis] == pytest.approx(ys, rel=1e-12), (name, axis, state)

    def test_at_the_start_it_puts_everything_where_python_drew_it(self, page, carried, script):
        seen = script("view", carried["data"], speed_up.CLAIM)
        for part, path in seen["paths"].items():
            before, after = drawn(page, part), points(path)
            # What leaves the frame is cut by matplotlib, and by the script's clip.
            kept = [place for place in after if place in before or min(map(abs, place)) < 1000]
            assert before[-1] == pytest.approx(kept[-1], abs=0.05), part
        for part, place in seen["points"].items():
            assert drawn(page, part)[0] == pytest.approx(place, abs=0.05)
        for part, text in seen["texts"].items():
            assert page.find(id=f"speed-up-{part}").find("text").text == text

    def test_every_part_that_moves_is_there(self, page, carried, script):
        for state in states(20, seed=2):
            seen = script("view", carried["data"], state)
            for part in [*seen["paths"], *seen["points"], *seen["texts"]]:
                assert page.find(id=f"speed-up-{part}"), part

    def test_point_titles_and_frame_follow(self, carried, script):
        frames = carried["data"]["frames"]
        for state in states(40, seed=1):
            seen = script("view", carried["data"], state)
            for axis in ("batch", "plane"):
                x, y = seen["points"][f"point-{axis}"]
                bottom, top = frames["speed"][axis]["y"]
                assert top < y < bottom, "the point stays in the frame"
                bottom, top = frames["energy"][axis]["y"]
                for part in speed_up.ENERGIES:
                    assert all(top < y < bottom for _, y in points(seen["paths"][f"{part}-{axis}"])), part
                assert [x, y] == pytest.approx(
                    points(seen["paths"][f"converted-{axis}"])[CONTROLS[axis].index(state[axis])], abs=0.01
                )
            assert seen["texts"]["title-batch"] == f"plane of {state['plane']} pixels"
            assert seen["texts"]["title-plane"] == f"batch of {state['batch']}"
            named = [float(seen["texts"][f"decade-{i}"]) for i in range(6)]
            assert named == pytest.approx([named[0] * 10**i for i in range(6)])
            here = speed_up.speed_up(**pick(state, HELD))
            assert named[0] < here < named[-1]

    @pytest.mark.parametrize(
        ("change", "bench", "converted", "energy"),
        [
            ({}, "144 µs {} 439 µs {} bench is 3.04", "1.95 ms: the GPU is 4.45", ("3.9 mJ", "30.7 mJ")),
            ({"converters": 5000}, "144 µs {} 439 µs {} bench is 3.04", "144 µs: the bench is 3.04", None),
            ({"rate": 10_000}, "14.4 ms {} 439 µs {} GPU is 32.9", "14.4 ms: the GPU is 32.9", None),
            ({"rate": 60, "sample": 100}, "2.41 s {} 439 µs {} GPU is 5480", None, ("52.7 mJ", "30.7 mJ")),
            ({"gpu": 7000, "sample": 0.1}, "144 µs {} 143 µs {} GPU is 1.01", None, ("52.7 µJ", "10 mJ")),
        ],
    )
    def test_finding_in_words(self, carried, script, change, bench, converted, energy):
        finding = script("view", carried["data"], speed_up.CLAIM | change)["finding"]
        first, second, third, *rest = re.split(r"(?<=[a-z])\. ?", finding)
        assert first == f"At this point an image takes {bench} times faster".format(
            "on the bench and", "on the GPU: the"
        )
        assert second.startswith("With conversion it takes ")
        if converted:
            assert second == f"With conversion it takes {converted} times faster"
        assert third.startswith("Conversion costs ")
        if energy:
            assert third == "Conversion costs {} an image, the GPU {}.".format(*energy)
        assert not rest

    def test_equal_is_not_called_faster(self, carried, script):
        alike = 1 / throughput.seconds_per_image(speed_up.SHAPE, throughput.Bench4f(2160, 1e6), 502)
        for gpu in (alike, alike * 1.001, alike / 1.001):
            finding = script("view", carried["data"], speed_up.CLAIM | {"gpu": gpu})["finding"]
            assert "on the GPU: both are equally fast. With" in finding


class TestControls:
    def test_every_slider_has_a_label_and_speaks_its_value(self, page):
        sliders = page.select("input[type=range]")
        assert [slider["name"] for slider in sliders] == list(CONTROLS)
        for slider in sliders:
            assert page.select_one(f"label[for={slider['id']}]").text.strip()
            output = slider.find_next_sibling()
            assert (output.name, output["for"]) == ("output", [slider["id"]])
            assert output.text == slider["aria-valuetext"] != ""
        assert page.select_one(".finding")["aria-live"] == "polite"

    def test_steps_of_the_script_are_the_sliders(self, page, carried):
        for slider in page.select("input[type=range]"):
            control = carried["controls"][slider["name"]]
            assert tuple(control["values"]) == CONTROLS[slider["name"]]
            assert (slider["min"], slider["max"]) == ("0", str(len(control["values"]) - 1))
            assert control["values"][int(slider["value"])] == speed_up.CLAIM[slider["name"]]
            assert control["texts"][int(slider["value"])] == slider["aria-valuetext"]

    def test_values_are_written_as_in_the_book(self):
        texts = figures.Control("rate", "Rate", [0.5, 60, 1000, 10_000, 1_000_000], 60, "Hz").texts
        assert [t.replace("\N{NO-BREAK SPACE}", " ") for t in texts] == [
            "0.5 Hz", "60 Hz", "1000 Hz", "10 000 Hz", "1 000 000 Hz"
        ]  # fmt: skip
        assert figures.Control("batch", "Batch", [1, 2], 2).texts == ["1", "2"]

    def test_cannot_break_out_of_the_page(self):
        control = figures.Control("size", "<b>'", [1, 2], 1, "</script>'")
        figure, _ = figures.canvas()
        words = {"name": "one", "caption": "c", "alt": "a"}
        shown = figures.show(figure, **words, controls=[control], data={"x": "</script>"})
        text = shown._repr_mimebundle_()["text/html"]
        assert text.count("</script>") == 1
        assert "<b>" not in text
        assert "aria-valuetext='1 &lt;/script&gt;&#x27;'" in text

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"name": "Frame Rate"}, "lower-case words"),
            ({"label": " "}, "needs a label"),
            ({"values": [1], "start": 1}, "at least two, rising"),
            ({"values": [1, 3, 2]}, "at least two, rising"),
            ({"values": [1, 1, 2]}, "at least two, rising"),
            ({"values": [1, 2, float("inf")]}, "at least two, rising"),
            ({"values": [1, float("nan"), 2]}, "at least two, rising"),
            ({"start": 5}, "expected one of"),
        ],
    )
    def test_bad_control_is_refused(self, change, match):
        with pytest.raises(ValueError, match=match):
            figures.Control(**({"name": "rate", "label": "Rate", "values": [1, 2, 3], "start": 1} | change))

    @pytest.mark.parametrize(
        ("more", "match"),
        [
            ({"controls": [figures.Control("a", "A", [1, 2], 1)] * 2}, "expected different names"),
            ({"data": {}}, "no controls"),
            (
                {"controls": [figures.Control("a", "A", [1, 2], 1)], "data": {"x": float("nan")}},
                "not JSON compliant",
            ),
        ],
    )
    def test_bad_figure_is_refused(self, more, match):
        with pytest.raises(ValueError, match=match):
            figures.show(figures.canvas()[0], name="one", caption="c", alt="a", **more)

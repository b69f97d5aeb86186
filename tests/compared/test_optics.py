"""Simulators side by side: an ideal bench in closed form, whom each agrees with, and how a race goes."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from fourfold.compared import optics, optics_peers
from fourfold.compared.optics_peers import CONTESTANTS, error, given, scene, truth, turned
from fourfold.judging import records
from fourfold.recorded.contestants import Absent, Worker, environment

from .kept import loaded

SIDE = 32
BOOK = [name for name, one in CONTESTANTS.items() if one.environment == "book"]


def script():
    """``benchmarks/optics_compared.py`` as a module."""
    path = records.ROOT / "benchmarks" / "optics_compared.py"
    spec = importlib.util.spec_from_file_location("optics_compared", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the ideal bench ----------------------------------------------------------------------------------------


def test_the_layer_s_truth_is_torch_s_and_so_are_its_gradients():
    arrays = scene("layer", SIDE)
    image, kernel, weights = (torch.from_numpy(array)[None, None] for array in arrays.values())
    image.requires_grad_()
    kernel.requires_grad_()
    expected = conv2d(image, kernel, padding=4)
    answer, gradients = truth("layer", arrays)
    assert error(answer, expected.detach().numpy()[0, 0]) < 1e-14
    for found, there in zip(
        gradients, torch.autograd.grad((weights * expected).sum(), (image, kernel)), strict=True
    ):
        assert error(found, there.numpy()[0, 0]) < 1e-13


@pytest.mark.parametrize("axis", [0.0, 0.5])
def test_the_field_s_truth_is_a_sum_over_waves_and_its_gradient_a_difference(axis):
    arrays = scene("field", 16, axis)
    x = np.arange(16)
    waves = np.exp(2j * np.pi * np.outer(x, x - 8 + axis) / 16) / 4  # of x, of frequency

    def field(phase):
        spectrum = np.exp(1j * phase) * (waves.conj().T @ arrays["image"] @ waves.conj())
        return waves @ spectrum @ waves.T

    answer, (gradient,) = truth("field", arrays, axis)
    assert error(answer, field(arrays["phase"])) < 1e-13
    step = np.zeros((16, 16))
    step[5, 9] = 1e-5
    up, down = ((arrays["weights"] * np.abs(field(arrays["phase"] + s * step)) ** 2).sum() for s in (1, -1))
    assert (up - down) / 2e-5 == pytest.approx(gradient[5, 9], rel=1e-6)


def test_what_is_turned_twice_is_as_it_was_and_the_axis_stays():
    field = np.arange(64.0).reshape(8, 8)
    for axis in (0.0, 0.5):
        assert np.array_equal(turned(turned(field, axis), axis), field)
    assert turned(field)[4, 4] == field[4, 4]
    assert turned(field, 0.5)[3, 4] == field[4, 3]


def test_an_error_does_not_see_a_shared_phase_and_sees_all_else():
    field = scene("field", 16)["image"] * np.exp(1j * scene("field", 16)["phase"])
    assert error(field * np.exp(2j), field) < 1e-15
    assert error(np.abs(field), field) == 0  # a camera
    assert error(0.5 * field, field) == pytest.approx(0.5)
    assert error(np.roll(field, 1, 0), field) > 0.1


@pytest.mark.parametrize(
    ("task", "side", "message"),
    [
        ("lens", 64, "task must be 'field' or 'layer', got 'lens'"),
        ("field", 65, "side must be a multiple of 4 and >= 16 pixels, got 65"),
        ("layer", 8, "got 8"),
    ],
)
def test_a_scene_that_cannot_be_is_refused(task, side, message):
    with pytest.raises(ValueError, match=message):
        scene(task, side)


@pytest.mark.parametrize(
    ("name", "side", "precision", "message"),
    [
        ("the eye", SIDE, "float32", "contestant must be one of two FFTs, torch, .*got 'the eye'"),
        ("optnn", SIDE, "float32", "precision must be one of float64, got 'float32'"),
        ("torchoptics, padded", 1024, "float64", "side must be at most 256 pixels for torchoptics, padded"),
    ],
)
def test_a_contestant_is_not_given_what_it_cannot_do(name, side, precision, message):
    with pytest.raises(ValueError, match=message):
        given(name, side, precision)


# --- who agrees ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", BOOK)
def test_a_simulator_of_the_lock_gives_the_ideal_answer_and_gradient(name):
    one = CONTESTANTS[name]
    # Light that leaves a small plane past the lenses is lost, or comes back: that is no mistake.
    side, rough = (64, 2e-2) if one.axis else (SIDE, 0.0)
    answer, gradients = truth(one.task, scene(one.task, side, one.axis), one.axis)
    for precision in one.precisions:
        allowed = max(rough, 1e-9 if precision == "float64" else 1e-5)
        calls = one.make(given(name, side, precision), precision)
        found = optics_peers._numpy(calls.forward())
        assert error(turned(found, one.axis) if one.turned else found, answer) < allowed
        for there, expected in zip(map(optics_peers._numpy, calls.backward()), gradients, strict=True):
            assert error(np.fft.fftshift(there) if one.fft_order else there, expected) < 5 * max(
                allowed, rough
            )


def test_optnn_s_padding_is_enough_for_the_kernel_and_for_no_larger_one(monkeypatch):
    for taps, wrong in ((9, False), (11, True)):
        monkeypatch.setattr(optics_peers, "KERNEL", taps)
        answer, _ = truth("layer", scene("layer", SIDE))
        calls = CONTESTANTS["optnn, layer"].make(given("optnn, layer", SIDE, "float32"), "float32")
        assert (error(optics_peers._numpy(calls.forward()), answer) > 1e-3) == wrong


# --- the race -----------------------------------------------------------------------------------------------


def test_a_race_compares_answers_first_and_then_times_in_turns(monkeypatch):
    race, asked = script(), []
    monkeypatch.setattr(race, "AT_LEAST", 1e-4)
    names = ("fourfold, fields", "torchoptics")
    with Worker(environment("book"), race.WORKER) as one, Worker(environment("book"), race.WORKER) as two:
        workers = dict(zip(names, (one, two), strict=True))
        rows = race.race(workers, 64, "float64", rounds=3)
        for row in rows.values():
            assert len(row["rounds_forward"]) == len(row["rounds_backward"]) == 3
            assert min(row["rounds_forward"] + row["rounds_backward"]) > 0
            assert row["first"].keys() == {"make", "forward", "backward"}
        assert rows["torchoptics"]["version"] == "1.0.2"
        json.dumps(rows)

        monkeypatch.setattr(race, "AGREES", 1e-9)
        rows = race.race(workers, 64, "float64", rounds=1)
        assert rows["torchoptics"]["untimed"].startswith("it is off by 0.")
        assert "rounds_forward" not in rows["torchoptics"]
        assert "untimed" not in rows["fourfold, fields"]

        monkeypatch.setattr(one, "ask", lambda question, **_: asked.append(question) or two.ask("fly"))
        rows = race.race(workers, 64, "float64", rounds=1)
        assert "question must be one of" in rows["fourfold, fields"]["untimed"]
        assert asked == ["prepare"], "who failed is not asked again"


def test_a_simulator_that_is_missing_is_a_reason_and_no_crash(monkeypatch):
    race = script()

    def only_the_book(name):
        if name != "book":
            raise Absent("no such package")
        return environment(name)

    monkeypatch.setattr(race, "environment", only_the_book)
    found, absent = race.interpreters(CONTESTANTS)
    assert list(found) == BOOK
    assert absent == dict.fromkeys(CONTESTANTS.keys() - found.keys(), "no such package")


def test_memory_is_measured_in_a_fresh_process_the_same_way_for_all(monkeypatch):
    race = script()
    monkeypatch.setattr(race, "MEMORY_AT", 512)
    rows = race.memory({"two FFTs, torch": environment("book")})
    plane = 16 * 512**2
    assert 2 * plane < rows["two FFTs, torch"]["forward"] < 10 * plane
    assert rows["two FFTs, torch"]["forward"] < rows["two FFTs, torch"]["backward"]


# --- the record ---------------------------------------------------------------------------------------------


def test_whoever_is_timed_in_the_record_agrees_with_the_ideal_bench():
    record = loaded("optics_compared")
    race = script()
    for row in record["rows"]["times"].values():
        if "untimed" not in row:
            assert max(row["error"], *row["gradient_errors"]) <= race.AGREES
            assert len(row["rounds_forward"]) >= race.FEW_ROUNDS
    for name in CONTESTANTS:
        here = any(row["contestant"] == name for row in record["rows"]["times"].values())
        assert here != (name in record["rows"]["absent"])


def test_in_double_precision_exact_waves_agree_with_ours_better_than_with_the_ideal():
    found = optics.erring(loaded("optics_compared"), "field")
    found = found[(found.simulator == "SVETlANNa") & (found.precision == "float64")]
    assert len(found) == 6
    assert (found["exact waves"] < 0.02 * found[optics.ERROR]).all()


def test_tables_have_a_row_for_everyone_and_say_who_is_missing():
    record = loaded("optics_compared")
    names = {optics.name(name) for name, one in CONTESTANTS.items() if one.task == "field"}
    table = optics.table(record, "field", 1024)
    assert {one.removesuffix(", on 256") for one in table.simulator} == names
    assert set(table["on a GPU"]) == {"not measured: none at hand"}
    for name, reason in record["rows"]["absent"].items():
        row = table[table.simulator == name].iloc[0]
        assert (row["forward, ms"], row["planes held"]) == ("–", "–")
        assert optics.untimed(record)[name].startswith(reason)
    with pytest.raises(ValueError, match="task must be one of 'field', 'layer', got 'lens'"):
        optics.timed(record, "lens")

"""The 4f bench as a layer: field by field, unsplit, with optnn's noise, in networks; and its controls."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from fourfold import training
from fourfold.bench4f.camera import Noise
from fourfold.bench4f.optical_conv import OpticalConv2d, forget, optical_conv2d
from fourfold.bench4f.propagation import Bench
from fourfold.data import probes
from fourfold.judging import records
from fourfold.judging.card import judge
from fourfold.judging.parameters import ParameterError, validate
from fourfold.optics import four_f
from fourfold.optics.convsharevit import convsharevit
from fourfold.recorded import benchmark

from ..draws import normal

RECORD = records.load("four_f")


def no_gradient(ctx, gradient):
    """The gradient of a pass of light does not reach the kernels."""
    x, weight = ctx.saved_tensors
    return torch.zeros_like(x), torch.zeros_like(weight), *[None] * 7


def lost_signs(light, x, weight, bias=None, **geometry):
    """With few photons or bits the camera reads |U| of images and kernels as they are: signs are lost."""
    if light.how["noise"] == Noise():  # what the claim compares with stays as it is
        return optical_conv2d(x, weight, bias, **geometry, **light.how)
    return four_f.UnsplitLight.convolve(light, x, weight, bias, **geometry)


MUTATIONS = [
    ("fourfold.bench4f.optical_conv._Camera.backward", no_gradient),
    ("Light.convolve", lost_signs),
]


# --- waves against what they should compute -----------------------------------------------------------------


def stream():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("n", [8, 50, 96])
def test_the_identities_hold_on_even_planes_at_the_critical_pitch_alone(n):
    errors = four_f.identity_errors(n, 532e-9, 0.01, stream())
    assert max(errors["lens"], errors["bench"]) < 1e-12
    assert errors["stretched"] > 0.05
    assert four_f.odd_plane_error(n + 1, 532e-9, 0.01, stream()) > 0.1
    with pytest.raises(ValueError, match=f"n must be odd, got {n}"):
        four_f.odd_plane_error(n, 532e-9, 0.01, stream())
    with pytest.raises(ValueError, match="n must be even"):
        four_f.identity_errors(n + 1, 532e-9, 0.01, stream())


def test_every_departure_from_an_ideal_bench_shows_and_fresnels_does_not():
    errors = four_f.flawed_errors(64, 532e-9, 0.01, stream())
    assert errors.pop("Fresnel, as simulators have it") < 1e-12
    assert len(errors) == 4
    assert min(errors.values()) > 1e-6
    assert len(four_f.flawed_errors(1024, 532e-9, 0.01, stream())) == 2


def test_where_it_is_dark_there_is_no_phase():
    field = torch.tensor([[2j, -0.2], [0.001, 0]], dtype=torch.complex128)
    amplitude, phase = four_f.amplitude_and_phase(field)
    torch.testing.assert_close(amplitude, torch.tensor([[0.0, -1], [-2, -2]], dtype=torch.float64))
    torch.testing.assert_close(phase[0], torch.tensor([math.pi / 2, math.pi], dtype=torch.float64))
    assert phase[1].isnan().all()


# --- the same layer, three ways -----------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(8, 3), (9, 3), (16, 5), (10, 10), (7, 4), (12, 1)])
def test_field_by_field_is_the_engine_and_conv2d(n, k):
    x, weight = normal(2, 3, n, n).abs(), normal(4, 3, k, k, seed=1)
    slow = four_f.field_by_field(x, weight, torch.complex128)
    torch.testing.assert_close(slow, optical_conv2d(x, weight, padding="same"), rtol=0, atol=1e-11)
    if k % 2:
        torch.testing.assert_close(slow, conv2d(x, weight, padding="same"), rtol=0, atol=1e-11)
    single = four_f.field_by_field(x.float(), weight.float())
    torch.testing.assert_close(single, slow.float(), rtol=0, atol=1e-4)


def test_field_by_field_stands_on_the_bench(monkeypatch):
    """With the pitch of the pixels wrong the layer is wrong: it is computed from waves, not looked up."""
    x, weight = normal(1, 1, 8, 8).abs(), normal(1, 1, 3, 3, seed=1)
    right = four_f.field_by_field(x, weight)
    monkeypatch.setattr(four_f, "Bench", partial(Bench, pitch=3e-5))
    assert (four_f.field_by_field(x, weight) - right).norm() > 0.1 * right.norm()


def test_the_unsplit_camera_loses_the_sign():
    x, weight = normal(2, 3, 8, 8).abs(), normal(4, 3, 3, 3, seed=1)
    seen = four_f.unsplit_conv2d(x, weight)
    assert (seen >= 0).all()
    torch.testing.assert_close(seen, four_f.unsplit_conv2d(x, -weight))
    torch.testing.assert_close(
        four_f.unsplit_conv2d(x, weight.abs()), conv2d(x, weight.abs(), padding="same"), rtol=0, atol=1e-12
    )
    zero_mean = weight - weight.mean((-2, -1), keepdim=True)
    truth = conv2d(x, zero_mean, padding="same")
    assert (four_f.unsplit_conv2d(x, zero_mean) - truth).norm() > truth.norm()  # F2's control
    layer = four_f.UnsplitConv2d(3, 4, 3, padding="same").double()
    expected = four_f.unsplit_conv2d(x, layer.weight) + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected)


def test_fields_before_the_camera_are_passive_and_their_difference_is_conv2d():
    x, weight = 3 * normal(2, 1, 9, 9).abs(), normal(4, 1, 3, 3, seed=1)
    weight[0] = weight[0].abs()  # a kernel without a negative part
    fields, gains = four_f.passive_fields(x, weight)
    assert fields.shape == (2, 2, 4, 7, 7)
    assert gains.shape == (2, 1, 4, 1, 1)
    assert fields.min() >= 0
    assert fields.max() <= 1
    plus, minus = fields * gains
    torch.testing.assert_close(plus - minus, conv2d(x, weight), rtol=0, atol=1e-12)


def test_a_display_of_eight_bits_shows_an_eight_bit_picture_exactly():
    x, weight = (255 * normal(1, 1, 9, 9).abs().clamp(max=1)).round() / 255, normal(2, 1, 3, 3, seed=1)
    x[0, 0, 0, 0] = 1
    seen = optical_conv2d(x, weight, noise=Noise(slm_bits=8))
    torch.testing.assert_close(seen, conv2d(x, weight), rtol=0, atol=1e-12)
    seen = optical_conv2d(0.937 * x + 0.011, weight, noise=Noise(slm_bits=8))
    assert (seen - conv2d(0.937 * x + 0.011, weight)).abs().max() > 1e-3


def test_optnn_doubles_the_picture_where_shot_noise_keeps_it():
    intensity = normal(200, 200).abs().clamp(max=1)
    noisy = four_f.optnn_shot_noise(intensity, torch.Generator().manual_seed(0))
    gain = float((noisy * intensity).sum() / intensity.square().sum())
    assert gain == pytest.approx(2, abs=0.01)


def test_decibel():
    clean = torch.tensor([3.0, 4.0])
    assert four_f.decibel(clean, clean + torch.tensor([0.5, 0.0])) == pytest.approx(20)
    assert four_f.decibel(clean, clean.clone()) == math.inf


def test_pm_loses_less_than_half_a_decibel_to_its_closed_form_and_a_lossy_read_out_would_not():
    x, weight = normal(1, 1, 64, 64).abs(), normal(1, 1, 5, 5, seed=2)
    x /= x.max()
    gains = [part.sum() for part in (weight.clamp(min=0), weight.clamp(max=0))]
    clean, photons = optical_conv2d(x, weight), 1e5
    law = 10 * math.log10(2 * photons * float(clean.square().mean() / (sum(g**2 for g in gains) / 2)))
    noisy = {
        p: optical_conv2d(x, weight, noise=Noise(photons=p), generator=torch.Generator().manual_seed(3))
        for p in (photons, photons / 10)
    }
    assert four_f.decibel(clean, noisy[photons]) == pytest.approx(law, abs=0.5)
    assert four_f.decibel(clean, noisy[photons / 10]) < law - 9


def test_every_read_out_is_conv2d_to_rounding_and_an_unsplit_one_is_not():
    x, weight = normal(2, 3, 8, 8).abs(), normal(4, 3, 3, 3, seed=1)
    assert four_f.read_out_error(x, weight, torch.float64) < 1e-10
    assert 1e-10 < four_f.read_out_error(x, weight, torch.float32) < 1e-5
    # As valid padding has no place for a kernel larger than its image.
    assert four_f.read_out_error(x, normal(4, 3, 9, 9, seed=1), torch.float64) < 1e-10
    assert four_f.unsplit_error(x, weight) > 1


def test_shot_noise_is_flat_and_counts_are_not():
    x, weight = normal(1, 1, 64, 64).abs(), normal(1, 1, 5, 5, seed=2)
    x /= x.max()
    found = four_f.shot_noise(x, weight, [1e3, 1e4, 1e6], stream())
    assert found["std"] == pytest.approx(0.5**0.5, rel=0.05)
    assert found["flat"] == pytest.approx(1, abs=0.15)
    assert found["slope"] == pytest.approx(10, abs=0.3)
    assert found["gain"] == pytest.approx(1, abs=0.02)
    assert found["counts"] > 1.2
    assert found["additive"] == pytest.approx(2, abs=0.05)
    assert set(found["decibels"]) == {*four_f.READ_OUTS, "closed form"}
    assert found["decibels"]["pm"] == pytest.approx(found["decibels"]["closed form"], abs=0.5)
    assert found == four_f.shot_noise(x, weight, [1e3, 1e4, 1e6], stream())


def test_too_few_photons_say_nothing():
    x, weight = normal(1, 1, 16, 16).abs(), normal(1, 1, 3, 3, seed=2)
    found = four_f.shot_noise(x / x.max(), weight, [1e2, 1e3], stream())
    assert [found[name] for name in ("std", "flat", "slope", "gain", "counts")] == [None] * 5
    with pytest.raises(ValueError, match="number of photons must be >= 1, got 0"):
        four_f.shot_noise(x, weight, [], stream())
    assert four_f.per_decade([1e2, 1e3, 1e4], [0.0, 10.0, 21.0]) == pytest.approx(11)
    assert four_f.per_decade([10.0], [0.0]) is None


def test_a_bit_of_the_display_is_worth_six_decibels_and_the_camera_needs_more():
    x, weight = normal(1, 1, 32, 32).abs().clamp(max=1), normal(1, 1, 5, 5, seed=2)
    curves = four_f.few_bits(x, weight, [4, 8])
    assert list(curves) == ["display", "filter", "camera", "a camera of amplitudes"]
    assert (curves["display"][1] - curves["display"][0]) / 4 == pytest.approx(6.02, abs=1)
    for few, many in curves.values():
        assert few < many
    assert max(curves["camera"][1], curves["a camera of amplitudes"][1]) < curves["display"][1]
    with pytest.raises(ValueError, match="bits"):
        four_f.few_bits(x, weight, [0])


# --- networks -----------------------------------------------------------------------------------------------


def test_the_ideal_bench_trains_along_conv2ds_curve_and_an_unsplit_one_does_not():
    learnt, unseen = probes.digits()
    data = training.shuffled(learnt.images[:128].double(), learnt.labels[:128])
    test = unseen.images[None, :64].double(), unseen.labels[None, :64]

    def curve(layer):
        make = partial(four_f.DigitsNet, lambda i, o: layer(i, o, 3, padding="same"))
        return training.train(make, [3], data, test, training.Recipe(4, lr=1e-2), together=False).loss

    reference = curve(nn.Conv2d)
    torch.testing.assert_close(curve(OpticalConv2d), reference, rtol=0, atol=1e-9)
    assert (curve(four_f.UnsplitConv2d) - reference).abs().max() > 1e-2


@pytest.fixture(scope="module")
def vit():
    with training.seeded(1):
        return convsharevit("valid", p=8, tokens=6, classes=4).double()


@pytest.fixture(scope="module")
def tokens():
    return probes.key_recall(5, generator=torch.Generator().manual_seed(0)).tokens.double()


@pytest.mark.parametrize("signed", ["split", "offset"])
@pytest.mark.parametrize("mode", ["pm", "offset", "reference"])
def test_on_an_ideal_bench_a_transformer_is_itself(vit, tokens, mode, signed):
    made = four_f.on_the_bench(vit, four_f.Light(Noise(), mode=mode, signed=signed))
    with torch.no_grad():
        for ours, electronic in zip(made(tokens), vit(tokens), strict=True):
            torch.testing.assert_close(ours, electronic, rtol=0, atol=1e-10)
    assert not any(hasattr(module, "convolve") for module in made.modules() if isinstance(module, nn.Module))
    assert any(hasattr(module, "convolve") for module in vit.modules())  # the original is left alone


def test_every_product_of_the_transformer_meets_the_light(vit, tokens, monkeypatch):
    """If light lets nothing through, nothing depends on the tokens any more."""
    light = four_f.Light(Noise())
    made = four_f.on_the_bench(vit, light)
    calls = []
    convolve = light.convolve

    def counted(x, weight, bias=None, **geometry):
        calls.append(x.shape)
        return convolve(x, weight, bias, **geometry)

    monkeypatch.setattr(light, "convolve", counted)
    with torch.no_grad():
        made(tokens)
    assert len(calls) == 2 * (4 + 2 + 2)  # q, k, v, projection; scores, mixing; the MLP's two; two blocks


def test_few_photons_and_few_bits_change_the_answer_and_many_do_not(vit, tokens):
    with torch.no_grad():
        truth, _ = vit(tokens)

        def off(noise):
            light = four_f.Light(noise, torch.Generator().manual_seed(0))
            return float((four_f.on_the_bench(vit, light)(tokens)[0] - truth).abs().max())

        assert off(Noise(photons=1e2)) > 10 * off(Noise(photons=1e6)) > 0
        assert off(Noise(slm_bits=3, camera_bits=3)) > 10 * off(Noise(slm_bits=12, camera_bits=16)) > 0
        assert off(Noise(photons=1e3)) == off(Noise(photons=1e3))


def test_without_signs_the_transformer_is_another(vit, tokens):
    light = four_f.UnsplitLight(Noise())
    x, weight, bias = normal(2, 2, 5, 5), normal(4, 2, 3, 3, seed=1), normal(4, seed=2)
    seen = light.convolve(x, weight, bias, padding=1)
    torch.testing.assert_close(
        seen, conv2d(x, weight, padding=1).abs() + bias[:, None, None], rtol=0, atol=1e-12
    )
    torch.testing.assert_close(light.convolve(x, -weight), light.convolve(x, weight))
    with torch.no_grad():
        assert (four_f.on_the_bench(vit, light)(tokens)[0] - vit(tokens)[0]).abs().max() > 0.1


def test_kernels_that_tokens_own_are_refused():
    net = convsharevit("unshared_valid", p=8, tokens=3, classes=4)
    with pytest.raises(ValueError, match="must share its kernels, got kernels for 4 tokens"):
        four_f.on_the_bench(net, four_f.Light(Noise()))


def test_layers_of_all_kinds_start_from_the_same_numbers():
    def first(layer):
        with training.seeded(3):
            return four_f.DigitsNet(layer).head.weight

    plain = first(four_f.electronic(nn.Conv2d))
    assert torch.equal(plain, first(four_f.optical(Noise(photons=10))))
    assert torch.equal(plain, first(four_f.electronic(four_f.UnsplitConv2d)))
    with training.seeded(3):
        one, other = (four_f.optical(Noise(photons=10))(1, 2) for _ in range(2))
    assert one.generator.initial_seed() != other.generator.initial_seed()


# --- the record ---------------------------------------------------------------------------------------------


def test_the_recorded_benchmark_has_every_contestant_and_agrees_before_it_races():
    record = benchmark.load("four_f")
    assert record is not None
    assert [row["shape"] for row in record["rows"]["camera"]] == [
        [4, 16, 16, 3, 28],
        [8, 16, 32, 5, 16],
        [4, 32, 32, 10, 10],
    ]
    for row in record["rows"]["camera"]:
        errors = {name: contestant["error"] for name, contestant in row["contestants"].items()}
        single = {"ours, float32", "optnn, float32"}
        assert set(errors) == {"ours", "conv2d", "field by field", "optnn", "torchoptics", *single}
        assert errors.pop("ours, float32") < 1e-5
        assert min(errors.pop("optnn"), errors.pop("optnn, float32")) > 0.1
        assert max(errors.values()) < 1e-12
    assert record["single"] < 1e-6


def row(k, ours, peer):
    """A layer of a race, as the benchmark keeps it, with so many seconds a round."""

    def kept(rounds, error):
        ratio = [2.0, 1.5, 250.4]
        return {"forward": {"rounds": rounds, "ms": 2.0, "ratio": ratio}, "error": error} | {
            "training": {"rounds": rounds, "ms": 3.0, "ratio": ratio, "mb": 1.25}
        }

    work = {"multiply_adds": 4e6, "numbers": 1e6, "way": "rows"}
    contestants = {"ours": kept(ours, 1e-15), "optnn": kept(peer, 0.9)}
    return {"shape": [4, 1, 2, k, 28], "contestants": contestants, "work": work}


ROWS = [row(3, [1.0, 2.0, 1.0], [3.0, 4.0, 3.0]), row(5, [1.0, 1.0, 2.0], [8.0, 9.0, 2.0])]


def test_a_ratio_is_that_of_the_layer_with_the_largest_or_the_smallest_median():
    assert four_f.time_ratio(ROWS, "optnn", "ours", "forward") == [8, 9, 1]
    assert four_f.time_ratio(ROWS, "optnn", "ours", "training", min) == [3, 2, 3]
    assert four_f.time_ratio([], "optnn", "ours", "forward") is None


def test_the_tables_of_the_benchmark_say_what_it_measured():
    table = four_f.contestants(ROWS, "with a camera", "ours")
    assert table.shape == (4, 8)
    assert table["layer"].tolist() == ["4 x 1→2, k = 3, n = 28", "", "4 x 1→2, k = 5, n = 28", ""]
    assert table["error"].tolist()[:2] == ["1e-15", "9e-01"]
    assert table["over ours"].iloc[0].tolist() == ["2 (1.5 to 250)"] * 2
    limits = {"float64": {"gemm": 10.0, "cache": 8.0}}
    first = four_f.how_far(ROWS, limits, "ours", torch.float64, "optnn").iloc[0].tolist()
    # 8 MFLOP and 8 MB in 2 ms; a product would take 0.8 ms, a copy 1 ms, of which the slower one bounds.
    assert first[1:] == ["rows", "4", "4", "40%", "8", "4", "50%", "2"]
    assert four_f.how_far(ROWS, limits, "ours", torch.float64).shape == (2, 8)


def test_the_engines_peak_memory_is_the_recorded_one():
    for row in benchmark.load("four_f")["rows"]["camera"]:
        batch, channels, out, k, n = row["shape"]
        x, weight = normal(batch, channels, n, n).abs(), normal(out, channels, k, k, seed=1)
        inputs = x.requires_grad_(), weight.requires_grad_()
        forget()
        peak = benchmark.peak_memory(
            lambda inputs=inputs: torch.autograd.grad(optical_conv2d(*inputs, padding="same").sum(), inputs)
        )
        assert peak / 1e6 == pytest.approx(row["contestants"]["ours"]["training"]["mb"], rel=0.01)


@pytest.mark.parametrize(("accuracy", "word"), [(0.93, "reproduced"), (0.3, "inconclusive")])
def test_networks_that_are_not_trained_say_nothing_about_the_bench(accuracy, word):
    none, some = [0.0, 0.5] * 3, [3.0, 9.0] * 3
    conditions = {"trained": [0.93] * 5 + [accuracy]}
    criteria = {"photons_cost": none, "bits_cost": [0.5, 0.0] * 3}
    controls = {"frozen": some, "transferred": [2.5, 7.0] * 3}
    assert judge(RECORD, "F5", criteria, controls, conditions).word == word


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 65}, "n = 65: expected a multiple of 2"),
        ({"planes": [64, 65]}, r"planes = \[64, 65\]: expected a multiple of 2"),
        ({"planes": [8]}, r"planes = \[8\]: expected list\[int\], each 16\.\.4096"),
    ],
)
def test_planes_on_which_a_lens_is_no_fourier_transform_are_refused_by_name(given, message):
    with pytest.raises(ParameterError, match=message):
        validate(RECORD, RECORD.values("quick") | given)

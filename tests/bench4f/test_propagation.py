"""The bench, field by field: a lens is a DFT, two make a convolution, and every error shows."""

from math import inf, nan, pi

import pytest
import torch
from torch.autograd import gradcheck
from torchoptics import Field

from fourfold.bench4f.propagation import (
    FOCAL,
    WAVELENGTH,
    Bench,
    ParaxialWarning,
    aperture,
    critical_pitch,
    embed,
    lens_phase,
    transfer_function,
    upright,
)

from ..draws import normal

SIDES = [8, 10, 32, 54, 128, 256]
DTYPES = [(torch.complex128, 1e-12), (torch.complex64, 1e-6)]


def light(*shape: int, seed: int = 0) -> torch.Tensor:
    return normal(*shape, seed=seed, dtype=torch.complex128)


def centred_dft(field: torch.Tensor) -> torch.Tensor:
    axes = (-2, -1)
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(field, axes), norm="ortho"), axes)


def circular(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Convolution on a circle, both centred on pixel n // 2, by torch.fft alone."""
    n, k = image.shape[-1], kernel.shape[-1]
    ring = torch.zeros(*kernel.shape[:-2], n, n, dtype=kernel.dtype)
    ring[..., :k, :k] = kernel
    ring = ring.roll((-(k // 2), -(k // 2)), (-2, -1))
    return torch.fft.ifft2(torch.fft.fft2(image) * torch.fft.fft2(ring))


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


def same_phase(got: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """``got`` times the one phase that brings it closest to ``wanted``."""
    overlap = (got.conj() * wanted).sum()
    return got * overlap / overlap.abs()


# --- the identities ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIDES)
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("lens", [0, 1])
def test_a_lens_is_the_unitary_centred_dft_times_minus_i(n, dtype, tolerance, lens):
    field = light(n, n).to(dtype)
    got = Bench(n, dtype=dtype).lens_ft(field, lens)
    assert got.dtype == dtype
    assert error(got, -1j * centred_dft(field)) < tolerance


@pytest.mark.parametrize(("wavelength", "focal"), [(400e-9, 0.005), (1550e-9, 0.2)])
def test_the_identity_knows_no_wavelength_and_no_focal_length(wavelength, focal):
    field = light(32, 32)
    assert error(Bench(32, wavelength, focal).lens_ft(field), -1j * centred_dft(field)) < 1e-12


@pytest.mark.parametrize("n", SIDES)
@pytest.mark.parametrize("k", [1, 4, 5])
def test_the_camera_sees_the_convolution_on_a_circle_turned_and_negated(n, k):
    image, kernel = normal(n, n), normal(k, k, seed=1)
    assert error(-upright(Bench(n).run(image, kernel)), circular(image, kernel)) < 1e-12


def test_complex_kernels_and_batches_pass_as_single_fields_do():
    images, kernels = normal(3, 1, 16, 16), light(2, 5, 5)
    bench = Bench(16)
    together = bench.run(images, kernels)
    assert together.shape == (3, 2, 16, 16)
    assert error(-upright(together), circular(images, kernels)) < 1e-12
    torch.testing.assert_close(together[2, 1], bench.run(images[2, 0], kernels[1]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("real", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_the_bench_decides_the_precision_of_its_fields(real, dtype, tolerance):
    image, kernel = normal(32, 32).to(real), normal(5, 5, seed=1).to(real)
    bench = Bench(32, dtype=dtype)
    assert {field.dtype for _, field in bench.planes(image, kernel)} == {dtype}
    assert bench.lens_ft(image).dtype == dtype
    wanted = circular(image.double(), kernel.double())
    assert error(-upright(bench.run(image, kernel)), wanted) < tolerance


def test_small_pictures_stand_in_the_middle():
    image, kernel = normal(7, 6), normal(3, 3, seed=1)
    torch.testing.assert_close(Bench(16).run(image, kernel), Bench(16).run(embed(image, 16), kernel))


def test_upright_turns_about_the_middle_and_twice_is_the_identity():
    field = light(2, 10, 10)
    torch.testing.assert_close(upright(upright(field)), field, rtol=0, atol=0)
    torch.testing.assert_close(upright(field)[:, 5, 5], field[:, 5, 5], rtol=0, atol=0)
    torch.testing.assert_close(upright(field)[:, 6, 3], field[:, 4, 7], rtol=0, atol=0)


def by_hand(field: torch.Tensor, pitch: float | torch.Tensor) -> torch.Tensor:
    """Space, lens, space from the free functions, which take any n."""
    n = len(field)
    space = transfer_function(n, pitch, WAVELENGTH, FOCAL)
    behind = torch.fft.ifft2(torch.fft.fft2(field) * space) * lens_phase(n, pitch, WAVELENGTH, FOCAL)
    return torch.fft.ifft2(torch.fft.fft2(behind) * space)


@pytest.mark.parametrize("n", [9, 31, 65])
def test_for_odd_n_a_lens_is_no_dft_and_the_bench_names_the_next_even_n(n):
    field = light(n, n)
    far = by_hand(field, critical_pitch(n, WAVELENGTH, FOCAL))
    assert error(same_phase(far, centred_dft(field)), centred_dft(field)) > 0.1
    with pytest.raises(ValueError, match=rf"n must be even.*got {n}; take n = {n + 1}") as refused:
        Bench(n)
    remedy = int(str(refused.value).split("take n = ")[1].split(",")[0])
    even = light(remedy, remedy)
    assert error(Bench(remedy).lens_ft(even), -1j * centred_dft(even)) < 1e-12


@pytest.mark.parametrize("n", [32, 64, 128])
@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_a_pitch_5_percent_off_is_no_dft(n, factor):
    field, pitch = normal(n, n).abs(), critical_pitch(n, WAVELENGTH, FOCAL)
    assert error(by_hand(field, pitch), -1j * centred_dft(field)) < 1e-12
    off = Bench(n, pitch=factor * pitch).lens_ft(field)
    assert error(same_phase(off, centred_dft(field)), centred_dft(field)) > 0.05


# --- free space, lens, aperture ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [8, 33, 64, 65])
@pytest.mark.parametrize(
    ("method", "exact", "distance", "tolerance"),
    # The phase k z of 1e5 rad, which torchoptics keeps, costs its exact propagator 1e-11 at 10 mm.
    [("ASM_FRESNEL", False, FOCAL, 1e-12), ("ASM", True, FOCAL, 5e-11), ("ASM", True, 1e-4, 1e-12)],
)
def test_free_space_is_that_of_torchoptics_up_to_one_phase(n, method, exact, distance, tolerance):
    field, pitch = light(n, n), critical_pitch(n, WAVELENGTH, FOCAL)
    peer = Field(field, WAVELENGTH, 0, float(pitch))
    peer = peer.propagate_to_z(distance, propagation_method=method, asm_pad=(0, 0)).data
    space = transfer_function(n, pitch, WAVELENGTH, distance, exact=exact)
    ours = torch.fft.ifft2(torch.fft.fft2(field) * space)
    assert error(same_phase(ours, peer), peer) < tolerance
    if n % 2 == 0 and distance == FOCAL:
        torch.testing.assert_close(Bench(n, exact=exact).propagate(field), ours, rtol=0, atol=1e-13)


def test_a_lens_on_torchoptics_grid_makes_its_bench_ours():
    # Its grid is centred on a pixel for odd n only.
    n, pitch = 65, float(critical_pitch(65, WAVELENGTH, FOCAL))
    field = Field(light(n, n), WAVELENGTH, 0, pitch)
    far = field.propagate_to_z(FOCAL, propagation_method="ASM_FRESNEL", asm_pad=(0, 0))
    x, y = far.meshgrid()
    far = far.modulate(torch.exp(-1j * pi / (WAVELENGTH * FOCAL) * (x**2 + y**2)))
    far = far.propagate_to_z(2 * FOCAL, propagation_method="ASM_FRESNEL", asm_pad=(0, 0)).data
    assert error(same_phase(by_hand(field.data, pitch), far), far) < 1e-12


@pytest.mark.parametrize("exact", [False, True])
def test_distances_add_up_and_back_is_the_inverse(exact):
    there, further, back = (
        transfer_function(16, 5e-6, WAVELENGTH, z, exact=exact) for z in (1e-3, 3e-3, -4e-3)
    )
    torch.testing.assert_close(there * further * back, torch.ones(16, 16) + 0j, check_dtype=False)


def test_exact_space_tends_to_fresnel_as_the_focal_length_grows():
    field, errors = normal(64, 64).abs(), []
    for focal in (0.01, 0.1, 1.0):
        exact = Bench(64, focal=focal, exact=True).lens_ft(field)
        errors.append(error(exact, Bench(64, focal=focal).lens_ft(field)))
    assert errors[0] > 1e-4
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.02)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.02)


def test_evanescent_waves_are_dark_and_the_others_lose_nothing():
    n, pitch = 32, WAVELENGTH / 3
    nu = torch.fft.fftfreq(n, pitch, dtype=torch.float64)
    travels = nu[:, None] ** 2 + nu**2 < 1 / WAVELENGTH**2
    space = transfer_function(n, pitch, WAVELENGTH, FOCAL, exact=True)
    torch.testing.assert_close(space.abs(), travels.double(), rtol=0, atol=1e-12)
    assert 0 < travels.sum() < n * n
    assert transfer_function(n, pitch, WAVELENGTH, FOCAL).abs().min() > 1 - 1e-12  # Fresnel knows none


def test_gradients_pass_where_waves_are_evanescent():
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    space = transfer_function(8, scale * WAVELENGTH / 3, WAVELENGTH, 1e-6, exact=True)
    assert torch.autograd.grad(space.real.sum(), scale)[0].isfinite()


def test_an_aperture_is_open_inside_and_shut_outside_and_has_the_area_of_a_disc():
    stop = aperture(64, 2e-6, 40e-6)
    assert stop[32, 32] == stop[32, 50] == stop[14, 32] == 1
    assert stop[32, 54] == stop[0, 0] == 0
    assert stop[32, 52] == pytest.approx(0.5)  # its edge runs through the middle of this pixel
    assert float(stop.sum()) == pytest.approx(pi * 20**2, rel=2e-3)


def energies(bench: Bench, kernel: torch.Tensor) -> list[float]:
    return [float(field.abs().square().sum()) for _, field in bench.planes(normal(32, 32), kernel)]


@pytest.mark.parametrize("settings", [{}, {"exact": True}, {"dz": (1e-4, -2e-4, 3e-4, 0.0)}])
def test_light_is_conserved_without_a_pupil_and_lost_with_one(settings):
    pixel = torch.ones(1, 1, dtype=torch.float64)  # its filter is clear glass
    before, *after = energies(Bench(32, **settings), pixel)
    assert after == pytest.approx([before] * 6, rel=1e-12)
    side = 32 * float(critical_pitch(32, WAVELENGTH, FOCAL))
    stopped = energies(Bench(32, pupil=0.45 * side, **settings), pixel)
    assert stopped[1] < 0.95 * stopped[0]  # at lens 1, and again at lens 2
    assert stopped[5] < 0.99 * stopped[4]
    assert stopped[6] == pytest.approx(stopped[5], rel=1e-12)


def test_a_narrow_pupil_shows_and_a_wide_one_changes_nothing():
    image, kernel = normal(64, 64).abs(), normal(5, 5, seed=1).abs()
    ideal, side = Bench(64).run(image, kernel), 64 * float(critical_pitch(64, WAVELENGTH, FOCAL))
    assert error(Bench(64, pupil=0.45 * side).run(image, kernel), ideal) > 0.02
    assert error(Bench(64, pupil=side).run(image, kernel), ideal) < 1e-14


# --- planes and misalignment ------------------------------------------------------------------------------


def test_planes_shows_seven_fields_in_the_order_of_light_and_ends_in_run():
    bench, image, kernel = Bench(16), normal(9, 9), normal(3, 3, seed=1)
    names, fields = zip(*bench.planes(image, kernel), strict=True)
    assert names == (
        "display", "behind lens 1", "before the filter", "behind the filter",
        "before lens 2", "behind lens 2", "camera",
    )  # fmt: skip
    exactly = {"rtol": 0, "atol": 0}
    torch.testing.assert_close(fields[0], embed(image, 16) + 0j, **exactly)
    torch.testing.assert_close(fields[2], bench.lens_ft(fields[0]), **exactly)
    torch.testing.assert_close(fields[3], fields[2] * bench.filter(kernel), **exactly)
    torch.testing.assert_close(fields[6], bench.lens_ft(fields[3], lens=1), **exactly)
    torch.testing.assert_close(fields[6], bench.run(image, kernel), **exactly)


def test_the_filter_is_the_spectrum_with_frequency_zero_in_the_middle():
    kernel = normal(5, 5)
    shown = Bench(16).filter(kernel)
    torch.testing.assert_close(shown, 16 * centred_dft(embed(kernel, 16)))
    torch.testing.assert_close(shown[8, 8], kernel.sum() + 0j)


@pytest.mark.parametrize("leg", range(4))
def test_defocus_of_each_leg_grows_the_error(leg):
    image, kernel = normal(32, 32).abs(), normal(5, 5, seed=1).abs()
    ideal, errors = Bench(32).run(image, kernel), []
    for dz in (0.0, 1e-6, 1e-5, 1e-4, 1e-3):
        legs = [0.0] * 4
        legs[leg] = dz
        bench = Bench(32, dz=tuple(legs))
        ahead = transfer_function(32, bench.pitch, WAVELENGTH, FOCAL + dz)
        torch.testing.assert_close(bench.space[leg], ahead, rtol=0, atol=0)
        errors.append(error(bench.run(image, kernel), ideal))
    assert errors[0] == 0
    assert errors == sorted(errors)
    assert errors[-1] > 100 * errors[1] > 0


def test_a_shifted_filter_is_the_filter_moved_down_and_right():
    kernel, bench = light(5, 5), Bench(16)
    moved = Bench(16, shift=(2.0, -3.0)).filter(kernel)
    torch.testing.assert_close(moved, bench.filter(kernel).roll((2, -3), (0, 1)))
    # Between pixels: the kernel's Fourier sum at frequencies off by the shift.
    u, x = torch.arange(16).double() - 8, torch.arange(5).double() - 2
    down, right = (torch.exp(-2j * pi * (u - s)[:, None] * x / 16) for s in (0.3, -0.7))
    torch.testing.assert_close(Bench(16, shift=(0.3, -0.7)).filter(kernel), down @ kernel @ right.T)


def test_a_shifted_filter_moves_phases_of_a_kernel_and_not_its_moduli():
    image = torch.zeros(16, 16, dtype=torch.float64)
    image[8, 8] = 1  # shows the kernel itself
    kernel = normal(5, 5).abs()
    seen = embed(-upright(Bench(16, shift=(0.4, 0.0)).run(image, kernel)), 16)
    torch.testing.assert_close(seen.abs(), embed(kernel, 16))
    phases = seen[6:11, 8].angle()
    torch.testing.assert_close(phases, 2 * pi * 0.4 / 16 * torch.arange(-2, 3).double())


# --- gradients --------------------------------------------------------------------------------------------

PHYSICS = {
    "wavelength": WAVELENGTH, "focal": FOCAL, "pitch": 2.4e-5, "pupil": 8e-5, "dz 0": 1e-4, "dz 1": -2e-4,
    "dz 2": 3e-4, "dz 3": 1e-4, "shift 0": 0.3, "shift 1": -0.6,
}  # fmt: skip


def physical_bench(exact: bool, **changed) -> Bench:
    values = PHYSICS | changed
    several = {
        name: tuple(v for key, v in values.items() if key.startswith(name)) for name in ("dz", "shift")
    }
    single = {name: value for name, value in values.items() if " " not in name}
    return Bench(8, exact=exact, **single, **several)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", PHYSICS)
def test_gradients_pass_through_every_physical_argument(name, exact):
    image, kernel = normal(8, 8), normal(3, 3, seed=1)

    def field(scale):
        return physical_bench(exact, **{name: scale * PHYSICS[name]}).run(image, kernel)

    scale = torch.tensor(1.03, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(field(scale).abs().square()[2:6, 1:3].sum(), scale)[0] != 0
    assert gradcheck(field, scale, atol=1e-7)


@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
def test_gradients_pass_through_image_and_kernel(kind):
    image = normal(6, 6, dtype=kind).requires_grad_()
    kernel = normal(3, 3, seed=1, dtype=kind).requires_grad_()
    assert gradcheck(physical_bench(exact=False).run, (image, kernel))


def test_at_the_critical_pitch_gradients_of_lengths_pass_through_the_pitch():
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: Bench(8, focal=s * FOCAL, pupil=8e-5).run(normal(8, 8), normal(3, 3)), scale)


# --- paraxial or not --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [390, 512])
def test_the_paraxial_warning_gives_numbers_and_a_remedy_that_silences_it(n):
    with pytest.warns(ParaxialWarning, match=rf"n = {n} pixels of .* um .* off by [\d.]+ waves") as caught:
        Bench(n)
    assert caught[0].filename == __file__
    remedy = float(str(caught[0].message).split("focal >= ")[1].split(" m")[0])
    assert remedy < 1.03 * WAVELENGTH * n**2 / 8
    Bench(n, focal=remedy)  # warnings are errors here


def test_with_a_pitch_of_its_own_the_remedy_is_a_larger_pitch():
    with pytest.warns(ParaxialWarning, match=r"64 pixels of 2\.00 um.*use pitch >= [\d.]+ um") as caught:
        Bench(64, pitch=2e-6)
    Bench(64, pitch=1e-6 * float(str(caught[0].message).split("pitch >= ")[1].split(" um")[0]))


def test_the_warning_comes_at_a_quarter_wave_of_the_exact_phase():
    # The corner of the spectrum, where exact space and Fresnel's differ most.
    for n, quiet in ((386, True), (390, False)):
        pitch = critical_pitch(n, WAVELENGTH, FOCAL)
        squared = WAVELENGTH**2 / (2 * pitch**2)
        wrong = 2 * pi * FOCAL / WAVELENGTH * (1 - squared / 2 - (1 - squared).sqrt())
        assert float(wrong) == pytest.approx(pi / 2, rel=0.03)
        if quiet:
            Bench(n)
        else:
            with pytest.warns(ParaxialWarning):
                Bench(n)


def test_the_exact_bench_shows_what_fresnel_hides():
    field = normal(390, 390).abs()
    exact = Bench(390, exact=True).lens_ft(field)  # which does not warn
    assert error(same_phase(exact, centred_dft(field)), centred_dft(field)) > 0.02


# --- embed, and bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "w", "n"), [(1, 1, 8), (3, 4, 8), (5, 8, 9), (8, 8, 8), (2, 7, 7)])
def test_embed_puts_the_middle_pixel_on_the_middle(h, w, n):
    picture = normal(2, h, w)
    plane = embed(picture, n)
    assert plane.shape == (2, n, n)
    torch.testing.assert_close(plane[:, n // 2, n // 2], picture[:, h // 2, w // 2], rtol=0, atol=0)
    assert plane.abs().sum() == pytest.approx(float(picture.abs().sum()))


REFUSED = [
    (lambda: Bench(7), r"n must be even and in 8\.\.4096, got 7; take n = 8"),
    (lambda: Bench(6), r"n must be even and in 8\.\.4096, got 6$"),
    (lambda: Bench(4098), r"8\.\.4096, got 4098$"),
    (lambda: Bench(4097), r"8\.\.4096, got 4097$"),  # 4098 would be no remedy
    (lambda: Bench(5), r"8\.\.4096, got 5$"),
    (lambda: Bench(64.0), r"n must be .*got 64\.0$"),
    (lambda: Bench(8, wavelength=0), "wavelength must be > 0 m and finite, got 0"),
    (lambda: Bench(8, focal=-0.01), r"focal must be > 0 m and finite, got -0\.01"),
    (lambda: Bench(8, focal=inf), "focal must be > 0 m and finite, got inf"),
    (lambda: Bench(8, focal=torch.tensor(nan)), "focal must be > 0 m and finite, got nan"),
    (lambda: Bench(8, pitch=0.0), "pitch must be > 0 m and finite, got 0"),
    (lambda: Bench(8, pupil=-1e-3), r"pupil must be > 0 m and finite, got -0\.001"),
    (lambda: Bench(8, dz=(0, 0, 0.01, 0)), r"dz must be smaller than focal = 0\.01 m, got 0\.01"),
    (lambda: Bench(8, dz=(0, 0, nan, 0)), r"dz must be smaller than focal = 0\.01 m, got nan"),
    (lambda: Bench(8, dz=(0, 0, 0)), "dz must .*4.*got 3"),
    (lambda: Bench(8, shift=(0, nan)), "shift must be .*finite.*got nan"),
    (lambda: Bench(8, shift=(0, 0, 0)), "shift must .*2.*got 3"),
    (lambda: Bench(8, dtype=torch.float64), r"dtype must be complex64 or complex128, got torch\.float64"),
    (lambda: embed(normal(3, 9), 8), "must fit on the plane of 8 x 8 pixels, got 3 x 9"),
    (lambda: Bench(8).run(normal(9, 9), normal(3, 3)), "8 x 8 pixels, got 9 x 9"),
    (lambda: Bench(8).run(normal(8, 8), normal(10, 10)), "8 x 8 pixels, got 10 x 10"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()

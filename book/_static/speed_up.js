/* The speed-up of a bench over a GPU, and what an image costs both. Python counted the passes N, the filters F and
   the other samples D (fourfold.bench4f.speed_up); here only t = c N / (f B), S = F R^2 / B + D, and what is
   divided by them. No page is needed for `numbers` and `view`. */
(globalThis.fourfoldFigures ??= {})["speed-up"] = (() => {
  "use strict";

  /* Curves against batch and plane, and the reader's point; seconds and joules per image. */
  const numbers = (data, { plane, rate, batch, gpu, converters, sample }) => {
    const { planes, batches, passes, passesPerProduct } = data;
    const [row, column] = [planes.indexOf(plane), batches.indexOf(batch)];
    const [first] = Object.keys(passes);
    const frames = (way, i, j) => (passesPerProduct * passes[way][i][j]) / batches[j];
    const samples = (i, j) => (data.filters[i][j] * planes[i] ** 2) / batches[j] + data.samples[i];
    const seconds = (way, i, j) => frames(way, i, j) / rate;
    const converted = (i, j) => Math.max(seconds(first, i, j), samples(i, j) / (1e9 * converters));
    const curves = {
      ...Object.fromEntries(
        Object.keys(passes).map((way) => [way, (i, j) => 1 / (gpu * seconds(way, i, j))]),
      ),
      converted: (i, j) => 1 / (gpu * converted(i, j)),
      conversion: (i, j) => 1e-12 * sample * samples(i, j),
      light: (i, j) => data.pixelJoules * frames(first, i, j) * planes[i] ** 2,
      gpu: () => data.gpuWatts / gpu,
    };
    const along = (curve) => ({
      batch: batches.map((_, j) => curve(row, j)),
      plane: planes.map((_, i) => curve(i, column)),
    });
    return {
      curves: Object.fromEntries(Object.entries(curves).map(([name, curve]) => [name, along(curve)])),
      bench: seconds(first, row, column),
      converted: converted(row, column),
      gpu: 1 / gpu,
      energy: { conversion: curves.conversion(row, column), gpu: curves.gpu() },
    };
  };

  const short = (value) => String(Number(value.toPrecision(3)));
  const scaled = (value, unit) =>
    value < 1e-3 ? `${short(value * 1e6)} µ${unit}` : value < 1 ? `${short(value * 1e3)} m${unit}` : `${short(value)} ${unit}`;
  const winner = (factor) => {
    const [faster, times] = factor < 1 ? ["GPU", short(1 / factor)] : ["bench", short(factor)];
    return times === "1" ? "both are equally fast" : `the ${faster} is ${times} times faster`;
  };
  const sentence = ({ bench, converted, gpu, energy }) =>
    `At this point an image takes ${scaled(bench, "s")} on the bench and ${scaled(gpu, "s")} on the GPU: ${winner(gpu / bench)}. ` +
    `With conversion it takes ${scaled(converted, "s")}: ${winner(gpu / converted)}. ` +
    `Conversion costs ${scaled(energy.conversion, "J")} an image, the GPU ${scaled(energy.gpu, "J")}.`;

  /* What depends on the sliders, by the ids that Python gave the parts of its drawing. */
  const view = (data, state) => {
    const now = numbers(data, state);
    const point = now.gpu / now.converted;
    const [first, last] = data.decades;
    // The frame stays, so that the curves are seen to move, unless the point would leave it.
    const shift =
      Math.min(0, Math.floor(Math.log10(point) - 0.5) - first) + Math.max(0, Math.ceil(Math.log10(point) + 0.5) - last);
    const rows = { speed: [first + shift, last + shift], energy: data.joules };
    const place = (row, axis, x, y) => {
      const [left, low, right, high] = data.frames[row][axis].x;
      const [bottom, top] = data.frames[row][axis].y;
      const [least, most] = rows[row];
      return [
        left + ((Math.log10(x) - low) / (high - low)) * (right - left),
        bottom + ((Math.log10(y) - least) / (most - least)) * (top - bottom),
      ];
    };
    const path = (row, axis, xs, ys) =>
      xs.map((x, i) => `${i ? "L" : "M"} ${place(row, axis, x, ys[i]).map((one) => one.toFixed(2)).join(" ")}`).join(" ");
    const [paths, points, texts] = [{}, {}, {}];
    for (const [axis, values] of [["batch", data.batches], ["plane", data.planes]]) {
      for (const [name, curve] of Object.entries(now.curves)) {
        const row = ["conversion", "light", "gpu"].includes(name) ? "energy" : "speed";
        paths[`${name}-${axis}`] = path(row, axis, values, curve[axis]);
      }
      for (const level of [1, data.factor]) paths[`level-${level}-${axis}`] = path("speed", axis, values, values.map(() => level));
      points[`free-${axis}`] = place("speed", axis, state[axis], now.gpu / now.bench);
      points[`point-${axis}`] = place("speed", axis, state[axis], point);
      points[`spent-${axis}`] = place("energy", axis, state[axis], now.energy.conversion);
    }
    texts["title-batch"] = `plane of ${state.plane} pixels`;
    texts["title-plane"] = `batch of ${state.batch}`;
    for (let k = 0; k <= last - first; k++) {
      const decade = first + shift + k;
      texts[`decade-${k}`] = decade < -3 ? `1e${decade}` : short(10 ** decade);
    }
    return { paths, points, texts, finding: sentence(now) };
  };

  return { numbers, view };
})();

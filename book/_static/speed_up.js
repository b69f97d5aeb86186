/* The speed-up of a bench over a GPU. Python counted the passes N (fourfold.bench4f.speed_up); here only
   t = c N / (f B) and the division by it. No page is needed for `numbers` and `view`. */
(globalThis.fourfoldFigures ??= {})["speed-up"] = (() => {
  "use strict";

  /* Curves against batch and plane, and the reader's point; times in seconds per image. */
  const numbers = ({ planes, batches, passes, passesPerProduct }, { plane, rate, batch, gpu }) => {
    const [row, column] = [planes.indexOf(plane), batches.indexOf(batch)];
    const seconds = (way, i, j) => (passesPerProduct * passes[way][i][j]) / (rate * batches[j]);
    const speedUp = (way, i, j) => 1 / (gpu * seconds(way, i, j));
    const ways = Object.keys(passes);
    const curves = ways.map((way) => [
      way,
      {
        batch: batches.map((_, j) => speedUp(way, row, j)),
        plane: planes.map((_, i) => speedUp(way, i, column)),
      },
    ]);
    return {
      curves: Object.fromEntries(curves),
      bench: seconds(ways[0], row, column),
      gpu: 1 / gpu,
      speedUp: speedUp(ways[0], row, column),
    };
  };

  const short = (value) => String(Number(value.toPrecision(3)));
  const duration = (s) =>
    s < 1e-3 ? `${short(s * 1e6)} µs` : s < 1 ? `${short(s * 1e3)} ms` : `${short(s)} s`;

  const sentence = ({ bench, gpu, speedUp }) => {
    const [winner, factor] = speedUp < 1 ? ["GPU", short(1 / speedUp)] : ["bench", short(speedUp)];
    const result = factor === "1" ? "both are equally fast" : `the ${winner} is ${factor} times faster`;
    return `At this point an image takes ${duration(bench)} on the bench and ${duration(gpu)} on the GPU: ${result}.`;
  };

  /* What depends on the sliders, by the ids that Python gave the parts of its drawing. */
  const view = (data, state) => {
    const now = numbers(data, state);
    const decade = Math.log10(now.speedUp);
    const [first, last] = data.decades;
    // The frame stays, so that the curves are seen to move, unless the point would leave it.
    const shift = Math.min(0, Math.floor(decade - 0.5) - first) + Math.max(0, Math.ceil(decade + 0.5) - last);
    const place = (axis, x, y) => {
      const frame = data.frames[axis];
      const [left, low, right, high] = frame.x;
      const [bottom, top] = frame.y;
      return [
        left + ((Math.log10(x) - low) / (high - low)) * (right - left),
        bottom + ((Math.log10(y) - first - shift) / (last - first)) * (top - bottom),
      ];
    };
    const path = (axis, xs, ys) =>
      xs.map((x, i) => `${i ? "L" : "M"} ${place(axis, x, ys[i]).map((one) => one.toFixed(2)).join(" ")}`).join(" ");
    const [paths, points, texts] = [{}, {}, {}];
    for (const [axis, values] of [["batch", data.batches], ["plane", data.planes]]) {
      for (const [way, curve] of Object.entries(now.curves)) paths[`${way}-${axis}`] = path(axis, values, curve[axis]);
      for (const level of [1, data.factor]) paths[`level-${level}-${axis}`] = path(axis, values, values.map(() => level));
      points[`point-${axis}`] = place(axis, state[axis], now.speedUp);
    }
    texts["title-batch"] = `plane of ${state.plane} pixels`;
    texts["title-plane"] = `batch of ${state.batch}`;
    for (let k = first; k <= last; k++) texts[`decade-${k - first}`] = short(10 ** (k + shift));
    return { paths, points, texts, finding: sentence(now) };
  };

  return { numbers, view };
})();

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
    return {
      curves: ways.map((way) => ({
        batch: batches.map((_, j) => speedUp(way, row, j)),
        plane: planes.map((_, i) => speedUp(way, i, column)),
      })),
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

  /* Everything that depends on the sliders: `spec` is the plot as Python drew it and is changed in place. */
  const view = (spec, data, state, width) => {
    const now = numbers(data, state);
    const point = 2 * now.curves.length;
    now.curves.forEach((curve, i) => {
      spec.data[2 * i].y = curve.batch;
      spec.data[2 * i + 1].y = curve.plane;
    });
    ["batch", "plane"].forEach((axis, i) => Object.assign(spec.data[point + i], { x: [state[axis]], y: [now.speedUp] }));
    const { layout } = spec;
    layout.annotations[0].text = `plane of ${state.plane} pixels`;
    layout.annotations[1].text = `batch of ${state.batch}`;
    // The frame stays, so that the curves are seen to move, unless the point would leave it.
    const decade = Math.log10(now.speedUp);
    const range = [Math.min(-3, decade - 0.5), Math.max(2, decade + 0.5)];
    Object.assign(layout.yaxis, { range });
    Object.assign(layout.yaxis2, { range });
    if (width < 560) {
      layout.xaxis.domain = layout.xaxis2.domain = [0, 1];
      layout.yaxis.domain = [0.62, 1];
      layout.yaxis2.domain = [0, 0.38];
      layout.height = 720;
      layout.legend = { orientation: "h", y: -0.16 };
    }
    return { ...spec, finding: sentence(now) };
  };

  return { numbers, view };
})();

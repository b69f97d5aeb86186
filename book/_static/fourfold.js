/* Draw the figures of a page: their data is in the page, plotly is the book's one copy, colours are the theme's.
   A figure with sliders is drawn as fourfoldFigures[name].view(spec, data, state, width) answers; other scripts of
   this folder register these functions. The sliders hold the state, so every redraw keeps it. */
(() => {
  "use strict";
  const root = document.documentElement;

  const themed = () => {
    const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
    const [text, line] = [colour("--pst-color-text-base"), colour("--pst-color-border")];
    return { text, line };
  };

  const dress = (layout) => {
    const { text, line } = themed();
    const dressed = { ...layout, font: { ...layout.font, color: text } };
    for (const key of Object.keys(layout).filter((k) => /^[xy]axis\d*$/.test(k)).concat("xaxis", "yaxis")) {
      dressed[key] = { ...layout[key], gridcolor: line, linecolor: text, tickcolor: text };
    }
    return dressed;
  };

  const sliders = (figure) => figure.querySelectorAll(".controls input");

  const steered = (figure, spec, width) => {
    const { controls, data } = JSON.parse(figure.querySelector("script.interactive").textContent);
    const state = {};
    for (const slider of sliders(figure)) {
      const { values, texts } = controls[slider.name];
      state[slider.name] = values[slider.value];
      slider.setAttribute("aria-valuetext", texts[slider.value]);
      slider.nextElementSibling.textContent = texts[slider.value];
    }
    const name = figure.id.replace(/^figure-/, "");
    const { finding, ...drawn } = globalThis.fourfoldFigures[name].view(spec, data, state, width);
    const said = figure.querySelector(".finding");
    if (said.textContent !== finding) said.textContent = finding;
    return drawn;
  };

  const draw = (figure) => {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const plot = figure.querySelector(".plot");
    const width = plot.clientWidth;
    const { data, layout } = sliders(figure).length ? steered(figure, spec, width) : spec;
    window.Plotly.react(plot, data, { ...dress(layout), width }, { displayModeBar: false });
  };

  // Once a frame, however fast a slider is dragged.
  const queue = new Set();
  const drawSoon = (figure) => {
    if (!queue.size) {
      requestAnimationFrame(() => {
        const waiting = [...queue];
        queue.clear();
        waiting.forEach(draw);
      });
    }
    queue.add(figure);
  };

  const drawAll = () => document.querySelectorAll("figure.fourfold").forEach(draw);

  document.addEventListener("DOMContentLoaded", () => {
    if (!document.querySelector("figure.fourfold")) return;
    const script = document.createElement("script");
    script.src = `${root.dataset.content_root}plotly.min.js`;
    script.onload = () => {
      drawAll();
      // At once, in the frame that changed the width: plotly's own resize comes a tenth of a second late.
      const fit = new ResizeObserver((entries) => {
        for (const { target, contentRect } of entries) {
          const figure = target.closest("figure");
          // Sliders' figures may place their panels by the width, and so change the height: in the next frame.
          if (sliders(figure).length) drawSoon(figure);
          else window.Plotly.relayout(target, { width: contentRect.width });
        }
      });
      document.querySelectorAll("figure.fourfold .plot").forEach((plot) => fit.observe(plot));
      for (const figure of document.querySelectorAll("figure.fourfold")) {
        sliders(figure).forEach((slider) => slider.addEventListener("input", () => drawSoon(figure)));
      }
      new MutationObserver(drawAll).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
    };
    document.head.append(script);
  });
})();

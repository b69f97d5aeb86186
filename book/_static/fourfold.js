/* Draw the figures of a page: their data is in the page, plotly is the book's one copy, colours are the theme's. */
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

  const draw = () => {
    for (const figure of document.querySelectorAll("figure.fourfold")) {
      const spec = JSON.parse(figure.querySelector("script").textContent);
      const config = { displayModeBar: false };
      const plot = figure.querySelector(".plot");
      window.Plotly.react(plot, spec.data, { ...dress(spec.layout), width: plot.clientWidth }, config);
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    if (!document.querySelector("figure.fourfold")) return;
    const script = document.createElement("script");
    script.src = `${root.dataset.content_root}plotly.min.js`;
    script.onload = () => {
      draw();
      // At once, in the frame that changed the width: plotly's own resize comes a tenth of a second late.
      const fit = new ResizeObserver((entries) => {
        for (const { target, contentRect } of entries) window.Plotly.relayout(target, { width: contentRect.width });
      });
      document.querySelectorAll("figure.fourfold .plot").forEach((plot) => fit.observe(plot));
      new MutationObserver(draw).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
    };
    document.head.append(script);
  });
})();

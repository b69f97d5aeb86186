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
    const dressed = { ...layout, autosize: true, font: { ...layout.font, color: text } };
    for (const key of Object.keys(layout).filter((k) => /^[xy]axis\d*$/.test(k)).concat("xaxis", "yaxis")) {
      dressed[key] = { ...layout[key], gridcolor: line, linecolor: text, tickcolor: text };
    }
    return dressed;
  };

  const draw = () => {
    for (const figure of document.querySelectorAll("figure.fourfold")) {
      const spec = JSON.parse(figure.querySelector("script").textContent);
      const config = { responsive: true, displayModeBar: false };
      window.Plotly.react(figure.querySelector(".plot"), spec.data, dress(spec.layout), config);
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    if (!document.querySelector("figure.fourfold")) return;
    const script = document.createElement("script");
    script.src = `${root.dataset.content_root}plotly.min.js`;
    script.onload = () => {
      draw();
      new MutationObserver(draw).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
    };
    document.head.append(script);
  });
})();

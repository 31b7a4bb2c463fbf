"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);

  // Turns columns of equal length into one object for each row, and looks up the names of layers.
  function rowsOf(part, columns) {
    const keys = Object.keys(columns);
    return columns[keys[0]].map((_, i) => {
      const row = {};
      for (const key of keys) row[key] = columns[key][i];
      if ("layer" in row) {
        row.label = part.labels[row.layer];
        row.name = part.names[row.layer];
      }
      return row;
    });
  }

  function fillTable(part, figure, rows) {
    const body = document.querySelector(`#${figure.id} tbody`);
    const keys = Object.keys(figure.heads);
    body.replaceChildren(...rows.map((row) => {
      const line = document.createElement("tr");
      line.append(...keys.map((key, i) => {
        const cell = document.createElement(i ? "td" : "th");
        if (!i) cell.scope = "row";
        cell.textContent = row[key] ?? "-";
        return cell;
      }));
      return line;
    }));
  }

  function show(part, figure, layer) {
    const slice = figure.slices[layer];
    const rows = slice ? rowsOf(part, slice.columns) : [];
    const says = slice ? slice.says : `${part.names[layer]} has no such numbers.`;
    const place = document.querySelector(`#${figure.id} .chart`);
    place.setAttribute("aria-label", `${figure.title} ${says}`);
    place.hidden = !slice;
    document.querySelector(`#${figure.id} .says`).textContent = says;
    fillTable(part, figure, rows);
    if (slice) figure.view.data(page.data, rows).runAsync();
  }

  function choose(part, layer) {
    part.layer = layer;
    if (part.select) {
      part.select.value = String(layer);
      document.getElementById(`${part.id}-status`).textContent = `Shown: ${part.names[layer]}`;
    }
    for (const figure of part.figures) {
      if (!figure.view) continue;
      if (figure.perLayer) show(part, figure, layer);
      else figure.view.signal(page.chosen, layer).runAsync();
    }
  }

  // Returns the layer whose row, column or name is at the pointer, -1 beside all of them.
  function layerAt(part, view, event) {
    const isLayers = (scale) => scale.bandwidth && scale.domain().every((label) => part.labels.includes(label));
    const rows = isLayers(view.scale("y"));
    const scale = view.scale(rows ? "y" : "x");
    const box = view.container().querySelector("svg").getBoundingClientRect();
    const [left, top] = view.origin();
    const at = rows ? event.clientY - box.top - top : event.clientX - box.left - left;
    const labels = scale.domain();
    const middles = labels.map((label) => scale(label) + scale.bandwidth() / 2);
    const away = middles.map((middle) => Math.abs(middle - at));
    const nearest = away.indexOf(Math.min(...away));
    const step = labels.length > 1 ? Math.abs(middles[1] - middles[0]) : 2 * middles[0];
    return away[nearest] <= step / 2 ? part.labels.indexOf(labels[nearest]) : -1;
  }

  async function draw(part, figure) {
    // A layer without such numbers hides the chart; until a layer is chosen, it is drawn from another layer.
    const slice = figure.slices[figure.perLayer ? part.layer : 0] ?? figure.slices.find((each) => each);
    const spec = { ...figure.spec, data: { name: page.data, values: rowsOf(part, slice.columns) } };
    const made = await vegaEmbed(document.querySelector(`#${figure.id} .chart`), spec, {
      mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false, config: page.config,
      tooltip: { disableDefaultStyle: true },
    });
    figure.view = made.view;
    if (figure.perLayer) return;
    const place = made.view.container();
    place.addEventListener("mousemove", (event) => {
      // The short names beside the chart have the full one as a tooltip; marks have a tooltip of their own.
      place.title = event.target.closest(".role-mark") ? "" : part.names[layerAt(part, made.view, event)] ?? "";
    });
    if (!part.select) return;
    made.view.addEventListener("click", (event) => {
      const layer = layerAt(part, made.view, event);
      if (layer >= 0) choose(part, layer);
    });
  }

  async function start(part) {
    part.select = document.getElementById(`${part.id}-layer`);
    part.layer = part.start;
    if (part.select) part.select.addEventListener("change", () => choose(part, Number(part.select.value)));
    await Promise.all(part.figures.map((figure) => draw(part, figure)));
    if (part.select) choose(part, Number(part.select.value));
  }

  // Beside long names a phone has little room for the charts, and for legends of three names none.
  if (window.innerWidth < 600) {
    page.config.axis.labelFontSize = 10;
    page.config.legend.columns = 2;
  }
  Promise.all(page.parts.map(start)).then(() => document.documentElement.setAttribute("data-drawn", ""));
})();

(() => {
  "use strict";
  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (i) => ink(`--c${i % 10}`);
  const font = '12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
  const shown = (v) => v == null ? "–" : Math.abs(v) >= 1e4 ? v.toLocaleString("en", { maximumFractionDigits: 0 })
    : String(+v.toPrecision(4));
  const short = (v) => {
    const a = Math.abs(v);
    return a >= 1e9 ? +(v / 1e9).toPrecision(4) + "G" : a >= 1e6 ? +(v / 1e6).toPrecision(4) + "M"
      : a >= 1e4 ? +(v / 1e3).toPrecision(4) + "k" : String(+v.toPrecision(4));
  };
  const decade = (v) => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-9;

  function clock(seconds, step, first) {
    const iso = new Date(seconds * 1e3).toISOString();
    if (step >= 86400) return iso.slice(0, 10);
    const time = iso.slice(11, step < 60 ? 19 : 16);
    const midnight = time.startsWith("00:00");
    return first || midnight ? `${time}\n${midnight ? iso.slice(5, 10) : iso.slice(0, 10)}` : time;
  }

  function options(data, width) {
    const axis = (label, logarithmic) => ({
      stroke: () => ink("--soft"), font, labelFont: font, labelSize: label ? 24 : 0, label: label || undefined,
      grid: { stroke: () => ink("--grid"), width: 1 }, ticks: { stroke: () => ink("--line"), width: 1, size: 5 },
      values: (_, ticks) => ticks.map((v) => v == null ? "" : logarithmic && !decade(v) ? "" : short(v)),
    });
    const x = axis(data.xLabel, data.log);
    if (data.time) x.values = (_, ticks, __, ___, step) => ticks.map((v, i) => clock(v, step, i === 0));
    if (data.xLabel) x.size = 34;
    const lines = data.names.map((name, i) => ({
      label: name, stroke: () => colour(i), width: 1.75, spanGaps: !!data.marks,
      points: { show: !!data.marks, size: 6, fill: () => colour(i) },
      value: (_, v) => shown(v),
      paths: data.stepped[i] ? uPlot.paths.stepped({ align: 1 }) : undefined,
    }));
    const edges = data.band.map((_, i) => ({
      label: i ? "band, high" : "band, low", stroke: "transparent", width: 0, points: { show: false }, value: (_, v) => shown(v),
    }));
    const first = 1 + lines.length;
    return {
      width, height: data.marks ? 360 : 280, padding: [12, 14, 0, 4],
      tzDate: (ts) => uPlot.tzDate(new Date(ts * 1e3), "Etc/UTC"),
      scales: { x: { time: data.time, distr: data.log ? 3 : 1 } },
      cursor: { drag: { x: true, y: false }, focus: { prox: 24 } }, focus: { alpha: 0.35 },
      axes: [x, Object.assign(axis(data.unit, false), { size: 62 })],
      series: [data.time ? { value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss} UTC", label: "time" }
        : { label: data.xLabel || "x", value: (_, v) => shown(v) }, ...lines, ...edges],
      bands: edges.length ? [{ series: [first + 1, first], fill: () => ink("--band") }] : [],
    };
  }

  for (const holder of document.querySelectorAll("script[data-for]")) {
    const data = JSON.parse(holder.textContent);
    const box = document.getElementById(holder.dataset.for);
    const plot = new uPlot(options(data, box.clientWidth), [data.x, ...data.values, ...data.band], box);
    new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: plot.height })).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot.redraw(false));
    matchMedia("print").addEventListener("change", () => plot.redraw(false));
  }
})();

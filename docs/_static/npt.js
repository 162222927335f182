// A figure is shown as its still picture first. When it comes into view, Plotly draws it anew from the data that stand behind the picture,
// so that it can be turned and read by pointing. On a narrow screen the picture stays, since letters of a live figure do not shrink with it;
// a button brings the live one, to be moved sideways. A figure with a slider or a menu has nothing to show without it, and is live everywhere.
(() => {
  const root = document.documentElement.dataset.content_root || "./";
  let plotly = null;
  const load = () => plotly ||= new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = `${root}_static/plotly.min.js`;
    script.onload = () => done(window.Plotly);
    script.onerror = failed;
    document.head.append(script);
  });

  const stillOf = (script) => {  // the picture just before the box of the script, or in the box before it
    const before = script.closest(".output")?.previousElementSibling;
    return before?.matches("img") ? before : before?.querySelector("img") ?? null;
  };

  const draw = async (script, figure, still, width) => {
    const library = await load();
    const box = document.createElement("div");
    box.className = "npt-live";
    const room = script.closest(".cell_output").clientWidth;
    if (width > room) box.style.overflowX = "auto";
    const plot = document.createElement("div");
    plot.style.width = width > room ? `${width}px` : "100%";
    box.append(plot);
    script.parentElement.append(box);
    const layout = { ...figure.layout };
    if (layout.width && layout.width > room && width <= room) delete layout.width;
    if (!layout.width) layout.autosize = true;
    await library.newPlot(plot, figure.data, layout, { responsive: true, displaylogo: false, displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false });
    if (figure.frames) await library.addFrames(plot, figure.frames);
    if (still) still.style.display = "none";
  };

  const start = (script) => {
    const still = stillOf(script);
    const figure = JSON.parse(script.textContent);
    const moves = Boolean(figure.frames?.length || figure.layout.sliders?.length || figure.layout.updatemenus?.length);
    const shape = still?.naturalHeight ? still.naturalWidth / still.naturalHeight : 1.8;
    const natural = Math.round(figure.layout.width || shape * (figure.layout.height || 450));
    const room = script.closest(".cell_output").clientWidth;
    if (!still || moves || room >= 560) {
      draw(script, figure, still, Math.min(natural, room)).catch(() => {});
      return;
    }
    const button = document.createElement("button");
    button.className = "npt-bring";
    button.textContent = "Show the live figure";
    button.onclick = () => draw(script, figure, still, natural).then(() => button.remove()).catch(() => {});
    script.parentElement.append(button);
  };

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      start(entry.target.nptScript);
    }
  }, { rootMargin: "400px" });

  for (const script of document.querySelectorAll("script.npt-figure")) {
    const watched = stillOf(script) || script.parentElement;
    watched.nptScript = script;
    seen.observe(watched);
  }
})();

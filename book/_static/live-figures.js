// Bring the widget libraries (4 MB of script) once a live figure comes near the
// screen, from beside this file and not from a content network.
(() => {
  const VIEW = 'script[type="application/vnd.jupyter.widget-view+json"]';
  const vendor = new URL("vendor/", document.currentScript.src).href;

  function script(path) {
    return new Promise((resolve, reject) => {
      const node = document.createElement("script");
      node.src = vendor + path;
      // Where a library fails the loader asks elsewhere, by itself on a content network.
      node.dataset.jupyterWidgetsCdn = vendor;
      node.onload = resolve;
      node.onerror = () => reject(new Error(`${path} could not be loaded`));
      document.head.append(node);
    });
  }

  async function load() {
    await script("requirejs/require.js");
    // The widget libraries take their fonts from where they believe themselves to
    // be, hence the names of what is inside the one file.
    const inside = vendor + "html-manager/";
    window.require.config({
      // A slow line is no failure.
      waitSeconds: 0,
      paths: {
        anywidget: vendor + "anywidget/index",
        "@jupyter-widgets/base": inside + "base",
        "@jupyter-widgets/controls": inside + "controls",
        "@jupyter-widgets/html-manager": inside + "html-manager",
        "@jupyter-widgets/html-manager/dist": inside.slice(0, -1),
      },
    });
    await script("html-manager/embed-amd.js");
  }

  const places = [...document.querySelectorAll(VIEW)].map((view) => view.parentElement);
  for (const place of places) place.classList.add("live-figure");
  const near = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      near.disconnect();
      load().catch((error) => {
        for (const place of places) place.append(`The live figure did not start: ${error.message}.`);
      });
    },
    { rootMargin: "1000px" },
  );
  for (const place of places) near.observe(place);
})();

// Where require.js finds the widgets' code: beside this file, not on a CDN.
(() => {
  const here = new URL(".", document.currentScript.src).href;
  window.require.config({
    paths: { anywidget: here + "vendor/anywidget/index" },
  });
})();

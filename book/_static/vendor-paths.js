// Where require.js finds the widgets' code: beside this file, not on a content
// network. The widget libraries take their fonts from where they believe
// themselves to be, hence the names of what is inside the one file.
(() => {
  const vendor = new URL("vendor/", document.currentScript.src).href;
  const inside = vendor + "html-manager/";
  window.require.config({
    paths: {
      anywidget: vendor + "anywidget/index",
      "@jupyter-widgets/base": inside + "base",
      "@jupyter-widgets/controls": inside + "controls",
      "@jupyter-widgets/html-manager": inside + "html-manager",
      "@jupyter-widgets/html-manager/dist": inside.slice(0, -1),
    },
  });
})();

// Before the first paint: a chosen theme overrides the system's, so that nobody sees the wrong one flash by.
(function () {
  var chosen = null;
  try {
    chosen = localStorage.getItem("tutee.theme");
  } catch (blocked) {
    return;
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();

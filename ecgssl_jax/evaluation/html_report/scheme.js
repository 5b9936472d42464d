// The button that turns from light to dark and back.
const root = document.documentElement;
const button = document.getElementById("scheme");
button.hidden = false;
button.addEventListener("click", () => {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.dataset.scheme =
    (root.dataset.scheme || system) === "dark" ? "light" : "dark";
});

// Before anything is drawn: the scheme that the viewer chose, if it was chosen.
try {
  const chosen = localStorage.getItem("vila-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Without storage the system's scheme is used.
}

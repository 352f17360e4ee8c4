// A drawing wider than the screen begins at its middle, where its root is.
for (const part of document.querySelectorAll(".drawn")) {
  part.scrollLeft = (part.scrollWidth - part.clientWidth) / 2;
}

"""Two to twenty runs side by side: what pages, exports and the terminal show of them."""
